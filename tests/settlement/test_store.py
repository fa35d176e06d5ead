"""The ledger: what enters it, once; what is paid, and what is recorded unpaid.  Each refusal has its twin: the same receipt, sound."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from chrysalis.api.account import AllowedClient
from chrysalis.receipts import jws
from chrysalis.receipts.objects import ReceiptKeyCertificate, Status, Use
from chrysalis.receipts.records import check
from chrysalis.settlement import tables
from chrysalis.settlement.reasons import SettlementError, SettlementReason
from chrysalis.settlement.store import Ledger


def row(bench: Any, token: str) -> dict[str, Any]:
    """A receipt's row, read beside the program."""
    db = sqlite3.connect(bench.path)
    db.row_factory = sqlite3.Row
    found = db.execute("SELECT * FROM receipts WHERE hash = ?", (jws.identity(token),)).fetchone()
    db.close()
    return dict(found)


def test_a_sound_receipt_is_paid_net_of_the_fee(bench: Any) -> None:
    token = bench.worker.receipt(bench.client, prompt=1000)
    assert bench.append(token).new == 1
    kept = row(bench, token)
    assert (kept["amt"], kept["fee"], kept["net"], kept["refusal"], kept["wallet"]) == (2005, 100, 1905, "", bench.worker.wallet)


def test_a_duplicate_is_a_no_op_and_survives_a_restart(bench: Any) -> None:
    tokens = [bench.worker.receipt(bench.client) for _ in range(3)]
    assert bench.append(*tokens).new == 3
    bench.ledger.close()
    bench.ledger = Ledger.open(bench.path)
    again = bench.append(*tokens)
    assert (again.new, again.duplicates, again.stopped, bench.ledger.size()) == (0, 3, None, 3)


def test_a_gap_stops_the_page_and_is_named_and_closing_it_goes_on(bench: Any) -> None:
    first, second, third = (bench.worker.receipt(bench.client) for _ in range(3))
    stopped = bench.append(first, third)
    assert stopped.new == 1
    assert stopped.stopped.reason == SettlementReason.RECEIPT_GAP
    assert "2 missing" in stopped.stopped.message
    assert bench.append(second, third).new == 2


def test_a_fork_closes_the_chain_and_both_receipts_are_kept(bench: Any) -> None:
    start = bench.worker.head
    one = bench.worker.receipt(bench.client)
    bench.append(one)
    honest, bench.worker.head = bench.worker.head, start
    two = bench.worker.receipt(bench.client, prompt=11)
    result = bench.append(two)
    assert result.stopped.reason == SettlementReason.RECEIPT_FORKED
    assert bench.ledger.forks() == [(bench.worker.wrk, 1, two)]
    bench.worker.head = honest
    after = bench.append(bench.worker.receipt(bench.client))
    assert (after.new, after.stopped.reason) == (0, SettlementReason.CHAIN_CLOSED)
    assert bench.ledger.size() == 1


def test_what_is_not_the_workers_receipt_is_not_taken(bench: Any, make_worker: Callable[..., Any]) -> None:
    stranger = make_worker()
    for token in (stranger.receipt(bench.client), "a.b.c", bench.worker.offer):
        assert bench.append(token).stopped.reason == SettlementReason.RECEIPT_MALFORMED
    assert bench.ledger.size() == 0


def test_a_receipt_waits_until_its_offer_is_shown(bench: Any) -> None:
    token = bench.worker.receipt(bench.client)
    assert bench.ledger.append(bench.worker.wrk, [token], [], bench.now).stopped.reason == SettlementReason.OFFER_MISSING
    assert bench.append(token).new == 1


def other_offer_ticket(bench: Any) -> str:
    return bench.worker.ticket(bench.client, offer="cd" * 32)


