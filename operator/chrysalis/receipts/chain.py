"""A worker's receipt chain: seq counts from 1, `prev` is the identity of the receipt before, the first `prev` is `wrk`.

Two receipts with one seq, or a receipt that continues another history than the one held, are proof of fraud: the chain forked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chrysalis.receipts import jws
from chrysalis.receipts.objects import Receipt
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason


@dataclass(frozen=True)
class Head:
    """The end of a chain as far as it is known."""

    wrk: str
    seq: int
    """0 before the first receipt."""
    hash: str
    """What the next receipt's `prev` must be."""

    @classmethod
    def start(cls, wrk: str) -> Head:
        """The head of a worker that has not issued a receipt yet."""
        return cls(wrk=wrk, seq=0, hash=wrk)


def advance(head: Head, receipt: Receipt, token: str) -> Head:
    """The head after this receipt, which must be the very next one.

    Raises ReceiptError: ReceiptGap when receipts before it are missing, ReceiptForked when it continues another history or
    comes again at a seq that is passed (whether it is the same receipt again is for the caller, who holds the bytes).
    """
    if receipt.wrk != head.wrk:
        raise ReceiptError(
            ReceiptReason.RECEIPT_FORKED,
            f"receipt {receipt.seq} belongs to another worker's chain",
            "sort receipts by wrk first",
            receipt.wrk,
        )
    if receipt.seq > head.seq + 1:
        missing = str(head.seq + 1) if receipt.seq == head.seq + 2 else f"{head.seq + 1} to {receipt.seq - 1}"
        raise ReceiptError(
            ReceiptReason.RECEIPT_GAP,
            f"after receipt {head.seq} comes {receipt.seq}: {missing} missing",
            "get the missing receipts from the worker or the settler",
            f"wrk {head.wrk}",
        )
    if receipt.seq <= head.seq:
        raise ReceiptError(
            ReceiptReason.RECEIPT_FORKED,
            f"a second receipt with seq {receipt.seq}",
            "keep both as proof; the chain is closed",
            f"wrk {head.wrk}, receipt {jws.identity(token)}",
        )
    if receipt.prev != head.hash:
        raise ReceiptError(
            ReceiptReason.RECEIPT_FORKED,
            f"receipt {receipt.seq} does not continue receipt {head.seq} as it is held here",
            "one of the two was changed, or the worker signed two histories; keep both as proof",
            f"wrk {head.wrk}, prev {receipt.prev}, held {head.hash}",
        )
    return Head(wrk=head.wrk, seq=receipt.seq, hash=jws.identity(token))


def verify(head: Head, receipts: Iterable[tuple[Receipt, str]]) -> Head:
    """Follow a whole run of (receipt, compact token), in order; raises ReceiptError at the first that breaks the chain."""
    for receipt, token in receipts:
        head = advance(head, receipt, token)
    return head
