"""How vendors hand quotes on: each form that is read, beside the damaged one that is refused."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.envelope import MAX_NESTING
from chrysalis.attestation.quote import parse, read
from chrysalis.attestation.quote_file import MAX_QUOTE_BYTES, MAX_REPORT_BYTES, MEMBERS
from chrysalis.attestation.reasons import AttestationError
from e2e.simtd.pki import SimulatedPlatform

PLATFORM = SimulatedPlatform.create()
QUOTE = PLATFORM.quote(bytes(range(64)))
QUOTE_V5 = PLATFORM.quote(bytes(range(64)), version=5)
PADDED = QUOTE + bytes(8000 - len(QUOTE))  # as one cloud's guests hand it out
BASE64 = base64.b64encode(QUOTE).decode()
URLSAFE = base64.urlsafe_b64encode(QUOTE).decode()
SGX = b"\3\0\2\0" + bytes(4) + QUOTE[8:]


def wrapped(text: str, width: int, end: str) -> bytes:
    return end.join(text[i : i + width] for i in range(0, len(text), width)).encode()


ARMOR = b"-----BEGIN TDX QUOTE-----\n" + wrapped(BASE64, 64, "\n") + b"\n-----END TDX QUOTE-----\n"
BYTES = [f"0x{byte:02x}" for byte in QUOTE]
NUMBERS = {str(place): byte for place, byte in enumerate(QUOTE)}
PACKED = base64.b64encode(gzip.compress(QUOTE)).decode()
AGENT = {"quote": BASE64, "cc_eventlog": "AAAA"}

FORMS: dict[str, bytes] = {
    "binary": QUOTE,
    "hex": QUOTE.hex().encode(),
    "hex-upper": QUOTE.hex().upper().encode(),
    "hex-0x": b"0x" + QUOTE.hex().encode(),
    "hex-0X-upper": b"0X" + QUOTE.hex().upper().encode() + b"\n",
    "hex-lines": wrapped(QUOTE.hex(), 64, "\n"),
    "hex-crlf": wrapped(QUOTE.hex(), 32, "\r\n") + b"\r\n",
    "hex-bytes-apart": wrapped(QUOTE.hex(), 2, " "),
    "hex-tabs": wrapped(QUOTE.hex(), 8, "\t"),
    "hex-bom": b"\xef\xbb\xbf" + QUOTE.hex().encode(),
    "base64": BASE64.encode(),
    "base64-lines": wrapped(BASE64, 76, "\r\n"),
    "base64-unpadded": BASE64.rstrip("=").encode(),
    "base64url": URLSAFE.encode(),
    "base64url-unpadded": URLSAFE.rstrip("=").encode() + b"\n",
    "json-hex": json.dumps({"quote": QUOTE.hex()}).encode(),
    "json-0x": json.dumps({"quote": "0x" + QUOTE.hex()}).encode(),
    "json-base64": json.dumps({"quote": BASE64}).encode(),
    "json-base64url": json.dumps({"quote": URLSAFE.rstrip("=")}).encode(),
    "json-base64-lines": json.dumps({"quote": wrapped(BASE64, 64, "\n").decode()}).encode(),
    "json-numbers": json.dumps({"td_quote": list(QUOTE), "hcl_report": [1, 2]}).encode(),
    "json-last": json.dumps({"report_data": "00" * 64, "event_log": "[]", "vm_config": "{}", "quote": QUOTE.hex()}).encode(),
    "json-pretty": json.dumps({"a": [{"quote": 1}], "quote": QUOTE.hex()}, indent=4).encode() + b"\n",
    "json-in-an-object": json.dumps({"tdx": {"quote": BASE64, "runtime_data": "AA=="}, "nvgpu": {"evidence": "AA=="}}).encode(),
    "json-in-its-own-name": json.dumps({"success": True, "quote": {"quote": QUOTE.hex(), "event_log": "[]"}}).encode(),
    "json-in-an-agents-envelope": json.dumps({"tee": "tdx", "evidence": {"primary_evidence": {"quote": BASE64}}}).encode(),
    "json-list-of-one": json.dumps([{"quote": BASE64}]).encode(),
    "json-list-of-two-that-say-the-same": json.dumps([{"quote": BASE64}, {"quote": QUOTE.hex()}]).encode(),
    "json-list-within": json.dumps({"result": {"evidences": [{"type": "cpu", "quote": BASE64}, {"type": "gpu"}]}}).encode(),
    "hex-colons": wrapped(QUOTE.hex(), 2, ":"),
    "hex-c-array": ", ".join(BYTES).encode(),
    "hex-c-array-in-lines": ",\n".join(", ".join(BYTES[i : i + 12]) for i in range(0, len(BYTES), 12)).encode() + b"\n",
    "hex-of-a-database": b"\\x" + QUOTE.hex().encode(),
    "hex-dumped": "\n".join(f"{start:08x}: {QUOTE[start : start + 16].hex(' ', 2)}  ...." for start in range(0, len(QUOTE), 16)).encode(),
    "hex-utf-16": QUOTE.hex().encode("utf-16"),
    "hex-in-base64": base64.b64encode(QUOTE.hex().encode() + b"\n"),
    "json-hex-in-base64": json.dumps({"quote": base64.b64encode(QUOTE.hex().encode()).decode()}).encode(),
    "json-utf-16": json.dumps({"quote": BASE64}).encode("utf-16"),
    "json-in-a-padded-buffer": json.dumps({"quote": BASE64}).encode() + bytes(96),
    "json-a-c-string": json.dumps({"quote": QUOTE.hex() + "\0"}).encode(),
    "hex-quoted": b"'" + QUOTE.hex().encode() + b"'\n",
    "base64-between-lines": ARMOR,
    "base64-between-lines-crlf": ARMOR.replace(b"\n", b"\r\n"),
    "base64-of-json": base64.b64encode(json.dumps(AGENT).encode()),
    "gzip": gzip.compress(QUOTE),
    "gzip-base64": PACKED.encode(),
    "json-gzip": json.dumps({"format": "tdx-guest/v2", "body": PACKED}).encode(),
    "json-gzip-quote": json.dumps({"quote": PACKED}).encode(),
    **{f"json-unknown-{name}": json.dumps({"id": 7, name: QUOTE.hex()}).encode() for name in ("Quote", "tdxQuote", "outblob", "evidence")},
    "json-unknown-base64": json.dumps({"attestation": {"report": BASE64}}).encode(),
    "json-unknown-numbers": json.dumps({"rawQuote": list(QUOTE)}).encode(),
    "json-numbers-of-a-buffer": json.dumps({"quote": {"type": "Buffer", "data": list(QUOTE)}}).encode(),
    "json-numbers-by-place": json.dumps({"tdx": {"quote": NUMBERS}}).encode(),
    "json-numbers-alone": json.dumps(list(QUOTE)).encode(),
    "json-unknown-within-its-name": json.dumps({"quote": {"hex": QUOTE.hex()}}).encode(),
    "json-text-of-json": json.dumps({"evidence": json.dumps(AGENT), "tee": "tdx"}).encode(),
    "json-base64-of-json": json.dumps({"requests": [{"evidence": base64.urlsafe_b64encode(json.dumps(AGENT).encode()).decode()}]}).encode(),
    "json-beside-a-quote-of-sgx": json.dumps({"enclave": SGX.hex(), "domain": QUOTE.hex()}).encode(),
    "hex-in-a-padded-buffer": QUOTE.hex().encode() + bytes(96),
    "json-text": json.dumps(QUOTE.hex()).encode(),
    "json-both-the-same": json.dumps({"quote": QUOTE.hex(), "intel_quote": BASE64}).encode(),
    "json-with-many-packed": json.dumps([base64.b64encode(gzip.compress(QUOTE, mtime=place)).decode() for place in range(64)]).encode(),
    "json-with-a-large-log": json.dumps({"cc_eventlog": "A" * 700_000, "quote": BASE64}).encode(),
    **{f"json-{name}": json.dumps({name: QUOTE.hex()}).encode() for name in MEMBERS},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_is_read(form: bytes) -> None:
    assert read(form) == QUOTE


PADDINGS: dict[str, Callable[[bytes], bytes]] = {
    "binary": bytes,
    "hex": lambda raw: raw.hex().encode(),
    "base64": base64.b64encode,
    "json": lambda raw: json.dumps({"quote": raw.hex()}).encode(),
}


@pytest.mark.parametrize("form", PADDINGS.values(), ids=PADDINGS)
def test_zero_padding_in_every_form(form: Callable[[bytes], bytes]) -> None:
    assert parse(read(form(PADDED))).raw == QUOTE
    assert parse(read(form(PADDED))).trailing == b""
    assert parse(read(form(QUOTE + b"\1"))).trailing == b"\1"


DAMAGED: list[tuple[str, bytes, str]] = [
    ("a digit lost", QUOTE.hex()[:-1].encode(), "QuoteMalformed"),
    ("a digit of 0x lost", b"0x" + QUOTE.hex()[1:].encode(), "QuoteMalformed"),
    ("a letter that is no digit", QUOTE.hex()[:-1].encode() + b"g", "QuoteUnreadable"),
    ("two alphabets in one text", (URLSAFE + "+/").encode(), "QuoteUnreadable"),
    ("padding within", BASE64[:100].encode() + b"=" + BASE64[100:].encode(), "QuoteUnreadable"),
    ("base64 of a text", base64.b64encode(b"this is not a quote, whatever its form"), "QuoteUnreadable"),
    ("a word", b"password", "QuoteUnreadable"),
    ("a certificate", PLATFORM.pck_chain.encode(), "QuoteUnreadable"),
    ("a list", b"[4, 0, 2]", "QuoteUnreadable"),
    ("a list of numbers that are no quote", json.dumps(list(range(256))).encode(), "QuoteUnreadable"),
    ("a list of two", json.dumps([{"quote": BASE64}, {"quote": QUOTE_V5.hex()}]).encode(), "QuoteMalformed"),
    ("two under names that nobody knows", json.dumps({"a": QUOTE.hex(), "b": QUOTE_V5.hex()}).encode(), "QuoteMalformed"),
    ("two of one way", json.dumps({"a": {"b": QUOTE.hex()}, "a.b": QUOTE_V5.hex()}).encode(), "QuoteMalformed"),
    (
        "two of one way and of a known name",
        json.dumps({"a": {"x": {"quote": QUOTE.hex()}}, "a.x": {"quote": QUOTE_V5.hex()}}).encode(),
        "QuoteMalformed",
    ),
    ("two of one name that nobody knows", f'{{"a": "{QUOTE.hex()}", "a": "{QUOTE_V5.hex()}"}}'.encode(), "QuoteMalformed"),
    (
        "two of one name, in a text",
        json.dumps({"a": QUOTE.hex(), "b": f'{{"quote": "{QUOTE_V5.hex()}", "quote": 1}}'}).encode(),
        "QuoteMalformed",
    ),
    ("two between lines", ARMOR + b"\n" + ARMOR, "QuoteUnreadable"),
    ("more objects than a report has", b"[" + b"{}," * 30_000 + b"0]", "QuoteUnreadable"),
    (
        "more packed texts than a report has",
        json.dumps([base64.b64encode(gzip.compress(QUOTE, mtime=place)).decode() for place in range(65)]).encode(),
        "QuoteMalformed",
    ),
    ("an empty list", b"[]", "QuoteUnreadable"),
    ("JSON without a quote", b'{"report": "00"}', "QuoteUnreadable"),
    ("JSON that ends early", b'{"quote": "04000', "QuoteUnreadable"),
    ("deep JSON", b'{"quote":' + b"[" * 50_000, "QuoteUnreadable"),
    ("a number", b'{"quote": 4}', "QuoteMalformed"),
    ("numbers that are no bytes", b'{"quote": [4, 0, 256]}', "QuoteMalformed"),
    ("true and false", b'{"quote": [true, false]}', "QuoteMalformed"),
    ("null", b'{"quote": null}', "QuoteMalformed"),
    ("numbers by place, and a text", json.dumps({"q": {**NUMBERS, "8": "8"}}).encode(), "QuoteUnreadable"),
    ("numbers by place, out of order", json.dumps({"q": dict(reversed(NUMBERS.items()))}).encode(), "QuoteUnreadable"),
    ("a quote of SGX under a name that nobody knows", json.dumps({"a": SGX.hex()}).encode(), "QuoteUnreadable"),
    ("base64 that begins like a quote and ends early", json.dumps({"a": BASE64[:-3]}).encode(), "QuoteUnreadable"),
    ("JSON that is kept as a text and is none", json.dumps({"a": '{"quote": '}).encode(), "QuoteUnreadable"),
    ("gzip that is cut", gzip.compress(QUOTE)[:-9], "QuoteMalformed"),
    ("gzip that is damaged", gzip.compress(QUOTE)[:40] + b"\xff" + gzip.compress(QUOTE)[41:], "QuoteMalformed"),
    ("gzip of more than a quote", gzip.compress(bytes(20 << 20)), "QuoteMalformed"),
    ("gzip of something else", gzip.compress(b"hello"), "QuoteUnreadable"),
    ("lines of two names", ARMOR.replace(b"END", b"END OF"), "QuoteUnreadable"),
    ("bytes that are no quote", b"\x7fELF" + bytes(range(256)), "QuoteUnreadable"),
    ("an empty buffer", bytes(5000), "QuoteUnreadable"),
    ("blank lines", b" \r\n\n", "QuoteUnreadable"),
    ("text of another script", '{"quote": "٠٤"}'.encode(), "QuoteMalformed"),
    ("named twice", f'{{"quote": "{QUOTE.hex()}", "quote": "{QUOTE_V5.hex()}"}}'.encode(), "QuoteMalformed"),
    ("two different quotes", json.dumps({"quote": QUOTE.hex(), "tdx_quote": QUOTE_V5.hex()}).encode(), "QuoteMalformed"),
    ("base64 cut", json.dumps({"quote": BASE64.rstrip("=")[:-3]}).encode(), "QuoteMalformed"),
    ("too many bytes", bytes(MAX_QUOTE_BYTES + 1), "QuoteTooLarge"),
    ("too many digits", b"00" * (MAX_QUOTE_BYTES + 1), "QuoteTooLarge"),
    ("too many digits in JSON", json.dumps({"quote": "00" * (MAX_QUOTE_BYTES + 1)}).encode(), "QuoteTooLarge"),
    ("a report without end", b'{"quote": "' + b" " * MAX_REPORT_BYTES, "QuoteTooLarge"),
    ("nothing", b"", "QuoteUnreadable"),
    ("an empty text", b'{"quote": ""}', "QuoteMalformed"),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED])
def test_a_damaged_form_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(AttestationError) as caught:
        parse(read(data))
    assert caught.value.reason == reason
    assert caught.value.remedy


CBOR = {
    "map": b"\xa3",
    "array": b"\x84",
    "long-array": b"\x98\x20",
    "indefinite-array": b"\x9f",
    "indefinite-map": b"\xbf",
    "map-of-two-bytes": b"\xb9\x01\x00",
    "small-tag": b"\xc1",
    "tag-of-one-byte": b"\xd8\x3d",  # 61: a CBOR web token
    "tag-of-two-bytes": b"\xd9\xd9\xf7",  # 55799: self-described CBOR
    "tag-60000": b"\xd9\xea\x60",  # Intel TEE quote, interoperable RA-TLS
    "tag-of-four-bytes": b"\xda\x00\x0f\x42\x40",
    "tag-of-eight-bytes": b"\xdb" + bytes(8),
}


@pytest.mark.parametrize("size", [4, 500, 9_000, MAX_QUOTE_BYTES], ids=["tiny", "small", "over-8-KB", "largest"])
@pytest.mark.parametrize("head", CBOR.values(), ids=CBOR)
def test_dice_evidence_is_named_as_such(head: bytes, size: int) -> None:
    data = head + bytes([0x42, 0x01, 0xFF]) + b"\x5a" * max(size - len(head) - 3, 0)
    for form in (data, json.dumps({"quote": base64.b64encode(data).decode()}).encode()):
        with pytest.raises(AttestationError) as caught:
            parse(read(form))
        assert caught.value.reason == "QuoteTypeUnsupported"
        assert "CBOR" in caught.value.message
        assert "DICE" in caught.value.message


def test_a_binary_quote_never_looks_like_cbor() -> None:
    assert parse(read(QUOTE)).version == 4
    assert parse(read(QUOTE_V5)).version == 5


@pytest.mark.vectors
@pytest.mark.parametrize(
    "name", ["automata/quotev4.hex", "dcap-qvl/quote-from-tappd.hex", "dcap-qvl/tdx_quote", "dstack/quote-report.json", "edgeless/quote"]
)
def test_real_quotes_in_every_form(vectors: Path, name: str) -> None:
    raw = read((vectors / name).read_bytes())
    quote = parse(raw)
    assert quote.fmspc
    for form in (raw.hex().encode(), b"0x" + raw.hex().encode(), base64.b64encode(raw), json.dumps({"quote": raw.hex()}).encode()):
        assert read(form) == raw
    assert parse(quote.raw + bytes(8000 - len(quote.raw))).raw == quote.raw


def outcome(data: bytes) -> str:
    try:
        parse(read(data))
    except AttestationError as error:
        return str(error.reason)
    return ""


@given(st.binary(max_size=3000))
def test_any_bytes(data: bytes) -> None:
    outcome(data)


@given(st.text(max_size=600))
def test_any_text(text: str) -> None:
    assert outcome(text.encode("utf-8", "surrogatepass"))


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60) | st.just(QUOTE.hex()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*MEMBERS, "x"]), inner, max_size=4),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_json(value: Any) -> None:
    outcome(json.dumps(value).encode())


@given(st.integers(0, len(QUOTE_V5) - 1), st.integers(0, len(QUOTE) - 1))
def test_a_splice_of_two_quotes_is_read_or_refused(cut: int, start: int) -> None:
    outcome(QUOTE_V5[:cut] + QUOTE[start:])


def test_different_quotes_within_one_report_are_ambiguous() -> None:
    other = PLATFORM.quote(bytes(64)).hex()
    assert read(json.dumps({"a": {"quote": QUOTE.hex()}, "b": {"quote": BASE64}}).encode()) == QUOTE
    with pytest.raises(AttestationError, match="QuoteMalformed"):
        read(json.dumps({"a": {"quote": QUOTE.hex()}, "b": {"quote": other}}).encode())
    assert read(json.dumps({"quote": QUOTE.hex(), "b": {"quote": other}}).encode()) == QUOTE
    deep: Any = {"quote": BASE64}
    for _ in range(MAX_NESTING + 1):
        deep = {"a": deep}
    assert read(json.dumps(deep["a"]).encode()) == QUOTE
    with pytest.raises(AttestationError, match="QuoteUnreadable"):
        read(json.dumps(deep).encode())
