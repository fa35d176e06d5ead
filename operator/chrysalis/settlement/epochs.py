"""What an epoch says: a deterministic function of the ledger's receipts.  Pure.

The ledger's order is the log's order.  An epoch covers a prefix of the log: for each wallet the sum of net amounts, the sum of
fees, and the Merkle root of the receipts' hashes.  Equal prefixes give equal bytes, on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chrysalis import amounts
from chrysalis.chain import contract
from chrysalis.receipts import merkle


@dataclass(frozen=True)
class Line:
    """One receipt as an epoch sees it."""

    hash: bytes
    """SHA-256 of the compact JWS: the log's entry."""
    wallet: bytes
    """Account id, 32 bytes."""
    fee_nanoton: int
    net_nanoton: int


@dataclass(frozen=True)
class Totals:
    """Sums over a prefix of the log."""

    leaves: Mapping[bytes, int] = field(default_factory=dict)
    fees_nanoton: int = 0
    loss_earned_nanoton: int = 0
    """Booked by `ledger adopt`: the contract promised it, and no leaf claims it."""
    loss_fees_nanoton: int = 0

    @property
    def earned_nanoton(self) -> int:
        """What the commit states as earned."""
        return sum(self.leaves.values()) + self.loss_earned_nanoton

    @property
    def all_fees_nanoton(self) -> int:
        """What the commit states as fees."""
        return self.fees_nanoton + self.loss_fees_nanoton


def totals(lines: Iterable[Line], *, loss_earned_nanoton: int = 0, loss_fees_nanoton: int = 0) -> Totals:
    """Sum lines; raises AmountError when a total reaches 2^63."""
    leaves: dict[bytes, int] = {}
    fees = 0
    for line in lines:
        if line.net_nanoton:
            leaves[line.wallet] = amounts.amount(leaves.get(line.wallet, 0) + line.net_nanoton)
        fees = amounts.amount(fees + line.fee_nanoton)
    result = Totals(leaves, fees, loss_earned_nanoton, loss_fees_nanoton)
    amounts.amount(result.earned_nanoton + result.all_fees_nanoton)
    return result


def within_cap(lines: Sequence[Line], done: int, cap_nanoton: int) -> int:
    """How long a prefix may be: beyond the first `done` lines, receipts whose net and fees together stay within the cap."""
    room, size = cap_nanoton, done
    for line in lines[done:]:
        room -= line.net_nanoton + line.fee_nanoton
        if room < 0:
            break
        size += 1
    return size


def content(epoch: int, prev: bytes, sums: Totals, entries: Sequence[bytes]) -> contract.CommitContent:
    """The CommitContent of an epoch over these sums and log entries."""
    return contract.CommitContent(
        epoch=epoch,
        prev=prev,
        root=contract.earned_root(sums.leaves),
        earned_nanoton=sums.earned_nanoton,
        fees_nanoton=sums.all_fees_nanoton,
        log_root=merkle.root(entries),
        log_size=len(entries),
    )
