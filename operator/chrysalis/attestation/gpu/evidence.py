"""GPU evidence as it is handed over: NVIDIA SDK JSON, or a raw SPDM report with a certificate chain beside it.

The JSON is a list of devices, one device, or an object around them: what NVIDIA's SDKs collect and send (also as a collection
of conceptual messages, draft-ietf-rats-msg-wrap: each value is [type, base64url]), what agents and services put around
that.  No device is passed over: beside one, every other must be one, too.

What the JSON says beside report and certificates is not signed.  It is kept to be compared with what is; it proves nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chrysalis.api.policy_gpu import MAX_GPUS, MAX_SWITCHES, GpuArchitecture
from chrysalis.attestation import armor, envelope
from chrysalis.attestation.gpu import chain, spdm
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason

MAX_EVIDENCE_BYTES = 4 * 1024 * 1024
MAX_DEVICES = MAX_GPUS + MAX_SWITCHES
MAX_ITEMS = 50_000
"""Commas; a device has some dozen members."""
MAX_TEXT = 128
DIGEST_CONTEXT = b"chrysalis/v1/gpu-evidence"
_R = GpuReason
_ARCHITECTURES = {architecture.value.upper(): architecture for architecture in GpuArchitecture}
_REPORT = ("evidence", "attestation_report", "attestationReport")
_CHAIN = ("certificate", "cert_chain", "attestation_cert_chain", "attestationCertificateChain")
"""What tools call a device's report and its certificates; the first is NVIDIA's SDK.  Other names are known by what they hold."""
_LIKE_REPORT = ("EeAB", "11e001", "11E001", "0x11e001", "0x11E001")
"""How a report begins in base64 and hexadecimal: a request for signed measurements."""
_LIKE_CHAIN = ("-----BEGIN CERTIFICATE", "LS0tLS1CRUdJTi")
_ARCHITECTURE_PREFIX = "GPU_ARCHITECTURE_TYPE_"
_COLLECTION = "__cmwc_t"
"""What says that an object is a collection of conceptual messages."""
_NONCE_BYTES = 32


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
    data = unwrapped(data)
    if is_json(data):
        return from_json(data, chain_data)
    report = spdm.read(data)
    if chain_data is None:
        raise GpuError(_R.GPU_CHAIN_UNREADABLE, "a raw report says nothing of its certificates, and no chain was given")
    return [GpuEvidence(report, chain.read_pem(chain_data))]


def unwrapped(data: bytes) -> bytes:
    """A file without what is around the whole of it: gzip, UTF-16, base64 of JSON, JSON as a text in JSON; raises GpuError."""
    try:
        data = armor.as_utf8(armor.inflated(data, MAX_EVIDENCE_BYTES))
    except ValueError as error:
        raise _unreadable("the evidence cannot be unpacked", str(error)) from error
    if is_json(data) or not armor.is_text(data[:256]):
        return data
    text = armor.written(data)
    try:
        inner = json.loads(data).encode() if text != data.rstrip(b"\0").strip() else armor.from_base64(text)
    except (ValueError, RecursionError):
        return data
    return inner if inner is not None and is_json(inner) else data


def is_json(data: bytes) -> bool:
    """Whether a file begins like JSON."""
    return data.removeprefix(armor.BOM).lstrip()[:1] in (b"[", b"{")


def from_json(text: bytes | str, chain_data: bytes | None = None) -> list[GpuEvidence]:
    """The devices of NVIDIA SDK evidence JSON: a list, one object, or an object around a list; raises GpuError."""
    if len(text) > MAX_EVIDENCE_BYTES:
        raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence has {len(text)} bytes; at most {MAX_EVIDENCE_BYTES} are read")
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if plain.count(",") > MAX_ITEMS:
            raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence has more than {MAX_ITEMS} members and items")
        found = _found(envelope.parsed(plain.rstrip("\0")), {}, 0)
    except envelope.Ambiguous as error:
        raise _unreadable("the evidence is ambiguous", str(error)[:200]) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable("the evidence is not JSON", str(error)[:200]) from error
    if not found:
        raise _unreadable("the evidence has no device, that is, nothing with a member `evidence`")
    if len(found) > MAX_DEVICES:
        raise GpuError(_R.GPU_EVIDENCE_TOO_LARGE, f"the evidence lists {len(found)} devices; at most {MAX_DEVICES} are read")
    return [_device(item, place, chain_data) for place, item in enumerate(found)]


def _found(value: Any, shared: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    """The devices in here, in their order, each with the nonce and architecture that an object around it states for all."""
    if isinstance(value, str):
        value = envelope.nested(value)
    if depth > envelope.MAX_NESTING:
        if value and isinstance(value, dict | list):
            raise _unreadable(f"the evidence is nested deeper than {envelope.MAX_NESTING} levels, where devices would be passed over")
        return []
    if isinstance(value, dict) and _is_device(value):
        if any(_found(item, {}, depth + 1) for item in value.values() if isinstance(item, dict | list)):
            raise _unreadable("a device of the evidence holds another one")
        return [shared | value]
    members = list(envelope.items(value))
    devices = {name for name, item in members if isinstance(item, dict) and _is_device(item)}
    missing = [name for name in _beside(devices, value) if name not in devices]
    if missing:
        raise _unreadable(f"{missing[0][:64]} of the evidence has no member `evidence`, and stands among devices that have one")
    if isinstance(value, dict):
        shared = shared | {name: value[name] for name in ("nonce", "arch") if name in value}
    return [device for _, item in members for device in _found(item, shared, depth + 1)]


def _beside(devices: set[str], value: Any) -> list[str]:
    """What must be a device because others are: all of a list or a collection; in another object what is called alike (gpu_0, gpu_1)."""
    if not devices:
        return []
    if isinstance(value, list):
        return [str(place) for place in range(len(value))]
    kinds = {name.rstrip("0123456789") for name in devices}
    objects = [name for name, item in value.items() if isinstance(item, dict)]
    return objects if _COLLECTION in value else [name for name in objects if name.rstrip("0123456789") in kinds]


def _is_device(item: dict[str, Any]) -> bool:
    """Whether this object has a report of its own; what holds further JSON under that name is an envelope."""
    for name in _REPORT:
        value = _bytes(_record(item.get(name)))
        if value is not None and not isinstance(value, dict | list):
            return not (isinstance(value, str) and envelope.nested(value) is not None)
    return any(_looks(value, _LIKE_REPORT) for value in item.values())


def _looks(value: Any, like: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value[:32].lstrip().startswith(like)


def _names(item: dict[str, Any], known: tuple[str, ...], like: tuple[str, ...]) -> tuple[str, ...]:
    """The names under which to look: the known ones, or else those under which there is what looks like it."""
    return known if any(item.get(name) is not None for name in known) else tuple(name for name in item if _looks(item[name], like))


def _bytes(value: Any) -> Any:
    """Bytes that are kept as numbers, in hexadecimal; anything else, and a few numbers, are themselves."""
    raw = envelope.as_bytes(value)
    return value if raw is None or len(raw) < _NONCE_BYTES else raw.hex()


def _record(value: Any) -> Any:
    """The value of a conceptual message [type, value, indicator]; anything else is itself."""
    is_record = isinstance(value, list) and 2 <= len(value) <= 3 and isinstance(value[0], str) and "/" in value[0]
    return value[1] if is_record else value


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
    report = _first(item, _names(item, _REPORT, _LIKE_REPORT), place, limit=4 * spdm.MAX_REPORT_BYTES)
    if report is None:
        raise _unreadable(f"device {place} of the evidence has no member `evidence`")
    certificate = _first(item, _names(item, _CHAIN, _LIKE_CHAIN), place, limit=4 * chain.MAX_CHAIN_BYTES)
    pem = certificate.encode() if certificate is not None else chain_data
    if pem is None:
        raise GpuError(_R.GPU_CHAIN_UNREADABLE, f"device {place} of the evidence has no member `certificate`")
    raw = spdm.read(report.encode())
    if any(_another(value, raw) for name, value in item.items() if name not in _REPORT):
        raise _unreadable(f"device {place} of the evidence has a second report, which differs")
    return GpuEvidence(raw, chain.read_pem(pem), _stated(item, place))


def _another(value: Any, report: bytes) -> bool:
    """Whether this is another report than the device's own: it would be passed over."""
    return _looks(value, _LIKE_REPORT) and value.isascii() and spdm.read(value.encode()).rstrip(b"\0") != report.rstrip(b"\0")


