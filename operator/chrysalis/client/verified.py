"""A worker that a client has verified: by what, by whom, until when, and what of it nobody here checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec, Envelope
from chrysalis.api.worker import Isolation
from chrysalis.attestation.freshness import FRESHNESS, Freshness, FreshnessMode, Revocation
from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.verdict import Verdict
from chrysalis.clock import rfc3339
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Offer
from chrysalis.wire import bundle
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.bundle import Bundle, BundlePolicy, BundleResult, BundleVerification
from chrysalis.wire.bundle_answers import AnswersOf
from chrysalis.wire.bundle_verdict import Whole
from chrysalis.wire.ear import Ear
from chrysalis.wire.gpu import GpuAnswers, wants_answers

FROM_A_RESULT = (
    "version",
    "trustRoot",
    "isolation",
    "brokerPlacement",
    "tdx.tcb.allowedStatuses",
    "freshness.maxResultAgeSeconds",
    "gpu.required",
    "gpu.count",
    "gpu.backend",
    "gpu.revocation",
    "gpu.trustRoot",
)
"""Members of a policy that a client compares with the signed claims of a broker's result."""
BY_THE_BROKER = (
    "tdx.tcb.advisories",
    "tdx.tcb.graceSeconds",
    "tdx.tcb.minEvaluationDataNumber",
    "tdx.tcb.allowSmt",
    "tdx.tcb.allowCachedKeys",
    "tdx.tcb.allowDynamicPlatform",
    "tdx.measurements",
    "tdx.tdAttributes",
    "tdx.xfam",
    "tdx.fmspcs",
    "tdx.ppids",
    "eventLog.required",
    "eventLog.rules",
    "gpu.architectures",
    "gpu.driverVersions",
    "gpu.vbiosVersions",
    "gpu.ccMode",
    "gpu.nvswitch",
    "gpu.measurements",
)
"""Members that only evidence can be compared with: in mode `ear` the broker's word stands for them.  Of tdx.measurements the client
compares the name of the tuple that matched, not its values."""


class JudgedBy(StrEnum):
    """Who compared the evidence with the policy."""

    CLIENT = "Client"
    BROKER = "Broker"


