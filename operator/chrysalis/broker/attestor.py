"""Judging evidence: the one place where a result comes from."""

from __future__ import annotations

import base64
import binascii
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from chrysalis import __version__
from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import Initdata, InitdataError
from chrysalis.api.policy import Placement, SignedPolicy
from chrysalis.api.worker import Isolation
from chrysalis.attestation import binding, quote
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.verdict import Verdict
from chrysalis.broker import ear_claims
from chrysalis.broker.collateral import Candidate, CollateralCache, authority
from chrysalis.broker.identifiers import uuid7
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.nonces import Nonces
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records import OwnersRecords
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Store, StoredResult
from chrysalis.clock import Clock, unix
from chrysalis.errors import ChrysalisError
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.wire.broker import AttestResult, Evidence, KeyRecord, NamedReason, ResultView
from chrysalis.wire.ear import SUBMODULE, Confirmation, Ear, EarResult, VerifierId

log = logging.getLogger(__name__)

MAX_TEXT = 512
DEVELOPER = "https://chrysalis.dev"


class EvidenceRefused(BrokerError):
    """Evidence was judged and refused; `reasons` are all of them, and the result is stored under `result_id`."""

    def __init__(self, result_id: str, reasons: list[NamedReason]) -> None:
        first = reasons[0]
        super().__init__(BrokerReason.EVIDENCE_REFUSED, f"{first.reason}: {first.message}", first.remedy, first.detail)
        self.result_id = result_id
        self.reasons = reasons

    @property
    def status(self) -> int:
        """403; 503 where only the collateral was out of reach, so that the worker tries again."""
        return 503 if {r.reason for r in self.reasons} == {BrokerReason.COLLATERAL_UNAVAILABLE} else 403


@dataclass
class _Case:
    """What is known of one attempt while it is judged."""

    evidence: Evidence
    at: datetime
    reasons: list[NamedReason] = field(default_factory=list)
    initdata: Initdata | None = None
    record: KeyRecord | None = None
    policy: SignedPolicy | None = None
    candidate: Candidate | None = None
    verdict: Verdict | None = None

    def refuse(self, reason: BrokerReason, message: str, remedy: str, detail: str = "") -> None:
        self.reasons.append(NamedReason(reason=reason, message=message, remedy=remedy, detail=detail))

    def refuse_for(self, error: ChrysalisError) -> None:
        self.reasons.append(_named(error.as_dict()))