def _stated(item: dict[str, Any], place: int) -> Stated:
    arch = _text(item, "arch", place)
    architecture = _architecture(arch) if arch is not None else None
    if arch is not None and architecture is None:
        raise _unreadable(f"device {place} of the evidence is of an architecture that is not known", arch[:64])
    nonce = _text(item, "nonce", place)
    devtools = item.get("devtools")
    if devtools is not None and not isinstance(devtools, bool):
        raise _unreadable(f"`devtools` of device {place} is neither true nor false")
    return Stated(
        architecture=architecture,
        nonce=_nonce(nonce, place) if nonce is not None else None,
        driver_version=_first(item, ("driver_version", "driverVersion"), place, MAX_TEXT),
        vbios_version=_first(item, ("vbios_version", "vbiosVersion"), place, MAX_TEXT),
        uuid=_text(item, "uuid", place),
        devtools=devtools,
    )


def _architecture(text: str) -> GpuArchitecture | None:
    """An architecture by its name, or by that of a chip (GH100)."""
    name = text.strip().upper().removeprefix(_ARCHITECTURE_PREFIX)
    return _ARCHITECTURES.get(name) or chain.architecture(name)


def _nonce(text: str, place: int) -> bytes:
    """A nonce in hexadecimal, or its 32 bytes in base64."""
    packed = text.strip().encode()
    try:
        found = armor.from_hex(packed)
        if found is None and (decoded := armor.from_base64(packed)) is not None and len(decoded) == _NONCE_BYTES:
            found = decoded
    except ValueError as error:
        raise _unreadable(f"the nonce of device {place} is not hexadecimal", str(error)) from error
    if found is None:
        raise _unreadable(f"the nonce of device {place} is not hexadecimal, nor 32 bytes in base64")
    return found


