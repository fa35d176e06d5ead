"""The cache of collateral: proved before it is kept, never back, good until its nextUpdate, one replica asks at a time."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.attestation import quote
from chrysalis.attestation.anchor import INTEL_ANCHOR, TrustAnchor, from_der
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument, split
from chrysalis.attestation.pck_chain import Platform
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.broker import collateral as cache_module
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.collateral_reasons import Answer, CollateralReason, DocumentKey, Failure
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store
from chrysalis.clock import ManualClock
from e2e.simtd.pki import CollateralShape, SimulatedPlatform, Tampering

pytestmark = pytest.mark.slow

World = Any
Reasons = Callable[[Any], list[str]]
DAY = 86400
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
FMSPC = "51D000000000"


@dataclass
class Pccs:
    """A fetcher that serves a platform's documents of now, or what a test puts in their place; notes what it was asked."""

    platform: SimulatedPlatform
    clock: ManualClock
    asked: list[DocumentKey] = field(default_factory=list)
    down: bool = False
    shown: dict[DocumentKind, Answer] = field(default_factory=dict)
    during: Callable[[], None] | None = None  # runs while it is being asked

    def fetch(self, keys: Sequence[DocumentKey], anchor: TrustAnchor) -> dict[DocumentKey, Answer]:
        self.asked += keys
        if self.during is not None:
            self.during()
        if self.down:
            return {key: Failure(CollateralReason.UNREACHABLE, "down") for key in keys}
        documents = made(self.platform, self.clock.now())
        return {key: self.shown.get(key.kind, documents[key.kind]) for key in keys}


def made(platform: SimulatedPlatform, at: datetime, **shape: Any) -> dict[DocumentKind, SignedDocument]:
    return split(Collateral.from_json(platform.collateral(at, CollateralShape(**shape))))


class Bench:
    """A cache over a database, a PCCS that is told what to do, and a clock."""

    def __init__(self, url: str, platform: SimulatedPlatform) -> None:
        self.clock = ManualClock(AT)
        self.platform = platform
        self.pccs = Pccs(platform, self.clock)
        self.url = url
        self.store = Store(url)
        self.stores = [self.store]
        self.metrics = Metrics()
        self.anchor = from_der(platform.root_der)
        self.quote = quote.parse(platform.quote())
        self.cache = self.replica(metrics=self.metrics)

    def replica(self, fetcher: Any = None, channel: str = "standard", metrics: Metrics | None = None) -> CollateralCache:
        store = self.store
        return CollateralCache(
            store=store, fetcher=fetcher or self.pccs, update_channel=channel, clock=self.clock, metrics=metrics or Metrics()
        )

    def get(self) -> Collateral:
        return self.cache.for_quote(self.quote, self.anchor, self.clock.now())

    def forward(self, days: float) -> None:
        self.clock.advance(days * DAY)

    def failures(self, kind: DocumentKind, reason: str) -> float:
        return float(self.metrics.collateral_failures.labels(kind.value, reason)._value.get())

    def reasons(self) -> dict[str, str]:
        return {row.document: row.reason for row in self.cache.status() if row.reason}


@pytest.fixture
def bench(database_url: str, platform: SimulatedPlatform) -> Iterator[Bench]:
    found = Bench(database_url, platform)
    yield found
    found.store.close()


# When it asks


def test_asked_once_then_again_at_half_life(bench: Bench) -> None:
    first = bench.get()
    assert [key.kind for key in bench.pccs.asked] == list(DocumentKind)
    for _ in range(11):  # of 30 days; half of them less a fifth is day 12
        bench.forward(1)
        bench.cache.refresh()
        assert bench.get() is first
    assert len(bench.pccs.asked) == 4
    bench.forward(8)
    assert bench.get() is first  # an attestation does not wait for it
    bench.cache.refresh()
    assert len(bench.pccs.asked) == 8
    assert bench.get().tcb.issue_date == datetime(2026, 11, 20, tzinfo=UTC)