class Attestor:
    """Turns evidence into a stored result, accepted or refused.  Thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        records: OwnersRecords,
        nonces: Nonces,
        collateral: CollateralCache,
        keys: StateKeys,
        placement: Placement,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._records = records
        self._nonces = nonces
        self._collateral = collateral
        self._keys = keys
        self._placement = placement
        self._clock = clock
        self._metrics = metrics

    def attest(self, evidence: Evidence) -> AttestResult:
        """Judge one attempt.

        1. Nonce: this broker's own, fresh, and spent by this very request.
        2. Initdata: of the form that Chrysalis renders; it names this broker.
        3. Key record: the one that the initdata's keyId names; its model is the measured one, its isolation allowed.
        4. Policy: the key record's owner's, of the name in the record, at least of the version that it asks for.
        5. Collateral: of the quote's platform.
        6. Appraisal: of quote, event log and initdata under that policy, over exactly this nonce, these keys, this identity.
        7. Evidence class: one that the key record allows.
        8. Result: stored, signed and bound to the keys.

        Raises BrokerError for a bad nonce (nothing is stored then), EvidenceRefused for everything else.
        """
        nonce = bytes.fromhex(evidence.nonce)
        try:
            expires = self._nonces.check(nonce)  # 1
            if not self._store.spend_nonce(nonce.hex(), unix(expires), unix(self._clock.now())):
                raise BrokerError(
                    BrokerReason.NONCE_REPLAYED, "this nonce was used before", "ask for a new challenge and attest with that one"
                )
        except BrokerError as error:
            self._metrics.attestations.labels("Refused", error.reason).inc()
            raise
        case = _Case(evidence=evidence, at=self._clock.now().replace(microsecond=0))
        with self._metrics.attestation_seconds.time():
            try:
                self._judge(case)
            except ChrysalisError as error:
                case.refuse_for(error)
            if case.reasons:
                raise self._refused(case)
            return self._accepted(case)

    def _judge(self, case: _Case) -> None:
        """Steps 2 to 7; collects reasons, and raises where nothing further can be said."""
        evidence = case.evidence
        toml = _decode("initdata", evidence.initdata)
        case.initdata = initdata_form.parse(toml)  # 2
        identity = case.initdata.identity
        pin = identity.broker
        if pin.ear_key.lower() != self._keys.ear_public.hex() or pin.spki_sha256.lower() != self._keys.tls_spki_sha256.hex():
            case.refuse(
                BrokerReason.BROKER_PIN_MISMATCH,
                "the worker's initdata pins another broker",
                "set spec.broker of the worker to what `chrysalis keys pin` prints for this broker",
            )
        stored = self._store.key(identity.model.key_id)  # 3
        if stored is None:
            raise BrokerError(
                BrokerReason.KEY_UNKNOWN,
                f"there is no key record {identity.model.key_id!r}",
                "let the model's owner store it with `chrysalis keys put`",
            )
        record = case.record = self._records.record(stored)
        if identity.model.digest != record.model_digest:
            case.refuse(
                BrokerReason.MODEL_MISMATCH,
                "the worker is measured with another model than the key record's",
                "set spec.model.digest of the worker to the digest that `chrysalis seal` printed",
                f"measured {identity.model.digest}, key record {record.model_digest}",
            )
        check_isolation(record, identity.isolation)
        policy = case.policy = self._records.policy_of(record)  # 4
        if policy is None:
            raise BrokerError(
                BrokerReason.POLICY_MISSING,
                f"the owner's policy {record.policy_name!r} is not stored",
                "let the owner store it with `chrysalis policy sign --put`",
            )
        if policy.spec.version < record.min_policy_version:
            case.refuse(
                BrokerReason.POLICY_TOO_OLD,
                f"the policy has version {policy.spec.version}; the key record asks for {record.min_policy_version}",
                "let the owner store a newer policy",
            )
        raw = quote.read(_decode("quote", evidence.quote))
        parsed = quote.parse(raw)
        bound = binding.bind(
            nonce=bytes.fromhex(evidence.nonce),
            tls_spki_sha256=bytes.fromhex(evidence.keys.tls_spki_sha256),
            hpke=bytes.fromhex(evidence.keys.hpke),
            receipt=bytes.fromhex(evidence.keys.receipt),
            identity={"measured": identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
        )
        event_log = _decode("eventLog", evidence.event_log) or None
        verdict = None
        for candidate in self._collateral.candidates(parsed.fmspc, authority(parsed.pck_chain, issuer=True)):  # 5
            verdict = appraise(  # 6
                quote=raw,
                collateral=candidate.collateral,
                policy=policy.spec,
                at=case.at,
                event_log=event_log,
                initdata=toml,
                report_data=bound.report_data,
                placement=self._placement,
            )
            if verdict.evidence_class is not None:  # the chain of signatures held: this collateral is genuine
                self._collateral.prove(candidate)
                case.candidate = candidate
                break
        case.verdict = verdict
        if verdict is not None:
            case.reasons += [_named(reason.model_dump(mode="json")) for reason in verdict.reasons]
        if verdict is None or (verdict.accepted and case.candidate is None):
            raise AssertionError("an appraisal accepts only what it found genuine")
        if verdict.evidence_class is not None:
            check_class(record, verdict.evidence_class)  # 7

    def _accepted(self, case: _Case) -> AttestResult:
        """Step 8."""
        evidence, verdict, candidate = case.evidence, case.verdict, case.candidate
        if (
            verdict is None
            or not verdict.accepted
            or verdict.expires_at is None
            or verdict.evidence_class is None
            or candidate is None
            or case.initdata is None
            or case.record is None
            or case.policy is None
        ):
            raise AssertionError("accepted without a complete verdict")
        identity, result_id = case.initdata.identity, uuid7(self._clock.now())
        result = EarResult(
            evidence_class=verdict.evidence_class.value,
            placement=self._placement,
            isolation=identity.isolation,
            tcb_status=verdict.tcb_status or "",
            measurement=verdict.measurement_name or "",
            limited_by=verdict.limited_by or "",
            policy_owner=case.record.owner_public_key,
            policy_name=case.policy.name,
            policy_version=case.policy.spec.version,
            key_id=case.record.key_id,
            model_digest=case.record.model_digest,
        )
        ear = Ear(
            jti=result_id,
            iat=unix(case.at),
            exp=unix(verdict.expires_at),
            nonce=evidence.nonce.lower(),
            verifier=VerifierId(developer=DEVELOPER, build=f"chrysalis-broker {__version__}"),
            submods={SUBMODULE: ear_claims.appraisal(result)},
            cnf=Confirmation(spki_sha256=evidence.keys.tls_spki_sha256.lower()),
            keys=evidence.keys,
            result=result,
        ).sign(self._keys.ear_key)
        try:
            certificate = ReceiptKeyCertificate(
                receipt_key=evidence.keys.receipt.lower(),
                set=identity.set,
                wallet=identity.wallet.lower(),
                reservation_keys=[key.lower() for key in identity.reservation_keys],
                result_id=result_id,
                nbf=unix(case.at),
                exp=unix(verdict.expires_at),
            ).sign(self._keys.ear_key)
        except ValidationError as error:
            case.refuse_for(
                InitdataError(
                    initdata_form.InitdataReason.INITDATA_MALFORMED,
                    "the initdata's set, wallet or reservation keys are not in the form of receipts",
                    "render the initdata with `chrysalis measure`",
                    str(error)[:1024],
                )
            )
            raise self._refused(case) from error
        view = self._view(case, result_id).model_copy(
            update={"verdict": "Accepted", "expires_at": verdict.expires_at, "ear": ear, "receipt_certificate": certificate}
        )
        self._keep(view, owner=case.record.owner_public_key)
        return AttestResult(
            result_id=result_id,
            ear=ear,
            receipt_certificate=certificate,
            evidence_class=result.evidence_class,
            tcb_status=result.tcb_status,
            expires_at=verdict.expires_at,
            limited_by=result.limited_by,
            policy_name=result.policy_name,
            policy_version=result.policy_version,
            placement=self._placement,
            collateral=candidate.collateral.to_json(),
        )

    def _refused(self, case: _Case) -> EvidenceRefused:
        result_id = uuid7(self._clock.now())
        self._keep(self._view(case, result_id), owner=case.record.owner_public_key if case.record else "")
        return EvidenceRefused(result_id, case.reasons)

    def _view(self, case: _Case, result_id: str) -> ResultView:
        verdict = case.verdict
        return ResultView(
            result_id=result_id,
            verdict="Refused",
            reasons=case.reasons,
            claimed=case.evidence.claimed,
            keys=case.evidence.keys,
            key_id=case.initdata.identity.model.key_id if case.initdata else "",
            policy_name=case.policy.name if case.policy else "",
            policy_version=case.policy.spec.version if case.policy else 0,
            evidence_class=(verdict and verdict.evidence_class) or "",
            tcb_status=(verdict and verdict.tcb_status) or "",
            limited_by=(verdict and verdict.limited_by) or "",
            issued_at=case.at,
            placement=self._placement,
        )

    def _keep(self, view: ResultView, owner: str) -> None:
        self._store.add_result(
            StoredResult(
                result_id=view.result_id,
                verdict=view.verdict,
                namespace=view.claimed.namespace,
                worker=view.claimed.worker_name,
                pod_uid=view.claimed.pod_uid,
                key_id=view.key_id,
                owner=owner,
                issued_at=unix(view.issued_at),
                expires_at=None if view.expires_at is None else unix(view.expires_at),
                document=view.model_dump_json(by_alias=True),
            )
        )
        reason = view.reasons[0].reason if view.reasons else ""
        self._metrics.attestations.labels(view.verdict, reason).inc()
        log.info(
            "evidence judged",
            extra={
                "event": "Attestation",
                "reason": reason,
                "verdict": view.verdict,
                "pod": view.claimed.pod_name,
                "result": view.result_id,
            },
        )


def check_isolation(record: KeyRecord, isolation: Isolation) -> None:
    """Raise BrokerError (IsolationNotAllowed) unless the key record lists the measured isolation profile."""
    if isolation not in record.isolation:
        raise BrokerError(
            BrokerReason.ISOLATION_NOT_ALLOWED,
            f"the key record does not allow isolation {isolation.value}",
            "run the worker in a profile that the key record lists, or let the owner change the record",
        )


def check_class(record: KeyRecord, evidence_class: str) -> None:
    """Raise BrokerError (EvidenceClassNotAllowed) unless the key record lists the evidence class."""
    if evidence_class not in record.evidence_class:
        raise BrokerError(
            BrokerReason.EVIDENCE_CLASS_NOT_ALLOWED,
            f"the key record does not allow {evidence_class} evidence",
            "run on hardware, or let the owner list this class in the record's evidenceClass",
        )


def _named(members: dict[str, Any]) -> NamedReason:
    """A reason with its free text bounded: results are kept and listed by the thousand."""
    return NamedReason.model_validate(members | {"message": members["message"][:MAX_TEXT], "detail": members["detail"][:MAX_TEXT]})


def _decode(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokerError(BrokerReason.MESSAGE_MALFORMED, f"{name} is not base64", "send it as it was produced", str(error)) from error
