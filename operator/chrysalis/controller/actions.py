"""What a reconciliation may ask for.  Values only: executor.py carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ApplyChildren:
    """Bring the worker's own objects to this state (server-side apply, in order)."""

    children: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class OpenGate:
    """Take the scheduling gate from a pod and record, in the same patch, that the operator did."""

    pod: str
    uid: str
    gate: int  # where in spec.schedulingGates it stands


@dataclass(frozen=True)
class SetAttested:
    """Write the readiness condition of a pod."""

    pod: str
    uid: str
    value: bool
    reason: str
    message: str


@dataclass(frozen=True)
class WriteStatus:
    """Write the status of the custom resource, as a whole."""

    status: Mapping[str, Any]


@dataclass(frozen=True)
class Announce:
    """An Event on the custom resource."""

    warning: bool
    reason: str
    message: str


Action = ApplyChildren | OpenGate | SetAttested | WriteStatus | Announce


@dataclass(frozen=True)
class Plan:
    """The actions in their order, and when to look again at the latest."""

    actions: tuple[Action, ...]
    again_in_seconds: float
