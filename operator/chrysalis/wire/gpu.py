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
from chrysalis.api.policy_gpu import GpuBackend, GpuRevocation, GpuRules
from chrysalis.attestation.gpu import evidence as gpu_evidence
from chrysalis.attestation.gpu import nras
from chrysalis.attestation.gpu.appraisal import RemoteCheck, appraise_gpus
from chrysalis.attestation.gpu.evidence import MAX_DEVICES, GpuEvidence
from chrysalis.attestation.gpu.ocsp import MAX_RESPONSE_BYTES, MAX_RESPONSES
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import GpuVerdict

MAX_DEVICE_REPORT_BYTES = 16 * 1024
MAX_DEVICE_CHAIN_BYTES = 16 * 1024
MAX_NRAS_CHARACTERS = 256 * 1024
"""An answer has some 4 KiB for each GPU."""
MAX_KEY_SET_CHARACTERS = 256 * 1024
AWAITED = frozenset({GpuReason.NRAS_ANSWER_MISSING, GpuReason.GPU_REVOCATION_NOT_CHECKED})
"""What only NVIDIA's services can cure."""

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


class GpuAnswers(Model):
    """What NVIDIA's services said of a session's GPUs, byte for byte, so that anybody can judge it again.

    nras: the attestation service's answer, a detached EAT bundle; nrasKeys: the key set (JWKS) that it was judged under, of the
    service that was asked; nrasIssuer: whose tokens they have to be.  ocsp: answers (DER) in base64.  Empty: not asked.
    """

    nras: Annotated[str, Field(max_length=MAX_NRAS_CHARACTERS)] = ""
    nras_keys: Annotated[str, Field(max_length=MAX_KEY_SET_CHARACTERS)] = ""
    nras_issuer: Annotated[str, Field(max_length=256)] = ""
    ocsp: Annotated[
        list[Annotated[str, Field(pattern=_Bytes, max_length=MAX_RESPONSE_BYTES * 4 // 3 + 4)]], Field(max_length=MAX_RESPONSES)
    ] = []

    @staticmethod
    def of_ocsp(answers: Sequence[bytes]) -> list[str]:
        """The member `ocsp` of these answers (DER)."""
        return [base64.b64encode(answer).decode() for answer in answers]


def appraise(
    sent: Sequence[GpuDevice],
    *,
    rules: GpuRules,
    nonce: bytes,
    at: datetime,
    in_use: Collection[str] = (),
    answers: GpuAnswers | None = None,
    nras_keys: str | None = None,
) -> GpuVerdict:
    """Judge a session's GPUs; nonce: binding.gpu_nonce of the session.  Raises GpuError where a device cannot be decoded.

    answers: of NVIDIA's services, where they were asked.  nras_keys: a key set (JWKS) to judge theirs under instead of the one that
    stands in it.
    """
    return appraise_gpus(
        evidence=devices(sent),
        rules=rules,
        nonce=nonce,
        at=at,
        in_use=in_use,
        ocsp_responses=[] if answers is None else _decoded(answers.ocsp),
        remote=None if answers is None or rules.backend is not GpuBackend.NRAS else _remote(answers, nras_keys, nonce, at),
    )


def wants_answers(rules: GpuRules | None) -> bool:
    """Whether a policy's rules ask for the word of one of NVIDIA's services."""
    return rules is not None and (rules.backend is GpuBackend.NRAS or rules.revocation is GpuRevocation.REQUIRED)


def awaits(verdict: GpuVerdict) -> bool:
    """Whether answers of NVIDIA's services are all that the evidence lacks: only then is it worth asking them."""
    return bool(verdict.reasons) and all(finding.reason in AWAITED for finding in verdict.reasons)


def _remote(answers: GpuAnswers, keys: str | None, nonce: bytes, at: datetime) -> RemoteCheck | None:
    if not answers.nras:
        return None
    jwks = answers.nras_keys if keys is None else keys
    return lambda: nras.check(answers.nras, keys=nras.read_keys(jwks), at=at, nonce=nonce, issuer=answers.nras_issuer)


def _decoded(answers: Sequence[str]) -> list[bytes]:
    """What is not base64 is passed on as it is: it is no OCSP answer, and is refused as such."""
    found = []
    for text in answers:
        try:
            found.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            found.append(text.encode())
    return found


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
