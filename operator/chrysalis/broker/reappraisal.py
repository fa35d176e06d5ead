"""Judging stored evidence again when what it rests on has changed, and ending the results that would be refused by now.

A policy, a key record, collateral (a revocation list, a TCB recovery), the revocation of a GPU's certificate or a withdrawn
reference value: whoever changes one writes a request in the same transaction (chrysalis.broker.reappraisal_store), and any
replica works it off here.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from chrysalis.api.policy import SignedPolicy
from chrysalis.broker.judging import Case, Judge
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Cause, Revocation, Store, StoredEvidence, Sweep
from chrysalis.clock import Clock, from_unix, unix
from chrysalis.wire.broker import Evidence, NamedReason

log = logging.getLogger(__name__)

BATCH = 32
HOLD_SECONDS = 15
"""How long a replica holds a sweep without having finished a batch; another one goes on after that."""
NOT_JUDGED = frozenset({BrokerReason.COLLATERAL_UNAVAILABLE, BrokerReason.COLLATERAL_MISSING})
"""Reasons that say nothing about the evidence: the documents to judge it with are not at hand."""
UNUSABLE = NamedReason(
    reason=BrokerReason.EVIDENCE_UNUSABLE,
    message="the stored evidence of this result cannot be judged again",
    remedy="attest again; if it stays, the database was damaged or changed",
)


class Reappraiser:
    """Works off the requests.  Thread-safe; one sweep at a time in a process."""

    def __init__(self, *, store: Store, judge: Judge, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._judge = judge
        self._clock = clock
        self._metrics = metrics
        self._holder = str(uuid.uuid4())
        self._lock = threading.Lock()
        self._last = ""  # whose turn was last

    def work(self) -> int:
        """Work off every request that no other replica holds; returns how many results were revoked."""
        revoked = 0
        with self._lock:
            while sweep := self._store.hold_sweep(self._holder, unix(self._clock.now()), HOLD_SECONDS, self._last):
                self._last = sweep.owner
                revoked += self._sweep(sweep)
        return revoked

    def _sweep(self, sweep: Sweep) -> int:
        """A turn: the whole request, or one batch of it where another owner's waits."""
        began, cursor, judged, revoked = self._clock.monotonic(), sweep.cursor, 0, 0
        while batch := self._store.living(sweep, cursor, unix(self._clock.now()), BATCH):
            revocations = list(self._revocations(sweep, [result_id for _, result_id in batch]))
            now, cursor, gives_way = unix(self._clock.now()), batch[-1][0], self._store.others_wait(sweep)
            until = now if gives_way else now + HOLD_SECONDS
            done = self._store.revoke_batch(sweep, self._holder, revocations, cursor=cursor, held_until=until, now=now)
            if done is None:
                log.warning("another replica has taken the re-appraisal over", extra={"event": "ReappraisalLost"})
                return revoked
            judged, revoked = judged + len(batch), revoked + done
            for revocation in revocations:
                self._metrics.revocations.labels(sweep.cause.value, revocation.reason).inc()
            if gives_way:
                return revoked
        self._store.finish_sweep(sweep, self._holder)
        log.info(
            "stored evidence was judged again",
            extra={
                "event": "Reappraisal",
                "reason": sweep.cause.value,
                "judged": judged,
                "revoked": revoked,
                "seconds": round(self._clock.monotonic() - began, 3),
            },
        )
        return revoked

    def _revocations(self, sweep: Sweep, result_ids: list[str]) -> Iterator[Revocation]:
        found = {stored.result_id: stored for stored in self._store.evidence_of(result_ids)}
        for result_id in result_ids:
            revocation = revocation_of(self._judge, result_id, found.get(result_id), sweep.cause, self._clock.now())
            if revocation is not None:
                yield revocation


def revocation_of(judge: Judge, result_id: str, stored: StoredEvidence | None, cause: Cause, at: datetime) -> Revocation | None:
    """The end of a living result, where its evidence would be refused by now; None where it would not."""
    try:
        reasons = [UNUSABLE] if stored is None else again(judge, stored, at).reasons
    except SQLAlchemyError:
        raise  # the database's trouble says nothing about the evidence; the sweep goes on when it is over
    except Exception as error:  # nobody foresaw it; one result must not keep the sweep from all others
        log.error(
            "evidence cannot be judged again", extra={"event": "ReappraisalFailed", "result": result_id, "error": type(error).__name__}
        )
        reasons = [UNUSABLE]
    if not reasons:
        return None
    first = reasons[0]
    document = {
        "resultId": result_id,
        "keyId": stored.key_id if stored is not None else "",
        "owner": stored.owner if stored is not None else "",
        "by": "re-appraisal",
        "cause": cause.value,
        "reason": first.reason,
    }
    return Revocation(result_id, first.reason, first.message, document)


@dataclass(frozen=True)
class Again:
    """What a stored attempt is worth by now: no reasons, accepted; judged False: nothing could be said."""

    reasons: list[NamedReason]
    judged: bool
    case: Case | None = None


def again(judge: Judge, stored: StoredEvidence, at: datetime, policy: SignedPolicy | None = None) -> Again:
    """Judge stored evidence at a time, under the stored policy or another one.

    The policy's maximum age counts from the time of the first judgement.  Evidence that cannot be read any more is refused;
    evidence whose collateral is out of reach is not judged: its result ends by itself.  NVIDIA's services are not asked: their
    stored answers count, with what is known of the certificates by now; a policy that newly wants an answer ends the result, and
    the worker's next attempt gets one.
    """
    try:
        evidence = Evidence.model_validate_json(stored.message)
    except ValidationError:
        return Again([UNUSABLE], judged=True)
    case = judge.judge(evidence, at, policy=policy, prove=False, answers=stored.answers, owner=stored.owner)
    reasons = [reason for reason in case.reasons if reason.reason not in NOT_JUDGED]
    if len(reasons) < len(case.reasons):  # what was found before the documents were needed still counts
        return Again(reasons, judged=bool(reasons), case=case)
    if case.record is not None and stored.owner and case.record.owner_public_key != stored.owner:
        raise AssertionError("a key never changes its owner")
    if case.policy is not None and not reasons:
        ends = from_unix(stored.at) + timedelta(seconds=case.policy.spec.freshness.max_result_age_seconds)
        if ends <= at:
            message = f"the policy lets a result live {case.policy.spec.freshness.max_result_age_seconds} s; this one is older"
            error = BrokerError(BrokerReason.RESULT_TOO_OLD, message, "attest again")
            reasons.append(NamedReason.model_validate(error.as_dict()))
    return Again(reasons, judged=True, case=case)
