"""One queue of keys and one heap of deadlines: each key is worked on by one task at a time, and never twice for one reason."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Generic, TypeVar

from chrysalis.clock import Clock

K = TypeVar("K")


class WorkQueue(Generic[K]):
    """Keys that need work, now or later.  For one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()  # asked for while it was worked on
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queued) + len(self._again)

    def add(self, key: K) -> None:
        """Work on this key soon; a key that waits already is not queued twice."""
        self._due.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._changed.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Work on this key after that time at the latest; replaces an earlier deadline of the key."""
        if key in self._queued or key in self._again:
            return
        due = self._clock.monotonic() + max(seconds, 0.0)
        self._due[key] = due
        self._serial += 1
        heapq.heappush(self._heap, (due, self._serial, key))
        self._changed.set()

    def forget(self, key: K) -> None:
        """Drop the deadline of a key that is gone."""
        self._due.pop(key, None)

    async def get(self) -> K:
        """The next key; the caller says done(key) when it has finished."""
        while True:
            self._move_due()
            if self._ready:
                key = self._ready.popleft()
                self._queued.discard(key)
                self._working.add(key)
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(self._until_next()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def done(self, key: K) -> None:
        """Work on a key has ended; it is queued again if that was asked for meanwhile."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _move_due(self) -> None:
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:  # otherwise it was replaced or dropped
                self.add(key)

    def _until_next(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(self._heap[0][0] - self._clock.monotonic(), 0.0) if self._heap else None
