"""What a worker's receipt is worth to the ledger.  Pure.

A receipt that its worker signed and that continues its chain always enters the ledger and the log: the chain must stay whole.  It is
*paid* only if the client's ticket says so; otherwise its refusal is recorded with it, and it bills nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chrysalis.receipts import chain, jws, pricing
from chrysalis.receipts.objects import Offer, Receipt, Ticket
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason
from chrysalis.receipts.records import check_amount, check_ticket
from chrysalis.settlement.reasons import SettlementError, SettlementReason

DAY_SECONDS = 86_400
CLOCK_LEEWAY_SECONDS = 600
"""How far a worker's clock may be ahead of the settler's.  (Its jobs may be a day older than the settler's first sight of it.)"""
JOB_SECONDS = 3_600
"""A job runs this long at most after its ticket's expiry (settlement.md, reservation)."""

TICKET_SECONDS = 660
"""A ticket is made at most this long before its expiry: ten minutes and the leeway of the client's clock."""


@dataclass(frozen=True)
class ClientKey:
    """A key on the account's list, from `since` until `until` (None: still), with its daily cap at each worker."""

    public_key: bytes
    cap_nanoton: int
    since: int
    until: int | None = None

    def holds_on(self, day: int) -> bool:
        """Whether it was listed on that UTC day (days since 1970), a job's length of leeway included."""
        start, end = day * DAY_SECONDS, (day + 1) * DAY_SECONDS
        return self.since < end + CLOCK_LEEWAY_SECONDS and (self.until is None or self.until + JOB_SECONDS > start)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What the ledger holds about a worker whose certificate was verified."""

    wrk: str
    receipt_key: bytes
    wallet: str
    registered_at: int
    head: chain.Head


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A receipt that enters the ledger; `refusal` is "" for a paid one."""

    receipt: Receipt
    token: str
    hash: str
    offer: str
    wallet: str
    kid: str
    nonce: str
    day: int
    amt_nanoton: int
    fee_nanoton: int
    net_nanoton: int
    refusal: str


@dataclass(frozen=True)
class Context:
    """What the ledger knows when it judges; `spent` and `spent_today` read the ledger."""

    set_name: str
    fee_bps: int
    now: int
    clients: Mapping[str, Sequence[ClientKey]]
    """By kid, all rows of the list's history."""
    offers: Mapping[str, tuple[str, Offer]]
    """By hash: compact token and offer, verified under the worker's receipt key."""
    is_spent: Callable[[str, str], bool]
    """Whether the ticket (kid, nonce) was paid before."""
    paid_on: Callable[[str, int], int]
    """What was paid at this worker for the key (kid) on a UTC day, in nanoton."""


def read(token: str, worker: Worker) -> Receipt:
    """A receipt under its worker's key; raises SettlementError ReceiptMalformed."""
    try:
        return Receipt.parse(token, worker.receipt_key)
    except ReceiptError as error:
        raise SettlementError(
            SettlementReason.RECEIPT_MALFORMED,
            f"worker {worker.wrk[:16]} handed over something that is not its receipt",
            "look at the worker: it runs other code than it should",
            f"{error.reason}: {error.detail}",
        ) from error


def judge(receipt: Receipt, token: str, worker: Worker, context: Context) -> tuple[Entry, Worker]:
    """The ledger's entry for the next receipt of a worker, and the worker with its head moved on.

    Raises SettlementError: ReceiptGap, ReceiptForked, OfferMissing (ask for it and try again).
    """
    try:
        head = chain.advance(worker.head, receipt, token)
    except ReceiptError as error:
        reason = SettlementReason.RECEIPT_GAP if error.reason == ReceiptReason.RECEIPT_GAP else SettlementReason.RECEIPT_FORKED
        raise SettlementError(reason, error.message, error.remedy, error.detail) from error
    if receipt.offer not in context.offers:
        raise SettlementError(
            SettlementReason.OFFER_MISSING,
            f"receipt {receipt.seq} names an offer that nobody has shown",
            "the worker must hand it over",
            receipt.offer,
        )
    offer = context.offers[receipt.offer][1]
    refusal, ticket, kid, day = _refusal(receipt, offer, worker, context)
    paid = refusal == ""
    fee = pricing.fee(receipt.amt, context.fee_bps) if paid else 0
    entry = Entry(
        receipt=receipt,
        token=token,
        hash=jws.identity(token),
        offer=receipt.offer,
        wallet=worker.wallet,
        kid=kid,
        nonce=ticket.nonce if ticket else "",
        day=day,
        amt_nanoton=receipt.amt,
        fee_nanoton=fee,
        net_nanoton=receipt.amt - fee if paid else 0,
        refusal=refusal,
    )
    return entry, Worker(
        wrk=worker.wrk, receipt_key=worker.receipt_key, wallet=worker.wallet, registered_at=worker.registered_at, head=head
    )


def _refusal(receipt: Receipt, offer: Offer, worker: Worker, context: Context) -> tuple[str, Ticket | None, str, int]:
    """Why the receipt is not paid ("" if it is), its ticket, the ticket's kid, and the UTC day that it counts for."""
    day = receipt.t // DAY_SECONDS
    try:
        ticket, kid = Ticket.parse_unverified(receipt.ticket), jws.peek(receipt.ticket).kid
    except ReceiptError:
        return SettlementReason.TICKET_SIGNATURE_INVALID, None, "", day
    keys = context.clients.get(kid, ())
    if not keys:
        return SettlementReason.TICKET_KEY_UNLISTED, ticket, kid, day
    reason = _ticket_refusal(receipt, ticket, offer, keys[0].public_key, context.set_name)
    if reason:
        return reason, ticket, kid, day
    if not worker.registered_at - DAY_SECONDS <= receipt.t <= context.now + CLOCK_LEEWAY_SECONDS:
        return SettlementReason.RECEIPT_TIME_IMPLAUSIBLE, ticket, kid, day
    if receipt.t > ticket.exp + JOB_SECONDS:
        return SettlementReason.TICKET_EXPIRED, ticket, kid, day
    if context.is_spent(kid, ticket.nonce):
        return SettlementReason.TICKET_SPENT_TWICE, ticket, kid, day
    # The gateway counts a job for the day on which it started, which may be the day before that of its receipt.
    started = (ticket.exp - TICKET_SECONDS) // DAY_SECONDS
    reason = SettlementReason.TICKET_KEY_UNLISTED
    for candidate in sorted({day, min(day, max(started, day - 1))}):
        listed = [key for key in keys if key.holds_on(candidate)]
        if not listed:
            continue
        if context.paid_on(kid, candidate) + receipt.amt <= max(key.cap_nanoton for key in listed):
            return "", ticket, kid, candidate
        reason = SettlementReason.DAILY_CAP_EXCEEDED
    return reason, ticket, kid, day


def _ticket_refusal(receipt: Receipt, ticket: Ticket, offer: Offer, client_key: bytes, set_name: str) -> SettlementReason | None:
    """What is wrong between client, ticket, offer and receipt, whatever was settled before."""
    try:
        Ticket.parse(receipt.ticket, client_key)
    except ReceiptError:
        return SettlementReason.TICKET_SIGNATURE_INVALID
    if receipt.set != set_name:
        return SettlementReason.TICKET_MISMATCH
    try:
        check_ticket(receipt, ticket, offer)
    except ReceiptError:
        return SettlementReason.TICKET_MISMATCH
    try:
        check_amount(receipt, ticket, offer)
    except ReceiptError:
        return SettlementReason.RECEIPT_AMOUNT_WRONG
    return None
