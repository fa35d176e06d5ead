"""The receipt chain on its storage: restarts, cuts, damage, and the end of room."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.receipts import chain, jws
from chrysalis.receipts.objects import Receipt, Status, Use
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.receiptlog import FILE, RESERVE_BYTES, Outcome, ReceiptLog

SET = "-239:0:" + "ab" * 32
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()


def outcome(ticket: str = "t.t.t", t: int = 1) -> Outcome:
    return Outcome(offer="00" * 32, ticket=ticket, use=Use(prompt=1), amt=2, status=Status.DONE, rsp="11" * 32, t=t)


def test_a_restart_continues_the_chain(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path, KEY, SET)
    tokens = [log.append(outcome()) for _ in range(3)]
    log.close()
    again = ReceiptLog(tmp_path, KEY, SET)
    assert (again.last, len(again.restored)) == (3, 3)
    tokens.append(again.append(outcome()))
    head = chain.verify(chain.Head.start(again.wrk), [(Receipt.parse(t, PUBLIC), t) for t in tokens])
    assert head.seq == 4
    assert again.after(0, 100, 1 << 20) == tokens
    assert (tmp_path / FILE).read_text().splitlines() == tokens


@pytest.mark.parametrize("cut", [1, 2, 50])
def test_a_line_that_a_kill_cut_short_was_never_issued(tmp_path: Path, cut: int) -> None:
    log = ReceiptLog(tmp_path, KEY, SET)
    first = log.append(outcome(t=1))
    lost = log.append(outcome(t=2))
    log.close()
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[:-cut])
    again = ReceiptLog(tmp_path, KEY, SET)
    assert again.last == 1
    other = again.append(outcome(t=3))
    assert other != lost
    assert Receipt.parse(other, PUBLIC).seq == 2
    assert ReceiptLog(tmp_path, KEY, SET).after(0, 10, 1 << 20) == [first, other]


@pytest.mark.parametrize("damage", ["byte", "missing", "swapped", "foreign"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    log = ReceiptLog(tmp_path, KEY, SET)
    lines = [log.append(outcome(t=t)) for t in range(3)]
    if damage == "byte":
        lines[1] = lines[1][:40] + ("A" if lines[1][40] != "A" else "B") + lines[1][41:]
    elif damage == "missing":
        del lines[1]
    elif damage == "swapped":
        lines[0], lines[1] = lines[1], lines[0]
    (tmp_path / FILE).write_text("".join(line + "\n" for line in lines))
    with pytest.raises(WorkerError) as caught:
        ReceiptLog(tmp_path, Ed25519PrivateKey.generate() if damage == "foreign" else KEY, SET)
    assert caught.value.reason == WorkerReason.RECEIPTS_DAMAGED


def test_pages_are_bounded_and_never_empty_while_there_is_more(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path, KEY, SET)
    tokens = [log.append(outcome()) for _ in range(5)]
    assert log.after(2, 2, 1 << 20) == tokens[2:4]
    assert log.after(0, 5, 1) == tokens[:1]
    assert log.after(5, 5, 1 << 20) == []
    assert log.after(99, 5, 1 << 20) == []


def test_with_settlement_nothing_is_dropped_when_the_room_ends(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path, KEY, SET, max_bytes=RESERVE_BYTES)
    log.check_room()
    token = log.append(outcome())
    with pytest.raises(WorkerError) as caught:
        log.check_room()
    assert caught.value.reason == WorkerReason.RECEIPT_STORE_FULL
    full = ReceiptLog(tmp_path, KEY, SET, max_bytes=len(token) + 1)
    with pytest.raises(WorkerError):
        full.append(outcome())
    assert full.after(0, 10, 1 << 20) == [token]


def test_without_settlement_the_oldest_make_room(tmp_path: Path) -> None:
    size = len(ReceiptLog(tmp_path, KEY, "none").append(outcome(ticket=""))) + 40
    (tmp_path / FILE).unlink()
    log = ReceiptLog(tmp_path, KEY, "none", max_bytes=10 * size)
    tokens = [log.append(outcome(ticket="")) for _ in range(40)]
    kept = log.after(0, 100, 1 << 20)
    assert 5 <= len(kept) <= 10
    assert kept == tokens[-len(kept) :]
    assert log.after(38, 100, 1 << 20) == tokens[38:]
    log.check_room()
    log.close()
    again = ReceiptLog(tmp_path, KEY, "none", max_bytes=10 * size)
    assert again.after(0, 100, 1 << 20) == kept
    assert Receipt.parse(again.append(outcome(ticket="")), PUBLIC).prev == jws.identity(tokens[-1])
