"""Lanes: places in turn by network, whatever an attacker holds; simulated in virtual time, over the broker's own code."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.broker import lanes, origins
from chrysalis.broker.lanes import Lane
from chrysalis.broker.limits import Limits, LimitSettings, Standing
from chrysalis.broker.origins import Origin, origin_of
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import ManualClock

pytestmark = pytest.mark.slow


class _Instant(selectors.SelectSelector):
    """Waits by setting the clock on: nothing is awaited but time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("waits for ever")
        self._clock.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a clock that stands still while somebody works."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(_Instant(clock))
        self._manual = clock

    def time(self) -> float:
        return self._manual.monotonic()


def run(clock: ManualClock, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop(clock)
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()


def test_a_lane_serves_addresses_in_turn(clock: ManualClock) -> None:
    served: list[str] = []

    async def attempt(lane: Lane, address: str) -> None:
        async with lane.place((address,)):
            served.append(address)
            await asyncio.sleep(0)

    async def scenario() -> None:
        lane = Lane(1, 100)
        tasks = [asyncio.create_task(attempt(lane, "flood")) for _ in range(20)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(attempt(lane, "good")))
        await asyncio.gather(*tasks)
        assert served.index("good") <= 3  # one had the place, one was next
        assert len(served) == 21
        assert not lane._root.parts

    run(clock, scenario)


def test_a_full_queue_takes_from_whom_has_most(clock: ManualClock) -> None:
    async def scenario() -> None:
        lane = Lane(1, 4)
        release = asyncio.Event()
        done: list[str] = []

        async def attempt(address: str) -> None:
            async with lane.place((address,)):
                await release.wait()
                done.append(address)

        flood = [asyncio.create_task(attempt("flood")) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert lane.waiting == 4
        assert not lane.admits(("flood",))
        assert lane.admits(("good",))
        good = asyncio.create_task(attempt("good"))
        await asyncio.sleep(0.01)
        with pytest.raises(BrokerError) as caught:
            await attempt("flood")
        assert caught.value.reason == BrokerReason.BUSY
        release.set()
        outcomes = await asyncio.gather(*flood, good, return_exceptions=True)
        assert [isinstance(outcome, BrokerError) for outcome in outcomes] == [False, False, False, False, True, False]
        assert done == ["flood", "flood", "good", "flood", "flood"]

    run(clock, scenario)


def test_room_is_made_within_the_newcomers_own_network(clock: ManualClock) -> None:
    """Two networks have half of the queue each: a newcomer displaces its noisy neighbour, not the others."""

    async def scenario() -> None:
        lane = Lane(1, 4)
        async with lane.place(("x", "x")):
            for path in (("a", "noisy"), ("a", "noisy"), ("b", "1"), ("b", "2")):
                asyncio.ensure_future(lane.place(path).__aenter__()).add_done_callback(lambda done: done.exception())
            await asyncio.sleep(0)
            assert not lane.admits(("a", "noisy"))
            good = asyncio.ensure_future(lane.place(("a", "quiet")).__aenter__())
            await asyncio.sleep(0.01)
            assert {name: node.count for name, node in lane._root.parts["a"].parts.items()} == {"noisy": 1, "quiet": 1}
            assert lane._root.parts["b"].count == 2
            assert not lane.admits(("b", "3"))  # where everybody has one, nobody makes room
            assert not good.done()
            good.cancel()

    run(clock, scenario)


def test_nobody_waits_for_ever(clock: ManualClock) -> None:
    async def scenario() -> None:
        lane = Lane(1, 4)
        async with lane.place(("a",)):
            started = clock.monotonic()
            with pytest.raises(BrokerError) as caught:
                async with lane.place(("b",)):
                    raise AssertionError
            assert caught.value.reason == BrokerReason.BUSY
            assert clock.monotonic() - started == pytest.approx(lanes.QUEUE_SECONDS, abs=0.01)
            waiting = asyncio.ensure_future(lane.place(("c",)).__aenter__())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with lane.place(("d",)):  # the place is free again
            assert not lane._root.parts
            assert lane._free == 0
        assert lane._free == 1

    run(clock, scenario)


@given(st.lists(st.tuples(st.lists(st.sampled_from("ab"), min_size=3, max_size=3), st.floats(0, 7), st.booleans()), max_size=30))
@settings(max_examples=60)
def test_a_lane_loses_and_invents_no_place(attempts: list[tuple[list[str], float, bool]]) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    at_once: list[int] = []
    inside = 0

    async def scenario() -> None:
        lane = Lane(2, 5)

        async def attempt(path: list[str], seconds: float) -> None:
            nonlocal inside
            async with lane.place(tuple(path)):
                inside += 1
                at_once.append(inside)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    inside -= 1

        tasks = []
        for path, seconds, cancel in attempts:
            tasks.append(asyncio.ensure_future(attempt(path, min(seconds, 4.0))))
            await asyncio.sleep(0.1)
            if cancel:
                tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (lane._free, lane.waiting, lane._root.parts) == (2, 0, {})

    run(clock, scenario)
    assert max(at_once, default=0) <= 2


# What an attacker with many networks can do

SECONDS_OF_WORK = 0.04
"""For a judgement: eight times what one takes, as a busy machine."""
PLACES = 8
FLOOD_PER_SECOND = 1000
FLOOD_SECONDS = 4.0
MAX_WAIT_SECONDS = 1.0


def networks(network: str) -> Iterator[str]:
    """An attacker's addresses: the /64s (or IPv4 addresses) of a network in random order, each again only after many others."""
    held = ipaddress.ip_network(network)
    if isinstance(held, ipaddress.IPv4Network):
        width, shift = 32 - held.prefixlen, 0
    else:
        width, shift = 64 - held.prefixlen, 64
    order = random.Random(7)
    while True:
        yield str(held.network_address + (order.getrandbits(width) << shift))


class Flood:
    """Bad evidence from everywhere in a network, and good workers now and then."""

    def __init__(self, clock: ManualClock, network: str, good: str) -> None:
        self.limits = Limits(LimitSettings(), PLACES, clock)
        self._clock = clock
        self._network = network
        self._good = origin_of(good)
        self.waits: list[float] = []
        self.busy = 0
        self.refused = {standing: 0 for standing in Standing}

    async def _attempt(self, origin: Origin, accepted: bool) -> None:
        started = self._clock.monotonic()
        try:
            standing = await self.limits.attempt(origin)
            async with self.limits.attestation(origin, standing):
                if accepted:
                    self.waits.append(self._clock.monotonic() - started)
                else:
                    self.refused[standing] += 1
                await asyncio.sleep(SECONDS_OF_WORK)
        except BrokerError:
            self.busy += accepted
            return
        if accepted:
            self.limits.proved(origin)
        else:
            self.limits.refused(origin, standing)

    async def run(self) -> None:
        hosts = (host for host in networks(self._network) if origin_of(host)[0] != self._good[0])
        tasks = set[asyncio.Task[None]]()
        for number in range(int(FLOOD_PER_SECOND * FLOOD_SECONDS)):
            attempts: list[Awaitable[None]] = [self._attempt(origin_of(next(hosts)), False)]
            if number % (FLOOD_PER_SECOND // 4) == FLOOD_PER_SECOND // 8:
                attempts.append(self._attempt(self._good, True))
            tasks |= {asyncio.ensure_future(attempt) for attempt in attempts}
            await asyncio.sleep(1 / FLOOD_PER_SECOND)
        await asyncio.gather(*tasks)


ATTACKS = [
    ("a /48, from another provider", "2001:db8:7::/48", "2a00:1450:1:2::3"),
    ("a /48, from its own provider", "2001:db8:7::/48", "2001:db8:8::1"),
    ("a /48, from the same /40", "2001:db8:100::/48", "2001:db8:180:1::1"),
    ("a /32, from another provider", "2001:db8::/32", "2a00:1450:1:2::3"),
    ("a /32, from beside it", "2001:db8::/32", "2001:db9:1:2::3"),
    ("a /32, by IPv4", "2001:db8::/32", "192.0.2.1"),
    ("a /24 of IPv4, from another network", "192.0.2.0/24", "198.51.100.7"),
    ("a /24 of IPv4, from beside it", "192.0.2.0/24", "192.0.3.7"),
    ("a /16 of IPv4", "198.18.0.0/16", "198.51.100.7"),
]


@pytest.mark.parametrize(("name", "network", "good"), ATTACKS)
def test_an_attacker_with_a_network_does_not_hold_up_a_good_worker(clock: ManualClock, name: str, network: str, good: str) -> None:
    flood = Flood(clock, network, good)
    run(clock, flood.run)
    assert (flood.busy, len(flood.waits)) == (0, int(4 * FLOOD_SECONDS))
    assert max(flood.waits) <= MAX_WAIT_SECONDS
    # what the attacker had of the good lane: its widest network's attempts of a minute, their return, and what was on its way
    prefix = ipaddress.ip_network(network).prefixlen
    width = (origins.IPV4_PREFIXES if ":" not in network else origins.IPV6_PREFIXES).index(prefix)
    most = 32 * 2**width
    assert flood.refused[Standing.NEW] <= most * (1 + FLOOD_SECONDS / 60) + 256 + PLACES


@pytest.mark.parametrize(("name", "network", "good"), [(name, network, next(networks(network))) for name, network, _ in ATTACKS[::3]])
def test_a_proven_worker_amid_the_attackers_own_networks(clock: ManualClock, name: str, network: str, good: str) -> None:
    flood = Flood(clock, network, good)
    flood.limits.proved(origin_of(good))
    run(clock, flood.run)
    assert (flood.busy, len(flood.waits)) == (0, int(4 * FLOOD_SECONDS))
    assert max(flood.waits) <= 2 * SECONDS_OF_WORK


@pytest.mark.parametrize("network", ["2001:db8:7::/48", "2001:db8::/32"])
def test_limits_by_the_narrowest_network_alone_are_none(clock: ManualClock, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    """The twin: the same attack where only /64s are counted."""
    flood = Flood(clock, network, "2a00:1450:1:2::3")
    monkeypatch.setitem(globals(), "origin_of", lambda host: origins.origin_of(host)[:1])
    flood._good = origin_of("2a00:1450:1:2::3")
    run(clock, flood.run)
    assert flood.busy or max(flood.waits) > MAX_WAIT_SECONDS
    assert flood.refused[Standing.NEW] > 1000


def test_memory_stays_whatever_comes(clock: ManualClock) -> None:
    limits = Limits(LimitSettings(tracked_addresses=64), PLACES, clock)

    async def scenario() -> None:
        for host, _ in zip(networks("2000::/8"), range(10_000), strict=False):
            origin = origin_of(host)
            limits.refused(origin, await limits.attempt(origin))

    run(clock, scenario)
    assert len(limits._unproven) <= 64
    assert len(limits._refused) <= 32 + 4 * 16
