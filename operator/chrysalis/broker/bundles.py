"""Evidence bundles of results: what they were judged from, put together and signed, for whoever may read the result."""

from __future__ import annotations

from datetime import datetime

from chrysalis.api.policy import Envelope
from chrysalis.broker.callers import Caller
from chrysalis.broker.ear_keys import EarKeys
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.release import Results
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Store, StoredEvidence
from chrysalis.clock import Clock, from_unix, unix
from chrysalis.wire import bundle
from chrysalis.wire.broker import Evidence, ResultView
from chrysalis.wire.bundle import Bundle, BundleBroker, BundlePolicy, BundleResult


class Bundles:
    """Makes bundles out of the evidence store.  Thread-safe."""

    def __init__(self, *, store: Store, results: Results, keys: StateKeys, ear_keys: EarKeys, clock: Clock) -> None:
        self._store = store
        self._results = results
        self._keys = keys
        self._ear_keys = ear_keys
        self._clock = clock

    def of(self, caller: Caller, result_id: str) -> bytes:
        """The bundle's file.  Raises BrokerError: ResultUnknown (also for what the caller may not see), EvidenceForgotten."""
        view = self._results.view(caller, result_id)
        stored = self._store.evidence(result_id)
        if stored is None:
            raise BrokerError(
                BrokerReason.EVIDENCE_FORGOTTEN,
                "the evidence of this result is not kept any more",
                "ask for a bundle while the result lives; refused evidence is kept within a bound, oldest forgotten first",
            )
        now = self._clock.now().replace(microsecond=0)
        return bundle.to_bytes(bundle.stated(self._bundle(view, stored, now), self._keys.ear_key, unix(now)))

    def _bundle(self, view: ResultView, stored: StoredEvidence, now: datetime) -> Bundle:
        return Bundle(
            source="Broker",
            made_at=now,
            judged_at=from_unix(stored.at),
            evidence=Evidence.model_validate_json(stored.message),
            collateral=stored.collateral or "",
            gpu_answers=stored.answers,
            policy=None if stored.envelope is None else BundlePolicy(envelope=Envelope.model_validate_json(stored.envelope)),
            result=BundleResult(
                result_id=view.result_id,
                verdict=view.verdict,
                reasons=view.reasons,
                evidence_class=view.evidence_class,
                tcb_status=view.tcb_status,
                measurement_name=bundle.token_claim(view.ear, "chrysalis_result", "measurement"),
                expires_at=view.expires_at,
                limited_by=view.limited_by if view.verdict == "Accepted" else "",
                revoked_at=view.revoked_at,
                ear=view.ear,
                receipt_certificate=view.receipt_certificate,
            ),
            broker=BundleBroker(
                placement=view.placement, spki_sha256=self._keys.tls_spki_sha256.hex(), ear_key=self._keys.ear_public.hex()
            ),
            recalls=self._ear_keys.recalls(self._store.inputs().shared),
        )
