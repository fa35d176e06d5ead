"""Hexadecimal values on the command line: keys, digests, nonces of 32 bytes."""

from __future__ import annotations

import click

BYTES = 32
PIN_HELP = "SHA-256 of the broker's TLS key, hex (`chrysalis keys pin`)."


def read(value: str) -> bytes | None:
    """32 bytes out of 64 hex digits, in any case, behind 0x or not, in pairs with colons or not; None for anything else."""
    try:
        found = bytes.fromhex(value.strip().lower().removeprefix("0x").replace(":", ""))
    except ValueError:
        return None
    return found if len(found) == BYTES else None


class Hex32Type(click.ParamType[bytes]):
    """32 bytes as 64 hex digits."""

    name = "HEX"

    def convert(self, value: str | bytes, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        found = read(value)
        if found is None:
            self.fail(f"{value[: 2 * BYTES + 8]!r} is not {BYTES} bytes, that is {2 * BYTES} hexadecimal digits", param, ctx)
        return found


class PinType(click.ParamType[str]):
    """A broker's pin, as its clients take it: 64 lower-case hex digits."""

    name = "HEX"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = read(value)
        if found is None:
            self.fail("a pin is the SHA-256 of the broker's TLS key, 64 hexadecimal digits; `chrysalis keys pin` prints it", param, ctx)
        return found.hex()


HEX32 = Hex32Type()
PIN = PinType()
