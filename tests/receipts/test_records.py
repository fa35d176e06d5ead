"""Kept receipts: a sound record is whole; each broken tie is named."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.receipts import jws, worker_id
from chrysalis.receipts.objects import Offer, PriceList, Receipt, ReceiptKeyCertificate, Status, Ticket, Use
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason
from chrysalis.receipts.records import Record, check, read_lines

KEY, EAR, CLIENT, OTHER = (Ed25519PrivateKey.generate() for _ in range(4))
WRK = worker_id(KEY.public_key().public_bytes_raw())
H, SET, DIGEST = "ab" * 32, "-3:0:" + "ab" * 32, "sha256:" + "ab" * 32
OFFER = Offer(set=SET, wrk=WRK, model="m", digest=DIGEST, prices=PriceList(job=5_000_000), address="", sni="", iat=1, exp=9)
TICKET = Ticket(set=SET, wrk=WRK, offer=jws.identity(OFFER.sign(KEY)), exp=9, nonce=jws.b64u(bytes(16)), digest=DIGEST, max=100, req=H)
CERTIFICATE = ReceiptKeyCertificate(
    receipt_key=KEY.public_key().public_bytes_raw().hex(), set=SET, wallet="0:" + H, reservation_keys=[], result_id="r", nbf=1, exp=9
)


def record(*, ticket: dict[str, Any] | None = None, offer: dict[str, Any] | None = None, key: Any = KEY, **receipt: Any) -> Record:
    members: dict[str, Any] = {
        "set": SET, "wrk": WRK, "seq": 1, "prev": WRK, "offer": jws.identity(OFFER.sign(KEY)), "use": Use(job=1), "amt": 5,
        "status": Status.DONE, "rsp": H, "t": 1, "ticket": TICKET.model_copy(update=ticket or {}).sign(CLIENT),
    }  # fmt: skip
    made = Receipt.model_validate(members | receipt)
    return Record(receipt=made.sign(key), offer=OFFER.model_copy(update=offer or {}).sign(KEY), certificate=CERTIFICATE.sign(EAR))


def test_a_sound_record_survives_its_line_and_holds() -> None:
    kept = Record.from_line(record().to_line())
    found = check(kept, ear_key=EAR.public_key().public_bytes_raw())
    assert (found.receipt.amt, found.wallet, found.ticket) == (5, "0:" + H, TICKET)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: record(key=OTHER), ReceiptReason.OBJECT_KEY_UNEXPECTED),
        (lambda: record(wrk=H), ReceiptReason.RECEIPT_OFFER_MISMATCH),
        (lambda: record(set="-3:0:" + "cd" * 32), ReceiptReason.RECEIPT_OFFER_MISMATCH),
        (lambda: record(offer={"iat": 2}), ReceiptReason.RECEIPT_OFFER_MISMATCH),
        (lambda: record(ticket={"wrk": H}), ReceiptReason.RECEIPT_TICKET_MISMATCH),
        (lambda: record(ticket={"offer": H}), ReceiptReason.RECEIPT_TICKET_MISMATCH),
        (lambda: record(ticket={"digest": "sha256:" + "cd" * 32}), ReceiptReason.RECEIPT_TICKET_MISMATCH),
        (lambda: record(ticket={"max": 4}), ReceiptReason.RECEIPT_AMOUNT_WRONG),
        (lambda: record(amt=6), ReceiptReason.RECEIPT_AMOUNT_WRONG),
    ],
    ids=[
        "another key",
        "another worker",
        "another account",
        "another offer",
        "ticket's worker",
        "ticket's offer",
        "model",
        "max",
        "amount",
    ],
)
def test_a_broken_tie_is_named(bad: Any, reason: ReceiptReason) -> None:
    with pytest.raises(ReceiptError) as caught:
        check(bad())
    assert caught.value.reason == reason


def test_the_broker_must_have_certified_the_key_where_its_own_is_known() -> None:
    with pytest.raises(ReceiptError) as caught:
        check(record(), ear_key=OTHER.public_key().public_bytes_raw())
    assert caught.value.reason == ReceiptReason.OBJECT_KEY_UNEXPECTED


def test_a_receipt_that_was_refused_is_checked_but_for_its_price() -> None:
    assert check(record(amt=6), billed=False).receipt.amt == 6


def test_lines_are_numbered_and_empty_ones_skipped() -> None:
    line = record().to_line()
    assert len(read_lines([line, "", " \n", line])) == 2
    with pytest.raises(ReceiptError, match="line 2"):
        read_lines([line, "{}"])


@given(st.text(max_size=300))
def test_no_line_raises_anything_but_a_receipt_error(text: str) -> None:
    with pytest.raises(ReceiptError):
        Record.from_line(text)
