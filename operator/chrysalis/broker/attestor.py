"""Attestation: the one place where a result comes from."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from chrysalis import __version__
from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import InitdataError
from chrysalis.api.policy import Placement
from chrysalis.attestation.gpu.reasons import GpuReason
from chrysalis.broker import ear_claims
from chrysalis.broker.ear_keys import EarKeys
from chrysalis.broker.identifiers import uuid7
from chrysalis.broker.judging import Case, Judge
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.nonces import SKEW_SECONDS, Nonces, replayed
from chrysalis.broker.quota_store import Allowance
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.rooms import Inputs
from chrysalis.broker.signed_results import SignedResults
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Basis, Kept, NewEvidence, Store, StoredResult
from chrysalis.broker.tenants import Tenants
from chrysalis.clock import Clock, unix
from chrysalis.receipts.objects import ReceiptKeyCertificate
from chrysalis.wire.broker import AttestResult, Evidence, NamedReason, ResultView
from chrysalis.wire.ear import Confirmation, Ear, EarResult, Opened, VerifierId
from chrysalis.wire.ear_keys import CertifiedKey

log = logging.getLogger(__name__)

DEVELOPER = "https://chrysalis.dev"
ATTEMPTS = 3
"""How often an attempt is judged when policies, key records or collateral change under it."""


TEMPORARY = frozenset({BrokerReason.COLLATERAL_UNAVAILABLE, GpuReason.GPU_SERVICE_UNAVAILABLE})
"""Reasons that say nothing about the evidence: the worker shall come back with new one."""


class EvidenceRefused(BrokerError):
    """Evidence was judged and refused; `reasons` are all of them, and the result is stored under `result_id`."""

    def __init__(self, result_id: str, reasons: list[NamedReason]) -> None:
        first = reasons[0]
        super().__init__(BrokerReason.EVIDENCE_REFUSED, f"{first.reason}: {first.message}", first.remedy, first.detail)
        self.result_id = result_id
        self.reasons = reasons

    @property
    def status(self) -> int:
        """403; 503 where only documents or answers were out of reach, so that the worker tries again."""
        return 503 if {r.reason for r in self.reasons} <= TEMPORARY else 403


class Attestor:
    """Turns evidence into a stored result, accepted or refused.  Thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        judge: Judge,
        nonces: Nonces,
        keys: StateKeys,
        ear_keys: EarKeys,
        signed: SignedResults,
        placement: Placement,
        clock: Clock,
        metrics: Metrics,
        tenants: Tenants,
    ) -> None:
        self._store = store
        self._judge = judge
        self._nonces = nonces
        self._keys = keys
        self._ear_keys = ear_keys
        self._signed = signed
        self._placement = placement
        self._clock = clock
        self._metrics = metrics
        self._tenants = tenants

    def attest(self, evidence: Evidence) -> AttestResult:
        """Judge one attempt and keep what came of it.

        1. Nonce: this broker's own, fresh, and neither spent nor in another request's hands.
        2. Judgement: see Judge.  3. Result: signed and bound to the keys where it is accepted; stored with the evidence in
        the transaction that spends the nonce.  What the judgement rests on may have changed meanwhile: then it is made again.

        Raises BrokerError for a bad nonce (nothing is stored then), EvidenceRefused for everything else.
        """
        nonce = evidence.nonce.lower()
        try:
            expires = self._nonces.check(bytes.fromhex(nonce))  # 1
            with self._nonces.in_use(nonce):
                spent, inputs = self._store.attempt(nonce, unix(self._clock.now()))
                if spent:
                    raise replayed()
                with self._metrics.attestation_seconds.time():
                    return self._attest(evidence, unix(expires) + 2 * SKEW_SECONDS, inputs)
        except EvidenceRefused:
            raise
        except BrokerError as error:
            self._metrics.attestations.labels("Refused", error.reason).inc()
            raise

    def _attest(self, evidence: Evidence, nonce_expires_at: int, inputs: Inputs) -> AttestResult:
        for _ in range(ATTEMPTS):
            case = self._judge.judge(evidence, self._clock.now(), inputs=inputs)  # 2
            view, answer = self._decide(case, inputs.shared)
            if self._keep(case, view, nonce_expires_at, inputs.shared):  # 3
                if answer is None:
                    raise EvidenceRefused(view.result_id, case.reasons)
                return answer
            inputs = self._store.inputs()
        raise BrokerError(BrokerReason.BUSY, "the policy or its inputs change faster than evidence is judged", "try again in a second")

    def _decide(self, case: Case, shared: int) -> tuple[ResultView, AttestResult | None]:
        """The result as it is stored and, where it is accepted, the answer to the worker."""
        if not case.reasons:
            try:
                return self._accepted(case, shared)
            except ValidationError as error:
                case.refuse_for(
                    InitdataError(
                        initdata_form.InitdataReason.INITDATA_MALFORMED,
                        "the initdata's set, wallet or reservation keys are not in the form of receipts",
                        "render the initdata with `chrysalis measure`",
                        str(error)[:1024],
                    )
                )
        return self._view(case, uuid7(self._clock.now())), None

    def _accepted(self, case: Case, shared: int) -> tuple[ResultView, AttestResult]:
        """Sign what was accepted; raises ValidationError when the measured identity is not in the form of receipts."""
        evidence, verdict, collateral = case.evidence, case.verdict, case.collateral
        if (
            verdict is None
            or not verdict.accepted
            or verdict.expires_at is None
            or case.evidence_class is None
            or case.end is None
            or collateral is None
            or case.initdata is None
            or case.record is None
            or case.policy is None
        ):
            raise AssertionError("accepted without a complete verdict")
        identity, result_id, end = case.initdata.identity, uuid7(self._clock.now()), case.end
        result = EarResult(
            evidence_class=case.evidence_class.value,
            placement=self._placement,
            isolation=identity.isolation,
            tcb_status=verdict.tcb_status or "",
            measurement=verdict.measurement_name or "",
            limited_by=end.name,
            policy_owner=case.record.owner_public_key,
            policy_name=case.policy.name,
            policy_version=case.policy.spec.version,
            key_id=case.record.key_id,
            key_since=case.key_since,
            model_digest=case.record.model_digest,
            gpu=None if case.gpu is None else ear_claims.gpus(case.gpu),
        )
        claims = Ear(
            jti=result_id,
            iat=unix(case.at),
            exp=unix(end.at),
            nonce=evidence.nonce.lower(),
            verifier=VerifierId(developer=DEVELOPER, build=f"chrysalis-broker {__version__}"),
            submods=ear_claims.submodules(result, case.gpu),
            cnf=Confirmation(spki_sha256=evidence.keys.tls_spki_sha256.lower()),
            keys=evidence.keys,
            result=result,
        )
        signer = self._ear_keys.signer(unix(case.at), unix(end.at), shared)
        ear = claims.sign(signer)
        self._signed.remember(ear, Opened(claims, signer.certificate if isinstance(signer, CertifiedKey) else None))
        certificate = ReceiptKeyCertificate(
            receipt_key=evidence.keys.receipt.lower(),
            set=identity.set,
            wallet=identity.wallet.lower(),
            reservation_keys=[key.lower() for key in identity.reservation_keys],
            result_id=result_id,
            nbf=unix(case.at),
            exp=unix(end.at),
        ).sign(self._keys.ear_key)
        view = self._view(case, result_id).model_copy(
            update={"verdict": "Accepted", "expires_at": end.at, "ear": ear, "receipt_certificate": certificate}
        )
        return view, AttestResult(
            result_id=result_id,
            ear=ear,
            receipt_certificate=certificate,
            evidence_class=result.evidence_class,
            tcb_status=result.tcb_status,
            expires_at=end.at,
            limited_by=result.limited_by,
            policy_name=result.policy_name,
            policy_version=result.policy_version,
            placement=self._placement,
            collateral=collateral.to_json(),
            recalls=self._ear_keys.recalls() if self._ear_keys.recalled() else "",
        )

    def _view(self, case: Case, result_id: str) -> ResultView:
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
            evidence_class=case.evidence_class or "",
            tcb_status=(verdict and verdict.tcb_status) or "",
            limited_by=case.end.name if case.end else (verdict and verdict.limited_by) or "",
            issued_at=case.at,
            placement=self._placement,
        )

    def _keep(self, case: Case, view: ResultView, nonce_expires_at: int, shared: int) -> bool:
        """Store a result; False when it was judged on what is not current any more.  Raises BrokerError (NonceReplayed)."""
        owner = case.record.owner_public_key if case.record else ""
        basis = None
        if view.verdict == "Accepted":
            tenant = self._tenants.of(owner)
            allowance = None if tenant is None else Allowance.of(tenant)
            basis = Basis(
                view.key_id, case.key_version, owner, view.policy_name, view.policy_version, shared, allowance, case.devices, case.holder
            )
        kept = self._store.keep(
            StoredResult(
                result_id=view.result_id,
                verdict=view.verdict,
                namespace=view.claimed.namespace,
                worker=view.claimed.worker_name,
                pod_uid=view.claimed.pod_uid,
                key_id=view.key_id,
                owner=owner,
                policy_name=view.policy_name,
                policy_version=view.policy_version,
                issued_at=unix(view.issued_at),
                expires_at=None if view.expires_at is None else unix(view.expires_at),
                document=view.model_dump_json(by_alias=True),
            ),
            evidence=NewEvidence(
                message=case.evidence.model_dump_json(by_alias=True, exclude_none=True),
                collateral=None if case.collateral is None else case.collateral.to_json(),
                at=unix(case.at),
                key_version=case.key_version,
                answers=case.answers,
            ),
            nonce=case.evidence.nonce.lower(),
            nonce_expires_at=nonce_expires_at,
            basis=basis,
            now=unix(self._clock.now()),
        )
        if kept is Kept.REPLAYED:
            raise replayed()
        if kept is Kept.OUTDATED:
            return False
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
        return True
