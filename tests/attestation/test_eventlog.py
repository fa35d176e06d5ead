"""Event logs: what replays, what is malformed, and bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import eventlog
from chrysalis.attestation.reasons import AttestationError
from e2e.simtd import eventlog as boot

LOG = boot.EVENT_LOG
HEADER = 32 + struct.unpack_from("<I", LOG, 28)[0]


def event(register: int = 1, kind: int = 4, digests: tuple[tuple[int, bytes], ...] = ((0xC, bytes(48)),), data: bytes = b"x") -> bytes:
    body = struct.pack("<III", register, kind, len(digests))
    return body + b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in digests) + struct.pack("<I", len(data)) + data


def header(algorithms: tuple[tuple[int, int], ...] = ((0xC, 48),), signature: bytes = b"Spec ID Event03\0", kind: int = 3) -> bytes:
    spec = signature + bytes(8) + struct.pack("<I", len(algorithms))
    spec += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms) + b"\0"
    return struct.pack("<II20sI", 0, kind, bytes(20), len(spec)) + spec


def test_the_simulated_boot_replays() -> None:
    events = eventlog.parse(LOG)
    assert len(events) == len(boot.BOOT)
    assert eventlog.replay(events) == boot.registers()
    assert bytes(48) == boot.RTMR3
    assert len({boot.RTMR0, boot.RTMR1, boot.RTMR2, boot.RTMR3}) == 4


def test_padding_and_events_without_action() -> None:
    base = header() + event()
    registers = eventlog.replay(eventlog.parse(base))
    mixed = (bytes(3) + b"\xff" * 100, b"\xff" * 3 + bytes(100), bytes(60) + b"\xff" * 60 + bytes(60), b"\0\xff" * 40)
    for padding in (b"", bytes(7), bytes(100), b"\xff" * 100, b"\xff" * 3, b"\xff" * (256 * 1024), *mixed):
        assert eventlog.replay(eventlog.parse(base + padding)) == registers
    for register in (0, 77, 0xFFFFFFFF):
        assert eventlog.replay(eventlog.parse(base + event(kind=3, register=register) + event(2))) == eventlog.replay(
            eventlog.parse(base + event(2))
        )
    assert eventlog.replay(eventlog.parse(base + event())) != registers


@pytest.mark.parametrize("register", [1, 2, 3, 4])
def test_an_event_extends_its_register_only(register: int) -> None:
    registers = eventlog.replay(eventlog.parse(header() + event(register)))
    assert [value != bytes(48) for value in registers] == [index == register - 1 for index in range(4)]


TWO = ((0xB, 32), (0xC, 48))


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"x" * 10,
        header(signature=b"Spec ID Event02\0"),
        header(kind=4),
        header(algorithms=()),
        header(algorithms=((0xB, 32),)),
        header(algorithms=((0xC, 32),)),
        header(algorithms=((0x99, 48),)),
        header(algorithms=((0xC, 48), (0x99, 65))),
        header(algorithms=((0xC, 48), (0x99, 0))),
        header(algorithms=((0xC, 48),) * 9),
        header()[:-3],
        header() + event()[:-1],
        header() + event(register=0xFFFFFFFF)[:-1],
        header() + event(digests=((0xC, bytes(48)),) * 9),
        header() + event(digests=((0xB, bytes(32)),)),
        header() + event(digests=((0xC, bytes(48)), (0xC, bytes(48)))),
        header() + struct.pack("<IIIH", 1, 4, 1, 0xC) + bytes(48) + struct.pack("<I", 0xFFFFFFFF),
        header() + event() + bytes(8) + b"hidden behind the padding",
        header() + event() * 4097,
        bytes(eventlog.MAX_LOG_BYTES + 1),
    ],
)
def test_malformed_logs(log: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        eventlog.parse(log)
    assert caught.value.reason == "EventLogMalformed"


def test_the_twins_of_malformed_logs_are_read() -> None:
    assert len(eventlog.parse(header() + event() * 4096)) == 4096
    assert eventlog.parse(header(algorithms=TWO) + event(digests=((0xB, bytes(32)), (0xC, bytes(48)))))
    assert eventlog.parse(header(algorithms=((0x28, 48), (0xC, 48))) + event(digests=((0xC, bytes(48)), (0x28, bytes(48)))))  # SHA3-384


@pytest.mark.parametrize("log", [event(register=0), event(register=5), header(TWO)[:0] + event(digests=())])
def test_events_that_cannot_be_replayed(log: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        eventlog.replay(eventlog.parse(header() + log))
    assert caught.value.reason == "EventLogMalformed"


@given(st.binary(max_size=600))
def test_any_bytes_are_a_log_or_refused(data: bytes) -> None:
    for log in (data, LOG[:HEADER] + data):
        try:
            eventlog.replay(eventlog.parse(log))
        except AttestationError:
            pass
