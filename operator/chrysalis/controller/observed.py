"""What one reconciliation looks at: only the fields that are read, as frozen values.

A fleet has ten thousand pods: they are cut down to these views when they arrive, and the whole objects are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chrysalis.api import initdata, names
from chrysalis.api.conditions import status_of
from chrysalis.clock import parse_rfc3339
from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker import ResultView

GUEST_PREFIX = "simtd: "
"""How the simulated guest begins what it refuses; a Kata guest's refusal arrives through the same member."""
FAILING = frozenset(
    {
        "CreateContainerError",
        "CreateContainerConfigError",
        "RunContainerError",
        "StartError",
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
    }
)
MAX_TEXT = 512


@dataclass(frozen=True)
class Problem:
    """Why a container of a pod does not run, in the kubelet's words."""

    container: str
    reason: str
    message: str

    @property
    def from_guest(self) -> bool:
        """The trust domain's own policy refused it."""
        return GUEST_PREFIX in self.message


@dataclass(frozen=True)
class PodView:
    """A worker's pod."""

    name: str
    uid: str
    version: int  # resourceVersion
    worker: str
    gate: int | None  # where in spec.schedulingGates ours stands
    admitted: str  # the annotation's value: the uid that was admitted
    node: str
    owner: str  # kind of the controlling owner, "" where there is none
    phase: str
    deleting: bool
    ready: bool
    attested: str  # status of the readiness condition that the controller sets: True, False or Unknown
    attested_reason: str
    gateway_started: datetime | None  # of the gateway container that runs now
    mrconfigid: str  # of the initdata in its annotation, hex; "" where that cannot be read
    problem: Problem | None

    @property
    def gated(self) -> bool:
        """The scheduler may not place it yet."""
        return self.gate is not None

    @property
    def admitted_by_operator(self) -> bool:
        """The operator itself opened this pod's gate."""
        return self.admitted == self.uid

    @property
    def bypassed(self) -> bool:
        """It was bound to a node, or its gate was taken away, by somebody else."""
        return not self.admitted_by_operator and (bool(self.node) or not self.gated)

    @property
    def over(self) -> bool:
        """It ended or is ending."""
        return self.deleting or self.phase in {"Succeeded", "Failed"}


@dataclass(frozen=True)
class DeploymentView:
    """The worker's Deployment."""

    uid: str
    version: int
    generation: int
    observed_generation: int
    owner_uid: str
    updated_replicas: int
    failure: str = ""  # why pods could not be created


@dataclass(frozen=True)
class PolicyView:
    """The AttestationPolicy that a worker refers to."""

    valid: bool
    reason: str
    message: str


@dataclass(frozen=True)
class AccountView:
    """The SettlementAccount that a worker refers to."""

    spec: Mapping[str, Any]
    ready: str = "Unknown"
    reason: str = ""
    message: str = ""
    earned: Mapping[str, str] = field(default_factory=dict)  # worker's name → nanoton


@dataclass(frozen=True)
class BrokerView:
    """What the broker said, and whether it could be asked."""

    up: bool
    reason: str = ""
    message: str = ""
    results: tuple[ResultView, ...] = ()


@dataclass(frozen=True)
class WorkerView:
    """The ConfidentialWorker itself."""

    name: str
    namespace: str
    uid: str
    version: int
    generation: int
    deleting: bool
    spec: Mapping[str, Any]
    conditions: tuple[Mapping[str, Any], ...]
    status: Mapping[str, Any]


@dataclass(frozen=True)
class Observed:
    """Everything that a reconciliation of one worker depends on."""

    worker: WorkerView
    policy: PolicyView | None
    account: AccountView | None
    pods: tuple[PodView, ...]
    deployment: DeploymentView | None
    broker: BrokerView
    at: datetime
    taken: str = ""  # kind and name of a child that belongs to somebody else


def worker_view(body: Mapping[str, Any]) -> WorkerView:
    """Cut a ConfidentialWorker down."""
    metadata, status = body["metadata"], body.get("status") or {}
    return WorkerView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        version=version_of(metadata),
        generation=int(metadata.get("generation") or 0),
        deleting="deletionTimestamp" in metadata,
        spec=plain(body.get("spec") or {}),
        conditions=tuple(plain(c) for c in status.get("conditions") or []),
        status={k: v for k, v in plain(status).items() if k != "conditions"},
    )


