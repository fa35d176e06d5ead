"""What a job costs: one multiplication for each kind of unit, one division for the job, rounded down (settlement.md, price)."""

from __future__ import annotations

from typing import Protocol

from chrysalis import amounts
from chrysalis.receipts.objects import Status

PER = 1_000_000
"""Prices are in nanoton for this many units."""
BASIS_POINTS = 10_000
KINDS = ("prompt", "cached", "completion", "reasoning", "job")


class Counts(Protocol):
    """Something with an int for each kind of unit: `Use`, `PriceList` and `api.worker.Prices` all are."""

    @property
    def prompt(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def completion(self) -> int: ...
    @property
    def reasoning(self) -> int: ...
    @property
    def job(self) -> int: ...


def amount(use: Counts, prices: Counts, maximum: int) -> int:
    """min(maximum, Σ count · price div 1,000,000), in nanoton; raises AmountError for parts that are not amounts.

    Without a reservation what remains of it is the ticket's `max`, so `maximum` is `ticket.max`.
    """
    total = sum(amounts.amount(getattr(use, kind)) * amounts.amount(getattr(prices, kind)) for kind in KINDS)
    return amounts.amount(min(amounts.amount(maximum), amounts.div(total, PER)))


def billed(status: Status, use: Counts, prices: Counts, maximum: int) -> int:
    """The receipt's `amt`: `amount`, or 0 for a job that failed."""
    return 0 if status == Status.FAILED else amount(use, prices, maximum)


def fee(amt: int, fee_bps: int) -> int:
    """The pool owner's share of one receipt, rounded down; `fee_bps` in hundredths of a percent, 0 to 10,000."""
    if not 0 <= fee_bps <= BASIS_POINTS:
        raise amounts.AmountError(f"{fee_bps} is not a number of basis points from 0 to {BASIS_POINTS}")
    return amounts.div(amounts.amount(amt) * fee_bps, BASIS_POINTS)


def net(amt: int, fee_bps: int) -> int:
    """What the worker's wallet earns by one receipt."""
    return amt - fee(amt, fee_bps)
