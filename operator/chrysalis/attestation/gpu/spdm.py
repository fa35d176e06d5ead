"""A GPU's attestation report: an SPDM 1.1 GET_MEASUREMENTS request, the MEASUREMENTS response, and its signature.

    request    37 bytes: version, code 0xE0, attributes (bit 0: sign), operation (0xFF: all), nonce (32), slot
    response   8 bytes: version, code 0x60, 2 × parameter, number of blocks, length of the record (3, little-endian);
               the measurement record; nonce (32); length of the opaque data (2); opaque data; signature (96)

The signature is a raw P-384 one (r ‖ s) over everything before it.  Sources: DMTF DSP0274 1.1, sections 10.11.1 and
10.11.2; the meaning of the opaque fields as in NVIDIA's published attestation SDK, their two layouts as in its "Opaque Data
Format".  The device pads nothing, but tools pad its buffers with zeros; nothing else may follow.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from chrysalis.attestation import armor
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason

MAX_REPORT_BYTES = 64 * 1024
MIN_REPORT_BYTES = 37 + 8 + 32 + 2 + 96
MAX_OPAQUE_BYTES = 4096
REQUEST_BYTES = 37
NONCE_BYTES = 32
SIGNATURE_BYTES = 96
SPDM_11 = 0x11
GET_MEASUREMENTS = 0xE0
MEASUREMENTS = 0x60
SIGN = 0x01
ALL_BLOCKS = 0xFF
DMTF = 0x01
"""Measurement specification: a block is in the form of DMTF's."""
RAW = 0x80
"""In a DMTF value's type: bit 7 is set for a raw bit stream and clear for a digest."""
VERSIONED = b"NVDAOD"
"""How opaque data begins whose fields state the type of their value, too, as drivers of CUDA 13.5 and later write it."""
VERSIONED_HEADER = struct.Struct("<6sH4B")
"""Magic, profile (0), version: major, minor, patch, padding."""
SECURITY_VERSION = 0x87
"""The type of a field's value, in that layout, that is a security version: two bytes, little-endian."""
OPAQUE_MAJOR = 2
"""The only version that was ever published: what another one means by a field is not known."""
PDI_BYTES = 8
SWITCH_GPU_PLACES = 8


class Field(IntEnum):
    """The opaque fields that are read; a field that is not listed is kept and not understood."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    BOARD_ID = 14
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    PDI = 22  # of a GPU: the switch behind each of its links; of a switch: its own
    SWITCH_GPU_PDIS = 26
    OPAQUE_DATA_VERSION = 34
    FEATURE_FLAG = 36


ENABLED = 0xAA
DISABLED = 0x55


@dataclass(frozen=True)
class Block:
    """One measurement: its DMTF value type (bit 7: raw) and its bytes."""

    type: int
    value: bytes

    @property
    def raw(self) -> bool:
        """Whether the value is a raw bit stream, not a digest."""
        return bool(self.type & RAW)


@dataclass(frozen=True)
class Report:
    """A report's parts.  Nothing in it is proved before the signature over `signed` is checked."""

    nonce: bytes  # of the request: the verifier's
    response_nonce: bytes  # the device's own
    slot: int
    blocks: Mapping[int, Block]  # by SPDM index, 1 to 254
    opaque: Mapping[int, bytes]  # by field id
    types: Mapping[int, int]  # of the fields' values, by field id; empty in the layout that does not state them
    signed: bytes
    signature: bytes

    def measurement(self, reference_index: int) -> bytes | None:
        """The measurement that a RIM's index is about: RIMs count from 0, SPDM from 1."""
        block = self.blocks.get(reference_index + 1)
        return None if block is None else block.value

    def text(self, field: Field) -> str | None:
        """A field of text, without the zeros at its end; None where it is absent; raises GpuError for anything but ASCII."""
        value = self.opaque.get(field)
        if value is None:
            return None
        text = value.rstrip(b"\0")
        if not all(0x21 <= byte <= 0x7E for byte in text) or len(text) > 64:
            raise _malformed(f"opaque field {field.name} is no plain text", value[:64].hex())
        return text.decode("ascii")

    def flag(self, field: Field) -> bool | None:
        """A status of one byte, 0xAA or 0x55; None where it is absent; raises GpuError for any other value."""
        value = self.opaque.get(field)
        if value is None:
            return None
        if value == bytes([ENABLED]):
            return True
        if value == bytes([DISABLED]):
            return False
        raise _malformed(f"opaque field {field.name} is neither 0xAA nor 0x55", value[:16].hex())

    def number(self, field: Field) -> int | None:
        """A little-endian number of 1 to 8 bytes; None where it is absent; raises GpuError."""
        value = self.opaque.get(field)
        if value is None:
            return None
        if not 1 <= len(value) <= 8:
            raise _malformed(f"opaque field {field.name} has {len(value)} bytes; 1 to 8 are a number", value[:16].hex())
        return int.from_bytes(value, "little")

    def security_version(self, field: int) -> int | None:
        """What the field states as a security version; None where it is absent or its value is none, by type or by size."""
        value = self.opaque.get(field)
        if value is None or self.types.get(field) != SECURITY_VERSION or len(value) != 2:
            return None
        return int.from_bytes(value, "little")

    @property
    def gpu_vbios_version(self) -> str | None:
        """A GPU's VBIOS version as tools write it, 96.00.A5.00.01: bytes 3 to 0 of the field, then byte 4; raises GpuError."""
        value = self.opaque.get(Field.VBIOS_VERSION)
        if value is None:
            return None
        if len(value) != 8:
            raise _malformed(f"opaque field VBIOS_VERSION has {len(value)} bytes; a GPU's has 8", value[:16].hex())
        return ".".join(f"{value[place]:02X}" for place in (3, 2, 1, 0, 4))

    @property
    def gpu_links(self) -> list[str]:
        """A GPU's switches, one for each link that is in use, as upper-case hex in the form in which a switch names itself;
        raises GpuError."""
        return [pdi[::-1].hex().upper() for pdi in _pdis(self.opaque.get(Field.PDI, b""), Field.PDI)]

    @property
    def switch_pdi(self) -> str | None:
        """A switch's own identifier, upper-case hex; raises GpuError."""
        value = self.opaque.get(Field.PDI)
        if value is None:
            return None
        if len(value) != PDI_BYTES:
            raise _malformed(f"opaque field PDI has {len(value)} bytes; a switch's has {PDI_BYTES}")
        return value.hex().upper()

    @property
    def switch_gpus(self) -> list[str]:
        """The GPUs that a switch is linked to, upper-case hex, each once; raises GpuError.  Port numbers may follow them."""
        value = self.opaque.get(Field.SWITCH_GPU_PDIS)
        if value is None:
            return []
        size = SWITCH_GPU_PLACES * PDI_BYTES
        if len(value) < size:
            raise _malformed(f"opaque field SWITCH_GPU_PDIS has {len(value)} bytes; at least {size} are expected")
        return sorted({pdi.hex().upper() for pdi in _pdis(value[:size], Field.SWITCH_GPU_PDIS)})


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int, what: str) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise _malformed(f"the report ends within {what}, at byte {self.position}")
        part = self.data[self.position : end]
        self.position = end
        return part


