"""The boot that every simulated trust domain has: its TCG2 event log, and the registers that it replays to."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

VERSION = "1"
"""Of the simulated firmware, kernel and root file system; a new one is a new set of measurements."""

EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
EV_IPL = 0x0000000D
EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
SHA384 = 0x000C


@dataclass(frozen=True)
class BootEvent:
    """One measured step of the simulated boot: which RTMR (0–2) it extends, its TCG type and its data."""

    rtmr: int
    type: int
    data: bytes

    @property
    def digest(self) -> bytes:
        """SHA-384 of the data: unlike in real logs, true for every event here."""
        return hashlib.sha384(self.data).digest()


def _text(what: str) -> bytes:
    return f"Simulated {what}, version {VERSION}".encode()


BOOT: tuple[BootEvent, ...] = (
    BootEvent(0, EV_EFI_PLATFORM_FIRMWARE_BLOB2, _text("firmware configuration volume")),
    BootEvent(0, EV_EFI_VARIABLE_DRIVER_CONFIG, _text("SecureBoot variable")),
    BootEvent(0, EV_SEPARATOR, bytes(4)),
    BootEvent(1, EV_EFI_BOOT_SERVICES_APPLICATION, _text("kernel")),
    BootEvent(1, EV_SEPARATOR, bytes(4)),
    BootEvent(2, EV_IPL, _text("kernel command line")),
    BootEvent(2, EV_IPL, _text("root file system")),
)
MRTD = hashlib.sha384(_text("trust domain's initial memory")).digest()
MRSEAM = hashlib.sha384(_text("TDX module")).digest()


def extend(register: bytes, digest: bytes) -> bytes:
    """A measurement register after one more digest."""
    return hashlib.sha384(register + digest).digest()


def registers() -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0–3 after the boot; RTMR3 is zeros, since containers are not measured there."""
    values = [bytes(48)] * 4
    for event in BOOT:
        values[event.rtmr] = extend(values[event.rtmr], event.digest)
    return values[0], values[1], values[2], values[3]


def tcg2_log(boot: Sequence[BootEvent] = BOOT) -> bytes:
    """The log of a boot in the TCG2 crypto-agile form, with one SHA-384 digest an event, padded with 0xFF like a firmware table."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HH", SHA384, 48) + b"\0"
    log = struct.pack("<II20sI", 1, EV_NO_ACTION, bytes(20), len(spec)) + spec
    for event in boot:
        log += struct.pack("<III", event.rtmr + 1, event.type, 1) + struct.pack("<H", SHA384) + event.digest
        log += struct.pack("<I", len(event.data)) + event.data
    return log + b"\xff" * 64


RTMR0, RTMR1, RTMR2, RTMR3 = registers()
EVENT_LOG = tcg2_log()
