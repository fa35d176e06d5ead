"""Money: integers of nanoton in [0, 2^63).  No floats, and one way to divide."""

from __future__ import annotations

LIMIT = 1 << 63
"""Every amount and every total of amounts is below this (settlement.md; the same bound stands in the contract)."""

PRICE_LIMIT = 1 << 53
"""Prices in custom resources stay below this, so that JSON readers with floats keep them exact."""


class AmountError(ValueError):
    """Not an amount: not an int, negative, or 2^63 and more."""


def amount(value: object) -> int:
    """Return value when it is an amount in nanoton; raises AmountError otherwise (bool is not an int here)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LIMIT:
        raise AmountError(f"{value!r} is not an amount: a whole number of nanoton from 0 to 2^63 - 1")
    return value


def parse(text: object) -> int:
    """Parse the wire form, a decimal string without sign, spaces or leading zeros; raises AmountError."""
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or (text[0] == "0" and text != "0"):
        raise AmountError(f"{text!r} is not a decimal string of an amount")
    if len(text) > 19:
        raise AmountError(f"{text[:24]!r} is too long for an amount")
    return amount(int(text))


def div(numerator: int, denominator: int) -> int:
    """Integer division that rounds down; the only division of money.  Raises AmountError for a negative or zero part."""
    if numerator < 0 or denominator <= 0:
        raise AmountError(f"cannot divide {numerator} by {denominator}")
    return numerator // denominator


def ton(value: int) -> str:
    """An amount of nanoton written in TON for people, exactly: 1500000000 is '1.5 TON'."""
    whole, part = divmod(amount(value), 1_000_000_000)
    digits = f"{part:09d}".rstrip("0")
    return f"{whole}.{digits} TON" if digits else f"{whole} TON"
