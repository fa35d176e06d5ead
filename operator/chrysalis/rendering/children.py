"""The ordinary objects that make up a worker: Deployment, Service, PodDisruptionBudget, NetworkPolicy, ServiceAccount."""

from __future__ import annotations

from typing import Any

from chrysalis.api import names
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.rendering import pod

Json = dict[str, Any]

METADATA_V4 = "169.254.0.0/16"
METADATA_V6 = "fe80::/10"


def children(name: str, namespace: str, spec: ConfidentialWorkerSpec, template: Json) -> list[Json]:
    """The children in the order in which they are applied, without owner references."""
    return [
        _object("v1", "ServiceAccount", pod.service_account(name), namespace, name) | {"automountServiceAccountToken": False},
        _network_policy(name, namespace),
        _service(name, namespace),
        _disruption_budget(name, namespace),
        _deployment(name, namespace, spec, template),
    ]


def owned(objects: list[Json], *, name: str, uid: str) -> list[Json]:
    """The same objects as children of the worker with this uid, to be collected with it."""
    reference = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND_WORKER,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return [{**o, "metadata": {**o["metadata"], "ownerReferences": [reference]}} for o in objects]


def _object(api_version: str, kind: str, name: str, namespace: str, worker: str) -> Json:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": pod.labels(worker)},
    }


def _deployment(name: str, namespace: str, spec: ConfidentialWorkerSpec, template: Json) -> Json:
    return _object("apps/v1", "Deployment", name, namespace, name) | {
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 3,
            # A new revision must have proved itself before an old pod goes, as far as the pool's size allows that.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "selector": {"matchLabels": pod.selector(name)},
            "template": template,
        }
    }


def _service(name: str, namespace: str) -> Json:
    return _object("v1", "Service", name, namespace, name) | {
        "spec": {
            "type": "ClusterIP",
            "selector": pod.selector(name),
            # Never terminated on the way: TLS ends in the trust domain.
            "ports": [{"name": "https", "port": names.PORT_GATEWAY, "targetPort": "https", "protocol": "TCP"}],
        }
    }


def _disruption_budget(name: str, namespace: str) -> Json:
    return _object("policy/v1", "PodDisruptionBudget", name, namespace, name) | {
        "spec": {
            "maxUnavailable": 1,
            # A pod that never got ready must not hold up a node's drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": pod.selector(name)},
        }
    }


def _network_policy(name: str, namespace: str) -> Json:
    return _object("networking.k8s.io/v1", "NetworkPolicy", name, namespace, name) | {
        "spec": {
            "podSelector": {"matchLabels": pod.selector(name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"ports": [{"port": names.PORT_GATEWAY, "protocol": "TCP"}]},
                # The kubelet's probes come from the node, which policies do not stop; metrics are for this cluster only.
                {"from": [{"namespaceSelector": {}}], "ports": [{"port": names.PORT_METRICS, "protocol": "TCP"}]},
            ],
            "egress": [
                {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
                # Ports are not listed: a policy sees them after a Service's translation, which the URLs do not tell.
                {
                    "to": [
                        {"ipBlock": {"cidr": "0.0.0.0/0", "except": [METADATA_V4]}},
                        {"ipBlock": {"cidr": "::/0", "except": [METADATA_V6]}},
                    ]
                },
            ],
        }
    }
