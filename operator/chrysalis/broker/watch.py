"""Watching results: whoever watches sees each change within a second, whichever replica made it.

Replicas share nothing but the database, so each process looks at the change sequence there, as often as POLL_SECONDS and only
while somebody watches; a change on this replica is seen the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.concurrency import run_in_threadpool

from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store
from chrysalis.wire.broker import ResultView

POLL_SECONDS = 0.5
LOOK_SECONDS = 0.2
"""How often a watcher looks at the number that the process has read last."""
MAX_WATCHERS = 128
MAX_WATCHERS_OF_A_CALLER = 8
KEPT_FOR_READERS = 16
"""Places that only the cluster's own readers may take: the operator must see revocations, however many administrators watch."""
MAX_WAIT_SECONDS = 60
MAX_WATCH_SECONDS = 600
"""A stream ends after this, and its watcher comes back: whoever lost the right to watch does not go on for ever."""
KEEP_ALIVE_SECONDS = 10.0

Page = Callable[[int], Sequence[tuple[int, ResultView]]]
"""The next changes after a number that a watcher may see."""


class Place:
    """One watcher's place, until it is given back."""

    def __init__(self, watchers: Counter[str], caller: str) -> None:
        self._watchers = watchers
        self._caller = caller
        self._held = True

    def give_back(self) -> None:
        """Make room for another; more than once does nothing."""
        if self._held:
            self._held = False
            self._watchers[self._caller] -= 1
            if not self._watchers[self._caller]:
                del self._watchers[self._caller]


class Watching:
    """One process's watchers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0
        self._read_at = float("-inf")
        self._reading = False
        self._watchers: Counter[str] = Counter()

    def admit(self, caller: str, *, reader: bool = False) -> Place:
        """A watcher's place; raises BrokerError (TooManyWatchers).  reader: whether it is one of the cluster's own."""
        most = MAX_WATCHERS if reader else MAX_WATCHERS - KEPT_FOR_READERS
        if self._watchers[caller] >= MAX_WATCHERS_OF_A_CALLER or self._watchers.total() >= most:
            raise BrokerError(
                BrokerReason.TOO_MANY_WATCHERS,
                f"more than {MAX_WATCHERS_OF_A_CALLER} watchers of one caller, or {MAX_WATCHERS} in all",
                "end other watches first, or list the results now and then",
            )
        self._watchers[caller] += 1
        return Place(self._watchers, caller)

    def newest(self) -> int:
        """The newest change's number as the database has it now; blocks."""
        return self._store.change_number()

    async def number(self) -> int:
        """The newest change's number, at most POLL_SECONDS old."""
        if not self._reading and time.monotonic() - self._read_at >= POLL_SECONDS:
            self._reading = True
            try:
                self._number = max(self._number, await run_in_threadpool(self._store.change_number))
                self._read_at = time.monotonic()
            finally:
                self._reading = False
        return self._number

    async def beyond(self, after: int, seconds: float) -> bool:
        """Wait until there is a change after a number, for some seconds at most; whether there is."""
        until = time.monotonic() + seconds
        while await self.number() <= after:
            rest = until - time.monotonic()
            if rest <= 0:
                return False
            await asyncio.sleep(min(LOOK_SECONDS, rest))
        return True

    async def wait(self, page: Page, after: int, seconds: float) -> tuple[list[ResultView], int]:
        """A long poll: the next changes that this watcher may see, at the latest after some seconds, and where to go on."""
        until = time.monotonic() + seconds
        upto = after
        while True:
            found = await run_in_threadpool(page, after)  # first of all: what has changed already is not waited for
            if found:
                return [view for _, view in found], found[-1][0]
            after = upto  # all up to there was for others
            if not await self.beyond(after, max(0.0, until - time.monotonic())):
                return [], after
            upto = self._number

    async def stream(self, page: Page, after: int, seconds: float = MAX_WATCH_SECONDS) -> AsyncIterator[str]:
        """Server-sent events (HTML standard, section 9.2): `event: result`, its id the change's number, its data a ResultView."""
        until = time.monotonic() + seconds
        yield f": watching from {after}\n\n"
        while (rest := until - time.monotonic()) > 0:
            if not await self.beyond(after, min(rest, KEEP_ALIVE_SECONDS)):
                yield ": alive\n\n"
                continue
            upto = self._number
            while found := await run_in_threadpool(page, after):
                for number, view in found:
                    yield f"id: {number}\nevent: result\ndata: {view.model_dump_json(by_alias=True, exclude_none=True)}\n\n"
                after = found[-1][0]
            after = max(after, upto)
