"""The Lease: who leads, by monotonic clocks alone."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from chrysalis.clock import ManualClock
from chrysalis.controller.kube import Kubernetes, KubernetesError
from chrysalis.controller.lease import Leadership
from chrysalis.controller.settings import LeaseSettings

SETTINGS = LeaseSettings(namespace="system", duration_seconds=15, renew_seconds=4)


class Server:
    """One Lease with optimistic concurrency; `down` makes it unreachable."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.down = False

    async def find(self, path: str) -> dict[str, Any] | None:
        if self.down:
            raise KubernetesError(0, "no answer")
        return None if self.lease is None else {**self.lease, "spec": dict(self.lease["spec"])}

    async def write(self, method: str, path: str, body: dict[str, Any]) -> bool:
        if self.down:
            raise KubernetesError(0, "no answer")
        held = 0 if self.lease is None else self.lease["metadata"]["version"]
        if (method == "POST") != (self.lease is None) or body["metadata"].get("version", 0) != held:
            return False
        self.lease = {**body, "metadata": {**body["metadata"], "version": held + 1}}
        return True


def replica(server: Server, name: str, clock: ManualClock) -> Leadership:
    return Leadership(cast(Kubernetes, server), SETTINGS, identity=name, clock=clock)


def test_one_of_two_leads_and_the_other_follows_when_it_is_gone(clock: ManualClock) -> None:
    async def scenario() -> None:
        server = Server()
        one, two = replica(server, "one", clock), replica(server, "two", clock)
        await one.attempt()
        await two.attempt()
        assert (one.held(), two.held()) == (True, False)
        for _ in range(3):
            clock.advance(4)
            await one.attempt()
            await two.attempt()
            assert (one.held(), two.held()) == (True, False)
        clock.advance(14)  # one renews no more; two has seen its last renewal 14 seconds ago
        await two.attempt()
        assert (one.held(), two.held()) == (False, False)
        clock.advance(1)
        await two.attempt()
        assert (one.held(), two.held()) == (False, True)
        await one.attempt()
        assert not one.held()
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 1

    asyncio.run(scenario())


def test_a_holder_that_cannot_renew_stops_before_another_may_start(clock: ManualClock) -> None:
    async def scenario() -> None:
        server = Server()
        one = replica(server, "one", clock)
        await one.attempt()
        server.down = True
        for _ in range(2):
            clock.advance(4)
            with pytest.raises(KubernetesError):
                await one.attempt()
            assert one.held()
        clock.advance(2)
        assert not one.held()

    asyncio.run(scenario())


def test_an_orderly_end_lets_the_next_begin_at_once(clock: ManualClock) -> None:
    async def scenario() -> None:
        server = Server()
        one, two = replica(server, "one", clock), replica(server, "two", clock)
        await one.attempt()
        await one.release()
        assert not one.held()
        await two.attempt()
        assert two.held()

    asyncio.run(scenario())


def test_taking_the_lease_is_announced(clock: ManualClock) -> None:
    async def scenario() -> None:
        taken: list[int] = []
        keeping = asyncio.create_task(replica(Server(), "one", clock).keep(lambda: taken.append(1)))
        for _ in range(5):
            await asyncio.sleep(0)
        keeping.cancel()
        assert taken == [1]

    asyncio.run(scenario())
