"""The forms in which event logs are handed on: each is read, beside the damaged one that is refused."""

from __future__ import annotations

import base64
import gzip
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import envelope, eventlog, eventlog_file
from chrysalis.attestation.reasons import AttestationError
from e2e.simtd import eventlog as boot

LOG = boot.EVENT_LOG
BARE = LOG.rstrip(b"\xff")
HEX = BARE.hex()
BASE64 = base64.b64encode(BARE).decode()
URLSAFE = base64.urlsafe_b64encode(BARE).decode().rstrip("=")
OTHER = BARE[:-1] + bytes([BARE[-1] ^ 1])


def wrapped(text: str, width: int, end: str) -> bytes:
    return end.join(text[i : i + width] for i in range(0, len(text), width)).encode()


FORMS: dict[str, bytes] = {
    "binary": BARE,
    "binary in its table": LOG,
    "binary in zeros": BARE + bytes(65536 - len(BARE)),
    "hexadecimal": HEX.upper().encode(),
    "hexadecimal, dumped": wrapped(HEX, 60, "\n") + b"\n",
    "hexadecimal, colons": wrapped(HEX, 2, ":"),
    "0x": b"0x" + HEX.encode(),
    "base64": BASE64.encode(),
    "base64, lines": wrapped(BASE64, 76, "\r\n"),
    "base64, unpadded": BASE64.rstrip("=").encode(),
    "base64, URL-safe": URLSAFE.encode() + b"\n",
    "base64, mark": b"\xef\xbb\xbf" + BASE64.encode(),
    "base64, between lines": b"-----BEGIN CCEL-----\n" + wrapped(BASE64, 64, "\n") + b"\n-----END CCEL-----\n",
    "gzip": gzip.compress(LOG),
    "base64 of gzip": base64.b64encode(gzip.compress(LOG)),
    "JSON, an agent's": json.dumps({"quote": "BAAC", "cc_eventlog": BASE64}).encode(),
    "JSON, within": json.dumps({"tdx": {"quote": "BAAC", "eventLog": {"ccel": HEX}}}, indent=1).encode(),
    "JSON, numbers": json.dumps({"log": list(BARE)}).encode(),
    "JSON in JSON": json.dumps({"evidence": json.dumps({"cc_eventlog": BASE64})}).encode(),
    "JSON, the same twice": json.dumps({"a": BASE64, "b": LOG.hex()}).encode(),
    "JSON, a text": json.dumps(BASE64).encode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_is_read(form: bytes) -> None:
    assert eventlog.replay(eventlog.parse(eventlog_file.read(form))) == boot.registers()


def test_the_last_event_keeps_the_zeros_at_its_end() -> None:
    log = BARE + _event(b"ends in zeros\0\0\xff")
    read = eventlog_file.read(json.dumps({"log": base64.b64encode(log).decode()}).encode())
    assert eventlog.parse(read)[-1].data == b"ends in zeros\0\0\xff"


def _event(data: bytes) -> bytes:
    parts = (3, 6, 1)
    head = b"".join(part.to_bytes(4, "little") for part in parts)
    return head + b"\x0c\0" + bytes(48) + len(data).to_bytes(4, "little") + data


DAMAGED: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "is empty"),
    ("zeros", bytes(4096), "is empty"),
    ("a word", b"hello, this is no log\n", "neither a log"),
    ("a digit lost", HEX[:-1].encode(), "odd number"),
    ("base64 that is cut", BASE64.rstrip("=")[: len(BASE64) // 4 * 4 - 3].encode(), "damaged"),
    ("hexadecimal of something else", b"00" * 100, "Spec ID"),
    ("gzip that is cut", gzip.compress(LOG)[:-4], "unpacked"),
    ("gzip without end", gzip.compress(bytes(4 << 20)), "unpacked"),
    (
        "a runtime's list of digests",
        json.dumps([{"imr": 3, "event_type": 134217729, "digest": "ab" * 48, "event": "app"}]).encode(),
        "JSON",
    ),
    ("an empty object", b"{}", "JSON"),
    ("JSON that ends early", b'{"log": "', "begins like JSON"),
    ("deep JSON", b"[" * 100_000, "begins like JSON"),
    ("two logs", json.dumps({"a": BASE64, "b": OTHER.hex()}).encode(), "different logs: a, b"),
    ("numbers that are no log", json.dumps(list(range(200))).encode(), "JSON"),
    ("more than is read", b"0" * (eventlog_file.MAX_FILE_BYTES + 1), "at most"),
    ("a binary of something else", b"\x7fELF" + bytes(100), "Spec ID"),
]


@pytest.mark.parametrize(("data", "said"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED])
def test_a_damaged_form_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(AttestationError, match=said) as caught:
        eventlog.parse(eventlog_file.read(data))
    assert caught.value.reason == "EventLogMalformed"
    assert caught.value.remedy


def test_how_deep_json_is_gone_through() -> None:
    deep: Any = {"log": BASE64}
    for _ in range(envelope.MAX_NESTING - 1):
        deep = {"a": deep}
    assert eventlog_file.begins_like_a_log(eventlog_file.read(json.dumps(deep).encode()))
    with pytest.raises(AttestationError, match="JSON"):
        eventlog_file.read(json.dumps({"a": deep}).encode())


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    with suppress(AttestationError):
        eventlog.parse(eventlog_file.read(data))