REFUSED: list[tuple[str, Callable[[Any], dict[str, Any]], SettlementReason]] = [
    ("unlisted key", lambda b: {"ticket": b.worker.ticket(Ed25519PrivateKey.generate())}, SettlementReason.TICKET_KEY_UNLISTED),
    ("signature", lambda b: {"ticket": b.worker.ticket(b.client)[:-8] + "AAAAAAAA"}, SettlementReason.TICKET_SIGNATURE_INVALID),
    ("no ticket's form", lambda b: {"ticket": "x.y.z"}, SettlementReason.TICKET_SIGNATURE_INVALID),
    ("other worker", lambda b: {"ticket": b.worker.ticket(b.client, wrk="cd" * 32)}, SettlementReason.TICKET_MISMATCH),
    ("other offer", lambda b: {"ticket": other_offer_ticket(b)}, SettlementReason.TICKET_MISMATCH),
    ("other model", lambda b: {"ticket": b.worker.ticket(b.client, digest="sha256:" + "00" * 32)}, SettlementReason.TICKET_MISMATCH),
    ("other set", lambda b: {"ticket": b.worker.ticket(b.client, set="-3:0:" + "00" * 32)}, SettlementReason.TICKET_MISMATCH),
    ("over its maximum", lambda b: {"ticket": b.worker.ticket(b.client, max=20)}, SettlementReason.RECEIPT_AMOUNT_WRONG),
    ("amount too high", lambda b: {"amt": 26}, SettlementReason.RECEIPT_AMOUNT_WRONG),
    ("amount too low", lambda b: {"amt": 24}, SettlementReason.RECEIPT_AMOUNT_WRONG),
    ("failed yet billed", lambda b: {"status": Status.FAILED}, SettlementReason.RECEIPT_AMOUNT_WRONG),
    ("from the future", lambda b: {"t": b.now + 601}, SettlementReason.RECEIPT_TIME_IMPLAUSIBLE),
    ("from before the worker", lambda b: {"t": b.now - 86_401}, SettlementReason.RECEIPT_TIME_IMPLAUSIBLE),
    ("long after its ticket", lambda b: {"ticket": b.worker.ticket(b.client, exp=b.now - 3_601)}, SettlementReason.TICKET_EXPIRED),
]


