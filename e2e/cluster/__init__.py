"""A real Kubernetes on one bare machine: two nodes in network namespaces, every program built from its Go module."""

from __future__ import annotations

from e2e.cluster.cluster import Cluster, Status
from e2e.cluster.reasons import ClusterError, Reason

__all__ = ["Cluster", "ClusterError", "Reason", "Status"]