def read(data: bytes) -> bytes:
    """The report's bytes, from binary, hexadecimal or base64 text; raises GpuError (GpuEvidenceUnreadable, …TooLarge)."""
    if len(data) > 6 * MAX_REPORT_BYTES:
        raise GpuError(GpuReason.GPU_EVIDENCE_TOO_LARGE, f"the report has {len(data)} bytes; at most {MAX_REPORT_BYTES} are read")
    raw = data if data[:2] == bytes([SPDM_11, GET_MEASUREMENTS]) else _from_text(data)
    if len(raw) > MAX_REPORT_BYTES:
        raise GpuError(GpuReason.GPU_EVIDENCE_TOO_LARGE, f"the report has {len(raw)} bytes; at most {MAX_REPORT_BYTES} are read")
    return raw


def parse(report: bytes) -> Report:
    """Read a binary report; raises GpuError (GpuReportMalformed, GpuReportTrailingData, GpuEvidenceTooLarge)."""
    if len(report) > MAX_REPORT_BYTES:
        raise GpuError(GpuReason.GPU_EVIDENCE_TOO_LARGE, f"the report has {len(report)} bytes; at most {MAX_REPORT_BYTES} are read")
    reader = _Reader(report)
    nonce, slot = _request(reader)
    version, code, _, signed_slot, count = reader.take(5, "the response's header")
    if (version, code) != (SPDM_11, MEASUREMENTS):
        raise _malformed(f"the response is message {code:#04x} of SPDM version {version:#04x}; 0x60 of 0x11 is expected")
    if signed_slot & 0x0F != slot:
        raise _malformed(f"the request names slot {slot}, the response slot {signed_slot & 0x0F}")
    record = reader.take(int.from_bytes(reader.take(3, "the record's length"), "little"), "the measurement record")
    blocks = _blocks(record, count)
    response_nonce = reader.take(NONCE_BYTES, "the device's nonce")
    size = int.from_bytes(reader.take(2, "the opaque data's length"), "little")
    if size > MAX_OPAQUE_BYTES:
        raise _malformed(f"the opaque data has {size} bytes; at most {MAX_OPAQUE_BYTES} are read")
    opaque, types = _opaque(reader.take(size, "the opaque data"))
    signed = report[: reader.position]
    signature = reader.take(SIGNATURE_BYTES, "the signature")
    if report[reader.position :].strip(b"\0"):
        message = f"{reader.left} bytes that are not zero padding follow the report"
        raise GpuError(GpuReason.GPU_REPORT_TRAILING_DATA, message, report[reader.position :][:32].hex())
    parts = (MappingProxyType(blocks), MappingProxyType(opaque), MappingProxyType(types))
    return Report(nonce, response_nonce, slot, *parts, signed, signature)


