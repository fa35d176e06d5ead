"""The wrappings of binary evidence: each form beside the one that is damaged, and beside what is in no such form."""

from __future__ import annotations

import base64
import gzip
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import armor

RAW = bytes(range(256)) * 3


@given(st.binary(max_size=300), st.sampled_from(["", " ", "\n", "\r\n", ":", ", ", "\t"]), st.booleans())
def test_hexadecimal_in_every_dress(raw: bytes, between: str, upper: bool) -> None:
    text = raw.hex(between[0]).replace(between[0], between) if between and raw else raw.hex()
    assert armor.from_hex((text.upper() if upper else text).encode()) == raw
    assert armor.from_hex(b"0x" + text.encode() if raw else b"") == raw
    assert armor.from_hex(", ".join(f"0x{byte:02X}" for byte in raw).encode()) == raw


@pytest.mark.parametrize("text", [b"0g", b"0x0xx", b"00-11", b"password", b"x00", b"10x11", "٠٤".encode(), b"\xff"])
def test_what_is_no_hexadecimal(text: bytes) -> None:
    assert armor.from_hex(text) is None


def test_half_a_byte_is_damage() -> None:
    with pytest.raises(ValueError, match="odd number"):
        armor.from_hex(b"0x123")
    assert armor.from_hex(b"0x1234") == b"\x12\x34"


def _characters(part: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)


def _dump(raw: bytes, form: str) -> bytes:
    lines = []
    for start in range(0, len(raw), 16):
        part = raw[start : start + 16]
        if form == "xxd":
            lines.append(f"{start:08x}: {part.hex(' ', -2):<39}  {_characters(part)}")
        elif form == "hexdump -C":
            lines.append(f"{start:08x}  {part[:8].hex(' ')}  {part[8:].hex(' ')}  |{_characters(part)}|")
        else:
            lines.append(f"{start:06x} {part.hex(' ')}")
    if form != "xxd":
        lines.append(f"{len(raw):08x}")
    return "\n".join(lines).encode()


@given(st.binary(min_size=17, max_size=300), st.sampled_from(["xxd", "hexdump -C", "od"]))
def test_dumps(raw: bytes, form: str) -> None:
    assert armor.from_dump(_dump(raw, form)) == raw
    assert armor.from_dump(_dump(raw, form).replace(b"\n", b"\r\n") + b"\r\n") == raw


def test_a_dump_that_leaves_repeated_lines_out() -> None:
    raw = bytes(range(16)) + bytes(64) + b"\1" * 16 + bytes(32)
    text = b"00000000: 0001 0203 0405 0607 0809 0a0b 0c0d 0e0f  ................\n"
    text += b"00000010: 0000 0000 0000 0000 0000 0000 0000 0000  ................\n*\n"
    text += b"00000050: 0101 0101 0101 0101 0101 0101 0101 0101  ................\n"
    text += b"00000060: 0000 0000 0000 0000 0000 0000 0000 0000  ................\n*\n00000080\n"
    assert armor.from_dump(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"00000000",
        b"00000000: 0001",
        b"00000000: 0001\n00000003: 02",  # another offset
        b"00000002: 0001\n00000004: 02",
        b"0000000 0100 0302\n0000004",  # words, in whatever order
        b"00000000  00 01\n00000002  0g",
        b"00000000  00 01\n\n00000002  00",
        b"00000000: 000\n00000001: 00",
        b"*\n00000000: 00",
        b"00000000: 00\n*\n*\n00000002",
        b"00000000: 00\n*\nffffffffffff",  # more than a dump may stand for
        b"00000000: 00\n*\n00000000",
        b"00000000\n00000000: 00",
    ],
)
def test_what_is_no_dump(text: bytes) -> None:
    assert armor.from_dump(text) is None


def test_utf_16() -> None:
    for encoding in ("utf-16", "utf-16-be"):
        text = "\ufeff0x0400" if encoding == "utf-16-be" else "0x0400"
        assert armor.as_utf8(text.encode(encoding)) == b"0x0400"
    for other in (b"0400", b"\xff\xfe\x00", b"\xff\xfe\x00\xd8", b""):
        assert armor.as_utf8(other) == other


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.booleans())
def test_base64_in_every_dress(raw: bytes, url: bool, padded: bool) -> None:
    text = base64.urlsafe_b64encode(raw) if url else base64.b64encode(raw)
    text = text if padded else text.rstrip(b"=")
    lines = b"\r\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    for form in (text, lines, b"-----BEGIN SOME EVIDENCE-----\r\n" + lines + b"\r\n-----END SOME EVIDENCE-----"):
        assert armor.from_base64(form) == raw


@pytest.mark.parametrize("text", [b"+/-_", b"a=b", b"a b c!", b"-----BEGIN A-----\nAAAA\n-----END B-----", b"=" * 3])
def test_what_is_no_base64(text: bytes) -> None:
    assert armor.from_base64(text) is None


@pytest.mark.parametrize("text", [b"A", b"AAAAA", b"AA=", b"AAAAA="])
def test_base64_that_is_cut_is_damage(text: bytes) -> None:
    with pytest.raises(ValueError, match="base64 text"):
        armor.from_base64(text)


def test_two_texts_between_lines_are_not_run_together() -> None:
    """Their lines are hyphens and letters, which are digits of the URL-safe alphabet."""
    one = b"-----BEGIN A-----\nAAAA\n-----END A-----"
    assert armor.from_base64(one) == bytes(3)
    with pytest.raises(ValueError, match="more than one text"):
        armor.from_base64(one + b"\n" + one)


def test_gzip() -> None:
    packed = gzip.compress(RAW)
    assert armor.inflated(packed, len(RAW)) == RAW
    assert armor.inflated(RAW, 1) == RAW  # not gzip: given as it is
    assert armor.inflated(b"", 1) == b""
    for damaged, limit in ((packed, len(RAW) - 1), (packed[:-1], 4096), (packed[:20] + b"\xff" + packed[21:], 4096), (b"\x1f\x8b", 4096)):
        with pytest.raises(ValueError, match="gzip stream"):
            armor.inflated(damaged, limit)


@given(st.binary(max_size=200))
def test_damaged_gzip_raises_nothing_else(tail: bytes) -> None:
    try:
        armor.inflated(armor.GZIP + b"\x08\x00" + tail, 100)
    except ValueError:
        pass


def test_what_tools_put_around_a_text() -> None:
    for dressed in (b"0a", b" 0a\r\n", armor.BOM + b"0a", b"0a" + bytes(96), b'"0a"\n', b"'0a'", b'" 0a "', b"0a\n" + bytes(3)):
        assert armor.written(dressed) == b"0a"
    assert armor.written(b'"') == b'"'
    assert armor.written(b"\"0a'") == b"\"0a'"


@pytest.mark.parametrize("data", [b"", b"0a\r\n\t", "·".encode(), "·".encode()[:1]])
def test_text(data: bytes) -> None:
    assert armor.is_text(data)


@pytest.mark.parametrize("data", [b"a\0", b"\xff\xfe", b"\x1b[0m", os.urandom(200) + b"\1"])
def test_binary(data: bytes) -> None:
    assert not armor.is_text(data)