def test_an_outage_shorter_than_the_life_refuses_nobody(world: World, reasons: Reasons) -> None:
    """The PCCS is down from before half-life on: every attestation passes until nextUpdate, none after, all again when it is back."""

    def attest() -> Any:
        return world.attest(world.domain(world.acme))

    assert attest().status_code == 200
    issued = world.clock.now()
    world.pccs.down = True
    ends = issued.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=30)
    world.clock.advance(12 * DAY)
    while world.clock.now() < ends - timedelta(seconds=1):
        world.deps.collateral.refresh()
        assert attest().status_code == 200
        world.clock.advance(min(DAY, (ends - timedelta(seconds=1) - world.clock.now()).total_seconds()))
    assert attest().status_code == 200
    world.clock.advance(1)
    assert reasons(attest()) == ["CollateralExpired"]
    world.pccs.down = False
    world.clock.advance(301)
    assert attest().status_code == 200


def test_bad_answers_put_the_next_one_off_ever_longer(bench: Bench) -> None:
    bench.get()
    bench.pccs.down = True
    bench.forward(20)
    waits = []
    for _ in range(12):
        bench.cache.refresh()
        row = next(row for row in bench.cache.status() if row.document == "tcbInfo")
        waits.append(row.next_attempt_at - row.failed_at)
        before = len(bench.pccs.asked)
        bench.cache.refresh()
        assert len(bench.pccs.asked) == before  # not at once
        bench.clock.advance(row.next_attempt_at - row.failed_at + 1)
    assert 24 <= waits[0] <= 30
    assert all(later >= 1.4 * earlier for earlier, later in itertools.pairwise(waits[:6]))
    assert 2880 <= waits[-1] <= 3600
    bench.pccs.down = False
    bench.clock.advance(3601)
    bench.cache.refresh()
    assert bench.reasons() == {}
    assert {row.failures for row in bench.cache.status()} == {0}


def test_one_document_that_fails_does_not_hold_up_the_others(bench: Bench) -> None:
    bench.get()
    bench.forward(20)
    bench.pccs.shown = {DocumentKind.TCB_INFO: Failure(CollateralReason.SERVER_ERROR, "500")}
    bench.cache.refresh()
    assert bench.reasons() == {"tcbInfo": "ServerError"}
    collateral = bench.get()
    assert collateral.pck_crl_facts.this_update.day == 21
    assert collateral.tcb.issue_date.day == 1
    assert bench.failures(DocumentKind.TCB_INFO, "ServerError") == 1


def test_without_any_collateral_it_is_temporary(world: World, reasons: Reasons) -> None:
    world.pccs.down = True
    answer = world.attest(world.domain(world.acme))
    assert (answer.status_code, reasons(answer)) == (503, ["CollateralUnavailable"])
    assert answer.headers["retry-after"]
    world.attest(world.domain(world.acme))
    assert world.pccs.fetched == 1  # not asked again at once
    world.pccs.down = False
    world.clock.advance(31)
    assert world.attest(world.domain(world.acme)).status_code == 200


def test_a_broker_without_pccs_says_so(bench: Bench) -> None:
    alone = CollateralCache(store=bench.store, fetcher=None, update_channel="standard", clock=bench.clock, metrics=bench.metrics)
    with pytest.raises(BrokerError) as caught:
        alone.for_quote(bench.quote, bench.anchor, AT)
    assert caught.value.reason == BrokerReason.COLLATERAL_MISSING
    alone.refresh()


# Who may make it ask


def test_a_stranger_cannot_make_it_ask(bench: Bench) -> None:
    stranger = SimulatedPlatform.create(fmspc=bytes.fromhex("00906ed50000"))
    forged = [
        stranger.quote(),  # another root
        stranger.quote(chain=stranger.pck_chain.replace(stranger.pck_chain[-400:], bench.platform.pck_chain[-400:])),
        bench.platform.quote(chain=stranger.pck_chain),
    ]
    raw = bytearray(bench.platform.quote())
    raw[60] ^= 1
    forged.append(bytes(raw))  # a changed report: the platform's key did not sign it
    for quoted in forged:
        with pytest.raises(AttestationError) as caught:
            bench.cache.for_quote(quote.parse(quoted), bench.anchor, AT)
        assert caught.value.reason in {
            AttestationReason.TRUST_ROOT_MISMATCH,
            AttestationReason.SIGNATURE_INVALID,
            AttestationReason.CERTIFICATE_INVALID,
        }
    assert bench.pccs.asked == []
    assert bench.store.collateral_rows() == {}
    bench.get()
    assert len(bench.pccs.asked) == 4


