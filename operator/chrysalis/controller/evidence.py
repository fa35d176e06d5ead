"""What the broker's results say about each pod.  Pure.

A result's claimed identity is the cluster's own word: it correlates, it never authorises.  What stands behind `Accepted` is
the broker's appraisal; the controller adds nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.attestation.identity import LiveDomain, conflicts
from chrysalis.controller.admission import sentence
from chrysalis.controller.observed import BrokerView, PodView
from chrysalis.controller.reasons import ControllerReason
from chrysalis.wire.broker import ResultView

CLOCK_SLACK = timedelta(seconds=60)
"""How much earlier than the container's start, by another host's clock, a result of that container may have been issued."""
RESTART_SLACK = timedelta(seconds=2)
"""Results older than the start by more than this are of an earlier container, whose keys are gone: no conflict."""


class Standing(StrEnum):
    """Where a pod stands with the broker."""

    ATTESTED = "Attested"  # accepted, unexpired, key released
    ACCEPTED = "Accepted"  # accepted, and the key not yet released
    WAITING = "Waiting"
    REFUSED = "Refused"  # refused, expired or revoked
    CONFLICT = "Conflict"
    UNKNOWN = "Unknown"  # the broker cannot be asked, and nothing is remembered of this pod


@dataclass(frozen=True)
class Judgement:
    """A pod's standing, why, and the result that it rests on."""

    pod: PodView
    standing: Standing
    reason: str
    message: str
    result: ResultView | None = None

    @property
    def passes(self) -> bool:
        """May be made ready."""
        return self.standing == Standing.ATTESTED


def judge(pod: PodView, broker: BrokerView, spec: ConfidentialWorkerSpec, at: datetime) -> Judgement:
    """Judge one pod that the operator admitted."""
    claims = [r for r in broker.results if r.claimed.pod_uid == pod.uid]
    if not claims and not broker.up:
        return Judgement(pod, Standing.UNKNOWN, broker.reason or ControllerReason.BROKER_UNREACHABLE, broker.message)
    started = pod.gateway_started
    if started is None:
        return Judgement(pod, Standing.WAITING, ControllerReason.WAITING_FOR_EVIDENCE, "its agent does not run yet")
    current = sorted((r for r in claims if r.issued_at >= started - CLOCK_SLACK), key=lambda r: r.issued_at, reverse=True)
    accepted = [r for r in current if _is_of(r, spec)]
    live = [r for r in accepted if r.revoked_at is None and r.expires_at is not None and r.expires_at > at]
    found = conflicts(
        LiveDomain(r.keys.receipt, r.claimed.pod_uid, r.claimed.to_json_dict()) for r in live if r.issued_at >= started - RESTART_SLACK
    )
    if found:
        text = f"{found[0].message}; delete it, and find out who else uses this policy"
        return Judgement(pod, Standing.CONFLICT, ControllerReason.IDENTITY_CONFLICT, text)
    if live:
        return _judge_live(pod, live[0], accepted, current)
    return _judge_without(pod, accepted, current, at)


def _judge_live(pod: PodView, newest: ResultView, accepted: list[ResultView], current: list[ResultView]) -> Judgement:
    same_domain = [r for r in accepted if r.keys.receipt.lower() == newest.keys.receipt.lower()]
    # A renewal releases no key again, and the first result of a long-lived domain is no longer listed; that the operator itself
    # found the key released is remembered in the pod's condition.  The evidence is the live result, not that condition.
    if not any(r.key_released_at is not None for r in same_domain) and pod.attested != "True":
        return Judgement(
            pod, Standing.ACCEPTED, ControllerReason.WAITING_FOR_KEY, "its evidence is accepted, its key not yet released", newest
        )
    message = "its evidence is accepted and its model key released"
    if current[0].verdict == "Refused":
        message += f"; the renewal was refused ({refusal(current[0])[0]}), so it serves until {newest.expires_at}"
    return Judgement(pod, Standing.ATTESTED, ControllerReason.EVIDENCE_ACCEPTED, message, newest)


def _judge_without(pod: PodView, accepted: list[ResultView], current: list[ResultView], at: datetime) -> Judgement:
    refused = next((r for r in current if r.verdict == "Refused"), None)
    ended = accepted[0] if accepted else None
    if ended is not None and ended.revoked_at is not None:
        return Judgement(pod, Standing.REFUSED, ControllerReason.RESULT_REVOKED, _revocation(ended), ended)
    if refused is not None and (ended is None or refused.issued_at >= ended.issued_at):
        reason, message = refusal(refused)
        return Judgement(pod, Standing.REFUSED, reason, message, refused)
    if ended is not None:
        return Judgement(
            pod,
            Standing.REFUSED,
            ControllerReason.RESULT_EXPIRED,
            "its result expired and was not renewed; look at the gateway's log, and whether it reaches the broker",
            ended,
        )
    return Judgement(pod, Standing.WAITING, ControllerReason.WAITING_FOR_EVIDENCE, "its agent has shown no evidence yet")


def _is_of(result: ResultView, spec: ConfidentialWorkerSpec) -> bool:
    """Accepted, for this worker's key and under this worker's policy: a stranger's accepted result proves nothing here."""
    return result.verdict == "Accepted" and result.key_id == spec.model.key_id and result.policy_name == spec.policy_ref.name


def refusal(result: ResultView) -> tuple[str, str]:
    """The first reason of a refused result, and the sentence with its remedy."""
    if not result.reasons:
        return "Refused", "the broker refused the evidence and gave no reason"
    first = result.reasons[0]
    more = f" (and {len(result.reasons) - 1} more reasons)" if len(result.reasons) > 1 else ""
    return first.reason, sentence(first.message + more, first.remedy)


def _revocation(result: ResultView) -> str:
    """Why a result ended before its time, as the broker says it."""
    if not result.revoked_reason:
        return "its result was revoked; see the broker's audit log"
    return sentence(f"its result was revoked ({result.revoked_reason})", result.revoked_message)


def soonest(judgements: Iterable[Judgement]) -> ResultView | None:
    """The live result that ends first."""
    live = [j.result for j in judgements if j.result is not None and j.standing in {Standing.ATTESTED, Standing.ACCEPTED}]
    return min(live, key=lambda r: r.expires_at.timestamp() if r.expires_at else 0.0, default=None)
