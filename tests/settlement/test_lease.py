"""The Lease: one holder at a time, by monotonic clocks alone."""

from __future__ import annotations

import asyncio

from chrysalis.clock import ManualClock
from chrysalis.settlement.lease import Lease, LeaseRecord


class Store:
    """A Lease object with a resourceVersion."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.version = 0

    async def read(self) -> LeaseRecord | None:
        return self.record

    async def write(self, holder: str, duration_seconds: int, version: str | None) -> bool:
        if version != (self.record.version if self.record else None):
            return False
        self.version += 1
        self.record = LeaseRecord(holder, str(self.version), duration_seconds, str(self.version))
        return True


def lease(store: Store, name: str, clock: ManualClock) -> Lease:
    return Lease(store, identity=name, duration_seconds=15, clock=clock)


def turn(one: Lease) -> bool:
    return asyncio.run(one.turn())


def test_the_first_takes_it_and_the_second_waits_until_it_is_not_renewed(clock: ManualClock) -> None:
    store = Store()
    a, b = lease(store, "a", clock), lease(store, "b", clock)
    assert (turn(a), turn(b)) == (True, False)
    clock.advance(8)
    assert (turn(a), turn(b)) == (True, False)
    clock.advance(14)
    assert not turn(b)
    assert not a.held()
    clock.advance(1)
    assert turn(b)
    assert not turn(a)


def test_a_holder_stops_relying_on_it_well_before_others_may_take_it(clock: ManualClock) -> None:
    store = Store()
    a, b = lease(store, "a", clock), lease(store, "b", clock)
    turn(a)
    turn(b)
    clock.advance(9.9)
    assert a.held()
    clock.advance(0.2)
    assert not a.held()
    assert not turn(b)


def test_an_orderly_end_hands_over_within_a_second(clock: ManualClock) -> None:
    store = Store()
    a, b = lease(store, "a", clock), lease(store, "b", clock)
    turn(a)
    asyncio.run(a.release())
    assert not a.held()
    assert turn(b)


def test_a_lost_race_is_not_a_hold(clock: ManualClock) -> None:
    store = Store()
    a = lease(store, "a", clock)

    async def faster(*_: object) -> bool:
        return False

    store.write = faster
    assert not turn(a)
    assert not a.held()
