"""A real HTTP server that answers badly in every way that it knows: the broker serves from its last good documents."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chrysalis.attestation import quote
from chrysalis.attestation.anchor import INTEL_ANCHOR, from_der
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_documents import DocumentKind, split
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.collateral_settings import CollateralSettings
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.pccs import PccsFetcher
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store
from chrysalis.clock import ManualClock
from e2e.pccs.faults import Fault
from e2e.pccs.server import FaultyPccs, bomb
from e2e.pccs.sources import FileSource, SimulatedSource
from e2e.simtd.pki import SimulatedPlatform
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.slow

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
DAY = 86400
TIMEOUT_SECONDS = 1
"""For a server that keeps silent; one that answers has a minute, as a busy machine needs its time."""
SILENT = (Fault.HANG, Fault.DRIP, Fault.DRIP_HEAD)
MEMORY_BYTES = 24 * 1024 * 1024
EVERY = ("rootCrl", "pckCrl", "tcbInfo", "qeIdentity")


class Broker:
    """The broker's cache over a database, with its own fetcher against a test PCCS."""

    def __init__(self, folder: Path, platform: SimulatedPlatform) -> None:
        self.platform = platform
        self.clock = ManualClock(AT)
        self.pccs = FaultyPccs(SimulatedSource(platform, self.clock))
        self.pccs.start()
        self.store = Store(f"sqlite:///{folder / 'broker.db'}")
        self.metrics = Metrics()
        self.cache = CollateralCache(
            store=self.store, fetcher=self._fetcher(60), update_channel="standard", clock=self.clock, metrics=self.metrics
        )
        self.quote = quote.parse(platform.quote())
        self.anchor = from_der(platform.root_der)

    def _fetcher(self, seconds: int) -> PccsFetcher:
        return PccsFetcher(CollateralSettings.model_validate({"url": self.pccs.url, "timeoutSeconds": seconds}))

    def behave(self, fault: Fault, back: timedelta = timedelta(days=1)) -> None:
        """Have the PCCS do so, and wait for it as long as fits."""
        self.cache._fetcher = self._fetcher(TIMEOUT_SECONDS if fault in SILENT else 60)
        self.pccs.behave(fault, back=back)

    def get(self) -> Collateral:
        return self.cache.for_quote(self.quote, self.anchor, self.clock.now())

    def failures(self) -> dict[str, str]:
        """The reason by document, out of the metrics."""
        samples = [sample for metric in self.metrics.collateral_failures.collect() for sample in metric.samples]
        return {sample.labels["document"]: sample.labels["reason"] for sample in samples if sample.name.endswith("_total")}

    def close(self) -> None:
        self.pccs.stop()
        self.store.close()


@pytest.fixture
def broker(tmp_path: Path, platform: SimulatedPlatform) -> Iterator[Broker]:
    found = Broker(tmp_path, platform)
    yield found
    found.close()


def _all(reason: str) -> dict[str, str]:
    return dict.fromkeys(EVERY, reason)


WRONG_ROOT = {"rootCrl": "CollateralSignatureInvalid"} | dict.fromkeys(EVERY[1:], "TrustRootMismatch")
FAULTS: dict[Fault, dict[str, str]] = {
    Fault.FAIL: _all("ServerError"),
    Fault.MISSING: _all("NotFound") | {"rootCrl": "HostNotAllowed"},  # it is looked for at the distribution point then
    Fault.THROTTLE: _all("Throttled"),
    Fault.HANG: _all("TimedOut"),
    Fault.DROP: _all("AnswerBroken"),
    Fault.GARBAGE: _all("CollateralMalformed"),
    Fault.NO_HTTP: _all("AnswerBroken"),
    Fault.REDIRECT: _all("Redirected"),
    Fault.HUGE: _all("AnswerTooLarge"),
    Fault.HUGE_STATED: _all("AnswerTooLarge"),
    Fault.BOMB: _all("ContentUnexpected"),
    Fault.TRUNCATE: _all("AnswerBroken"),
    Fault.DRIP: _all("TimedOut"),
    Fault.DRIP_HEAD: _all("TimedOut"),
    Fault.PAGE: _all("ContentUnexpected"),
    Fault.NO_CHAIN: dict.fromkeys(EVERY[1:], "IssuerChainMissing"),
    Fault.ROLL_BACK: _all("CollateralRolledBack"),
    Fault.FORGE: WRONG_ROOT,
    Fault.SPACE: _all("CollateralSignatureInvalid"),
    Fault.OTHER: WRONG_ROOT,
}


