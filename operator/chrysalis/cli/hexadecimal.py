"""Hexadecimal values on the command line: keys, digests, nonces of 32 bytes, and report data of 64."""

from __future__ import annotations

import click

BYTES = 32
PIN_HELP = "SHA-256 of the broker's TLS key, hex (`chrysalis keys pin`)."


def read(value: str, size: int = BYTES) -> bytes | None:
    """`size` bytes out of twice as many hex digits, in any case, behind 0x or not, in pairs with colons or not; None for anything else."""
    try:
        found = bytes.fromhex(value.strip().lower().removeprefix("0x").replace(":", ""))
    except ValueError:
        return None
    return found if len(found) == size else None


class HexType(click.ParamType[bytes]):
    """A stated number of bytes, as twice as many hex digits."""

    name = "HEX"

    def __init__(self, size: int) -> None:
        self.size = size

    def convert(self, value: str | bytes, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        found = read(value, self.size)
        if found is None:
            self.fail(f"{value[: 2 * self.size + 8]!r} is not {self.size} bytes, that is {2 * self.size} hexadecimal digits", param, ctx)
        return found


class PinType(click.ParamType[str]):
    """A broker's pin, as its clients take it: 64 lower-case hex digits."""

    name = "HEX"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = read(value)
        if found is None:
            self.fail("a pin is the SHA-256 of the broker's TLS key, 64 hexadecimal digits; `chrysalis keys pin` prints it", param, ctx)
        return found.hex()


HEX32 = HexType(BYTES)
HEX64 = HexType(2 * BYTES)
PIN = PinType()
