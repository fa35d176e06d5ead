"""Receipt chains: a sound one is followed; a gap, a fork and a foreign receipt are named."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.receipts import chain, worker_id
from chrysalis.receipts.objects import Receipt, Status, Use
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

KEY = Ed25519PrivateKey.generate()
WRK = worker_id(KEY.public_key().public_bytes_raw())
H = "ab" * 32


def receipt(head: chain.Head, *, seq: int | None = None, prev: str | None = None, wrk: str = WRK, t: int = 1) -> tuple[Receipt, str]:
    made = Receipt(
        set="none",
        wrk=wrk,
        seq=seq or head.seq + 1,
        prev=prev or head.hash,
        offer=H,
        ticket="",
        use=Use(job=1),
        amt=0,
        status=Status.DONE,
        rsp=H,
        t=t,
    )
    return made, made.sign(KEY)


def run(count: int) -> tuple[list[tuple[Receipt, str]], chain.Head]:
    head, links = chain.Head.start(WRK), []
    for _ in range(count):
        links.append(receipt(head))
        head = chain.advance(head, *links[-1])
    return links, head


def test_the_first_prev_is_wrk_and_a_sound_chain_is_followed() -> None:
    links, head = run(5)
    assert links[0][0].prev == WRK
    assert chain.verify(chain.Head.start(WRK), links) == head
    assert head.seq == 5


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_missing_link_is_a_gap(missing: int) -> None:
    links, _ = run(5)
    with pytest.raises(ReceiptError, match=f"{missing + 1} missing") as caught:
        chain.verify(chain.Head.start(WRK), links[:missing] + links[missing + 1 :])
    assert caught.value.reason == ReceiptReason.RECEIPT_GAP


def test_a_second_history_is_a_fork() -> None:
    links, head = run(3)
    for fork in (receipt(chain.Head(WRK, 1, links[0][0].prev), t=2), receipt(head, prev=H), receipt(head, wrk=H)):
        with pytest.raises(ReceiptError) as caught:
            chain.advance(head, *fork)
        assert caught.value.reason == ReceiptReason.RECEIPT_FORKED
