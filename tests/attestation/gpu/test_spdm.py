"""SPDM reports: forms, bounds, and that no bytes give anything but the project's error."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.attestation.gpu import spdm
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.attestation.gpu.spdm import Field
from e2e.simtd.gpu import ReportShape, SimulatedGpus

NONCE = bytes(range(32))
REPORT = SimulatedGpus.create().device().report(NONCE)
RECORD = 45
OPAQUE = RECORD + 64 * 55 + 32
VERSIONED = b"NVDAOD\0\0\2\0\0\0"
TYPED = struct.pack("<HHH", 3, 0x86, 4) + b"590\0"


def _with(position: int, value: bytes) -> bytes:
    return REPORT[:position] + value + REPORT[position + len(value) :]


def _opaque(data: bytes) -> bytes:
    return REPORT[:OPAQUE] + struct.pack("<H", len(data)) + data + bytes(96)


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "request alone": REPORT[:37],
    "SPDM 1.2": _with(0, b"\x12"),
    "another request": _with(1, b"\xe1"),
    "no signature asked for": _with(2, b"\0"),
    "one block asked for": _with(3, b"\1"),
    "response of SPDM 1.2": _with(37, b"\x12"),
    "an error as response": _with(38, b"\x7f"),
    "response of another slot": _with(40, b"\1"),
    "one block fewer stated": _with(41, bytes([63])),
    "one block more stated": _with(41, bytes([65])),
    "record longer than the report": _with(42, b"\xff\xff\xff"),
    "record shorter than its blocks": _with(42, (64 * 55 - 1).to_bytes(3, "little")),
    "block index 0": _with(RECORD, b"\0"),
    "block index 255": _with(RECORD, b"\xff"),
    "block twice": _with(RECORD + 55, b"\1"),
    "not DMTF's specification": _with(RECORD + 1, b"\2"),
    "block without a value": _with(RECORD + 2, b"\2\0"),
    "value of another length": _with(RECORD + 5, b"\x2f\0"),
    "opaque data longer than allowed": _opaque(bytes(4097)),
    "opaque field longer than the data": _opaque(struct.pack("<HH", 3, 5) + b"590"),
    "opaque field twice": _opaque(2 * (struct.pack("<HH", 3, 4) + b"590\0")),
    "junk behind the fields": _opaque(struct.pack("<HH", 3, 4) + b"590\0" + b"\1"),
    "versioned, cut within its header": _opaque(VERSIONED[:11]),
    "versioned, of another profile": _opaque(VERSIONED[:6] + b"\1\0" + VERSIONED[8:] + TYPED),
    "versioned, of a later version": _opaque(VERSIONED[:8] + b"\3\0\0\0" + TYPED),
    "versioned, of an earlier version": _opaque(VERSIONED[:8] + b"\1\0\0\0" + TYPED),
    "versioned, a field without its type": _opaque(VERSIONED + struct.pack("<HH", 3, 4) + b"590\0"),
    "versioned, a field twice": _opaque(VERSIONED + 2 * TYPED),
    "versioned, junk behind the fields": _opaque(VERSIONED + TYPED + b"\1"),
    "another magic": _opaque(b"NVDAOE" + VERSIONED[6:] + TYPED),
    "signature cut": REPORT[:-1],
}


def test_a_report() -> None:
    report = spdm.parse(REPORT)
    assert (report.nonce, report.slot, len(report.blocks), len(report.signature)) == (NONCE, 0, 64, 96)
    assert report.signed + report.signature == REPORT
    assert report.text(Field.DRIVER_VERSION) == "590.12"
    assert report.gpu_vbios_version == "96.00.A5.00.01"
    assert report.flag(Field.PROTECTED_PCIE_STATUS) is False
    assert report.number(Field.FEATURE_FLAG) == 0
    assert report.measurement(0) == report.blocks[1].value
    assert report.measurement(64) is None
    assert not report.blocks[1].raw


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    with pytest.raises(GpuError) as refused:
        spdm.parse(MALFORMED[name])
    assert refused.value.reason == "GpuReportMalformed"


def test_nothing_but_zeros_may_follow() -> None:
    assert spdm.parse(REPORT + bytes(100)) == spdm.parse(REPORT)
    for junk in (b"\1", bytes(100) + b"\1", b"\r\n"):
        with pytest.raises(GpuError) as refused:
            spdm.parse(REPORT + junk)
        assert refused.value.reason == "GpuReportTrailingData"


def test_too_large() -> None:
    for call in (spdm.parse, spdm.read):
        with pytest.raises(GpuError) as refused:
            call(REPORT + bytes(4 * spdm.MAX_REPORT_BYTES))
        assert refused.value.reason == "GpuEvidenceTooLarge"


def test_zeros_may_fill_up_the_opaque_data() -> None:
    data = struct.pack("<HH", 3, 4) + b"590\0"
    for filling in (0, 1, 3, 4, 60):
        assert dict(spdm.parse(_opaque(data + bytes(filling))).opaque) == {3: b"590\0"}
    assert dict(spdm.parse(_opaque(b"")).opaque) == {}


def test_the_layout_whose_fields_state_their_type() -> None:
    device = SimulatedGpus.create().device()
    old, new = (spdm.parse(device.report(NONCE, ReportShape(versioned=versioned))) for versioned in (False, True))
    assert new.opaque == old.opaque
    assert new.signed != old.signed
    assert (new.text(Field.DRIVER_VERSION), new.gpu_vbios_version) == ("590.12", "96.00.A5.00.01")
    for minor in (b"\2\0", b"\2\1"):
        assert dict(spdm.parse(_opaque(VERSIONED[:8] + minor + b"\0\0" + TYPED + bytes(7))).opaque) == {3: b"590\0"}


SECURITY_VERSIONS: dict[str, tuple[int | None, bytes]] = {
    "in its form": (0x0105, VERSIONED + struct.pack("<HHH", 37, 0x87, 2) + b"\5\1"),
    "of another field": (None, VERSIONED + struct.pack("<HHH", 400, 0x87, 2) + b"\5\1"),
    "of another type": (None, VERSIONED + struct.pack("<HHH", 37, 0x86, 2) + b"\5\1"),
    "too short": (None, VERSIONED + struct.pack("<HHH", 37, 0x87, 1) + b"\5"),
    "too long": (None, VERSIONED + struct.pack("<HHH", 37, 0x87, 4) + b"\5\1\0\0"),
    "in the layout without types": (None, struct.pack("<HH", 37, 2) + b"\5\1"),
    "absent": (None, VERSIONED),
}


@pytest.mark.parametrize("name", SECURITY_VERSIONS)
def test_a_security_version(name: str) -> None:
    expected, data = SECURITY_VERSIONS[name]
    assert spdm.parse(_opaque(data)).security_version(37) == expected


def test_a_raw_value_beside_digests() -> None:
    body = struct.pack("<BH", 0x83, 4) + b"\0\0\0\1"
    block = struct.pack("<BBH", 9, 1, len(body)) + body
    report = REPORT[:41] + b"\1" + len(block).to_bytes(3, "little") + block + bytes(32) + b"\0\0" + bytes(96)
    found = spdm.parse(report).blocks[9]
    assert (found.raw, found.value) == (True, b"\0\0\0\1")


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "binary": lambda raw: raw,
    "binary, padded": lambda raw: raw + bytes(900),
    "hexadecimal": lambda raw: raw.hex().encode(),
    "upper case": lambda raw: raw.hex().upper().encode() + b"\n",
    "with 0x": lambda raw: b"0x" + raw.hex().encode(),
    "in lines": lambda raw: b"\r\n".join(raw.hex().encode()[start : start + 64] for start in range(0, 2 * len(raw), 64)),
    "with colons": lambda raw: raw.hex(":").encode(),
    "with commas": lambda raw: raw.hex(",").encode(),
    "in pairs": lambda raw: raw.hex(" ").encode(),
    "with a mark": lambda raw: b"\xef\xbb\xbf" + raw.hex().encode(),
    "hexadecimal, padded": lambda raw: raw.hex().encode() + b"\n\0\0\0",
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
    "base64 for URLs, unpadded": lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"="),
    "in quotation marks": lambda raw: b'"' + raw.hex().encode() + b'"\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    assert spdm.parse(spdm.read(FORMS[form](REPORT))) == spdm.parse(REPORT)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80" * 40, REPORT[1:], b"11e0", REPORT.hex()[1:].encode(), base64.b64encode(b"report")])
def test_unreadable(data: bytes) -> None:
    with pytest.raises(GpuError) as refused:
        spdm.parse(spdm.read(data))
    assert refused.value.reason in ("GpuEvidenceUnreadable", "GpuReportMalformed")


def _touch(data: bytes) -> None:
    """Read everything that can be read; only GpuError may come out."""
    try:
        report = spdm.parse(spdm.read(data))
    except GpuError:
        return
    properties: tuple[Callable[[], Any], ...] = (
        lambda: report.gpu_vbios_version,
        lambda: report.gpu_links,
        lambda: report.switch_pdi,
        lambda: report.switch_gpus,
        *(lambda field=field: report.text(field) for field in Field),
        *(lambda field=field: report.flag(field) for field in Field),
        *(lambda field=field: report.number(field) for field in Field),
    )
    for read in properties:
        try:
            read()
        except GpuError:
            continue


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    _touch(data)
    _touch(b"\x11\xe0\x01\xff" + data)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(REPORT) - 1), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, len(REPORT)))
def test_any_bytes_changed_and_cut(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(REPORT)
    for position, value in changes:
        data[position] = value
    _touch(bytes(data))
    _touch(bytes(data[:end]))
    _touch(bytes(data[end:] + data[:end]))


@given(st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=80), max_size=12))
def test_any_opaque_fields(fields: dict[int, bytes]) -> None:
    _touch(_opaque(b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields.items())[:4096]))
    _touch(_opaque((VERSIONED + b"".join(struct.pack("<HHH", kind, 0, len(value)) + value for kind, value in fields.items()))[:4096]))