def test_no_quote_of_a_simulated_platform_asks_under_intels_root(bench: Bench) -> None:
    with pytest.raises(AttestationError) as caught:
        bench.cache.for_quote(bench.quote, INTEL_ANCHOR, AT)
    assert caught.value.reason == AttestationReason.TRUST_ROOT_MISMATCH
    assert bench.pccs.asked == []


def test_unknown_platforms_are_let_in_slowly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns a root can certify any FMSPC; the documents of its own root never come, and not many are asked for."""
    monkeypatch.setattr(cache_module, "UNKNOWN_BURST", 3)
    monkeypatch.setattr(cache_module, "UNKNOWN_PER_MINUTE", 2)
    cache = bench.replica(metrics=bench.metrics)
    bench.pccs.down = True
    said: list[str] = []
    for number in range(6):
        tenant = SimulatedPlatform.create(fmspc=bytes([0, 0x90, 0, 0, 0, number]))
        with pytest.raises(BrokerError) as caught:
            cache.for_quote(quote.parse(tenant.quote()), from_der(tenant.root_der), AT)
        assert caught.value.reason == BrokerReason.COLLATERAL_UNAVAILABLE
        said.append(caught.value.detail)
    assert ["TooManyPlatforms" in text for text in said] == [False] * 3 + [True] * 3
    assert bench.failures(DocumentKind.TCB_INFO, "TooManyPlatforms") == 3
    assert cache._may_ask_for_one_more(INTEL_ANCHOR)  # real platforms have an allowance of their own
    assert not cache._may_ask_for_one_more(bench.anchor)
    bench.pccs.down = False
    bench.clock.advance(60)
    assert cache.for_quote(bench.quote, bench.anchor, bench.clock.now())


def test_what_never_came_is_forgotten(bench: Bench) -> None:
    bench.pccs.down = True
    with pytest.raises(BrokerError):
        bench.get()
    assert {row.state for row in bench.cache.status()} == {"Missing"}
    bench.forward(1)
    bench.cache.refresh()
    assert bench.cache.status() == []


def test_not_found_is_remembered(bench: Bench) -> None:
    bench.pccs.shown = {DocumentKind.TCB_INFO: Failure(CollateralReason.NOT_FOUND, "404")}
    for _ in range(3):
        with pytest.raises(BrokerError) as caught:
            bench.get()
        assert "NotFound" in caught.value.message
        bench.clock.advance(200)
    assert [key.kind for key in bench.pccs.asked].count(DocumentKind.TCB_INFO) == 1
    assert [key.kind for key in bench.pccs.asked].count(DocumentKind.QE_IDENTITY) == 1  # was kept


# What it keeps


def _later(bench: Bench) -> dict[DocumentKind, SignedDocument]:
    """Twenty days on, everything is due; the documents of the first day."""
    bench.get()
    old = made(bench.platform, bench.clock.now())
    bench.forward(20)
    return old


@pytest.mark.parametrize("kind", list(DocumentKind))
def test_each_document_never_goes_back(bench: Bench, kind: DocumentKind) -> None:
    old = _later(bench)
    bench.cache.refresh()
    before = bench.get()
    bench.forward(20)
    bench.pccs.shown = {kind: old[kind]} if kind.is_crl else {kind: made(bench.platform, AT + timedelta(days=19))[kind]}
    if kind.is_crl:  # current still, but older than the kept one
        bench.pccs.shown = {kind: made(bench.platform, AT + timedelta(days=19))[kind]}
    bench.cache.refresh()
    assert bench.reasons() == {kind.value: "CollateralRolledBack"}
    assert bench.failures(kind, "CollateralRolledBack") == 1
    documents = split(bench.get())
    assert documents[kind] == split(before)[kind]
    assert all(documents[other] != split(before)[other] for other in DocumentKind if other is not kind)


@pytest.mark.parametrize("kind", [DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY])
def test_a_lower_evaluation_number_is_a_roll_back_although_it_is_younger(bench: Bench, kind: DocumentKind) -> None:
    _later(bench)
    bench.pccs.shown = {kind: made(bench.platform, bench.clock.now(), evaluation_data_number=19)[kind]}
    bench.cache.refresh()
    assert bench.reasons() == {kind.value: "CollateralRolledBack"}


def test_the_log_tells_of_a_roll_back(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    _later(bench)
    bench.pccs.shown = {DocumentKind.PCK_CRL: made(bench.platform, AT - timedelta(days=1))[DocumentKind.PCK_CRL]}
    bench.cache.refresh()
    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "CollateralRolledBack"]
    assert (record.__dict__["document"], record.levelname) == ("pckCrl", "WARNING")


def _forged(bench: Bench) -> dict[DocumentKind, Answer]:
    forger = SimulatedPlatform.create()
    return dict(made(forger, bench.clock.now(), evaluation_data_number=999))


def _other_platform(bench: Bench) -> dict[DocumentKind, Answer]:
    documents = made(bench.platform, bench.clock.now(), fmspc=bytes.fromhex("00906ed50000"))
    return {DocumentKind.TCB_INFO: documents[DocumentKind.TCB_INFO]}


def _by_a_platform(bench: Bench) -> dict[DocumentKind, Answer]:
    documents = made(bench.platform, bench.clock.now(), tampering=Tampering(signer_is_pck=True))
    return {DocumentKind.TCB_INFO: documents[DocumentKind.TCB_INFO]}


def _future(bench: Bench) -> dict[DocumentKind, Answer]:
    return dict(made(bench.platform, bench.clock.now() + timedelta(days=1)))


def _ended(bench: Bench) -> dict[DocumentKind, Answer]:
    return dict(made(bench.platform, bench.clock.now() - timedelta(days=40)))


def _revoked(bench: Bench) -> dict[DocumentKind, Answer]:
    return dict(made(bench.platform, bench.clock.now(), revoked=("tcb",)))


def _numbers(bench: Bench) -> dict[DocumentKind, Answer]:
    return dict(made(bench.platform, bench.clock.now(), crl_number=1 << 158))


def _versions(bench: Bench) -> dict[DocumentKind, Answer]:
    def edit(info: dict[str, Any], identity: dict[str, Any]) -> None:
        info["version"], identity["version"] = 4, 3

    return dict(made(bench.platform, bench.clock.now(), tampering=Tampering(edit=edit)))


NOT_GENUINE: dict[str, tuple[Callable[[Bench], dict[DocumentKind, Answer]], dict[str, str]]] = {
    "forged": (
        _forged,
        {"rootCrl": "CollateralSignatureInvalid"} | dict.fromkeys(("pckCrl", "tcbInfo", "qeIdentity"), "TrustRootMismatch"),
    ),
    "another platform's": (_other_platform, {"tcbInfo": "CollateralMismatch"}),
    "by a leaked platform key": (_by_a_platform, {"tcbInfo": "CollateralSignerInvalid"}),
    "from the future": (_future, dict.fromkeys(("rootCrl", "pckCrl", "tcbInfo", "qeIdentity"), "CollateralNotYetValid")),
    "ended": (_ended, dict.fromkeys(("rootCrl", "pckCrl", "tcbInfo", "qeIdentity"), "CollateralExpired")),
    "with numbers that no database keeps": (_numbers, dict.fromkeys(("rootCrl", "pckCrl"), "CollateralMalformed")),
    "of versions that no appraisal takes": (_versions, dict.fromkeys(("tcbInfo", "qeIdentity"), "CollateralMismatch")),
    "by a revoked signer": (_revoked, dict.fromkeys(("tcbInfo", "qeIdentity"), "CertificateRevoked")),
}


@pytest.mark.parametrize("name", NOT_GENUINE)
def test_what_is_not_genuine_neither_refuses_nor_sticks(bench: Bench, name: str) -> None:
    show, expected = NOT_GENUINE[name]
    _later(bench)
    before = split(bench.get())
    bench.pccs.shown = show(bench)
    bench.cache.refresh()
    assert bench.reasons() == expected
    after = split(bench.get())
    assert {kind.value for kind in DocumentKind if after[kind] == before[kind]} == expected.keys()
    bench.pccs.shown = {}  # and the genuine documents are still taken, although their number is lower than a forger's
    bench.forward(1)
    bench.cache.refresh()
    if name != "by a revoked signer":
        assert bench.reasons() == {}


def test_a_recovery_counts_as_soon_as_it_is_known(world: World, reasons: Reasons) -> None:

    def attest() -> Any:
        return world.attest(world.domain(world.acme))

    assert attest().status_code == 200
    world.clock.advance(20 * DAY)
    world.pccs.shown = Collateral.from_json(
        world.platform.collateral(world.clock.now(), CollateralShape(status="OutOfDate", evaluation_data_number=21))
    )
    world.deps.collateral.refresh()
    assert reasons(attest()) == ["TcbOutOfDate"]
    world.clock.advance(20 * DAY)
    world.pccs.shown = None  # number 20 again: the wish to go back
    world.deps.collateral.refresh()
    world.clock.advance(100)
    assert reasons(attest())[0] in ("TcbOutOfDate", "CollateralExpired")


def test_a_revocation_by_the_root_has_the_rest_asked_for_anew(bench: Bench) -> None:
    bench.get()
    bench.forward(13)
    now = int(bench.clock.now().timestamp())
    documents = made(bench.platform, bench.clock.now(), revoked=("ca",))
    key = DocumentKey(bench.anchor.sha256, DocumentKind.ROOT_CRL)
    bench.store.keep_collateral([(key, documents[DocumentKind.ROOT_CRL], now + DAY)], now)
    due = {row.document for row in bench.cache.status() if row.next_attempt_at <= now}
    assert due == {"pckCrl", "tcbInfo", "qeIdentity"}


def test_roots_never_meet(bench: Bench) -> None:
    """The same FMSPC under two roots: each has its own documents, and one's are never given out for the other's."""
    first = bench.get()
    rival = SimulatedPlatform.create()
    served, bench.pccs.platform = bench.pccs.platform, rival
    second = bench.cache.for_quote(quote.parse(rival.quote()), from_der(rival.root_der), AT)
    assert second != first
    assert bench.get() == first
    bench.pccs.platform = served
    assert len({row.root for row in bench.cache.status()}) == 2
    bench.forward(20)
    bench.cache.refresh()  # the PCCS serves the first root's documents alone: the rival's stay as they are
    assert {row.reason for row in bench.cache.status() if row.root == from_der(rival.root_der).sha256[:16]} == {
        "CollateralSignatureInvalid",
        "TrustRootMismatch",
    }
    assert bench.cache.for_quote(quote.parse(rival.quote()), from_der(rival.root_der), bench.clock.now()) == second


def test_channels_never_meet(bench: Bench) -> None:
    bench.get()
    early = bench.replica(channel="early")
    early.for_quote(bench.quote, bench.anchor, AT)
    assert [(key.kind, key.update) for key in bench.pccs.asked[4:]] == [
        (DocumentKind.TCB_INFO, "early"),
        (DocumentKind.QE_IDENTITY, "early"),  # the lists are the same for both
    ]
    bench.forward(20)
    bench.pccs.asked.clear()
    early.refresh()
    assert {key.update for key in bench.pccs.asked} == {"", "early"}


def test_exact_bytes_are_kept(bench: Bench) -> None:
    spaced = made(bench.platform, AT)[DocumentKind.TCB_INFO]
    bench.get()
    key = DocumentKey(bench.anchor.sha256, DocumentKind.TCB_INFO, FMSPC, "standard")
    kept = bench.store.collateral_document(key)
    assert kept is not None
    assert kept.body == spaced.body


# Replicas, and who is told


def test_replicas_share_what_one_has_fetched(bench: Bench) -> None:
    first = bench.get()
    never = Pccs(bench.platform, bench.clock)
    assert bench.replica(never).for_quote(bench.quote, bench.anchor, AT) == first
    assert never.asked == []


def test_one_replica_asks_at_a_time(bench: Bench) -> None:
    bench.get()
    bench.forward(20)
    other_pccs = Pccs(bench.platform, bench.clock)
    other = bench.replica(other_pccs)
    bench.pccs.during = other.refresh
    bench.cache.refresh()
    assert other_pccs.asked == []
    bench.forward(20)
    bench.pccs.during = None
    other.refresh()
    assert len(other_pccs.asked) == 4


def test_a_replica_that_died_gives_its_claim_back(bench: Bench) -> None:
    keys = bench.cache.keys(Platform(FMSPC, "platform"), bench.anchor)
    now = int(bench.clock.now().timestamp())
    assert len(bench.store.claim_collateral(keys, "dead", now, cache_module.CLAIM_SECONDS)) == 4
    with pytest.raises(BrokerError) as caught:
        bench.get()
    assert caught.value.reason == BrokerReason.COLLATERAL_UNAVAILABLE
    bench.clock.advance(cache_module.CLAIM_SECONDS)
    assert bench.get()


def test_attestations_that_come_at_once_ask_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "WAIT_SECONDS", 60.0)  # however busy the machine is
    found: list[Collateral] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        threading.Event().wait(0.2)

    bench.pccs.during = wait
    threads = [threading.Thread(target=lambda: found.append(bench.get())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun.is_set()
    assert len(found) == 6
    assert len(bench.pccs.asked) == 4


def test_whoever_subscribed_is_told_what_changed(bench: Bench) -> None:
    told: list[Sequence[DocumentKey]] = []
    bench.cache.subscribe(told.append)
    bench.get()
    bench.cache.refresh()
    bench.forward(20)
    bench.pccs.shown = {DocumentKind.TCB_INFO: split(bench.get())[DocumentKind.TCB_INFO]}  # unchanged
    bench.cache.refresh()
    assert [sorted(key.kind for key in keys) for keys in told] == [
        sorted(DocumentKind),
        sorted([DocumentKind.ROOT_CRL, DocumentKind.PCK_CRL, DocumentKind.QE_IDENTITY]),
    ]
    assert bench.reasons() == {}


def test_a_replaced_document_has_stored_evidence_judged_again(bench: Bench) -> None:
    bench.get()
    assert bench.store.pending_sweeps() == 0  # nothing could rest on what was not there
    bench.forward(20)
    bench.cache.refresh()
    assert bench.store.pending_sweeps() == 1


def test_after_a_restart_the_anchor_is_found_in_the_documents(bench: Bench) -> None:
    bench.get()
    bench.forward(20)
    bench.replica().refresh()
    assert len(bench.pccs.asked) == 8


def test_metrics_tell_age_and_end(bench: Bench) -> None:
    bench.get()
    bench.forward(3)
    bench.cache.refresh()
    labels = ("tcbInfo", FMSPC, bench.anchor.sha256[:16])
    assert bench.metrics.collateral_age.labels(*labels)._value.get() == 3 * DAY
    assert bench.metrics.collateral_expiry.labels(*labels)._value.get() == datetime(2026, 12, 1, tzinfo=UTC).timestamp()


def test_status_as_json(bench: Bench) -> None:
    bench.get()
    document = json.loads(bench.cache.status_json())
    assert {row["document"]: row["state"] for row in document["documents"]} == {kind.value: "Current" for kind in DocumentKind}
    bench.forward(31)
    assert {row.state for row in bench.cache.status()} == {"Expired"}
