"""Reading quotes: forms of a file, lengths, types; and no bytes that end in a traceback."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.quote import MAX_QUOTE_BYTES, parse, read
from chrysalis.attestation.reasons import AttestationError
from e2e.simtd.pki import SimulatedPlatform

PLATFORM = SimulatedPlatform.create()
QUOTE = PLATFORM.quote(bytes(range(64)), mrconfigid=b"\7" * 48)
QUOTE_V5 = PLATFORM.quote(bytes(range(64)), mrconfigid=b"\7" * 48, version=5)


def refusal(data: bytes) -> str:
    with pytest.raises(AttestationError) as caught:
        parse(read(data))
    assert caught.value.message
    assert caught.value.remedy
    return str(caught.value.reason)


@pytest.mark.parametrize(
    "form",
    [
        QUOTE,
        QUOTE.hex().encode(),
        QUOTE.hex().upper().encode() + b"\n",
        b"0x" + QUOTE.hex().encode(),
        b"\n".join(QUOTE.hex()[i : i + 64].encode() for i in range(0, len(QUOTE.hex()), 64)),
        json.dumps({"quote": QUOTE.hex(), "other": 1}).encode(),
        json.dumps({"quote": "0x" + QUOTE.hex()}).encode(),
        json.dumps({"quote": base64.b64encode(QUOTE).decode()}).encode(),
    ],
)
def test_the_forms_of_a_file(form: bytes) -> None:
    assert read(form) == QUOTE


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "QuoteUnreadable"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "QuoteUnreadable"),
        (base64.b64encode(b"hello, world"), "QuoteUnreadable"),
        (b"{}", "QuoteUnreadable"),
        (b'{"quote": "04', "QuoteUnreadable"),
        (b'{"quote":' + b"[" * 50_000, "QuoteUnreadable"),
        (bytes(MAX_QUOTE_BYTES + 1), "QuoteTooLarge"),
        (b"f" * (1 << 20), "QuoteTooLarge"),
        (b"", "QuoteUnreadable"),
        (b"\x04", "QuoteMalformed"),
        (b"040", "QuoteMalformed"),
        (b'{"quote": 4}', "QuoteMalformed"),
        (b'{"quote": ""}', "QuoteMalformed"),
        (b'{"quote": "%%%%"}', "QuoteMalformed"),
        (bytes(MAX_QUOTE_BYTES), "QuoteUnreadable"),
    ],
)
def test_files_that_hold_no_quote(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


@pytest.mark.parametrize("quote", [QUOTE, QUOTE_V5], ids=["v4", "v5"])
def test_every_truncation_is_malformed(quote: bytes) -> None:
    for end in [*range(0, 700, 7), *range(700, len(quote), 211), len(quote) - 1]:
        with pytest.raises(AttestationError) as caught:
            parse(quote[:end])
        assert caught.value.reason == "QuoteMalformed", end


def patched(quote: bytes, offset: int, form: str, *values: int) -> bytes:
    data = bytearray(quote)
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


SIGNATURE = 48 + 584


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (patched(QUOTE, 0, "<H", 3), "QuoteTypeUnsupported"),
        (patched(QUOTE, 0, "<H", 6), "QuoteMalformed"),
        (b"\xa3" + QUOTE[1:], "QuoteTypeUnsupported"),  # CBOR: a DICE quote
        (patched(QUOTE, 2, "<H", 3), "QuoteTypeUnsupported"),
        (patched(QUOTE, 4, "<I", 0), "QuoteTypeUnsupported"),
        (patched(QUOTE, 4, "<I", 0x82), "QuoteTypeUnsupported"),
        (patched(QUOTE_V5, 48, "<H", 1), "QuoteTypeUnsupported"),
        (patched(QUOTE_V5, 48, "<H", 4), "QuoteTypeUnsupported"),
        (patched(QUOTE_V5, 48, "<HI", 2, 648), "QuoteMalformed"),
        (patched(QUOTE_V5, 50, "<I", 584), "QuoteMalformed"),
        (patched(QUOTE, SIGNATURE, "<I", 0xFFFFFFFF), "QuoteMalformed"),
        (patched(QUOTE, SIGNATURE, "<I", 10), "QuoteMalformed"),
        (patched(QUOTE, SIGNATURE + 4 + 128, "<H", 5), "QuoteTypeUnsupported"),
        (patched(QUOTE, SIGNATURE + 4 + 130, "<I", 5), "QuoteMalformed"),
        (patched(QUOTE, SIGNATURE + 4 + 134 + 448, "<H", 0xFFFF), "QuoteMalformed"),
        (patched(QUOTE, SIGNATURE + 4 + 134 + 450 + 32, "<H", 1), "QuoteTypeUnsupported"),
        (patched(QUOTE, SIGNATURE + 4 + 134 + 452 + 32, "<I", 7), "QuoteMalformed"),
    ],
)
def test_wrong_types_and_lengths(data: bytes, reason: str) -> None:
    with pytest.raises(AttestationError) as caught:
        parse(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("raw", "version"), [(QUOTE, 4), (QUOTE_V5, 5)], ids=["v4", "v5"])
def test_the_fields(raw: bytes, version: int) -> None:
    quote = parse(raw)
    values = PLATFORM.reference_values()
    assert (quote.version, quote.tee_type, quote.raw) == (version, 0x81, raw)
    assert quote.report_data == bytes(range(64))
    assert quote.mrconfigid == b"\7" * 48
    shown = {name: value.hex() for name, value in quote.registers.items()}
    assert {name: shown[name] for name in shown if name != "mrconfigid"} == {name: values[name] for name in shown if name != "mrconfigid"}
    assert (quote.td_attributes.hex(), quote.xfam.hex()) == (values["tdAttributes"]["value"], values["xfam"]["value"])
    assert (quote.mr_servicetd is None) == (version == 4)
    assert quote.fmspc == "51D000000000"
    assert quote.pck_chain.decode() == PLATFORM.pck_chain


def test_zero_padding_is_cut_off_and_anything_else_is_kept_to_be_refused() -> None:
    padded = parse(QUOTE + bytes(3000))
    assert (padded.raw, padded.trailing) == (QUOTE, b"")
    assert parse(QUOTE + bytes(10) + b"x").trailing == bytes(10) + b"x"


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse(read(data))
    except AttestationError:
        pass


@given(st.integers(0, len(QUOTE_V5) - 1), st.integers(0, 255), st.integers(0, len(QUOTE_V5)))
def test_any_change_is_read_or_refused(position: int, value: int, end: int) -> None:
    data = bytearray(QUOTE_V5)
    data[position] = value
    try:
        quote = parse(bytes(data[:end]))
        assert len(quote.raw) <= end
        assert isinstance(quote.fmspc, str)
    except AttestationError:
        pass
