"""What a policy would change: every stored attempt of its owner, judged under it, without storing anything."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from chrysalis.api.policy import SignedPolicy
from chrysalis.attestation.gpu.reasons import GpuReason
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.broker.judging import Judge
from chrysalis.broker.reappraisal import again
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store, StoredEvidence
from chrysalis.clock import Clock, unix
from chrysalis.wire.broker import NamedReason, ResultView
from chrysalis.wire.changes import PolicySimulation, SimulatedChange

MAX_JUDGED = 5000
BATCH = 64
MAX_REST_SECONDS = 60.0
BY_THEN = frozenset(
    {
        AttestationReason.COLLATERAL_EXPIRED,
        AttestationReason.COLLATERAL_NOT_YET_VALID,
        BrokerReason.RESULT_TOO_OLD,
        GpuReason.NRAS_EXPIRED,
        GpuReason.GPU_OCSP_EXPIRED,
        GpuReason.GPU_REVOCATION_NOT_CHECKED,
    }
)
"""What a judgement about the future must not count: the broker has newer documents and answers by then, the worker newer evidence."""


@dataclass
class Found:
    """What was found so far; see PolicySimulation.  domains: the receipt keys of those that were judged."""

    domains: set[str]
    unjudged: list[str]
    losing: list[SimulatedChange]
    gaining: list[SimulatedChange]
    keeping: int = 0


class Simulation:
    """Answers owners' questions, one at a time: each is as much work as many attestations.  Thread-safe."""

    def __init__(self, *, store: Store, judge: Judge, clock: Clock) -> None:
        self._store = store
        self._judge = judge
        self._clock = clock
        self._lock = threading.Lock()
        self._rests = ("", 0.0)  # who asked last, and until when others come first

    def simulate(self, owner: str, policy: SignedPolicy) -> PolicySimulation:
        """Judge what is stored of this owner's policy of that name under the given one.

        Living results: who would lose admission at once, and who when its result ends.  Of the pods whose last attempt was
        refused: who would be accepted.  Raises BrokerError (Busy) while another simulation runs, and for whom the last one was made until
        as much time has passed as it took: there is one at a time, and it shall not be one owner's all the time.
        """
        if not self._lock.acquire(blocking=False):
            raise BrokerError(BrokerReason.BUSY, "another simulation runs", "try again in a few seconds")
        try:
            last, until = self._rests
            began = self._clock.monotonic()
            if last == owner and began < until:
                raise BrokerError(BrokerReason.BUSY, "your last simulation took long; others come first", f"wait {until - began:.0f} s")
            try:
                return self._simulate(owner, policy)
            finally:
                ended = self._clock.monotonic()
                self._rests = (owner, ended + min(MAX_REST_SECONDS, ended - began))
        finally:
            self._lock.release()

    def _simulate(self, owner: str, policy: SignedPolicy) -> PolicySimulation:
        now = self._clock.now().replace(microsecond=0)
        stored = self._store.policy(owner, policy.name)
        ids = self._store.latest_attempts(owner, policy.name, unix(now), MAX_JUDGED + 1)
        found = Found(domains=set(), unjudged=[], losing=[], gaining=[])
        ids_judged, judged = ids[:MAX_JUDGED], 0
        for start in range(0, len(ids_judged), BATCH):
            order = {result_id: number for number, result_id in enumerate(ids_judged[start : start + BATCH])}
            attempts = sorted(self._store.evidence_of(list(order)), key=lambda attempt: order[attempt.result_id])
            found.unjudged += sorted(order.keys() - {attempt.result_id for attempt in attempts})
            for attempt in attempts:
                judged += self._compare(found, attempt, policy, now)
        for changes in (found.losing, found.gaining):
            changes.sort(key=lambda change: (change.at, change.namespace, change.worker_name, change.result_id))
        return PolicySimulation(
            policy_name=policy.name,
            policy_version=policy.spec.version,
            stored_version=0 if stored is None else stored.version,
            at=now,
            judged=judged,
            complete=len(ids) <= MAX_JUDGED,
            keeping=found.keeping,
            losing=found.losing,
            gaining=found.gaining,
            unjudged=found.unjudged,
        )

    def _compare(self, found: Found, attempt: StoredEvidence, policy: SignedPolicy, now: datetime) -> bool:
        """Judge one attempt; False for a living result of a domain that has a newer one (a renewal), which is not judged."""
        view = ResultView.model_validate_json(attempt.document)
        if view.verdict == "Accepted":
            if view.keys.receipt in found.domains:
                return False
            found.domains.add(view.keys.receipt)
        verdict = again(self._judge, attempt, now, policy)
        if not verdict.judged:
            found.unjudged.append(attempt.result_id)
        elif view.verdict == "Refused":
            if not verdict.reasons:
                found.gaining.append(_change(view, "Immediately", now, []))
        elif verdict.reasons:
            found.losing.append(_change(view, "Immediately", now, verdict.reasons))
        elif view.expires_at is not None and (later := self._later(attempt, view.expires_at, policy)):
            found.losing.append(_change(view, "AtExpiry", view.expires_at, later))
        else:
            found.keeping += 1
        return True

    def _later(self, attempt: StoredEvidence, at: datetime, policy: SignedPolicy) -> list[NamedReason]:
        """Why the same machine would be refused when it renews at that time."""
        then = again(self._judge, attempt, at, policy)
        return [reason for reason in then.reasons if reason.reason not in BY_THEN]


def _change(view: ResultView, when: str, at: datetime, reasons: list[NamedReason]) -> SimulatedChange:
    return SimulatedChange.model_validate(
        {
            "result_id": view.result_id,
            "namespace": view.claimed.namespace,
            "worker_name": view.claimed.worker_name,
            "pod_name": view.claimed.pod_name,
            "pod_uid": view.claimed.pod_uid,
            "when": when,
            "at": at,
            "reasons": reasons,
        }
    )
