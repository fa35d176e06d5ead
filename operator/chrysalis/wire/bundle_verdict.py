"""What judging an evidence bundle takes along and what it answers.  chrysalis.wire.bundle_judgement judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.freshness import Freshness, FreshnessMode, Revocation
from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.attestation.verdict import EvidenceClass, Verdict
from chrysalis.clock import rfc3339
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import NamedReason
from chrysalis.wire.bundle import BundleVerification
from chrysalis.wire.bundle_answers import KeysOf
from chrysalis.wire.reasons import WireReason


class Signature(StrEnum):
    """What a signature in the bundle was checked against."""

    PINNED = "Pinned"  # the key that the reader named
    MEASURED = "Measured"  # the key in the worker's measured configuration; the reader named none
    UNNAMED = "Unnamed"  # it is right under the key that it names itself, and the reader named none
    ABSENT = "Absent"
    NOT_CHECKED = "NotChecked"
    INVALID = "Invalid"


@dataclass(frozen=True)
class Difference:
    """One member of the record that is not what the evidence gives."""

    member: str
    recorded: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What the reader brings along; nothing of it is needed, and each thing makes the answer worth more.

    at: the time to judge at; None: the recorded one.  policy: judge under this one instead of the enclosed one.
    owner: whose policy it must be (raw Ed25519).  ear_key: whose results are believed (raw Ed25519).
    recalls: that broker's list of recalled keys (chrysalis.wire.recalls), as new as the reader could get it.
    nonce: the one that the reader itself had chosen for this evidence.  roots: DER trust anchors that the policy's must be among.
    nras_keys: NVIDIA's attestation service's key set (JWKS), in place of the enclosed one.
    """

    at: datetime | None = None
    policy: AttestationPolicySpec | None = None
    owner: bytes | None = None
    ear_key: bytes | None = None
    recalls: str = ""
    nonce: bytes | None = None
    roots: Sequence[bytes] = ()
    nras_keys: str | None = None


@dataclass(frozen=True)
class Whole:
    """The appraisal of the trust domain and, where the policy judges them, of its GPUs: the weaker counts."""

    verdict: Verdict
    gpu: GpuVerdict | None = None

    @property
    def accepted(self) -> bool:
        """Whether both were accepted."""
        return self.verdict.accepted and (self.gpu is None or self.gpu.accepted)

    @property
    def reasons(self) -> list[NamedReason]:
        """The domain's and the GPUs'."""
        found = [NamedReason.model_validate(reason.model_dump(mode="json")) for reason in self.verdict.reasons]
        return found + [NamedReason.model_validate(members) for members in (gpus.named(self.gpu) if self.gpu else [])]

    @property
    def evidence_class(self) -> EvidenceClass | None:
        """The weaker of both; None where one could not be established."""
        found = [self.verdict.evidence_class]
        if self.gpu is not None and (self.gpu.gpus or self.gpu.switches):
            found.append(self.gpu.evidence_class)
        if None in found:
            return None
        return EvidenceClass.SIMULATED if EvidenceClass.SIMULATED in found else EvidenceClass.HARDWARE

    @property
    def end(self) -> tuple[datetime | None, str | None]:
        """When the first of both ends, and what limits it."""
        known: list[tuple[datetime, str | None]] = []
        for part in (self.verdict, self.gpu):
            if part is not None and part.expires_at is not None:
                known.append((part.expires_at, part.limited_by))
        return min(known, key=lambda end: end[0]) if known else (None, None)


@dataclass
class Judgement:
    """The answer.  `verdict` is the appraisal at the asked time; `accepted` needs it and every check of the bundle itself."""

    digest: str
    at: datetime
    recorded_at: datetime
    verdict: Verdict
    recorded: str  # Accepted, Refused or None, as it stands in the bundle
    gpu: GpuVerdict | None = None
    mode: FreshnessMode = FreshnessMode.OFFLINE
    freshness: Freshness = Freshness.NOT_CHECKED
    revocation: Revocation = Revocation.NOT_CHECKED
    owner: str = ""  # hex of the key that signed the policy
    policy_name: str = ""
    policy_version: int = 0
    policy_signature: Signature = Signature.ABSENT
    other_policy: bool = False
    ear: Signature = Signature.ABSENT
    statement: Signature = Signature.ABSENT
    nras: KeysOf = KeysOf.NOBODY
    nras_issuer: str = ""
    placement: str = ""
    verification: BundleVerification | None = None  # how the client that made the bundle says it had verified
    reasons: list[NamedReason] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    not_rejudged: list[NamedReason] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether the evidence is accepted at the asked time and nothing in the bundle contradicts anything else."""
        return Whole(self.verdict, self.gpu).accepted and not self.reasons and not self.not_rejudged

    def refuse(self, reason: WireReason | AttestationReason | str, message: str, remedy: str, detail: str = "") -> None:
        """Add a reason."""
        self.reasons.append(NamedReason(reason=str(reason), message=message, remedy=remedy, detail=detail[:1024]))

    def to_json(self) -> dict[str, Any]:
        """The form of `-o json`."""
        own = {(reason.reason, reason.message) for reason in self.reasons}
        appraised = Whole(self.verdict, self.gpu).reasons
        every = self.reasons + [r for r in appraised if (r.reason, r.message) not in own] + self.not_rejudged
        return {
            "schemaVersion": "chrysalis/v1",
            "verdict": "Accepted" if self.accepted else "Refused",
            "reasons": [reason.to_json_dict() for reason in every],
            "bundleDigest": self.digest,
            "at": rfc3339(self.at),
            "recordedAt": rfc3339(self.recorded_at),
            "recordedVerdict": self.recorded,
            "mode": self.mode.value,
            "freshness": self.freshness.value,
            "revocation": self.revocation.value,
            "policy": {
                "name": self.policy_name,
                "version": self.policy_version,
                "owner": self.owner,
                "signature": self.policy_signature.value,
                "enclosed": not self.other_policy,
            },
            "ear": self.ear.value,
            "statement": self.statement.value,
            "nrasKeys": self.nras.value,
            "nrasIssuer": self.nras_issuer or None,
            "placement": self.placement,
            "recordedVerification": self.verification.to_json_dict() if self.verification else None,
            "differences": [vars(difference) for difference in self.differences],
            "appraisal": self.verdict.to_json_full(),
            "gpu": self.gpu.to_json_full() if self.gpu else None,
        }
