"""Members of the signed objects: wire forms that are refused, each next to the one that is taken."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.receipts import jws
from chrysalis.receipts.objects import ClientList, Receipt, ReceiptKeyCertificate, Ticket, check_time
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
H = "ab" * 32
SET = f"-3:0:{H}"
TICKET: dict[str, Any] = {
    "res": "none", "set": SET, "wrk": H, "offer": H, "exp": 1, "nonce": "AAECAwQFBgcICQoLDA0ODw",
    "digest": f"sha256:{H}", "max": "9", "req": H,
}  # fmt: skip
NO_USE = {"prompt": "0", "cached": "0", "completion": "0", "reasoning": "0", "job": "1"}
RECEIPT: dict[str, Any] = {
    "set": SET, "wrk": H, "seq": "1", "prev": H, "res": "none", "offer": H, "ticket": "a.b.c",
    "use": NO_USE, "amt": "5", "status": "done", "rsp": H, "t": 1,
}  # fmt: skip
CLIENTS: dict[str, Any] = {"set": SET, "keys": [{"key": H, "cap": "1"}], "iat": 1, "exp": 2}
CERTIFICATE: dict[str, Any] = {
    "receiptKey": H, "set": SET, "wallet": f"0:{H}", "reservationKeys": [H], "resultId": "r", "nbf": 1, "exp": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "good", "change"),
    [
        (Ticket, TICKET, {"max": 9}),
        (Ticket, TICKET, {"max": "09"}),
        (Ticket, TICKET, {"max": "-1"}),
        (Ticket, TICKET, {"max": str(1 << 63)}),
        (Ticket, TICKET, {"max": "٩"}),
        (Ticket, TICKET, {"exp": "1"}),
        (Ticket, TICKET, {"exp": -1}),
        (Ticket, TICKET, {"exp": True}),
        (Ticket, TICKET, {"res": H}),
        (Ticket, TICKET, {"nonce": "AAECAwQFBgcICQoLDA0OD"}),
        (Ticket, TICKET, {"nonce": "AAECAwQFBgcICQoLDA0ODx"}),
        (Ticket, TICKET, {"digest": H}),
        (Ticket, TICKET, {"req": H.upper()}),
        (Ticket, TICKET, {"req": H + "\n"}),
        (Ticket, TICKET, {"set": f"-3:-1:{H}"}),
        (Ticket, TICKET, {"set": "None"}),
        (Ticket, TICKET, {"more": "x"}),
        (Ticket, TICKET, {"wrk": None}),
        (Receipt, RECEIPT, {"seq": "0"}),
        (Receipt, RECEIPT, {"status": "Done"}),
        (Receipt, RECEIPT, {"ticket": ""}),
        (Receipt, RECEIPT, {"set": "none"}),
        (Receipt, RECEIPT, {"use": NO_USE | {"prompt": 1}}),
        (Receipt, RECEIPT, {"use": NO_USE | {"extra": "1"}}),
        (Receipt, RECEIPT, {"amt": "1e3"}),
        (ClientList, CLIENTS, {"keys": [{"key": H, "cap": "1"}, {"key": H, "cap": "2"}]}),
        (ClientList, CLIENTS, {"keys": [{"key": H}]}),
        (ReceiptKeyCertificate, CERTIFICATE, {"receipt_key": H}),
        (ReceiptKeyCertificate, CERTIFICATE, {"reservationKeys": [H, H, H]}),
        (ReceiptKeyCertificate, CERTIFICATE, {"wallet": f"-1:{H}"}),
    ],
    ids=str,
)
def test_one_wrong_member_refuses_and_its_twin_passes(cls: Any, good: dict[str, Any], change: dict[str, Any]) -> None:
    assert cls.parse(jws.sign(cls.TYP, good, KEY), PUBLIC).claims() == good
    with pytest.raises(ReceiptError) as caught:
        cls.parse(jws.sign(cls.TYP, good | change, KEY), PUBLIC)
    assert caught.value.reason == ReceiptReason.OBJECT_MALFORMED


@pytest.mark.parametrize("name", sorted(TICKET))
def test_each_member_of_a_ticket_but_the_constant_must_be_there(name: str) -> None:
    short = {k: v for k, v in TICKET.items() if k != name}
    if name == "res":
        assert Ticket.parse(jws.sign(Ticket.TYP, short, KEY), PUBLIC).res == "none"
        return
    with pytest.raises(ReceiptError):
        Ticket.parse(jws.sign(Ticket.TYP, short, KEY), PUBLIC)


def test_python_values_are_ints_and_bounded() -> None:
    ticket = Ticket.parse(jws.sign(Ticket.TYP, TICKET, KEY), PUBLIC)
    assert ticket.max == 9
    with pytest.raises(ValueError, match="amount"):
        Ticket(**{**ticket.model_dump(), "max": 1 << 63})
    with pytest.raises(ValueError, match="amount"):
        Ticket(**{**ticket.model_dump(), "max": "9"})


def test_unverified_reading_still_checks_type_and_form() -> None:
    token = jws.sign(Ticket.TYP, TICKET, KEY)
    assert Ticket.parse_unverified(token).max == 9
    with pytest.raises(ReceiptError) as caught:
        Receipt.parse_unverified(token)
    assert caught.value.reason == ReceiptReason.OBJECT_TYPE_UNEXPECTED


@pytest.mark.parametrize(
    ("now", "reason"),
    [(99, ReceiptReason.OBJECT_NOT_YET_VALID), (100, None), (199, None), (200, ReceiptReason.OBJECT_EXPIRED)],
)
def test_times_hold_at_their_edges(now: int, reason: ReceiptReason | None) -> None:
    if reason is None:
        check_time("ticket", now, exp=200, not_before=100)
        return
    with pytest.raises(ReceiptError) as caught:
        check_time("ticket", now, exp=200, not_before=100)
    assert caught.value.reason == reason
