"""The queue: no key twice, none at the same time, deadlines in order."""

from __future__ import annotations

import asyncio

from chrysalis.clock import ManualClock
from chrysalis.controller.workqueue import WorkQueue


def test_a_key_waits_once(clock: ManualClock) -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue(clock)
        queue.add("a")
        queue.add("b")
        queue.add("a")
        assert len(queue) == 2
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert len(queue) == 0

    asyncio.run(scenario())


def test_a_key_that_is_worked_on_comes_again_afterwards(clock: ManualClock) -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue(clock)
        queue.add("a")
        key = await queue.get()
        queue.add("a")
        queue.add("a")
        getting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not getting.done()
        queue.done(key)
        assert await getting == "a"
        queue.done("a")
        assert len(queue) == 0

    asyncio.run(scenario())


def test_deadlines(clock: ManualClock) -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue(clock)
        queue.add_after("late", 10)
        queue.add_after("soon", 5)
        queue.add_after("gone", 1)
        queue.forget("gone")
        queue.add_after("moved", 2)
        queue.add_after("moved", 20)
        clock.advance(11)
        assert [await queue.get(), await queue.get()] == ["soon", "late"]
        assert len(queue) == 0
        clock.advance(10)
        assert await queue.get() == "moved"

    asyncio.run(scenario())


def test_an_event_replaces_a_deadline(clock: ManualClock) -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue(clock)
        queue.add_after("a", 1)
        queue.add("a")
        queue.add_after("a", 1)  # it waits already
        assert await queue.get() == "a"
        queue.done("a")
        clock.advance(5)
        getting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not getting.done()
        queue.add_after("b", 0)
        assert await getting == "b"

    asyncio.run(scenario())
