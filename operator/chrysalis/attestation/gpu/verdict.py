"""The outcome of a GPU appraisal, as it stands in JSON."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.api.policy_gpu import GpuArchitecture, GpuBackend, GpuMode
from chrysalis.attestation.gpu.reasons import REMEDIES, GpuError, GpuReason
from chrysalis.attestation.verdict import EvidenceClass


class Revocation(StrEnum):
    """What is known of the certificates' revocation."""

    GOOD = "Good"
    REVOKED = "Revoked"
    NOT_CHECKED = "NotChecked"


class Comparison(StrEnum):
    """What became of the measurements."""

    MATCHED = "Matched"
    MATCHED_BY_SERVICE = "MatchedByService"  # not here: the remote service says that they match its own reference values
    DIFFERENT = "Different"
    NOT_COMPARED = "NotCompared"


class Finding(Model):
    """One reason of a refusal; device tells which one it is about (its place in the evidence), null where it is about all."""

    reason: GpuReason
    message: str
    remedy: str = ""
    detail: str = ""
    device: int | None = None

    @classmethod
    def of(cls, reason: GpuReason, message: str, detail: str = "", device: int | None = None) -> Finding:
        """A finding with the remedy that belongs to its reason."""
        return cls(reason=reason, message=message, remedy=REMEDIES[reason], detail=detail, device=device)

    @classmethod
    def from_error(cls, error: GpuError, device: int | None = None) -> Finding:
        """The finding that an error names."""
        return cls(reason=error.reason, message=error.message, remedy=error.remedy, detail=error.detail, device=device)


class DeviceFacts(Model):
    """What one report says.  Only `signature: Valid` makes the rest the device's own word; deviceId is of its certificates."""

    index: int
    signature: Literal["Valid", "Invalid", "NotJudged"] = "NotJudged"
    architecture: GpuArchitecture | None = None
    device_id: str | None = None  # of the device's identity certificate: the same after a reset, another on another device
    hardware_model: str | None = None
    nonce: str | None = None  # of the request, hex
    driver_version: str | None = None
    vbios_version: str | None = None
    mode: GpuMode | None = None
    firmware_id: str | None = None  # hex
    firmware_id_matched: bool | None = None  # with the certificate's; null where one of them has none
    measurements: int = 0  # how many blocks the report has
    compared: int = 0  # how many of them reference values exist for
    comparison: Comparison = Comparison.NOT_COMPARED
    mismatches: list[int] = []  # indices of the reference values
    security_versions: dict[str, int | None] = {}  # by name, those that reference values state a least one of; null: not in the report
    secure_boot: bool | None = None  # proved by the measurements alone; null where they did not match
    debug: Literal["Disabled"] | None = None
    revocation: Revocation = Revocation.NOT_CHECKED
    chain_valid_to: datetime | None = None
    switch_pdis: list[str] = Field(default=[], alias="switchPDIs")  # of a GPU: the switches that it is linked to
    device_pdi: str | None = Field(default=None, alias="devicePDI")  # of a switch
    gpu_pdis: list[str] = Field(default=[], alias="gpuPDIs")  # of a switch: the GPUs that it is linked to
    reference_ids: list[str] = []  # of the values that matched


class GpuVerdict(Model):
    """What an appraisal of all the GPUs of a trust domain says; expiresAt is set only when accepted and something limits it."""

    verdict: Literal["Accepted", "Refused"]
    reasons: list[Finding] = []
    scope: Literal["Policy", "GenuinenessAndReferences", "Genuineness"] = "Policy"
    backend: GpuBackend = GpuBackend.LOCAL
    evidence_class: EvidenceClass | None = None
    service: str | None = None  # issuer of the remote service whose word was taken in place of comparing measurements here
    nonce_checked: bool = False
    bound: Literal["Unknown"] = "Unknown"  # no GPU report names the trust domain that it serves
    revocation: Revocation = Revocation.NOT_CHECKED  # the weakest of all devices
    expires_at: datetime | None = None
    limited_by: str | None = None
    gpus: list[DeviceFacts] = []
    switches: list[DeviceFacts] = []

    @property
    def accepted(self) -> bool:
        """Whether every GPU was accepted."""
        return self.verdict == "Accepted"

    def to_json_full(self) -> dict[str, Any]:
        """The JSON form with every member, null where nothing could be established."""
        return self.model_dump(mode="json", by_alias=True)
