"""The broker as the controller sees it: pins, health, and what is remembered when it cannot be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.clock import ManualClock
from chrysalis.controller.brokers import MAX_PINS, Brokers
from chrysalis.controller.settings import BrokerSettings
from chrysalis.wire.broker import ResultView
from chrysalis.wire.reasons import WireError, WireReason

Factory = Callable[..., Any]


class FakeBroker:
    def __init__(self, results: list[ResultView]) -> None:
        self.found = results
        self.up = True
        self.error: WireError | None = None
        self.asked: list[tuple[str, str, str, int]] = []
        self.closed = False

    async def results(self, *, namespace: str = "", worker: str = "", verdict: str = "", limit: int = 100) -> list[ResultView]:
        self.asked.append((namespace, worker, verdict, limit))
        if self.error is not None:
            raise self.error
        return [result for result in self.found if result.verdict == verdict]

    async def healthy(self) -> bool:
        return self.up

    async def aclose(self) -> None:
        self.closed = True


def spec_of(observed: Factory, pin: str = "ab" * 32, replicas: int = 1) -> ConfidentialWorkerSpec:
    broker = {"url": "https://broker.example:8443", "spkiSha256": pin, "earKey": "cd" * 32}
    return ConfidentialWorkerSpec.model_validate({**observed().worker.spec, "broker": broker, "replicas": replicas})


def test_results_and_what_is_remembered(clock: ManualClock, observed: Factory, result: Factory) -> None:
    async def scenario() -> None:
        fake = FakeBroker([result()])
        pins: list[str] = []
        brokers = Brokers(BrokerSettings(url="https://b:8443"), clock, lambda pin: (pins.append(pin), fake)[1])
        view = await brokers.view("pool", "embedder", spec_of(observed, pin="AB" * 32, replicas=500))
        assert view.up
        assert view.results == (result(),)
        assert fake.asked == [("pool", "embedder", "Accepted", 1000), ("pool", "embedder", "Refused", 100)]
        assert pins == ["ab" * 32]
        fake.error = WireError(WireReason.SERVICE_UNREACHABLE, "no answer", "look")
        down = await brokers.view("pool", "embedder", spec_of(observed))
        assert (down.up, down.reason, down.results) == (False, "BrokerUnreachable", (result(),))
        fake.error, fake.up = None, False
        clock.advance(2)
        assert not (await brokers.view("pool", "embedder", spec_of(observed))).up
        assert not brokers.all_healthy()
        brokers.forget("pool", "embedder")
        assert (await brokers.view("pool", "embedder", spec_of(observed))).results == ()
        await brokers.aclose()
        assert fake.closed

    asyncio.run(scenario())


@pytest.mark.parametrize("configured", [True, False])
def test_another_brokers_pin_is_not_asked(clock: ManualClock, observed: Factory, configured: bool) -> None:
    async def scenario() -> None:
        fake = FakeBroker([])
        fake.error = WireError(WireReason.PIN_MISMATCH, "another key", "")
        pin = "ee" * 32 if configured else None
        brokers = Brokers(BrokerSettings(url="https://b:8443", spki_sha256=pin), clock, lambda _: fake)
        view = await brokers.view("pool", "embedder", spec_of(observed))
        assert (view.up, view.reason) == (False, "BrokerPinMismatch")
        assert bool(fake.asked) is not configured

    asyncio.run(scenario())


def test_connections_are_bounded(clock: ManualClock, observed: Factory) -> None:
    async def scenario() -> None:
        made: list[FakeBroker] = []

        def connect(_: str) -> FakeBroker:
            made.append(FakeBroker([]))
            return made[-1]

        brokers = Brokers(BrokerSettings(url="https://b:8443"), clock, connect)
        for number in range(MAX_PINS + 3):
            await brokers.view("pool", "w", spec_of(observed, pin=f"{number:064x}"))
        assert [fake.closed for fake in made].count(True) == 3

    asyncio.run(scenario())
