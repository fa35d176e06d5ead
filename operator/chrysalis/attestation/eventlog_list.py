"""A log that a guest's runtime keeps as JSON: a list of {"imr", "event_type", "digest", "event", "event_payload"}, of all four
registers or of those that it extends itself, as dstack writes it.

Such a list replays like any log, so `chrysalis eventlog replay` reads it.  A policy's event log stays the firmware's own: a list has no
Spec ID event, says what it wants of data that it left out, and nobody checks its order but the registers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from chrysalis.attestation import armor, envelope
from chrysalis.attestation.eventlog import EV_SEPARATOR, MAX_EVENTS, RTMRS, SHA384, Event
from chrysalis.attestation.reasons import AttestationError, AttestationReason

RUNTIME_EVENT = 0x0800_0001
"""The type of what the runtime extends; its digest is of type (little-endian), name and payload, with colons between them."""
_DIGEST_BYTES = 48
_SEPARATORS = {hashlib.sha384(data).digest(): data for data in (bytes(4), b"\xff" * 4)}


@dataclass(frozen=True)
class Listed:
    """The events, their names where they have any, and which runtime events' names and payloads are proved by their digests."""

    events: list[Event]
    names: dict[int, str]
    proved: frozenset[int]


def read(data: bytes) -> Listed | None:
    """The list in a file of JSON, None where there is none; raises AttestationError (EventLogMalformed) for one that is damaged, and
    for two that differ."""
    try:
        lists = _lists(envelope.parsed(armor.written(data)), 0)
    except (ValueError, RecursionError):
        return None
    if not lists:
        return None
    if any(other != lists[0] for other in lists[1:]):
        raise _malformed(f"the JSON holds {len(lists)} different lists of events")
    if len(lists[0]) > MAX_EVENTS:
        raise _malformed(f"the event log has more than {MAX_EVENTS} events")
    read_events = [_event(item, number) for number, item in enumerate(lists[0])]
    names = {number: name for number, (_, name) in enumerate(read_events) if name}
    proved = frozenset(number for number, (event, name) in enumerate(read_events) if _is_proved(event, name))
    return Listed([event for event, _ in read_events], names, proved)


def _lists(value: Any, depth: int) -> list[list[Any]]:
    if isinstance(value, str):
        value = envelope.nested(value)
    if depth > envelope.MAX_NESTING or not isinstance(value, dict | list):
        return []
    if isinstance(value, list) and value and isinstance(value[0], dict) and {"imr", "digest"} <= value[0].keys():
        return [value]
    return [found for _, item in envelope.items(value) for found in _lists(item, depth + 1)]


def _event(item: Any, number: int) -> tuple[Event, str]:
    if not isinstance(item, dict):
        raise _malformed(f"event {number} of the list is no object")
    register, kind = item.get("imr"), item.get("event_type", 0)
    if type(register) is not int or not 0 <= register < RTMRS:
        raise _malformed(f"event {number} of the list names no register from 0 to {RTMRS - 1}")
    if type(kind) is not int or not 0 <= kind < 1 << 32:
        raise _malformed(f"event {number} of the list has no type")
    digest, payload = (_bytes(item.get(name, ""), name, number) for name in ("digest", "event_payload"))
    if len(digest) != _DIGEST_BYTES:
        raise _malformed(f"event {number} of the list has no SHA-384 digest")
    name = item.get("event", "")
    if not isinstance(name, str):
        raise _malformed(f"event {number} of the list has a name that is no text")
    if kind == EV_SEPARATOR and not payload:  # left out of the list, and known: the digest says which of the two it was
        payload = _SEPARATORS.get(digest, b"")
    return Event(register + 1, kind, {SHA384: digest}, payload), name


def _is_proved(event: Event, name: str) -> bool:
    if event.type != RUNTIME_EVENT:
        return False
    hashed = b":".join((event.type.to_bytes(4, "little"), name.encode("utf-8", "surrogatepass"), event.data))
    return hashlib.sha384(hashed).digest() == event.digests[SHA384]


def _bytes(text: Any, what: str, number: int) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except (ValueError, TypeError, AttributeError) as error:
        raise _malformed(f"the {what} of event {number} of the list is not hexadecimal") from error


def _malformed(message: str) -> AttestationError:
    return AttestationError(AttestationReason.EVENT_LOG_MALFORMED, message)