def _request(reader: _Reader) -> tuple[bytes, int]:
    """The verifier's nonce and the certificate slot that it asked for."""
    version, code, attributes, operation = reader.take(4, "the request")
    if (version, code) != (SPDM_11, GET_MEASUREMENTS):
        raise _malformed(f"the request is message {code:#04x} of SPDM version {version:#04x}; 0xe0 of 0x11 is expected")
    if not attributes & SIGN:
        raise _malformed("the request did not ask for a signature")
    if operation != ALL_BLOCKS:
        raise _malformed(f"the request asked for block {operation:#04x} alone; 0xff, all of them, is expected")
    nonce = reader.take(NONCE_BYTES, "the request's nonce")
    return nonce, reader.take(1, "the request's slot")[0] & 0x0F


def _blocks(record: bytes, count: int) -> dict[int, Block]:
    """The measurement blocks, as many as are stated, and nothing behind them."""
    reader = _Reader(record)
    blocks: dict[int, Block] = {}
    while reader.left:
        index, specification, size = struct.unpack("<BBH", reader.take(4, "a measurement block's header"))
        if specification != DMTF:
            raise _malformed(f"measurement block {index} is of specification {specification:#04x}; only DMTF's is read")
        if not 1 <= index <= 254 or index in blocks:
            raise _malformed(f"measurement block {index} is out of range or there twice")
        body = reader.take(size, f"measurement block {index}")
        if len(body) < 3 or len(body) != 3 + int.from_bytes(body[1:3], "little"):
            raise _malformed(f"measurement block {index} does not have the length that it states")
        blocks[index] = Block(body[0], body[3:])
    if len(blocks) != count:
        raise _malformed(f"the response states {count} measurement blocks and has {len(blocks)}")
    return blocks


def _opaque(data: bytes) -> tuple[dict[int, bytes], dict[int, int]]:
    """The vendor's fields and the types of their values, in the layout that the data begins with; zeros may fill up the end."""
    reader = _Reader(data)
    head = struct.Struct("<HH")  # type and length
    if data.startswith(VERSIONED):
        head = struct.Struct("<HHH")  # type, the type of the value, length
        _, profile, major, minor, *_ = VERSIONED_HEADER.unpack(reader.take(VERSIONED_HEADER.size, "the opaque data's header"))
        if (profile, major) != (0, OPAQUE_MAJOR):
            known = f"profile 0 and version {OPAQUE_MAJOR} are read"
            raise _malformed(f"the opaque data is of profile {profile} and version {major}.{minor}; {known}")
    fields: dict[int, bytes] = {}
    types: dict[int, int] = {}
    while reader.left >= head.size:
        if not data[reader.position :].strip(b"\0"):
            return fields, types
        kind, *value_type, size = head.unpack(reader.take(head.size, "an opaque field's header"))
        if kind in fields:
            raise _malformed(f"opaque field {kind} is there twice")
        fields[kind] = reader.take(size, f"opaque field {kind}")
        if value_type:
            [types[kind]] = value_type
    if data[reader.position :].strip(b"\0"):
        raise _malformed(f"{reader.left} bytes that are no field follow the opaque data")
    return fields, types


def _pdis(value: bytes, field: Field) -> list[bytes]:
    """Identifiers of 8 bytes each; a place of zeros is one without a link."""
    if len(value) % PDI_BYTES:
        raise _malformed(f"opaque field {field.name} has {len(value)} bytes; identifiers have {PDI_BYTES} each")
    found = [value[start : start + PDI_BYTES] for start in range(0, len(value), PDI_BYTES)]
    return [pdi for pdi in found if pdi.strip(b"\0")]


def _from_text(data: bytes) -> bytes:
    """A report out of text: hexadecimal or base64, as armor.py reads them, or base64 of hexadecimal text."""
    text = armor.written(data)
    if not text or not armor.is_text(text):
        raise _unreadable("the report is neither an SPDM report nor hexadecimal or base64 text of one")
    try:
        raw = armor.from_dump(text)
        raw = armor.from_hex(text) if raw is None else raw
        raw = armor.from_base64(text) if raw is None else raw
        if raw is not None and raw[:2] == b"11":  # base64 of hexadecimal text, as some tools send it
            raw = armor.from_hex(raw) or raw
    except ValueError as error:
        raise _unreadable("the report is damaged hexadecimal or base64 text", str(error)) from error
    if raw is None:
        raise _unreadable("the report is neither hexadecimal nor base64 text")
    if raw[:2] != bytes([SPDM_11, GET_MEASUREMENTS]):
        raise _unreadable("the text does not hold an SPDM 1.1 report, which begins with a GET_MEASUREMENTS request")
    return raw


def _unreadable(message: str, detail: str = "") -> GpuError:
    return GpuError(GpuReason.GPU_EVIDENCE_UNREADABLE, message, detail)


def _malformed(message: str, detail: str = "") -> GpuError:
    return GpuError(GpuReason.GPU_REPORT_MALFORMED, message, detail)