def pod_view(body: Mapping[str, Any]) -> PodView:
    """Cut a pod down."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    annotations = metadata.get("annotations") or {}
    conditions = list(status.get("conditions") or [])
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        version=version_of(metadata),
        worker=(metadata.get("labels") or {}).get(names.LABEL_WORKER, ""),
        gate=next((i for i, g in enumerate(spec.get("schedulingGates") or []) if g.get("name") == names.GATE_ATTESTATION), None),
        admitted=annotations.get(names.ANNOTATION_ADMITTED, ""),
        node=spec.get("nodeName") or "",
        owner=next((o.get("kind", "") for o in metadata.get("ownerReferences") or [] if o.get("controller")), ""),
        phase=status.get("phase") or "",
        deleting="deletionTimestamp" in metadata,
        ready=status_of(conditions, "Ready") == "True",
        attested=status_of(conditions, names.READINESS_ATTESTED),
        attested_reason=next((str(c.get("reason") or "") for c in conditions if c.get("type") == names.READINESS_ATTESTED), ""),
        gateway_started=_started(status),
        mrconfigid=_mrconfigid(annotations.get(names.ANNOTATION_INITDATA, "")),
        problem=_problem(status),
    )


def deployment_view(body: Mapping[str, Any]) -> DeploymentView:
    """Cut a Deployment down."""
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = [c for c in status.get("conditions") or [] if c.get("status") == "True"]
    owner = next((o.get("uid", "") for o in metadata.get("ownerReferences") or [] if o.get("controller")), "")
    return DeploymentView(
        uid=metadata["uid"],
        version=version_of(metadata),
        generation=int(metadata.get("generation") or 0),
        observed_generation=int(status.get("observedGeneration") or 0),
        owner_uid=owner,
        updated_replicas=int(status.get("updatedReplicas") or 0),
        failure=next((str(c.get("message") or "")[:MAX_TEXT] for c in conditions if c.get("type") == "ReplicaFailure"), ""),
    )


def account_view(body: Mapping[str, Any]) -> AccountView:
    """Cut a SettlementAccount down."""
    status = body.get("status") or {}
    ready: Mapping[str, Any] = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), {})
    return AccountView(
        spec=plain(body.get("spec") or {}),
        ready=str(ready.get("status", "Unknown")),
        reason=str(ready.get("reason", "")),
        message=str(ready.get("message", "")),
        earned={str(w.get("name")): str(w.get("earnedNanoton")) for w in status.get("workers") or []},
    )


def version_of(metadata: Mapping[str, Any]) -> int:
    """resourceVersion, which orders what the API server says about one object."""
    text = str(metadata.get("resourceVersion") or "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _started(status: Mapping[str, Any]) -> datetime | None:
    for container in status.get("initContainerStatuses") or []:
        if container.get("name") == names.CONTAINER_GATEWAY:
            text = ((container.get("state") or {}).get("running") or {}).get("startedAt")
            try:
                return parse_rfc3339(text) if text else None
            except (TypeError, ValueError):
                return None
    return None


def _problem(status: Mapping[str, Any]) -> Problem | None:
    """What a person must know first: a refusal by the guest, however the kubelet goes on about it, else the first failure."""
    failures: list[Problem] = []
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state, last = container.get("state") or {}, container.get("lastState") or {}
        if "running" in state:
            continue  # whatever happened before is over
        for found in (state.get("waiting"), state.get("terminated"), last.get("terminated")):
            if not found:
                continue
            message = str(found.get("message") or "")
            if found.get("reason") in FAILING or GUEST_PREFIX in message:
                failures.append(Problem(str(container.get("name", "")), str(found.get("reason") or ""), _guests_part(message)[:MAX_TEXT]))
    return next((problem for problem in failures if problem.from_guest), failures[0] if failures else None)


def _guests_part(message: str) -> str:
    """The guest's own words, without what container runtime and kubelet put in front of them."""
    at = message.find(GUEST_PREFIX)
    return message[at:] if at >= 0 else message


def _mrconfigid(annotation: str) -> str:
    if not annotation:
        return ""
    try:
        return initdata.mrconfigid(initdata.from_annotation(annotation)).hex()
    except ChrysalisError:
        return ""


def plain(value: Any) -> Any:
    """A copy of nothing but dicts, lists and scalars (kopf hands out views of its own)."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