@pytest.mark.parametrize(("change", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_an_unpayable_receipt_enters_unpaid_and_its_twin_is_paid(
    bench: Any, change: Callable[[Any], dict[str, Any]], reason: SettlementReason
) -> None:
    bad = bench.worker.receipt(bench.client, **change(bench))
    good = bench.worker.receipt(bench.client)
    result = bench.append(bad, good)
    assert (result.new, result.refused, result.stopped) == (2, {reason: 1}, None)
    assert (row(bench, bad)["refusal"], row(bench, bad)["net"]) == (reason, 0)
    assert (row(bench, good)["refusal"], row(bench, good)["amt"]) == ("", 25)


def test_a_ticket_pays_once_even_across_workers_and_restarts(bench: Any) -> None:
    ticket = bench.worker.ticket(bench.client)
    bench.append(bench.worker.receipt(bench.client, ticket=ticket))
    bench.ledger.close()
    bench.ledger = Ledger.open(bench.path)
    result = bench.append(bench.worker.receipt(bench.client, ticket=ticket))
    assert result.refused == {SettlementReason.TICKET_SPENT_TWICE: 1}


def pass_days(bench: Any, days: int) -> None:
    bench.clock.advance(days * 86_400)
    bench.worker.now += days * 86_400


def test_the_daily_cap_holds_to_the_last_nanoton_and_starts_anew_each_day(bench: Any) -> None:
    bench.ledger.set_clients(bench.listed(cap=50), bench.now)
    pass_days(bench, 2)  # on the day of a change the higher cap counts
    bench.jobs(2)
    assert bench.append(bench.worker.receipt(bench.client)).refused == {SettlementReason.DAILY_CAP_EXCEEDED: 1}
    other = bench.worker_for(bench.worker.wallet)  # the cap is for each worker
    bench.jobs(1, other)
    pass_days(bench, 1)
    bench.jobs(2)


def test_a_job_over_midnight_counts_for_the_day_that_it_started_on(bench: Any) -> None:
    bench.ledger.set_clients(bench.listed(cap=25), bench.now)
    pass_days(bench, 2)
    midnight = (bench.now // 86_400 + 1) * 86_400
    bench.clock.advance(midnight + 60 - bench.now)
    bench.worker.now = midnight + 30
    late = bench.worker.ticket(bench.client, exp=midnight + 30)  # made, and its job started, before midnight
    result = bench.append(bench.worker.receipt(bench.client, t=midnight + 30))
    assert result.refused == {}
    assert bench.append(bench.worker.receipt(bench.client, t=midnight + 40, ticket=late)).refused == {}
    assert bench.append(bench.worker.receipt(bench.client)).refused == {SettlementReason.DAILY_CAP_EXCEEDED: 1}


def test_a_removed_key_is_paid_for_the_days_on_which_it_was_listed(bench: Any) -> None:
    early = bench.worker.receipt(bench.client)
    bench.clock.advance(60)
    bench.ledger.set_clients([], bench.now)
    assert bench.append(early).refused == {}
    bench.clock.advance(2 * 86_400)
    bench.worker.now += 2 * 86_400 + 60
    assert bench.append(bench.worker.receipt(bench.client)).refused == {SettlementReason.TICKET_KEY_UNLISTED: 1}
    bench.ledger.set_clients(bench.listed(), bench.now)
    assert bench.append(bench.worker.receipt(bench.client)).refused == {}


def test_a_ledger_belongs_to_one_contract_and_one_fee(bench: Any) -> None:
    set_name = bench.ledger.set_name()
    bench.ledger.bind(set_name, 500)
    for other in ((set_name, 499), ("-3:0:" + "00" * 32, 500)):
        with pytest.raises(SettlementError) as caught:
            bench.ledger.bind(*other)
        assert caught.value.reason == SettlementReason.LEDGER_FOREIGN


def test_a_worker_keeps_its_wallet(bench: Any) -> None:
    for change in ({"wallet": "0:" + "00" * 32}, {"set": "-3:0:" + "00" * 32}):
        token = bench.worker.certificate(bench.ear, bench.reservation.public_key, **change)
        with pytest.raises(SettlementError) as caught:
            bench.ledger.register(ReceiptKeyCertificate.parse_unverified(token), token, "w", bench.now)
        assert caught.value.reason == SettlementReason.CERTIFICATE_INVALID
    renewed = bench.worker.certificate(bench.ear, bench.reservation.public_key, exp=bench.now + 9_999)
    kept = bench.ledger.register(ReceiptKeyCertificate.parse_unverified(renewed), renewed, "w", bench.now)
    assert (kept.certificate, kept.name) == (renewed, "minilm")


def test_the_database_itself_refuses_a_second_seq_a_second_spend_and_wrong_sums(bench: Any) -> None:
    bench.jobs(1)
    (position, record) = bench.ledger.records()[0]
    taken = row(bench, record.receipt)
    fresh = taken | {"position": position + 1, "hash": "11" * 32}
    for bad in (fresh, fresh | {"seq": 2, "net": taken["net"] + 1}, fresh | {"seq": 2, "net": -1}, fresh | {"seq": 2, "wrk": "22" * 32}):
        with pytest.raises(IntegrityError), bench.ledger.transaction() as db:
            db.execute(insert(tables.receipts).values(**bad))
    with bench.ledger.transaction() as db:
        db.execute(insert(tables.receipts).values(**(fresh | {"seq": 2})))
    spent = {"kid": "k" * 43, "res": "none", "nonce": "n" * 22, "receipt": taken["hash"]}
    with bench.ledger.transaction() as db:
        db.execute(insert(tables.spent_tickets).values(**spent))
    with pytest.raises(IntegrityError), bench.ledger.transaction() as db:
        db.execute(insert(tables.spent_tickets).values(**spent))


def test_records_carry_what_a_party_needs_and_only_its_own(bench: Any) -> None:
    stranger = Ed25519PrivateKey.generate()
    bench.ledger.set_clients(
        [*bench.listed(), AllowedClient(key=stranger.public_key().public_bytes_raw().hex(), daily_cap_nanoton="100")], bench.now
    )
    bench.append(bench.worker.receipt(bench.client), bench.worker.receipt(stranger), bench.worker.receipt(bench.client))
    kid = jws.thumbprint(bench.client.public_key().public_bytes_raw())
    mine = bench.ledger.records(kid=kid)
    assert [position for position, _ in mine] == [0, 2]
    for _, record in mine:
        assert check(record, ear_key=bench.ear.public_key().public_bytes_raw()).ticket_kid == kid
    assert len(bench.ledger.records()) == 3
    assert len(bench.ledger.records(after=1, limit=1)) == 1


def test_sums_are_by_worker_name(bench: Any) -> None:
    bench.jobs(2)
    assert [(s.name, s.earned_nanoton, s.receipts) for s in bench.ledger.sums()] == [("minilm", 2 * 24, 2)]


def test_a_failed_job_is_in_the_chain_and_bills_nothing(bench: Any) -> None:
    token = bench.worker.receipt(bench.client, status=Status.FAILED, amt=0, use=Use())
    assert bench.append(token).refused == {}
    assert row(bench, token)["net"] == 0
