"""reconcile: from what is observed of one worker to what shall be done.  Pure: no I/O, no clock but observed.at.

Level-based: it may be run at any time, as often as one likes, after any number of missed events.

1. The worker is rendered and the chain of admission runs (admission.py).
2. Each admitted pod is judged by the broker's results (evidence.py); a pod that was bound or ungated by somebody else is
   never judged and never made ready.
3. Gates open for pods of the current rendering while nothing stands in the way.
4. Conditions are found (findings.py), and the status is written if it differs from what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from chrysalis import amounts
from chrysalis.api import names
from chrysalis.api.conditions import ConditionStatus, ConditionType, merge
from chrysalis.clock import rfc3339
from chrysalis.controller.actions import Action, Announce, ApplyChildren, OpenGate, Plan, SetAttested, WriteStatus
from chrysalis.controller.admission import Prepared, may_start, prepare
from chrysalis.controller.evidence import Judgement, Standing, judge, soonest
from chrysalis.controller.findings import Situation, findings
from chrysalis.controller.observed import Observed, PodView
from chrysalis.controller.reasons import ControllerReason
from chrysalis.rendering import owned

EXPIRY_MARGIN_SECONDS = 0.05


@dataclass(frozen=True)
class Cadence:
    """How soon to look again, in seconds: while something is on its way, and when all is well."""

    pending: float = 0.5
    steady: float = 10.0


def reconcile(observed: Observed, cadence: Cadence = Cadence()) -> Plan:
    """What to do about one worker now, and when to look again."""
    if observed.worker.deleting:
        return Plan((), cadence.steady)  # the garbage collector takes the children
    prepared = prepare(observed)
    pods = tuple(pod for pod in observed.pods if not pod.over)
    judgements = tuple(
        judge(pod, observed.broker, prepared.spec, observed.at) for pod in pods if prepared.spec is not None and pod.admitted_by_operator
    )
    situation = Situation(observed, prepared, pods, judgements)
    actions: list[Action] = []
    if prepared.rendered is not None and not observed.taken:
        worker = observed.worker
        actions.append(ApplyChildren(tuple(owned(prepared.rendered.children, name=worker.name, uid=worker.uid))))
    gates = [OpenGate(pod.name, pod.uid, pod.gate) for pod in pods if pod.gate is not None and may_start(pod, prepared)]
    actions += gates
    actions += [found for pod in pods if (found := _attested(pod, judgements)) is not None]
    actions += _status(situation, len(gates))
    return Plan(tuple(actions), _again(situation, cadence))


def _attested(pod: PodView, judgements: tuple[Judgement, ...]) -> SetAttested | None:
    """The readiness condition of a pod, where it must be written."""
    if not pod.admitted_by_operator:
        if pod.attested == "True":  # a forged condition; this pod is not ours to make ready
            return SetAttested(pod.name, pod.uid, False, ControllerReason.BYPASS_DETECTED, "the operator did not admit this pod")
        return None
    judgement = next((j for j in judgements if j.pod.uid == pod.uid), None)
    if judgement is None or judgement.standing == Standing.UNKNOWN:
        return None  # nothing is known: what was decided stands, and the gateway itself ends at its expiry
    if judgement.passes:
        if pod.attested == "True":
            return None  # a renewal costs no write
        return SetAttested(pod.name, pod.uid, True, judgement.reason, judgement.message)
    if pod.attested == "True" or (judgement.standing in {Standing.REFUSED, Standing.CONFLICT} and pod.attested_reason != judgement.reason):
        return SetAttested(pod.name, pod.uid, False, judgement.reason, judgement.message)
    return None


def _status(situation: Situation, opened: int) -> list[Action]:
    observed = situation.observed
    worker = observed.worker
    found = findings(situation)
    conditions = merge(worker.conditions, found, generation=worker.generation, at=observed.at)
    status: dict[str, Any] = {
        "observedGeneration": worker.generation,
        "replicas": len(situation.pods),
        "readyReplicas": situation.ready,
        "selector": f"{names.LABEL_WORKER}={worker.name}",
    }
    if situation.prepared.rendered is not None:
        status["mrconfigid"] = situation.prepared.rendered.mrconfigid.hex()
        if situation.prepared.rendered.initdata.identity.wallet:
            status["wallet"] = situation.prepared.rendered.initdata.identity.wallet
    result = soonest(situation.judgements)
    if result is not None and result.expires_at is not None:
        status |= {
            "tcbStatus": result.tcb_status,
            "evidenceClass": result.evidence_class,
            "expiresAt": rfc3339(result.expires_at),
            "limitedBy": result.limited_by,
        }
    status |= _earned(situation)
    actions: list[Action] = []
    if status != dict(worker.status) or conditions != [dict(c) for c in worker.conditions]:
        actions.append(WriteStatus({**status, "conditions": conditions}))
    held = {str(c.get("type")): c for c in worker.conditions}
    for kind, finding in found.items():
        before = held.get(kind, {})
        if before.get("status") == finding.status and before.get("reason") == finding.reason:
            continue
        if _alarming(kind, finding.status, finding.reason):
            actions.append(Announce(True, finding.reason, finding.message))
        elif kind == ConditionType.READY and finding.status == ConditionStatus.TRUE:
            actions.append(Announce(False, finding.reason, finding.message))
    if opened:
        actions.append(Announce(False, ControllerReason.GATE_OPENED, f"opened the scheduling gate of {opened} pods"))
    return actions


def _alarming(kind: ConditionType, status: ConditionStatus, reason: str) -> bool:
    """Whether a change to this is worth a Warning: each fact once, under the condition that is about it."""
    if kind in {ConditionType.ATTESTED, ConditionType.STALLED}:
        return status == (ConditionStatus.FALSE if kind == ConditionType.ATTESTED else ConditionStatus.TRUE)
    return kind == ConditionType.READY and reason in {ControllerReason.BYPASS_DETECTED, ControllerReason.GUEST_REFUSED_CONTAINER}


def _earned(situation: Situation) -> dict[str, str]:
    account = situation.observed.account
    text = None if account is None else account.earned.get(situation.observed.worker.name)
    try:
        return {} if text is None else {"earned": amounts.ton(amounts.parse(text)), "earnedNanoton": text}
    except amounts.AmountError:
        return {}  # somebody wrote nonsense into a status; it is not repeated


def _again(situation: Situation, cadence: Cadence) -> float:
    seconds = cadence.pending if situation.pending else cadence.steady
    result = soonest(situation.judgements)
    if result is not None and result.expires_at is not None:
        left = (result.expires_at - situation.observed.at) / timedelta(seconds=1)
        seconds = min(seconds, max(left, 0.0) + EXPIRY_MARGIN_SECONDS)
    return seconds


__all__ = ["Cadence", "Prepared", "reconcile"]
