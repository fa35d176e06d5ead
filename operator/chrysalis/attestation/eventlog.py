"""The boot event log (TCG2 crypto-agile, as CCEL carries it): parsing with bounds, and replay to RTMR0–3.

A log that replays proves the order and the digests of its events, not that their data is true: in real logs most digests
are not the hash of the data beside them.  Nothing here trusts a datum; event_data.py says which may be.  Source: TCG PC
Client Platform Firmware Profile, section 10, and the UEFI CC measurement protocol (register index 1–4 = RTMR0–3).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_LOG_BYTES = 512 * 1024
MAX_EVENTS = 4096
MAX_DIGESTS = 8
MAX_ALGORITHMS = 8
MAX_DIGEST_BYTES = 64
EV_NO_ACTION = 3
EV_SEPARATOR = 4
SHA384 = 0x000C
SIGNATURE = b"Spec ID Event03\0"
DIGEST_BYTES = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
"""TPM algorithm ids and the size of their digests: SHA-1, SHA-256, SHA-384, SHA-512, SM3-256."""
PADDING = b"\0\xff"
"""The bytes that fill up what a table does not use: one of them, or one behind the other where two programs filled it."""
RTMRS = 4
ACPI_TABLE = b"CCEL"
"""Signature of the ACPI table that says where the log is (ACPI 6.5, section 5.2.34); it is not the log."""
_HEAD = struct.Struct("<III")
_PAIR = struct.Struct("<HH")


@dataclass(frozen=True, slots=True)
class Event:
    """One entry: the measurement register's index (1–4 = RTMR0–3), its TCG type, digests by algorithm, data."""

    register: int
    type: int
    digests: dict[int, bytes]
    data: bytes


def parse(log: bytes) -> list[Event]:
    """The events behind the header, in order; raises AttestationError (EventLogMalformed)."""
    size = len(log)
    if size > MAX_LOG_BYTES:
        raise _malformed(f"the event log has {size} bytes; at most {MAX_LOG_BYTES} are read")
    if log[:4] == ACPI_TABLE:
        raise _malformed("this is the ACPI table CCEL, which says where the log is, and not the log (…/tables/data/CCEL)")
    if log[:1] in (b"[", b"{"):
        raise _malformed("this is a log in JSON; only the firmware's own binary log is read")
    algorithms, position = _header(log)
    events: list[Event] = []
    while size - position >= 8:
        if not log[position : position + 8].strip(PADDING):
            break  # the unused part of the firmware's table; an event without a register may name 0xffffffff as its own
        if len(events) == MAX_EVENTS:
            raise _malformed(f"the event log has more than {MAX_EVENTS} events")
        try:
            event, position = _event(log, position, algorithms)
        except struct.error:
            raise _cut(position) from None
        events.append(event)
    rest = log[position:]
    plain = rest[:1] in (b"\xff", b"\0") and rest == rest[:1] * len(rest)  # the usual case, fast: tables are large
    if not plain and rest.strip(PADDING):
        raise _malformed(f"bytes that are no event follow at {position}")
    return events


