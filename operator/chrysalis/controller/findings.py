"""What each condition of a worker says.  Pure; every reason is one of reasons.py, the broker's or the renderer's."""

from __future__ import annotations

from dataclasses import dataclass

from chrysalis.api.conditions import ConditionStatus, ConditionType, Finding
from chrysalis.controller.admission import Prepared
from chrysalis.controller.evidence import Judgement, Standing
from chrysalis.controller.observed import Observed, PodView
from chrysalis.controller.reasons import ControllerReason as Reason
from chrysalis.rendering import RenderReason

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
NAMED = 3
"""How many pods a message names before it counts."""


@dataclass(frozen=True)
class Situation:
    """An observation with what follows from it; pods are those that have not ended."""

    observed: Observed
    prepared: Prepared
    pods: tuple[PodView, ...]
    judgements: tuple[Judgement, ...]  # of the pods that the operator admitted

    @property
    def desired(self) -> int:
        """How many replicas the spec asks for."""
        return self.prepared.spec.replicas if self.prepared.spec else 0

    @property
    def ready(self) -> int:
        """Pods that are ready and stand with the broker, or did when it could last be asked."""
        good = {j.pod.uid for j in self.judgements if j.passes or j.standing == Standing.UNKNOWN}
        return sum(1 for pod in self.pods if pod.ready and pod.uid in good)

    @property
    def bypassed(self) -> list[PodView]:
        """Pods that somebody else bound to a node or ungated."""
        return sorted((pod for pod in self.pods if pod.bypassed), key=lambda pod: pod.name)

    def standing(self, *kinds: Standing) -> list[Judgement]:
        """Judgements of these kinds, in order of the pods' names."""
        return sorted((j for j in self.judgements if j.standing in kinds), key=lambda j: j.pod.name)

    @property
    def rolled_out(self) -> bool:
        """The Deployment has seen our last change and all its pods are of it."""
        found = self.observed.deployment
        return found is not None and found.observed_generation >= found.generation and found.updated_replicas >= self.desired

    @property
    def complete(self) -> bool:
        """As many ready pods as asked for, all of the current rendering."""
        return self.ready >= self.desired and len(self.pods) == self.desired and self.rolled_out

    @property
    def pending(self) -> bool:
        """Something is on its way that only asking again will show."""
        obstacle = self.prepared.obstacle
        return not (obstacle and obstacle.stalled) and not self.complete


def findings(situation: Situation) -> dict[ConditionType, Finding]:
    """All conditions of the worker, in the order in which they are shown."""
    found = {
        ConditionType.READY: _ready(situation),
        ConditionType.ATTESTED: _attested(situation),
        ConditionType.KEY_RELEASED: _key_released(situation),
        ConditionType.SERVING: _serving(situation),
    }
    if (settling := _settling(situation)) is not None:
        found[ConditionType.SETTLING] = settling
    obstacle = situation.prepared.obstacle
    stalled = obstacle is not None and obstacle.stalled
    ready = found[ConditionType.READY]
    if stalled or ready.status == TRUE:
        found[ConditionType.RECONCILING] = Finding(status=FALSE, reason=Reason.STEADY)
    else:
        found[ConditionType.RECONCILING] = Finding(status=TRUE, reason=Reason.PROGRESSING, message=ready.message)
    if obstacle is not None and obstacle.stalled:
        found[ConditionType.STALLED] = Finding(status=TRUE, reason=obstacle.reason, message=obstacle.message)
    else:
        found[ConditionType.STALLED] = Finding(status=FALSE, reason=Reason.STEADY)
    return found


def _ready(situation: Situation) -> Finding:
    """The first of these that holds: what a person must know first."""
    obstacle = situation.prepared.obstacle
    if obstacle is not None and obstacle.stalled:
        return Finding(status=FALSE, reason=obstacle.reason, message=obstacle.message)
    if situation.bypassed:
        text = f"{_named(situation.bypassed)}: bound or ungated by somebody else than the operator; find out who, and delete it"
        return Finding(status=FALSE, reason=Reason.BYPASS_DETECTED, message=text)
    for kind in (Standing.CONFLICT, Standing.REFUSED):
        if judgements := situation.standing(kind):
            return _of_pods(judgements)
    if situation.complete:
        if situation.desired == 0:
            return Finding(status=TRUE, reason=Reason.SCALED_TO_ZERO, message="no replicas are asked for")
        return Finding(status=TRUE, reason=Reason.SERVING, message=f"{situation.ready} of {situation.desired} replicas serve")
    if (problem := _container_problem(situation)) is not None:
        return problem
    deployment = situation.observed.deployment
    if deployment is not None and deployment.failure and len(situation.pods) < situation.desired:
        return Finding(status=FALSE, reason=Reason.REPLICA_FAILURE, message=f"pods cannot be created: {deployment.failure}")
    if obstacle is not None:
        return Finding(status=FALSE, reason=obstacle.reason, message=obstacle.message)
    return _waiting(situation)


