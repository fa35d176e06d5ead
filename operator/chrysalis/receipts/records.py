"""A receipt as parties keep it: one JSON line with what is needed to check it again.

A file of records is JSON Lines; the client adds the salt of its own jobs, which nobody else has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from chrysalis.api.base import Model
from chrysalis.receipts import jws, pricing, worker_id
from chrysalis.receipts.objects import Offer, Receipt, ReceiptKeyCertificate, Ticket
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

MAX_LINE_CHARACTERS = 64 * 1024


class Record(Model):
    """One kept receipt and its context, all compact JWS."""

    schema_version: Literal["chrysalis/v1"] = "chrysalis/v1"
    receipt: Annotated[str, Field(max_length=16 * 1024)]
    offer: Annotated[str, Field(max_length=8 * 1024)]
    certificate: Annotated[str, Field(max_length=8 * 1024)]
    salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,43}$")] = ""
    refusal: Annotated[str, Field(max_length=64)] = ""
    """In the settler's records: why the receipt is not paid."""

    def to_line(self) -> str:
        """The JSON text without a line break."""
        return self.model_dump_json(by_alias=True, exclude_defaults=False)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Read one line; raises ReceiptError."""
        try:
            if len(line) > MAX_LINE_CHARACTERS:
                raise ValueError(f"{len(line)} characters; at most {MAX_LINE_CHARACTERS} are read")
            return cls.model_validate_json(line)
        except (ValidationError, ValueError) as error:
            raise ReceiptError(
                ReceiptReason.OBJECT_MALFORMED,
                "this line is not a kept receipt",
                "give a file that a Chrysalis client or settler wrote",
                str(error)[:512],
            ) from error


class Checked(Model):
    """A receipt whose signatures, price and ties to ticket, offer and certificate hold."""

    receipt: Receipt
    token: str
    ticket: Ticket | None
    ticket_kid: str
    wallet: str


def check(record: Record, *, ear_key: bytes | None = None, billed: bool = True) -> Checked:
    """Everything that can be judged about one receipt by itself; raises ReceiptError that names what is wrong.

    1. The certificate is signed by the EAR key (when one is given) and its receipt key signed receipt and offer.
    2. Set and wrk of receipt, offer, ticket and certificate are one.
    3. The receipt's offer is this offer, the ticket names it too, and its model digest is the offer's.
    4. The amount is what use and prices give, within the ticket's maximum.

    billed: False for a receipt that its settler refused to pay: then the ticket and step 4 are left out.
    """
    certificate = (
        ReceiptKeyCertificate.parse(record.certificate, ear_key) if ear_key else ReceiptKeyCertificate.parse_unverified(record.certificate)
    )
    key = bytes.fromhex(certificate.receipt_key)
    receipt = Receipt.parse(record.receipt, key)  # 1
    offer = Offer.parse(record.offer, key)
    ticket, kid = _ticket(receipt) if billed else (None, "")
    wrk = worker_id(key)
    if {receipt.wrk, offer.wrk} != {wrk} or {receipt.set, offer.set, certificate.set} != {receipt.set}:  # 2
        raise ReceiptError(
            ReceiptReason.RECEIPT_OFFER_MISMATCH,
            f"receipt {receipt.seq} and what is kept with it belong to different workers or accounts",
            "keep each receipt with the offer and certificate of its own worker",
        )
    if receipt.offer != jws.identity(record.offer):  # 3
        raise ReceiptError(
            ReceiptReason.RECEIPT_OFFER_MISMATCH,
            f"receipt {receipt.seq} names another offer",
            "keep each receipt with its own offer",
            receipt.offer,
        )
    if billed:
        if ticket is not None:
            check_ticket(receipt, ticket, offer)
        check_amount(receipt, ticket, offer)  # 4
    return Checked(receipt=receipt, token=record.receipt, ticket=ticket, ticket_kid=kid, wallet=certificate.wallet)


def check_ticket(receipt: Receipt, ticket: Ticket, offer: Offer) -> None:
    """The ticket that a receipt carries is for this account, worker, offer and model; raises ReceiptError."""
    if (ticket.res, ticket.set, ticket.wrk, ticket.offer, ticket.digest) != (
        receipt.res,
        receipt.set,
        receipt.wrk,
        receipt.offer,
        offer.digest,
    ):
        raise ReceiptError(
            ReceiptReason.RECEIPT_TICKET_MISMATCH,
            f"the ticket in receipt {receipt.seq} is for another worker, offer, model or account",
            "the worker billed a job that its client did not agree to; show both to the client",
        )


def check_amount(receipt: Receipt, ticket: Ticket | None, offer: Offer) -> None:
    """The billed amount is exactly what use and prices give; raises ReceiptError with both numbers."""
    if ticket is None:
        expected = pricing.billed(receipt.status, receipt.use, offer.prices, (1 << 63) - 1)
    else:
        expected = pricing.billed(receipt.status, receipt.use, offer.prices, ticket.max)
    if receipt.amt != expected:
        raise ReceiptError(
            ReceiptReason.RECEIPT_AMOUNT_WRONG,
            f"receipt {receipt.seq} bills {receipt.amt} nanoton, but its use and prices give {expected}",
            "dispute it with the worker; the settler does not settle it",
            f"wrk {receipt.wrk}",
        )


def read_lines(lines: Iterable[str]) -> list[Record]:
    """Records of a JSON Lines text; empty lines are skipped; raises ReceiptError that names the line's number."""
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(Record.from_line(line))
            except ReceiptError as error:
                raise ReceiptError(ReceiptReason.OBJECT_MALFORMED, f"line {number}: {error.message}", error.remedy, error.detail) from error
    return records


def _ticket(receipt: Receipt) -> tuple[Ticket | None, str]:
    """The ticket in a receipt and its signer's thumbprint; its signature is checked by who knows the clients' keys."""
    if receipt.ticket == "":
        return None, ""
    return Ticket.parse_unverified(receipt.ticket), jws.peek(receipt.ticket).kid