def replay(events: Sequence[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0–3 as these events leave them; raises AttestationError for an event without a SHA-384 digest."""
    registers = [bytes(48)] * RTMRS
    for number, event in enumerate(events):
        if event.type == EV_NO_ACTION:
            continue
        index = event.register - 1
        if not 0 <= index < RTMRS:
            raise _malformed(f"event {number} extends register {event.register}; 1 to 4 exist")
        digest = event.digests.get(SHA384)
        if digest is None:
            raise _malformed(f"event {number} has no SHA-384 digest")
        registers[index] = hashlib.sha384(registers[index] + digest).digest()
    return registers[0], registers[1], registers[2], registers[3]


def separators(events: Sequence[Event]) -> None:
    """Refuse logs whose separators could mislead; raises AttestationError (EventLogSeparatorInvalid).

    A separator says that a phase of the boot is over.  Each measures its own four bytes, all 0 or all 1 bits (anything else
    reports an error of the firmware: TCG PC Client Platform Firmware Profile, section 10.4.5), and stands once in its
    register.  RTMR0 holds two TPM registers and may have two: behind the secure boot variables and at the boot itself, but the
    latter only from firmware that does not measure it into RTMR1, where it belongs (UEFI 2.10, section 38.4.1): of the
    separators of one boot, never more than two are in both.
    """
    counts = [0] * RTMRS
    last_is_separator = [False] * RTMRS
    for number, event in enumerate(events):
        index = event.register - 1
        if event.type == EV_NO_ACTION or not 0 <= index < RTMRS:
            continue
        if event.type == EV_SEPARATOR:
            counts[index] += 1
            if not is_sound_separator(event):
                raise _separator(f"event {number} is a separator that reports an error, or whose digest is not of its data")
            repeated = last_is_separator[index] or counts[index] > (2 if index == 0 else 1)
            if repeated or (index <= 1 and counts[0] + counts[1] > 2):
                raise _separator(f"event {number} repeats the separator of RTMR{index}")
        last_is_separator[index] = event.type == EV_SEPARATOR


def is_sound_separator(event: Event) -> bool:
    """Whether this is a separator that reports no error and whose digest is of its data."""
    sound = event.type == EV_SEPARATOR and event.data in (bytes(4), b"\xff" * 4)
    return sound and event.digests.get(SHA384) == hashlib.sha384(event.data).digest()


def _header(log: bytes) -> tuple[dict[int, int], int]:
    """Read the Spec ID event: the digest size of each algorithm that it declares, and where the events begin."""
    if len(log) < 32:
        raise _cut(0)
    (kind,) = struct.unpack_from("<I", log, 4)
    (size,) = struct.unpack_from("<I", log, 28)
    end = 32 + size
    spec = log[32:end]
    if kind != EV_NO_ACTION or spec[: len(SIGNATURE)] != SIGNATURE:
        raise _malformed("the event log does not begin with a Spec ID Event03")
    if end > len(log) or size < 28:
        raise _cut(0)
    (count,) = struct.unpack_from("<I", spec, 24)
    if not 1 <= count <= MAX_ALGORITHMS:
        raise _malformed(f"the event log declares {count} digest algorithms")
    if len(spec) < 28 + 4 * count:
        raise _cut(0)
    algorithms: dict[int, int] = {}
    for number in range(count):
        algorithm, digest_bytes = _PAIR.unpack_from(spec, 28 + 4 * number)
        known = DIGEST_BYTES.get(algorithm, digest_bytes)  # of another algorithm, the log itself says the size
        if known != digest_bytes or not 1 <= digest_bytes <= MAX_DIGEST_BYTES or algorithm in algorithms:
            raise _malformed(f"the event log declares algorithm {algorithm:#06x} twice or with {digest_bytes} bytes")
        algorithms[algorithm] = digest_bytes
    if SHA384 not in algorithms:
        raise _malformed("the event log has no SHA-384 digests")
    return algorithms, end


def _event(log: bytes, start: int, algorithms: dict[int, int]) -> tuple[Event, int]:
    register, kind, count = _HEAD.unpack_from(log, start)
    if count > MAX_DIGESTS:
        raise _malformed(f"an event has {count} digests, at byte {start}")
    position = start + 12
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = int.from_bytes(log[position : position + 2], "little")
        size = algorithms.get(algorithm)
        if size is None or algorithm in digests:
            raise _malformed(f"an event has an undeclared or repeated digest algorithm {algorithm:#06x}, at byte {position}")
        digests[algorithm] = log[position + 2 : position + 2 + size]
        position += 2 + size
    begin = position + 4
    end = begin + int.from_bytes(log[position:begin], "little")
    if begin > len(log) or end > len(log):
        raise _cut(start)
    return Event(register, kind, digests, log[begin:end]), end


def _cut(position: int) -> AttestationError:
    return _malformed(f"the event log ends within the entry at byte {position}")


def _separator(message: str) -> AttestationError:
    return AttestationError(AttestationReason.EVENT_LOG_SEPARATOR_INVALID, message)


def _malformed(message: str) -> AttestationError:
    return AttestationError(AttestationReason.EVENT_LOG_MALFORMED, message)
