"""The boot event log (TCG2 crypto-agile, as CCEL carries it): parsing with bounds, and replay to RTMR0–3.

A log that replays proves the order and the digests of its events, not that their data is true: in real logs most digests
are not the hash of the data beside them.  Nothing here trusts a datum.  Source: TCG PC Client Platform Firmware Profile,
section 10, and the UEFI CC measurement protocol (register index 1–4 = RTMR0–3).
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
EV_NO_ACTION = 3
SHA384 = 0x000C
SIGNATURE = b"Spec ID Event03\0"
DIGEST_BYTES = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
"""TPM algorithm ids and the size of their digests: SHA-1, SHA-256, SHA-384, SHA-512, SM3-256."""
RTMRS = 4


@dataclass(frozen=True)
class Event:
    """One entry: the measurement register's index (1–4 = RTMR0–3), its TCG type, digests by algorithm, data."""

    register: int
    type: int
    digests: dict[int, bytes]
    data: bytes


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise _malformed(f"the event log ends within an entry, at byte {self.position}")
        part = self.data[self.position : end]
        self.position = end
        return part

    def u32(self) -> int:
        (value,) = struct.unpack("<I", self.take(4))
        return int(value)

    def u16(self) -> int:
        (value,) = struct.unpack("<H", self.take(2))
        return int(value)


def parse(log: bytes) -> list[Event]:
    """The events behind the header, in order; raises AttestationError (EventLogMalformed)."""
    if len(log) > MAX_LOG_BYTES:
        raise _malformed(f"the event log has {len(log)} bytes; at most {MAX_LOG_BYTES} are read")
    reader = _Reader(log)
    algorithms = _header(reader)
    events: list[Event] = []
    while len(log) - reader.position >= 8:
        rest = log[reader.position : reader.position + 8]
        if rest[:4] == b"\xff" * 4 or rest == bytes(8):  # the unused part of the firmware's table
            break
        if len(events) == MAX_EVENTS:
            raise _malformed(f"the event log has more than {MAX_EVENTS} events")
        events.append(_event(reader, algorithms))
    if log[reader.position :].strip(b"\xff").strip(b"\0"):
        raise _malformed(f"bytes that are no event follow at {reader.position}")
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


def _header(reader: _Reader) -> dict[int, int]:
    """Read the Spec ID event; returns the digest size of each algorithm that it declares."""
    reader.take(4)  # register index
    kind = reader.u32()
    reader.take(20)  # a SHA-1 digest, all zeros
    spec = _Reader(reader.take(reader.u32()))
    if kind != EV_NO_ACTION or spec.data[: len(SIGNATURE)] != SIGNATURE:
        raise _malformed("the event log does not begin with a Spec ID Event03")
    spec.take(24)
    count = spec.u32()
    if not 1 <= count <= MAX_ALGORITHMS:
        raise _malformed(f"the event log declares {count} digest algorithms")
    algorithms = {}
    for _ in range(count):
        algorithm, size = spec.u16(), spec.u16()
        if DIGEST_BYTES.get(algorithm) != size:
            raise _malformed(f"the event log declares algorithm {algorithm:#06x} with {size} bytes")
        algorithms[algorithm] = size
    if SHA384 not in algorithms:
        raise _malformed("the event log has no SHA-384 digests")
    return algorithms


def _event(reader: _Reader, algorithms: dict[int, int]) -> Event:
    register, kind, count = reader.u32(), reader.u32(), reader.u32()
    if count > MAX_DIGESTS:
        raise _malformed(f"an event has {count} digests, at byte {reader.position}")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16()
        size = algorithms.get(algorithm)
        if size is None or algorithm in digests:
            raise _malformed(f"an event has an undeclared or repeated digest algorithm {algorithm:#06x}, at byte {reader.position}")
        digests[algorithm] = reader.take(size)
    return Event(register, kind, digests, reader.take(reader.u32()))


def _malformed(message: str) -> AttestationError:
    return AttestationError(AttestationReason.EVENT_LOG_MALFORMED, message)
