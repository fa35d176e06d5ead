"""GPUs in a session's evidence: the message, what of it the transcript holds, and its appraisal under a policy's rules.

Every party that judges a session (broker, client, bundle) does it through here: what is bound and what is judged cannot differ.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.api.policy_gpu import GpuRules
from chrysalis.attestation.gpu import evidence as gpu_evidence
from chrysalis.attestation.gpu.appraisal import appraise_gpus
from chrysalis.attestation.gpu.evidence import MAX_DEVICES, GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import GpuVerdict

MAX_DEVICE_REPORT_BYTES = 16 * 1024
MAX_DEVICE_CHAIN_BYTES = 16 * 1024

_Bytes = r"^[A-Za-z0-9+/]*={0,2}$"


class GpuDevice(Model):
    """One GPU's or NVSwitch's evidence: its SPDM report (binary) and its certificate chain (PEM), both in base64."""

    report: Annotated[str, Field(pattern=_Bytes, max_length=MAX_DEVICE_REPORT_BYTES * 4 // 3 + 4)]
    chain: Annotated[str, Field(pattern=_Bytes, max_length=MAX_DEVICE_CHAIN_BYTES * 4 // 3 + 4)]

    @classmethod
    def of(cls, evidence: GpuEvidence) -> GpuDevice:
        """The message for a device's evidence."""
        return cls(report=base64.b64encode(evidence.report).decode(), chain=base64.b64encode(evidence.chain).decode())


GpuDevices = Annotated[list[GpuDevice], Field(max_length=MAX_DEVICES)]


def devices(sent: Sequence[GpuDevice]) -> list[GpuEvidence]:
    """The devices' bytes as they were sent; raises GpuError (GpuEvidenceUnreadable)."""
    try:
        return [GpuEvidence(base64.b64decode(one.report, validate=True), base64.b64decode(one.chain, validate=True)) for one in sent]
    except (binascii.Error, ValueError) as error:
        raise GpuError(GpuReason.GPU_EVIDENCE_UNREADABLE, "a GPU's evidence is not base64", str(error)[:200]) from error


def digest(sent: Sequence[GpuDevice]) -> bytes:
    """What the session's transcript holds of the GPUs: 32 bytes, or none without a GPU; raises GpuError."""
    return gpu_evidence.digest(devices(sent))


def appraise(sent: Sequence[GpuDevice], *, rules: GpuRules, nonce: bytes, at: datetime, in_use: Collection[str] = ()) -> GpuVerdict:
    """Judge a session's GPUs; nonce: binding.gpu_nonce of the session.  Raises GpuError where a device cannot be decoded."""
    return appraise_gpus(evidence=devices(sent), rules=rules, nonce=nonce, at=at, in_use=in_use)


def named(verdict: GpuVerdict) -> list[Mapping[str, Any]]:
    """The verdict's reasons as the four members of a NamedReason; the device stands at the head of the message."""
    return [
        {
            "reason": finding.reason.value,
            "message": finding.message if finding.device is None else f"device {finding.device}: {finding.message}",
            "remedy": finding.remedy,
            "detail": finding.detail,
        }
        for finding in verdict.reasons
    ]