@dataclass(frozen=True, kw_only=True)
class VerifiedWorker:
    """A worker that passed every step of its mode, until `expires_at`."""

    mode: FreshnessMode
    verdict: Verdict | None
    """The client's own appraisal of the trust domain; None in mode `ear`."""
    gpu: GpuVerdict | None
    """The client's own appraisal of the GPUs; None in mode `ear`, and where the policy judges none."""
    gpu_answers: GpuAnswers | None = None
    """What NVIDIA's services said to the client or, in mode `ear`, to its broker (client.answers); None without."""
    ear: Ear | None
    """The broker's result that stands for an appraisal in mode `ear`, else None."""
    identity: MeasuredIdentity
    receipt_key: bytes
    wrk: str
    certificate: str
    result_id: str
    """Of the broker's result that the receipt key's certificate belongs to."""
    offer_token: str
    """The offer, a compact JWS; "" where the worker settles nowhere and makes none."""
    offer: Offer | None
    expires_at: datetime
    limited_by: str
    """What `expires_at` comes from."""
    document: AttestationDocument
    """What was judged, at `judged_at`, under `policy`."""
    policy: AttestationPolicySpec
    judged_at: datetime
    revocation: Revocation = Revocation.NOT_CHECKED
    revocation_detail: str = ""
    """Why revocation was not checked, where it was asked for."""

    @property
    def freshness(self) -> Freshness:
        """By whose nonce the evidence is known to be fresh."""
        return FRESHNESS[self.mode]

    @property
    def judged_by(self) -> JudgedBy:
        """Who compared the evidence with the policy."""
        return JudgedBy.BROKER if self.mode == FreshnessMode.EAR else JudgedBy.CLIENT

    @property
    def answers_of(self) -> AnswersOf:
        """Whose `gpu_answers` are."""
        if self.gpu_answers is not None:
            return AnswersOf.CLIENT if self.ear is None else AnswersOf.BROKER
        return AnswersOf.ABSENT if wants_answers(self.policy.gpu) else AnswersOf.NOT_WANTED

    @property
    def evidence_class(self) -> str:
        """The weakest of trust domain and GPUs: Hardware or Simulated."""
        if self.ear is not None:
            return self.ear.result.evidence_class
        found = None if self.verdict is None else Whole(self.verdict, self.gpu).evidence_class
        return "" if found is None else found.value

    @property
    def tcb_status(self) -> str:
        """Of the platform."""
        if self.ear is not None:
            return self.ear.result.tcb_status
        return "" if self.verdict is None else self.verdict.tcb_status or ""

    @property
    def measurement_name(self) -> str:
        """Of the policy's tuple that matched."""
        if self.ear is not None:
            return self.ear.result.measurement
        return "" if self.verdict is None else self.verdict.measurement_name or ""

    @property
    def isolation(self) -> Isolation:
        """The measured profile."""
        return self.identity.isolation

    @property
    def placement(self) -> str:
        """Where the broker runs whose word was taken; "" where none was."""
        return "" if self.ear is None else self.ear.result.placement.value

    @property
    def checked_by(self) -> dict[str, list[str]]:
        """Which members of the policy were compared by the client, and which by the broker alone."""
        parts = [path for path in FROM_A_RESULT + BY_THE_BROKER if self.policy.gpu is not None or not path.startswith("gpu.")]
        brokers = {path for path in BY_THE_BROKER if self.ear is not None}
        if self.ear is None:  # no broker judged, so its place does not matter
            parts.remove("brokerPlacement")
        return {"client": [path for path in parts if path not in brokers], "broker": [path for path in parts if path in brokers]}

    @property
    def offer_hash(self) -> str:
        """The offer's identity."""
        return jws.identity(self.offer_token)

    def standing(self, revocation: Revocation, detail: str = "") -> Self:
        """The same with what a broker said of the result's revocation."""
        return replace(self, revocation=revocation, revocation_detail=detail)

    def facts(self) -> dict[str, Any]:
        """What every JSON output says of a verified worker."""
        return {
            "mode": self.mode.value,
            "freshness": self.freshness.value,
            "revocation": self.revocation.value,
            "revocationDetail": self.revocation_detail or None,
            "evidenceClass": self.evidence_class,
            "tcbStatus": self.tcb_status,
            "isolation": self.isolation.value,
            "judgedBy": self.judged_by.value,
            "placement": self.placement or None,
            "checkedBy": self.checked_by,
            "expiresAt": rfc3339(self.expires_at),
            "limitedBy": self.limited_by,
        }

    def bundle(self, made_at: datetime, envelope: Envelope | None = None) -> Bundle:
        """Everything that the verification rests on, to be judged again by anybody (chrysalis.wire.bundle).

        envelope: the owner's signature of the policy, where the client has it.
        """
        whole = self.verdict is not None and self.gpu is None  # elsewhere no single appraisal has this end
        return Bundle(
            source="Client",
            made_at=made_at.replace(microsecond=0),
            judged_at=self.judged_at,
            evidence=self.document.evidence,
            collateral=self.document.collateral,
            gpu_answers=self.gpu_answers,
            policy=BundlePolicy(envelope=envelope) if envelope else BundlePolicy(unsigned=self.policy),
            result=BundleResult(
                result_id=bundle.token_claim(self.document.ear, "jti"),
                verdict="Accepted",
                evidence_class=self.evidence_class,
                tcb_status=self.tcb_status,
                measurement_name=self.measurement_name,
                expires_at=self.verdict.expires_at if whole and self.verdict else None,
                limited_by=self.verdict.limited_by or "" if whole and self.verdict else "",
                ear=self.document.ear,
                receipt_certificate=self.document.receipt_certificate,
            ),
            verification=BundleVerification(
                mode=self.mode,
                freshness=self.freshness,
                revocation=self.revocation,
                evidence_class=self.evidence_class,
                isolation=self.isolation,
                judged_by=self.judged_by.value,
                gpu_answers=self.answers_of,
            ),
        )
