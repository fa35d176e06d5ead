"""Rounds over workers: whom the collector believes, what it pulls, what it hands over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.receipts.objects import ClientList, SettlerToken
from chrysalis.settlement.collector import Collected, Collector, Found, newest_by_key
from chrysalis.settlement.reasons import SettlementReason
from chrysalis.wire.broker import ClaimedIdentity, Keys, ResultView
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.worker import ReceiptPage

PIN = "5a" * 32


class Source:
    """A worker's gateway in memory; serves pages of two."""

    def __init__(self, worker: Any) -> None:
        self.worker, self.tokens, self.lists, self.down = worker, [], [], False
        self.bearers: list[str] = []
        self.offers_in_page = True

    async def __aenter__(self) -> Source:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def receipts(self, after: int) -> ReceiptPage:
        if self.down:
            raise WireError(WireReason.SERVICE_UNREACHABLE, "down", "wait")
        self.bearers.append(self.bearer())
        offers = [self.worker.offer] if self.offers_in_page else []
        return ReceiptPage(wrk=self.worker.wrk, receipts=self.tokens[after : after + 2], last=len(self.tokens), offers=offers)

    async def offer(self) -> str:
        return str(self.worker.offer)

    async def put_clients(self, clients: str) -> None:
        self.lists.append(clients)


def result(bench: Any, worker: Any, **changes: Any) -> ResultView:
    members = {
        "result_id": "r",
        "verdict": "Accepted",
        "claimed": ClaimedIdentity(pod_uid="u"),
        "keys": Keys(tls_spki_sha256=PIN, hpke="00" * 32, receipt=worker.key.public_key().public_bytes_raw().hex()),
        "issued_at": bench.clock.now(),
        "receipt_certificate": worker.certificate(bench.ear, bench.reservation.public_key),
    } | changes
    return ResultView.model_validate(members)