def test_every_fault_is_in_the_table() -> None:
    assert set(FAULTS) == set(Fault) - {Fault.NONE}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_broker_serving(broker: Broker, fault: Fault) -> None:
    before = split(broker.get())
    broker.clock.advance(20 * DAY)
    broker.behave(fault, timedelta(days=21))
    broker.pccs.sent = 0
    if fault is Fault.BOMB:
        assert len(bomb()) < 8 << 20  # made before the memory is watched
    tracemalloc.start()
    with Stopwatch() as taken:
        broker.cache.refresh()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert broker.failures() == FAULTS[fault]
    assert taken.seconds < TIMEOUT_SECONDS + 1.5
    assert peak < MEMORY_BYTES
    assert broker.pccs.sent < 64 * 1024 * 1024  # it hangs up on the gigabyte
    after = split(broker.get())
    assert {kind.value for kind in DocumentKind if after[kind] == before[kind]} == set(FAULTS[fault])
    # the twin: the same server, behaving
    broker.behave(Fault.NONE)
    broker.clock.advance(DAY)
    broker.cache.refresh()
    renewed = split(broker.get())
    assert all(renewed[kind] != before[kind] for kind in DocumentKind)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.FAIL, Fault.DRIP_HEAD])
def test_a_fault_at_the_first_time_is_temporary(broker: Broker, fault: Fault) -> None:
    broker.behave(fault)
    with Stopwatch() as taken, pytest.raises(BrokerError) as caught:
        broker.get()
    assert caught.value.reason == BrokerReason.COLLATERAL_UNAVAILABLE
    assert FAULTS[fault]["rootCrl"] in caught.value.message
    assert taken.seconds < TIMEOUT_SECONDS + 1.5
    asked = broker.pccs.asked.total()
    with pytest.raises(BrokerError):
        broker.get()
    assert broker.pccs.asked.total() == asked  # the failure is remembered
    broker.behave(Fault.NONE)
    broker.clock.advance(31)
    if fault is not Fault.FAIL:
        assert broker.get()


def test_attestations_do_not_wait_for_a_refresh_that_hangs(broker: Broker) -> None:
    broker.get()
    broker.clock.advance(20 * DAY)
    asked = broker.pccs.asked.total()
    broker.pccs.behave(Fault.HANG)  # until it is told otherwise
    refreshing = threading.Thread(target=broker.cache.refresh)
    refreshing.start()
    while broker.pccs.asked.total() < asked + len(EVERY):
        assert refreshing.is_alive()
        refreshing.join(0.01)
    for _ in range(5):
        broker.get()
        assert refreshing.is_alive()
    broker.pccs.behave()
    refreshing.join()


def test_one_document_alone(broker: Broker) -> None:
    broker.get()
    broker.clock.advance(20 * DAY)
    broker.pccs.behave(Fault.FAIL, "qeIdentity")
    broker.cache.refresh()
    assert broker.failures() == {"qeIdentity": "ServerError"}


@pytest.mark.vectors
def test_real_documents_over_http(tmp_path: Path, vectors: Path) -> None:
    """Intel's own documents through server, fetcher and cache: the bytes of the bundle, and a real quote is judged by them."""
    bundle = Collateral.from_json((vectors / "collateral/near-b0c0-2026-08.json").read_text())
    folder = tmp_path / "bundles"
    folder.mkdir()
    (folder / "near.json").write_text(bundle.to_json())
    clock = ManualClock(max(document.issued for document in split(bundle).values()))
    store = Store(f"sqlite:///{tmp_path / 'broker.db'}")
    with FaultyPccs(FileSource(folder)) as pccs:
        fetcher = PccsFetcher(CollateralSettings.model_validate({"url": pccs.url}))
        cache = CollateralCache(store=store, fetcher=fetcher, update_channel="standard", clock=clock, metrics=Metrics())
        found = quote.parse(quote.read((vectors / "dcap-qvl/tdx_quote").read_bytes()))
        assert cache.for_quote(found, INTEL_ANCHOR, clock.now()) == bundle
    store.close()