def _waiting(situation: Situation) -> Finding:
    """Nothing is wrong, something is on its way."""
    count = f"{situation.ready} of {situation.desired} replicas serve"
    gated = [pod for pod in situation.pods if pod.gated]
    if gated:
        return Finding(status=FALSE, reason=Reason.WAITING_FOR_GATE, message=f"{count}; the gate of {_named(gated)} opens next")
    for kind in (Standing.WAITING, Standing.ACCEPTED):
        if judgements := situation.standing(kind):
            return Finding(status=FALSE, reason=judgements[0].reason, message=f"{count}; {_of_pods(judgements).message}")
    if len(situation.pods) < situation.desired:
        return Finding(status=FALSE, reason=Reason.WAITING_FOR_PODS, message=f"{count}; {len(situation.pods)} pods exist")
    if situation.ready < situation.desired:
        unready = [pod for pod in situation.pods if not pod.ready]
        return Finding(status=FALSE, reason=Reason.WAITING_FOR_SERVER, message=f"{count}; {_named(unready)} opens its model")
    return Finding(status=FALSE, reason=Reason.PROGRESSING, message=f"{count}; the roll-out goes on")


def _attested(situation: Situation) -> Finding:
    bad = situation.standing(Standing.CONFLICT) or situation.standing(Standing.REFUSED)
    if bad:
        return _of_pods(bad, status=FALSE)
    good = situation.standing(Standing.ATTESTED, Standing.ACCEPTED)
    if good and len(good) == len(situation.pods):
        results = [j.result for j in good if j.result is not None]
        classes = ", ".join(sorted({f"{r.evidence_class} evidence, TCB {r.tcb_status}, broker {r.placement}" for r in results}))
        return Finding(status=TRUE, reason=Reason.EVIDENCE_ACCEPTED, message=f"{len(good)} pods: {classes}")
    if unknown := situation.standing(Standing.UNKNOWN):
        return _of_pods(unknown, status=UNKNOWN)
    if not situation.judgements:
        obstacle = situation.prepared.obstacle
        if obstacle is not None:
            return Finding(status=UNKNOWN, reason=obstacle.reason, message=obstacle.message)
        return Finding(status=UNKNOWN, reason=Reason.WAITING_FOR_PODS, message="no pod was admitted yet")
    if waiting := situation.standing(Standing.WAITING):
        return _of_pods(waiting, status=UNKNOWN)
    return Finding(status=UNKNOWN, reason=Reason.WAITING_FOR_EVIDENCE, message=f"{len(good)} of {len(situation.pods)} pods are through")


def _key_released(situation: Situation) -> Finding:
    good = situation.standing(Standing.ATTESTED)
    if good and len(good) == len(situation.pods):
        return Finding(status=TRUE, reason=Reason.KEY_RELEASED, message=f"to {len(good)} attested pods")
    if accepted := situation.standing(Standing.ACCEPTED):
        return _of_pods(accepted, status=FALSE)
    if situation.standing(Standing.UNKNOWN):
        return Finding(status=UNKNOWN, reason=Reason.BROKER_UNREACHABLE, message="the broker cannot be asked")
    return Finding(status=FALSE, reason=Reason.WAITING_FOR_EVIDENCE, message=f"to {len(good)} of {len(situation.pods)} pods")


def _serving(situation: Situation) -> Finding:
    count = f"{situation.ready} of {situation.desired} replicas serve"
    if situation.ready:
        return Finding(status=TRUE, reason=Reason.SERVING, message=count)
    problem = _container_problem(situation)
    reason = problem.reason if problem else Reason.WAITING_FOR_SERVER
    return Finding(status=FALSE, reason=reason, message=problem.message if problem else count)


def _settling(situation: Situation) -> Finding | None:
    spec, account = situation.prepared.spec, situation.observed.account
    if spec is None or spec.settlement_account_ref is None:
        return None
    if account is None:
        text = f"the SettlementAccount {spec.settlement_account_ref.name!r} is not in this namespace; apply it there"
        return Finding(status=FALSE, reason=RenderReason.ACCOUNT_NOT_FOUND, message=text)
    if account.ready == "True":
        return Finding(status=TRUE, reason=Reason.SETTLED, message=f"by SettlementAccount {spec.settlement_account_ref.name!r}")
    status = FALSE if account.ready == "False" else UNKNOWN
    message = account.message or "the settler has not written this account's status yet"
    return Finding(status=status, reason=account.reason or Reason.ACCOUNT_NOT_READY, message=message)


def _container_problem(situation: Situation) -> Finding | None:
    failing = sorted((pod for pod in situation.pods if pod.problem is not None and not pod.ready), key=lambda pod: pod.name)
    failing.sort(key=lambda pod: pod.problem is None or not pod.problem.from_guest)  # a guest's refusal says the most
    for pod in failing:
        if pod.problem is None:
            continue
        if pod.problem.from_guest:
            text = f"pod {pod.name}: {pod.problem.message}; start the pod as `chrysalis measure` renders it"
            return Finding(status=FALSE, reason=Reason.GUEST_REFUSED_CONTAINER, message=text)
        text = f"pod {pod.name}, container {pod.problem.container}: {pod.problem.message or pod.problem.reason}"
        return Finding(status=FALSE, reason=pod.problem.reason, message=text)
    return None


def _of_pods(judgements: list[Judgement], status: ConditionStatus = FALSE) -> Finding:
    """One finding for several pods with the reason of the first; only those that share it are named."""
    first = judgements[0]
    pods = [j.pod for j in judgements if j.reason == first.reason]
    return Finding(status=status, reason=first.reason, message=f"{_named(pods)}: {first.message}")


def _named(pods: list[PodView]) -> str:
    named = ", ".join(pod.name for pod in pods[:NAMED])
    word = "pod" if len(pods) == 1 else "pods"
    return f"{word} {named}" + (f" and {len(pods) - NAMED} more" if len(pods) > NAMED else "")
