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
    "dumped": "\n".join(f"{start:08x}  {BARE[start : start + 16].hex(' ')}  |..|" for start in range(0, len(BARE), 16)).encode(),
    "hexadecimal, UTF-16": HEX.encode("utf-16"),
    "base64, between lines": b"-----BEGIN CCEL-----\n" + wrapped(BASE64, 64, "\n") + b"\n-----END CCEL-----\n",
    "gzip": gzip.compress(LOG),
    "base64 of gzip": base64.b64encode(gzip.compress(LOG)),
    "JSON, an agent's": json.dumps({"quote": "BAAC", "cc_eventlog": BASE64}).encode(),
    "JSON, within": json.dumps({"tdx": {"quote": "BAAC", "eventLog": {"ccel": HEX}}}, indent=1).encode(),
    "JSON, numbers": json.dumps({"log": list(BARE)}).encode(),
    "JSON, numbers by place": json.dumps({"log": {str(place): byte for place, byte in enumerate(BARE)}}).encode(),
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
    ("two logs of one way", json.dumps({"a": {"b": BASE64}, "a.b": OTHER.hex()}).encode(), "different logs: a.b, a.b"),
    ("two logs of one name", f'{{"a": "{BASE64}", "a": "{OTHER.hex()}"}}'.encode(), "'a' twice"),
    ("two logs of one name, in a text", json.dumps({"x": BASE64, "y": f'{{"a": "{OTHER.hex()}", "a": 1}}'}).encode(), "'a' twice"),
    ("more objects than a report has", b"[" + b"{}," * 30_000 + b"0]", "holds more than is read"),
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


def _packed(events: bytes, place: int) -> str:
    """A whole table of padding in a thousand characters; each of other bytes, and each the same log."""
    raw = events.ljust(eventlog.MAX_LOG_BYTES, eventlog.PADDING[-1:])
    return base64.b64encode(gzip.compress(raw, mtime=place)).decode()


def test_packed_logs_are_unpacked_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    inflated = eventlog_file.armor.inflated

    def counting(data: bytes, limit: int) -> bytes:
        unpacked.append(len(data))
        return inflated(data, limit)

    monkeypatch.setattr(eventlog_file.armor, "inflated", counting)
    same = [_packed(LOG, place) for place in range(eventlog_file.MAX_PACKED)]
    assert eventlog_file.begins_like_a_log(eventlog_file.read(json.dumps(same).encode()))
    assert len(unpacked) == eventlog_file.MAX_PACKED
    with pytest.raises(AttestationError, match="texts of gzip"):
        eventlog_file.read(json.dumps([*same, *same]).encode())
    unpacked.clear()
    with pytest.raises(AttestationError, match="different logs: 0, 1"):
        eventlog_file.read(json.dumps([_packed(LOG + bytes([place]), place) for place in range(30)]).encode())
    assert len(unpacked) == 2  # what is unpacked is not collected


def test_a_long_name_is_not_written_again_for_each_thing_under_it() -> None:
    ways = [path for path, _ in envelope.leaves({"n" * 100_000: {"m" * 100_000: ["a", "b"]}})]
    assert ways == [f"{'n' * 64}.{'m' * 64}.{place}" for place in (0, 1)]


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    with suppress(AttestationError):
        eventlog.parse(eventlog_file.read(data))