def _first(item: dict[str, Any], names: Sequence[str], place: int, limit: int) -> str | None:
    """The one member that is there under one of these names; raises GpuError where there are two."""
    found = [text for name in names if (text := _text(item, name, place, limit)) is not None]
    if len(found) > 1:
        raise _unreadable(f"device {place} of the evidence has the same member under two names")
    return found[0] if found else None


def _text(item: dict[str, Any], name: str, place: int, limit: int = MAX_TEXT) -> str | None:
    value = _bytes(_record(item.get(name)))
    if value is None:
        return None
    if isinstance(value, list) and name in _CHAIN and all(isinstance(part, str) for part in value):
        value = "\n".join(map(_certificate, value))  # one text for each certificate
    if not isinstance(value, str) or len(value) > limit or not value.isascii():
        raise _unreadable(f"`{name}` of device {place} is no plain text of at most {limit} characters")
    return value


def _certificate(text: str) -> str:
    """One certificate of a list: PEM, or base64 of DER as X.509 members of JSON have it (x5c)."""
    return f"-----BEGIN CERTIFICATE-----\n{text.strip()}\n-----END CERTIFICATE-----" if text.lstrip().startswith("MI") else text


def _unreadable(message: str, detail: str = "") -> GpuError:
    return GpuError(_R.GPU_EVIDENCE_UNREADABLE, message, detail)
