"""What must hold before a worker's pods may start: a chain of checks, each of which may name an obstacle.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.controller.observed import Observed, PodView
from chrysalis.controller.reasons import ControllerReason
from chrysalis.errors import ChrysalisError
from chrysalis.rendering import Rendered, RenderReason, render


@dataclass(frozen=True)
class Obstacle:
    """Why no pod may start.  stalled: waiting will not help, somebody must change a resource."""

    reason: str
    message: str
    stalled: bool


@dataclass(frozen=True)
class Prepared:
    """The worker as it shall be, as far as it could be rendered, and what stands in its way."""

    spec: ConfidentialWorkerSpec | None = None
    rendered: Rendered | None = None
    obstacle: Obstacle | None = None


def prepare(observed: Observed) -> Prepared:
    """Render the worker and run the chain; the first obstacle is reported."""
    try:
        spec = ConfidentialWorkerSpec.model_validate(observed.worker.spec)
        account = None if observed.account is None else SettlementAccountSpec.model_validate(observed.account.spec)
    except ValidationError as error:
        return Prepared(obstacle=Obstacle(ControllerReason.SPEC_INVALID, describe(error), stalled=True))
    try:
        rendered = render(observed.worker.name, observed.worker.namespace, spec, account if spec.settlement_account_ref else None)
    except ChrysalisError as error:
        waits = error.reason == RenderReason.ACCOUNT_NOT_FOUND
        return Prepared(spec, obstacle=Obstacle(error.reason, sentence(error.message, error.remedy), stalled=not waits))
    obstacle = next((found for check in CHAIN if (found := check(observed, spec)) is not None), None)
    return Prepared(spec, rendered, obstacle)


def may_start(pod: PodView, prepared: Prepared) -> bool:
    """Whether the operator opens this pod's gate: it is the Deployment's, unbound, and carries exactly the rendered initdata."""
    return (
        prepared.obstacle is None
        and prepared.rendered is not None
        and pod.gated
        and not pod.over
        and not pod.node
        and pod.owner == "ReplicaSet"
        and pod.mrconfigid == prepared.rendered.mrconfigid.hex()
    )


def _children_are_ours(observed: Observed, spec: ConfidentialWorkerSpec) -> Obstacle | None:
    if observed.taken:
        return Obstacle(
            ControllerReason.CHILD_NAME_TAKEN,
            f"{observed.taken} exists and does not belong to this worker; remove it, or give the worker another name",
            stalled=True,
        )
    return None


def _policy_is_valid(observed: Observed, spec: ConfidentialWorkerSpec) -> Obstacle | None:
    name = spec.policy_ref.name
    if observed.policy is None:
        return Obstacle(
            ControllerReason.POLICY_NOT_FOUND, f"the AttestationPolicy {name!r} is not in this namespace; apply it there", stalled=False
        )
    if not observed.policy.valid:
        return Obstacle(
            ControllerReason.POLICY_INVALID, f"the AttestationPolicy {name!r} is not valid: {observed.policy.message}", stalled=False
        )
    return None


def _broker_is_up(observed: Observed, spec: ConfidentialWorkerSpec) -> Obstacle | None:
    if not observed.broker.up:
        return Obstacle(observed.broker.reason or ControllerReason.BROKER_UNREACHABLE, observed.broker.message, stalled=False)
    return None


CHAIN: tuple[Callable[[Observed, ConfidentialWorkerSpec], Obstacle | None], ...] = (
    _children_are_ours,
    _policy_is_valid,
    _broker_is_up,
)


def describe(error: ValidationError) -> str:
    """The first problem of a spec, with its path."""
    first = error.errors()[0]
    where = ".".join(["spec", *(str(part) for part in first["loc"])])
    return f"{where}: {first['msg']}"


def sentence(message: str, remedy: str) -> str:
    """What is wrong, and what to do about it."""
    return f"{message}; {remedy}" if remedy else message


def parses(model: type[BaseModel], spec: object) -> str:
    """The first problem of a spec, "" where there is none."""
    try:
        model.model_validate(spec)
    except ValidationError as error:
        return describe(error)
    return ""
