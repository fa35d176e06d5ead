"""Which jobs are paid for: the owner's list of clients, their tickets, each once, within a cap for each UTC day (OwnerFunded).

The clock is the host's, so it is only trusted forwards: days and times that were seen do not come back.  A ticket's `max`
is held against the cap while its job runs; what the job costs is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chrysalis.clock import Clock, unix
from chrysalis.receipts import jws, pricing
from chrysalis.receipts.objects import ClientList, Offer, Receipt, Ticket, Use
from chrysalis.receipts.reasons import ReceiptError
from chrysalis_worker.offers import OfferBook
from chrysalis_worker.reasons import WorkerError, WorkerReason

FILE = "clients.jws"
MAX_TICKET_SECONDS = 600
"""A ticket bounds its job's start, at most ten minutes ahead (settlement.md) …"""
SKEW_SECONDS = 60
"""… and clients' clocks may be this much ahead."""
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Accepted:
    """A ticket that a job may start on; its `max` is held until `settle`."""

    token: str
    ticket: Ticket
    offer: Offer
    kid: str
    day: int


@dataclass(frozen=True)
class _Listed:
    key: bytes
    cap: int


class TicketBook:
    """Not safe for use from several threads; every method is atomic for asyncio."""

    def __init__(
        self, folder: Path, *, set_name: str, wrk: str, model_digest: str, reservation_keys: list[bytes], offers: OfferBook, clock: Clock
    ) -> None:
        self._path = folder / FILE
        self._set = set_name
        self._wrk = wrk
        self._model_digest = model_digest
        self._reservation_keys = {jws.thumbprint(key): key for key in reservation_keys}
        self._offers = offers
        self._clock = clock
        self._latest = 0
        self._list: ClientList | None = None
        self._clients: dict[str, _Listed] = {}
        self._spent: dict[tuple[str, int], int] = {}  # by (kid, day), nanoton, with what is held
        self._nonces: dict[tuple[str, str], int] = {}  # by (kid, nonce): when the ticket expires
        self._swept = 0
        if self._path.exists():
            try:
                self._take_list(self._path.read_text().strip())
            except WorkerError:
                self._path.unlink()  # expired, or cut short by a kill; the settler sends it again

    def restore(self, receipts: Iterable[Receipt]) -> None:
        """Count what an earlier run of the agent in this domain has already billed."""
        for receipt in receipts:
            if not receipt.ticket:
                continue
            kid = jws.peek(receipt.ticket).kid
            ticket = Ticket.parse_unverified(receipt.ticket)
            day = receipt.t // DAY_SECONDS
            self._spent[kid, day] = self._spent.get((kid, day), 0) + receipt.amt
            self._nonces[kid, ticket.nonce] = ticket.exp
            self._latest = max(self._latest, receipt.t)

    def replace_clients(self, token: str) -> ClientList:
        """Take a newer list; raises WorkerError: ClientListInvalid."""
        clients = self._take_list(token)
        partial = self._path.with_suffix(".partial")
        partial.write_text(token + "\n")
        os.replace(partial, self._path)
        return clients

    def accept(self, token: str, request_hash: str, least: Use) -> Accepted:
        """Take a ticket for a job with this salted hash that uses at least `least`; raises WorkerError, and then nothing is spent.

        Steps: 1 the list is there · 2 the client is on it · 3 signature and form · 4 for this worker, model, offer and request ·
        5 in time · 6 large enough · 7 not used before · 8 within the day's cap.
        """
        now = self._now()
        if self._list is None or now >= self._list.exp:  # 1
            raise WorkerError(
                WorkerReason.CLIENT_LIST_MISSING,
                "this worker has no current list of the clients whose jobs are paid for",
                "wait a moment: the settler sends it; otherwise see whether the settler runs",
            )
        kid, client = self._client(token)  # 2
        ticket = self._open(token, client.key)  # 3
        offer = self._matching(ticket, request_hash)  # 4
        if not now < ticket.exp <= now + MAX_TICKET_SECONDS + SKEW_SECONDS or now >= offer.exp:  # 5
            raise WorkerError(
                WorkerReason.TICKET_EXPIRED,
                "the ticket is not for now: it or its offer has expired, or it is made for more than ten minutes ahead",
                "sign a new ticket under the current offer; check your clock",
                f"ticket exp {ticket.exp}, offer exp {offer.exp}, now {now}",
            )
        check_enough(ticket, offer, least)  # 6
        self._sweep(now)
        if (kid, ticket.nonce) in self._nonces:  # 7
            raise WorkerError(WorkerReason.TICKET_SPENT, "the ticket was used before", "sign a new ticket for each job, retries included")
        day = now // DAY_SECONDS
        spent = self._spent.get((kid, day), 0)
        if spent + ticket.max > client.cap:  # 8
            raise WorkerError(
                WorkerReason.DAILY_CAP_REACHED,
                "the ticket's maximum is more than what is left of this client's cap for today at this worker",
                "sign a ticket with a smaller maximum, use another worker, or ask the pool's owner for a higher cap",
                f"cap {client.cap}, spent and held {spent}, ticket {ticket.max} nanoton",
            )
        self._spent[kid, day] = spent + ticket.max
        self._nonces[kid, ticket.nonce] = ticket.exp
        return Accepted(token=token, ticket=ticket, offer=offer, kid=kid, day=day)

    def settle(self, accepted: Accepted, amt: int) -> None:
        """The job ended and costs amt nanoton: give back what was held beyond it.  The ticket stays spent."""
        self._spent[accepted.kid, accepted.day] += amt - accepted.ticket.max

    def _now(self) -> int:
        self._latest = max(self._latest, unix(self._clock.now()))
        return self._latest

    def _take_list(self, token: str) -> ClientList:
        try:
            key = self._reservation_keys.get(jws.peek(token).kid)
            if key is None:
                raise _list_invalid("no measured reservation key signed it")
            clients = ClientList.parse(token, key)
        except ReceiptError as error:
            raise _list_invalid(str(error)) from error
        now = self._now()
        if clients.set != self._set:
            raise _list_invalid(f"it is for {clients.set}, this worker's set is {self._set}")
        if now >= clients.exp or clients.iat > now + SKEW_SECONDS:
            raise _list_invalid(f"it is expired or from the future: iat {clients.iat}, exp {clients.exp}, now {now}")
        if self._list is not None and clients.iat < self._list.iat:
            raise _list_invalid(f"it is older than the list in use: iat {clients.iat}, held {self._list.iat}")
        self._list = clients
        listed = {jws.thumbprint(bytes.fromhex(c.key)): _Listed(bytes.fromhex(c.key), c.cap) for c in clients.keys}
        self._clients = listed
        return clients

    def _client(self, token: str) -> tuple[str, _Listed]:
        try:
            kid = jws.peek(token).kid
        except ReceiptError as error:
            raise _ticket_invalid(error) from error
        client = self._clients.get(kid)
        if client is None:
            raise WorkerError(
                WorkerReason.CLIENT_NOT_LISTED,
                "the ticket's key is not on the list of clients whose jobs the pool's owner pays for",
                "ask the owner to add your key to the SettlementAccount's spec.clients",
                f"kid {kid[:64]}",
            )
        return kid, client

    def _open(self, token: str, key: bytes) -> Ticket:
        try:
            return Ticket.parse(token, key)
        except ReceiptError as error:
            raise _ticket_invalid(error) from error

    def _matching(self, ticket: Ticket, request_hash: str) -> Offer:
        expected = {
            "set": (ticket.set, self._set),
            "wrk": (ticket.wrk, self._wrk),
            "digest": (ticket.digest, self._model_digest),
            "req": (ticket.req, request_hash),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise WorkerError(
                    WorkerReason.TICKET_MISMATCH,
                    f"the ticket's {name} is not that of this worker and request",
                    "sign the ticket for this worker and for exactly the bytes and the salt that are sent",
                    f"found {found}, expected {wanted}",
                )
        offer = self._offers.find(ticket.offer)
        if offer is None:
            raise WorkerError(
                WorkerReason.OFFER_UNKNOWN,
                "the ticket names an offer that this worker did not make",
                "read the offer at /.well-known/attestation and sign a new ticket",
            )
        return offer

    def _sweep(self, now: int) -> None:
        """Forget nonces of tickets that are refused by time, and days that are over; once a minute at most."""
        if now < self._swept + SKEW_SECONDS:
            return
        self._swept = now
        self._nonces = {key: exp for key, exp in self._nonces.items() if exp > now}
        yesterday = now // DAY_SECONDS - 1
        self._spent = {key: amt for key, amt in self._spent.items() if key[1] >= yesterday}


def check_enough(ticket: Ticket, offer: Offer, use: Use) -> None:
    """Refuse a use that costs more than the ticket allows; raises WorkerError: ReservationExhausted."""
    cost = pricing.amount(use, offer.prices, (1 << 63) - 1)
    if cost > ticket.max:
        raise WorkerError(
            WorkerReason.RESERVATION_EXHAUSTED,
            "the job costs more than the ticket's maximum; nothing is billed",
            "sign a ticket with a larger maximum, or send less in one request",
            f"at least {cost} nanoton, maximum {ticket.max}",
        )


def _ticket_invalid(error: ReceiptError) -> WorkerError:
    return WorkerError(
        WorkerReason.TICKET_INVALID,
        f"the ticket cannot be taken: {error.message}",
        "sign it again with the key that is on the list",
        error.detail,
    )


def _list_invalid(detail: str) -> WorkerError:
    return WorkerError(
        WorkerReason.CLIENT_LIST_INVALID,
        "the list of clients is not valid for this worker",
        "send a current one of this account, signed by its reservation key",
        detail,
    )
