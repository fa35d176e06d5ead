"""A job from its ticket to its receipt.  A job that is begun is finished exactly once, whatever happens to it."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass

from chrysalis.clock import Clock, unix
from chrysalis.receipts import jws, pricing
from chrysalis.receipts.objects import Offer, Status, Use
from chrysalis.receipts.salted import SALT_BYTES, request_hash, response_hash
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.offers import OfferBook
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.receiptlog import Outcome, ReceiptLog
from chrysalis_worker.tickets import Accepted, TicketBook, check_enough

UNLIMITED = (1 << 63) - 1
NOTHING = Use()


@dataclass(frozen=True)
class Job:
    """A job that may run; `accepted` is its ticket, None in an in-house pool."""

    salt: bytes
    own_salt: bool
    """Whether the gateway had to make the salt; then the client must be told it."""
    offer_hash: str
    offer: Offer
    accepted: Accepted | None
    began: float


class Meter:
    """Begins and finishes jobs; tickets is None where `set` is "none"."""

    def __init__(self, *, offers: OfferBook, receipts: ReceiptLog, tickets: TicketBook | None, clock: Clock, metrics: Metrics) -> None:
        self._offers = offers
        self._receipts = receipts
        self._tickets = tickets
        self._clock = clock
        self._metrics = metrics

    def begin(self, *, ticket: str | None, salt: str | None, body: bytes, least: Use) -> Job:
        """Check ticket and salt and hold what the ticket allows.

        `least` is what the job will use at least, known before it runs.  Raises WorkerError, and then no ticket is spent.
        """
        self._receipts.check_room()
        own_salt = salt is None and self._tickets is None
        salt32 = secrets.token_bytes(SALT_BYTES) if own_salt else _salt(salt)
        accepted: Accepted | None = None
        if self._tickets is None:
            if ticket is not None:
                raise WorkerError(
                    WorkerReason.TICKET_NOT_EXPECTED,
                    "this worker belongs to an in-house pool, where jobs carry no ticket",
                    "send the job without a ticket",
                )
            token = self._offers.current()
            offer = self._offers.find(jws.identity(token))
            if offer is None:
                raise AssertionError("the current offer is in the book")
            offer_hash = jws.identity(token)
        else:
            if ticket is None:
                raise WorkerError(
                    WorkerReason.TICKET_REQUIRED,
                    "this worker is paid for each job, and the request carries no ticket",
                    "send a signed ticket in the header Chrysalis-Ticket; Chrysalis' client and proxy do so",
                )
            accepted = self._tickets.accept(ticket, request_hash(salt32, body), least)
            offer, offer_hash = accepted.offer, accepted.ticket.offer
        return Job(salt=salt32, own_salt=own_salt, offer_hash=offer_hash, offer=offer, accepted=accepted, began=self._clock.monotonic())

    def check_cost(self, job: Job, use: Use) -> None:
        """Refuse to deliver what the ticket does not pay for; raises WorkerError: ReservationExhausted."""
        if job.accepted is not None:
            check_enough(job.accepted.ticket, job.offer, use)

    def finish(self, job: Job, status: Status, use: Use, body: bytes) -> str:
        """Sign and store the receipt for exactly these bytes of the answer; returns it.

        Raises WorkerError: ReceiptStoreFull; then nothing is billed and the answer must not be sent.
        """
        maximum = UNLIMITED if job.accepted is None else job.accepted.ticket.max
        amt = pricing.billed(status, use, job.offer.prices, maximum)
        outcome = Outcome(
            offer=job.offer_hash,
            ticket="" if job.accepted is None else job.accepted.token,
            use=use,
            amt=amt,
            status=status,
            rsp=response_hash(job.salt, body),
            t=unix(self._clock.now()),
        )
        try:
            token = self._receipts.append(outcome)
        except WorkerError:
            amt = 0
            raise
        finally:
            if job.accepted is not None and self._tickets is not None:
                self._tickets.settle(job.accepted, amt)
        self._metrics.jobs.labels(str(status)).inc()
        self._metrics.tokens.inc(use.prompt)
        self._metrics.billed.inc(amt)
        self._metrics.job_seconds.observe(max(0.0, self._clock.monotonic() - job.began))
        return token


def encode_salt(salt: bytes) -> str:
    """The header's form: base64url without padding."""
    return jws.b64u(salt)


def _salt(text: str | None) -> bytes:
    try:
        salt = base64.b64decode((text or "").encode("ascii") + b"=", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        salt = b""
    if len(salt) != SALT_BYTES:
        raise WorkerError(
            WorkerReason.SALT_INVALID,
            "the header Chrysalis-Salt is not 32 bytes in base64url without padding",
            "send 32 fresh random bytes for each job and keep them: they prove what was asked and answered",
        )
    return salt
