"""GPU evidence as it is handed over: NVIDIA SDK JSON, or a raw SPDM report with a certificate chain beside it.

What the JSON says beside report and certificates is not signed.  It is kept to be compared with what is; it proves nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chrysalis.api.policy_gpu import MAX_GPUS, MAX_SWITCHES, GpuArchitecture
from chrysalis.attestation.gpu import chain, spdm
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason

MAX_EVIDENCE_BYTES = 4 * 1024 * 1024
MAX_DEVICES = MAX_GPUS + MAX_SWITCHES
MAX_TEXT = 128
DIGEST_CONTEXT = b"chrysalis/v1/gpu-evidence"
_R = GpuReason
_ARCHITECTURES = {architecture.value.upper(): architecture for architecture in GpuArchitecture}
_REPORT = ("evidence", "attestation_report", "attestationReport")
_CHAIN = ("certificate", "cert_chain", "attestation_cert_chain", "attestationCertificateChain")
"""What tools call a device's report and its certificates; the first is NVIDIA's SDK."""
_LISTS = ("evidences", "evidence_list", "device_evidence_list")
"""Where tools put the list into an object: what NVIDIA's collected, what is sent to its service, what Trustee's agent sends."""


@dataclass(frozen=True)
class Stated:
    """What the sender says of a device; nothing of it is signed.  None: not said."""

    architecture: GpuArchitecture | None = None
    nonce: bytes | None = None
    driver_version: str | None = None
    vbios_version: str | None = None
    uuid: str | None = None
    devtools: bool | None = None  # the driver's word, where the (measured) guest passes it on


@dataclass(frozen=True)
class GpuEvidence:
    """One device's report (binary) and certificate chain (PEM), and what the sender says of it."""

    report: bytes
    chain: bytes
    stated: Stated = field(default_factory=Stated)


def read(data: bytes, chain_data: bytes | None = None) -> list[GpuEvidence]:
    """The devices of one file: SDK JSON, or a raw report (binary, hexadecimal, base64), whose chain is then given beside it.

    Raises GpuError (GpuEvidenceUnreadable, GpuEvidenceTooLarge, GpuChainUnreadable).
    """
    if len(data) > MAX_EVIDENCE_BYTES:
        raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence has {len(data)} bytes; at most {MAX_EVIDENCE_BYTES} are read")
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        return from_json(data, chain_data)
    report = spdm.read(data)
    if chain_data is None:
        raise GpuError(_R.GPU_CHAIN_UNREADABLE, "a raw report says nothing of its certificates, and no chain was given")
    return [GpuEvidence(report, chain.read_pem(chain_data))]


def from_json(text: bytes | str, chain_data: bytes | None = None) -> list[GpuEvidence]:
    """The devices of NVIDIA SDK evidence JSON: a list, one object, or an object around a list; raises GpuError."""
    if len(text) > MAX_EVIDENCE_BYTES:
        raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence has {len(text)} bytes; at most {MAX_EVIDENCE_BYTES} are read")
    try:
        document = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise _unreadable("the evidence is not JSON", str(error)[:200]) from error
    shared: dict[str, Any] = {}
    if isinstance(document, dict):
        inner = document.get("nvidia")
        if isinstance(inner, dict) and not any(name in document for name in (*_LISTS, *_REPORT)):
            document = inner  # Trustee's agent: one of several kinds of evidence beside the quote
        shared = {name: document[name] for name in ("nonce", "arch") if name in document}
        found = [document[name] for name in _LISTS if isinstance(document.get(name), list)]
        document = found[0] if found else [document]
    if not isinstance(document, list) or not document:
        raise _unreadable("the evidence is no list of devices, or an empty one")
    if len(document) > MAX_DEVICES:
        raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence lists {len(document)} devices; at most {MAX_DEVICES} are read")
    return [_device(shared | item if isinstance(item, dict) else item, place, chain_data) for place, item in enumerate(document)]


def digest(evidence: Sequence[GpuEvidence]) -> bytes:
    """What a session's transcript holds of the GPUs (32 bytes): SHA-256 over the context and, device by device, report and
    chain, each behind its length in four bytes, big-endian.  Empty bytes where there is no device."""
    if not evidence:
        return b""
    hasher = hashlib.sha256(DIGEST_CONTEXT)
    for device in evidence:
        for part in (device.report, device.chain):
            hasher.update(len(part).to_bytes(4, "big") + part)
    return hasher.digest()


def _device(item: object, place: int, chain_data: bytes | None) -> GpuEvidence:
    if not isinstance(item, dict):
        raise _unreadable(f"device {place} of the evidence is no JSON object")
    report = _first(item, _REPORT, place, limit=4 * spdm.MAX_REPORT_BYTES)
    if report is None:
        raise _unreadable(f"device {place} of the evidence has no member `evidence`")
    certificate = _first(item, _CHAIN, place, limit=4 * chain.MAX_CHAIN_BYTES)
    pem = certificate.encode() if certificate is not None else chain_data
    if pem is None:
        raise GpuError(_R.GPU_CHAIN_UNREADABLE, f"device {place} of the evidence has no member `certificate`")
    return GpuEvidence(spdm.read(report.encode()), chain.read_pem(pem), _stated(item, place))


def _stated(item: dict[str, Any], place: int) -> Stated:
    arch = _text(item, "arch", place)
    if arch is not None and arch.upper() not in _ARCHITECTURES:
        raise _unreadable(f"device {place} of the evidence is of an architecture that is not known", arch[:64])
    nonce = _text(item, "nonce", place)
    try:
        stated_nonce = bytes.fromhex(nonce.strip().lower().removeprefix("0x")) if nonce is not None else None
    except ValueError as error:
        raise _unreadable(f"the nonce of device {place} is not hexadecimal") from error
    devtools = item.get("devtools")
    if devtools is not None and not isinstance(devtools, bool):
        raise _unreadable(f"`devtools` of device {place} is neither true nor false")
    return Stated(
        architecture=_ARCHITECTURES[arch.upper()] if arch is not None else None,
        nonce=stated_nonce,
        driver_version=_first(item, ("driver_version", "driverVersion"), place, MAX_TEXT),
        vbios_version=_first(item, ("vbios_version", "vbiosVersion"), place, MAX_TEXT),
        uuid=_text(item, "uuid", place),
        devtools=devtools,
    )


def _first(item: dict[str, Any], names: Sequence[str], place: int, limit: int) -> str | None:
    """The one member that is there under one of these names; raises GpuError where there are two."""
    found = [text for name in names if (text := _text(item, name, place, limit)) is not None]
    if len(found) > 1:
        raise _unreadable(f"device {place} of the evidence has the same member under two names")
    return found[0] if found else None


def _text(item: dict[str, Any], name: str, place: int, limit: int = MAX_TEXT) -> str | None:
    value = item.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit or not value.isascii():
        raise _unreadable(f"`{name}` of device {place} is no plain text of at most {limit} characters")
    return value


def _unreadable(message: str, detail: str = "") -> GpuError:
    return GpuError(_R.GPU_EVIDENCE_UNREADABLE, message, detail)
