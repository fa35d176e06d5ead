"""One of several replicas settles: a Kubernetes Lease, judged by this process's own monotonic clock.

Another holder is taken for dead only when its Lease has not changed for its whole duration as *we* observed it; our own hold
ends a margin before others may take it.  `held()` is asked before each send.  That leaves a window of at most the time between that
question and the send; two settlers in it would send commits of which the contract takes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from chrysalis.clock import Clock

MARGIN = 1 / 3
"""The part of the duration for which a renewed Lease is no longer relied on."""


@dataclass(frozen=True)
class LeaseRecord:
    """A Lease as it was read; `version` is its resourceVersion."""

    holder: str
    renewed_at: str
    duration_seconds: int
    version: str


class LeaseStore(Protocol):
    """Reads and writes one Lease object; writes fail on a version that is not the newest."""

    async def read(self) -> LeaseRecord | None:
        """The Lease; None when there is none."""

    async def write(self, holder: str, duration_seconds: int, version: str | None) -> bool:
        """Create (version None) or replace it; whether that succeeded."""


class Lease:
    """This process's claim to be the one that settles."""

    def __init__(self, store: LeaseStore, *, identity: str, duration_seconds: int, clock: Clock) -> None:
        self._store = store
        self._identity = identity
        self._duration = duration_seconds
        self._clock = clock
        self._seen: LeaseRecord | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    def held(self) -> bool:
        """Whether this process may act as the holder, right now."""
        return self._renewed_at is not None and self._clock.monotonic() - self._renewed_at < self._duration * (1 - MARGIN)

    async def turn(self) -> bool:
        """Renew the Lease, or take it when nobody renews it; whether it is held.  Call it every third of the duration."""
        before = self._clock.monotonic()
        record = await self._store.read()
        if record is not None and record != self._seen:
            self._seen, self._seen_at = record, before
        mine = record is not None and record.holder == self._identity
        expired = record is not None and self._clock.monotonic() - self._seen_at >= record.duration_seconds
        if record is not None and not mine and record.holder and not expired:
            self._renewed_at = None
            return False
        if await self._store.write(self._identity, self._duration, record.version if record else None):
            self._renewed_at = before
        return self.held()

    async def release(self) -> None:
        """Let another replica take it at once (on an orderly end)."""
        if not self.held():
            return
        self._renewed_at = None
        record = await self._store.read()
        if record is not None and record.holder == self._identity:
            await self._store.write("", 1, record.version)
