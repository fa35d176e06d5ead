"""Watching results: whoever watches sees each change within a second, whichever replica made it.

Replicas share nothing but the database, so each process looks at the change sequence there, as often as POLL_SECONDS and only
while somebody watches; a change on this replica is seen the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

from anyio import CapacityLimiter, to_thread

from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store
from chrysalis.wire.broker import ResultView

POLL_SECONDS = 0.5
LOOK_SECONDS = 0.2
"""How often a watcher looks at the number that the process has read last."""
MAX_WATCHERS = 128
MAX_WATCHERS_OF_A_CALLER = 8
MAX_WATCHERS_OF_A_TENANT = 56
"""However many administrators a tenant has: others watch, too."""
KEPT_FOR_READERS = 16
"""Places that only the cluster's own readers may take: the operator must see revocations, however many administrators watch."""
MAX_WAIT_SECONDS = 60
MAX_WATCH_SECONDS = 600
"""A stream ends after this, and its watcher comes back: whoever lost the right to watch does not go on for ever."""
KEEP_ALIVE_SECONDS = 10.0
THREADS = 4
"""That look at the database for watchers, and for nobody else: no flood of other requests keeps a revocation from being seen."""

Page = Callable[[int], Sequence[tuple[int, ResultView]]]
"""The next changes after a number that a watcher may see."""


class Place:
    """One watcher's place, until it is given back."""

    def __init__(self, counted: Sequence[tuple[Counter[str], str]]) -> None:
        self._counted = counted
        self._held = True

    def give_back(self) -> None:
        """Make room for another; more than once does nothing."""
        if self._held:
            self._held = False
            for watchers, name in self._counted:
                watchers[name] -= 1
                if not watchers[name]:
                    del watchers[name]


class Watching:
    """One process's watchers."""

    def __init__(self, store: Store, ending: Callable[[], bool] = lambda: False) -> None:
        """ending: whether this process is about to end; its watchers are let go then, and go on elsewhere where they were."""
        self._store = store
        self._ending = ending
        self._threads = CapacityLimiter(THREADS)
        self._number = 0
        self._read_at = float("-inf")
        self._reading = False
        self._watchers: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()

    def admit(self, caller: str, *, tenant: str = "", reader: bool = False) -> Place:
        """A watcher's place; raises BrokerError (TooManyWatchers).

        tenant: the caller's, where it has one.  reader: whether it is one of the cluster's own.
        """
        most = MAX_WATCHERS if reader else MAX_WATCHERS - KEPT_FOR_READERS
        full = self._watchers[caller] >= MAX_WATCHERS_OF_A_CALLER or self._watchers.total() >= most
        if full or (tenant and self._tenants[tenant] >= MAX_WATCHERS_OF_A_TENANT):
            raise BrokerError(
                BrokerReason.TOO_MANY_WATCHERS,
                f"more than {MAX_WATCHERS_OF_A_CALLER} watchers of one caller, {MAX_WATCHERS_OF_A_TENANT} of one tenant, or {MAX_WATCHERS}",
                "end other watches first, or list the results now and then",
            )
        counted = [(self._watchers, caller)] + ([(self._tenants, tenant)] if tenant else [])
        for watchers, name in counted:
            watchers[name] += 1
        return Place(counted)

    def newest(self) -> int:
        """The newest change's number as the database has it now; blocks."""
        return self._store.change_number()

    async def number(self) -> int:
        """The newest change's number, at most POLL_SECONDS old."""
        if not self._reading and time.monotonic() - self._read_at >= POLL_SECONDS:
            self._reading = True
            try:
                self._number = max(self._number, await to_thread.run_sync(self._store.change_number, limiter=self._threads))
                self._read_at = time.monotonic()
            finally:
                self._reading = False
        return self._number

    async def beyond(self, after: int, seconds: float) -> bool:
        """Wait until there is a change after a number, for some seconds at most, or until the process ends; whether there is."""
        until = time.monotonic() + seconds
        while await self.number() <= after:
            rest = until - time.monotonic()
            if rest <= 0 or self._ending():
                return False
            await asyncio.sleep(min(LOOK_SECONDS, rest))
        return True

    async def wait(self, page: Page, after: int, seconds: float) -> tuple[list[ResultView], int]:
        """A long poll: the next changes that this watcher may see, at the latest after some seconds, and where to go on."""
        until = time.monotonic() + seconds
        upto = after
        while True:
            found = await to_thread.run_sync(page, after, limiter=self._threads)  # first of all: what has changed already is not waited for
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
        while (rest := until - time.monotonic()) > 0 and not self._ending():
            if not await self.beyond(after, min(rest, KEEP_ALIVE_SECONDS)):
                yield ": alive\n\n"
                continue
            upto = self._number
            while found := await to_thread.run_sync(page, after, limiter=self._threads):
                for number, view in found:
                    yield f"id: {number}\nevent: result\ndata: {view.model_dump_json(by_alias=True, exclude_none=True)}\n\n"
                after = found[-1][0]
            after = max(after, upto)