class Rig:
    """A collector over a directory and sources in memory."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.found, self.sources = bench, [], {}
        self.connected: list[tuple[str, bytes]] = []
        self.collector = Collector(
            ledger=bench.ledger,
            directory=self,
            connect=self.connect,
            reservation=bench.reservation,
            ear_key=bench.ear.public_key().public_bytes_raw(),
            set_name=bench.ledger.set_name(),
            clock=bench.clock,
            drain_seconds=100,
        )

    def add(self, worker: Any, **changes: Any) -> Source:
        endpoint = f"https://10.0.0.{len(self.found) + 1}:8443"
        self.found.append(Found(result(self.bench, worker, **changes), endpoint, "minilm"))
        self.sources[endpoint] = Source(worker)
        return self.sources[endpoint]

    async def workers(self) -> list[Found]:
        return self.found

    async def connect(self, endpoint: str, pin: bytes, token: Callable[[], str]) -> Source:
        self.connected.append((endpoint, pin))
        self.sources[endpoint].bearer = token
        return self.sources[endpoint]

    def round(self) -> Collected:
        async def both() -> Collected:
            await self.collector.set_clients(self.bench.listed())
            return await self.collector.round()

        return asyncio.run(both())


@pytest.fixture
def rig(bench: Any) -> Rig:
    return Rig(bench)


def test_a_round_pulls_every_page_of_every_worker_once(rig: Rig, bench: Any, make_worker: Any) -> None:
    one, two = rig.add(make_worker()), rig.add(make_worker())
    one.tokens = [one.worker.receipt(bench.client) for _ in range(5)]
    two.tokens = [two.worker.receipt(bench.client) for _ in range(2)]
    assert (rig.round().new, rig.round().new, bench.ledger.size()) == (7, 0, 7)
    assert all(pin == bytes.fromhex(PIN) for _, pin in rig.connected)
    shown = SettlerToken.parse(one.bearers[0], bench.reservation.public_key)
    assert (shown.aud, shown.exp - shown.iat) == (one.worker.wrk, 60)


def test_the_client_list_is_signed_and_handed_over_again_only_when_it_changed_or_time_passed(
    rig: Rig, bench: Any, make_worker: Any
) -> None:
    source = rig.add(make_worker())
    rig.round()
    rig.round()
    assert len(source.lists) == 1
    listed = ClientList.parse(source.lists[0], bench.reservation.public_key)
    assert [c.key for c in listed.keys] == [bench.client.public_key().public_bytes_raw().hex()]
    bench.clock.advance(31)
    rig.round()
    assert len(source.lists) == 2


def test_an_offer_that_the_page_leaves_out_is_asked_for(rig: Rig, bench: Any, make_worker: Any) -> None:
    source = rig.add(make_worker())
    source.offers_in_page = False
    source.tokens = [source.worker.receipt(bench.client)]
    assert rig.round().new == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda b, w: w.certificate(Ed25519PrivateKey.generate(), b.reservation.public_key),
        lambda b, w: w.certificate(b.ear, bytes(32)),
        lambda b, w: w.certificate(b.ear, b.reservation.public_key, set="-3:0:" + "00" * 32),
        lambda b, w: w.certificate(b.ear, b.reservation.public_key, receipt_key="00" * 32),
        lambda b, w: w.certificate(b.ear, b.reservation.public_key, wallet=""),
        lambda b, w: "not.a.token",
    ],
    ids=["other EAR key", "other reservation key", "other set", "other receipt key", "no wallet", "malformed"],
)
def test_a_worker_without_a_valid_certificate_is_not_even_asked_and_its_twin_is(
    rig: Rig, bench: Any, make_worker: Any, make: Callable[[Any, Any], str]
) -> None:
    bad, good = make_worker(), make_worker()
    rig.add(bad, receipt_certificate=make(bench, bad))
    source = rig.add(good)
    source.tokens = [good.receipt(bench.client)]
    collected = rig.round()
    assert collected.new == 1
    assert collected.problems[bad.wrk].reason == SettlementReason.CERTIFICATE_INVALID
    assert [endpoint for endpoint, _ in rig.connected] == [rig.found[1].endpoint]


def test_one_worker_down_stops_no_other_and_its_receipts_come_later(rig: Rig, bench: Any, make_worker: Any) -> None:
    one, two = rig.add(make_worker()), rig.add(make_worker())
    for source in (one, two):
        source.tokens = [source.worker.receipt(bench.client)]
    one.down = True
    collected = rig.round()
    assert (collected.new, collected.problems[one.worker.wrk].reason) == (1, WireReason.SERVICE_UNREACHABLE)
    one.down = False
    assert rig.round().new == 1


def test_what_one_worker_sends_cannot_stop_the_others_receipts(
    rig: Rig, bench: Any, make_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = rig.add(make_worker()), rig.add(make_worker())

    async def fail(_after: int) -> ReceiptPage:
        raise OverflowError("something that nobody thought of")

    monkeypatch.setattr(one, "receipts", fail)
    two.tokens = [two.worker.receipt(bench.client)]
    collected = rig.round()
    assert (collected.new, collected.problems[one.worker.wrk].reason) == (1, SettlementReason.INTERNAL_ERROR)


def test_after_revocation_and_drain_the_chain_is_closed_by_the_ledgers_clock(rig: Rig, bench: Any, make_worker: Any) -> None:
    worker = make_worker()
    source = rig.add(worker, revoked_at=bench.clock.now())
    source.tokens = [worker.receipt(bench.client)]
    assert rig.round().new == 1
    source.tokens.append(worker.receipt(bench.client))
    bench.clock.advance(101)
    assert rig.round().new == 0
    assert bench.ledger.worker(worker.wrk).closed_reason == SettlementReason.CHAIN_CLOSED


def test_an_expired_worker_is_heard_for_a_day(rig: Rig, bench: Any, make_worker: Any) -> None:
    worker = make_worker()
    source = rig.add(worker)
    source.tokens = [worker.receipt(bench.client)]
    bench.clock.advance(3600 + 24 * 3600)
    assert rig.round().new == 1
    source.tokens.append(worker.receipt(bench.client))
    bench.clock.advance(1)
    assert rig.round().new == 0


def test_a_gap_is_named_and_the_receipts_before_it_are_kept(rig: Rig, bench: Any, make_worker: Any) -> None:
    source = rig.add(make_worker())
    tokens = [source.worker.receipt(bench.client) for _ in range(3)]
    source.tokens = [tokens[0], tokens[2]]
    collected = rig.round()
    assert (collected.new, collected.problems[source.worker.wrk].reason) == (1, SettlementReason.RECEIPT_GAP)


def test_the_newest_accepted_result_of_each_key_counts(bench: Any, make_worker: Any) -> None:
    worker, other = make_worker(), make_worker()
    later = bench.clock.now() + timedelta(seconds=9)
    listed = [
        result(bench, worker, result_id="refused", verdict="Refused"),
        result(bench, worker, result_id="new", issued_at=later),
        result(bench, worker, result_id="old"),
        result(bench, other, result_id="other"),
        result(bench, make_worker(), receipt_certificate=""),
    ]
    assert sorted(r.result_id for r in newest_by_key(listed).values()) == ["new", "other"]
