"""The boot event log out of a file: binary, also in gzip; hexadecimal or base64 text of it, or a dump; JSON around one of these.

Judges form only.  A log in JSON (a list of digests, as some runtimes keep for what they extend themselves) is not the
firmware's log and is not read here; eventlog_list.py reads it, to be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chrysalis.attestation import armor, envelope
from chrysalis.attestation.eventlog import EV_NO_ACTION, MAX_LOG_BYTES, PADDING, SIGNATURE
from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_FILE_BYTES = 6 * MAX_LOG_BYTES
"""Of a file that holds a log as text."""
MAX_PACKED = 64
"""Texts of gzip that are unpacked in a search for the log: each may hold MAX_LOG_BYTES in a thousand characters."""
_HEADER_BYTES = 32
_TEXT_OF_HEADER = 4 * (_HEADER_BYTES + len(SIGNATURE))


class NoLogError(AttestationError):
    """JSON in which there is no log of the firmware's."""


def read(data: bytes) -> bytes:
    """The log's bytes; what is in no such form is given as it is, for the parser to say what is wrong.

    Raises AttestationError (EventLogMalformed) for text and JSON in which there is no log (JSON: NoLogError), or more than one.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _malformed(f"the file of the event log has {len(data)} bytes; at most {MAX_FILE_BYTES} are read")
    data = armor.as_utf8(data)
    text = armor.written(data)
    if not text:
        raise _malformed("the file of the event log is empty")
    if data[:2] == armor.GZIP:
        return _inflated(data)
    if b"\0" in data[:_HEADER_BYTES] or not armor.is_text(text):
        return data
    if text[:1] in (b"{", b"["):
        return _from_json(text)
    raw = _from_text(text)
    if raw is None:
        raise _malformed("the file is text, but neither a log in hexadecimal or base64, nor JSON around one")
    return raw


def begins_like_a_log(raw: bytes) -> bool:
    """Whether the bytes begin with the header of a crypto-agile log (a Spec ID event)."""
    kind = int.from_bytes(raw[4:8], "little")
    return kind == EV_NO_ACTION and raw[_HEADER_BYTES : _HEADER_BYTES + len(SIGNATURE)] == SIGNATURE


def _from_json(text: bytes) -> bytes:
    first: tuple[str, bytes, bytes] | None = None
    try:
        for path, raw in _logs(envelope.parsed(text)):
            events = raw.rstrip(PADDING)  # what fills up a log's table differs from copy to copy
            if first is not None and events != first[2]:
                raise _malformed(f"the JSON holds different logs: {first[0]}, {path}"[:400])
            first = first or (path, raw, events)
    except envelope.TooMuch as error:
        raise _malformed(f"the file begins like JSON but holds more than is read: {error}") from error
    except envelope.Ambiguous as error:
        raise _malformed(f"the JSON is ambiguous: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _malformed(f"the file begins like JSON but is none: {str(error)[:200]}") from error
    if first is None:
        message = "this is a log in JSON, or JSON without a log; only the firmware's own binary log is read"
        raise NoLogError(AttestationReason.EVENT_LOG_MALFORMED, message)
    return first[1]


def _logs(document: Any) -> Iterator[tuple[str, bytes]]:
    """The logs in a report; most of its texts are something else, and soon known as such."""
    packed = 0
    for path, leaf in envelope.leaves(document):
        if isinstance(leaf, bytes):
            raw: bytes | None = leaf
        elif len(leaf) < _TEXT_OF_HEADER // 2 or not leaf.isascii():
            continue
        else:
            try:
                raw = _decoded(leaf.strip().encode())
                if raw is not None and raw[:2] == armor.GZIP:
                    packed += 1
                    raw = _inflated(raw) if packed <= MAX_PACKED else raw
            except AttestationError:
                continue
            if packed > MAX_PACKED:
                raise _malformed(f"the JSON holds more than {MAX_PACKED} texts of gzip")
        if raw is not None and begins_like_a_log(raw):
            yield path, raw


def _from_text(text: bytes) -> bytes | None:
    raw = armor.from_dump(text)
    raw = _decoded(text) if raw is None else raw
    return None if raw is None else _inflated(raw)


def _decoded(text: bytes) -> bytes | None:
    try:
        raw = armor.from_hex(text)
        return armor.from_base64(text) if raw is None else raw
    except ValueError as error:
        raise _malformed(f"the text of the event log is damaged: {error}") from error


def _inflated(raw: bytes) -> bytes:
    try:
        return armor.inflated(raw, MAX_LOG_BYTES)
    except ValueError as error:
        raise _malformed(f"what should hold the event log cannot be unpacked: {error}") from error


def _malformed(message: str) -> AttestationError:
    return AttestationError(AttestationReason.EVENT_LOG_MALFORMED, message)
