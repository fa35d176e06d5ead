"""Moments of the demo that have a name, so that something can be done to it just then (e2e.faults kills processes there)."""

from __future__ import annotations

from enum import StrEnum


class Mark(StrEnum):
    """In the order in which steps 7 to 10 come by."""

    INSTALLED = "Installed"
    """The chart runs with its settler; nothing was stored or applied yet."""
    KEY_STORED = "KeyStored"
    """Policy and model key are at the broker; nothing was applied yet."""
    READY = "Ready"
    """The worker is Ready with all its replicas; no job was done yet."""
    HALF_OF_THE_JOBS = "HalfOfTheJobs"
    """A replica is in the middle of its jobs."""
    STUB_KILLED = "StubKilled"
    """Triton's Python stub is dead, and nobody noticed yet."""
    CANARY_FAILED = "CanaryFailed"
    """The canary noticed, and the replica is not ready."""
    COMMITTED = "Committed"
    """All receipts are committed on chain; nothing was claimed."""
