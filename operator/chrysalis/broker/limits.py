"""What strangers may take of the broker: requests of an address, places among the attestations.  Constant memory.

Addresses are those of the transport's peer; forwarding headers are never believed (a stranger writes them as it likes), so a
proxy in front must pass connections through (layer 4, source address kept), or all its clients share one address's limits.
IPv6 addresses count by their /64, which is what one host is given.

What anybody can send in another's name (a key id, a claimed namespace) is never what is limited by: a flood that names a
tenant's key must not use up the tenant's share.  Tenants are limited by what has proved itself: accepted attestations, signed
documents (chrysalis.broker.tenants.Quotas), authenticated calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated

from anyio import CapacityLimiter
from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock

QUEUE_SECONDS = 5.0
"""For an attestation to wait for its place."""
SUSPECT_PLACES = 1
SUSPECT_QUEUE = 4
SUSPECT_REST = 3
"""For how many times as long as an attempt took its place stays empty afterwards."""
SUSPECT_REQUESTS = 10
"""A second, of an address that is out of attempts."""
HOLD_SECONDS = 1.0
"""For a refusal of what is too much."""
REFUSAL_SECONDS = 60.0
"""An address that has used up its unproven attempts gets all of them back in this time."""
RELEASES, RELEASES_PER_SECOND = 16, 1
"""Of one result, to one address: its id is no secret, and each release asks the key service."""
UNKNOWN_ADDRESS = "unknown"


class LimitSettings(Model):
    """Limits on strangers.

    connections: open at once.  connectionsPerAddress: of these, of one address; an eighth of it while more than half of all
    are taken.  connectionsPerSecond: new ones of one address; twice as many at once.
    requestsPerSecond: of one address; twice as many at once.  callsPerSecond: of one authenticated caller; twice as many at once.
    unprovenAttestations: attempts of one address that were not accepted, within a minute; more have to share one place.
    unprovenCalls: failed authentications, and envelopes that nobody signed, of one address within a minute; more are refused unseen.
    messageBytes: of messages that are being read, wait or are worked on.  messageBytesPerAddress: of these, of one address; an eighth of
    it while more than half of all are taken.
    queuedAttestations: attempts that wait for a place.  trackedAddresses: how many are remembered; the longest unseen go first.
    """

    connections: Annotated[int, Field(ge=8, le=65536)] = 512
    connections_per_address: Annotated[int, Field(ge=8, le=65536)] = 64
    connections_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    requests_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    calls_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    unproven_attestations: Annotated[int, Field(ge=1, le=10_000)] = 32
    unproven_calls: Annotated[int, Field(ge=1, le=10_000)] = 30
    queued_attestations: Annotated[int, Field(ge=1, le=4096)] = 256
    message_bytes: Annotated[int, Field(ge=4 << 20, le=1 << 34)] = 64 << 20
    message_bytes_per_address: Annotated[int, Field(ge=4 << 20, le=1 << 34)] = 16 << 20
    tracked_addresses: Annotated[int, Field(ge=16, le=1_000_000)] = 16_384


@lru_cache(maxsize=4096)
def address_of(host: str | None) -> str:
    """What an address is limited as: itself for IPv4 (mapped into IPv6 or not), its /64 for IPv6."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return UNKNOWN_ADDRESS
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


class Buckets:
    """A token bucket for each of a bounded number of names; not thread-safe.

    A bucket holds at most `burst` tokens and gains `rate` of them each second.  When there are more than `entries` names, the
    one that was not used for longest is forgotten, which gives it a full bucket again.
    """

    def __init__(self, *, rate: float, burst: float, entries: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._entries = entries
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def level(self, name: str) -> float:
        """How many tokens there are."""
        held = self._held.get(name)
        if held is None:
            return self._burst
        level, at = held
        return min(self._burst, level + (self._clock.monotonic() - at) * self._rate)

    def take(self, name: str) -> bool:
        """Take one token; False when there is none."""
        level = self.level(name)
        if level < 1:
            return False
        self._put(name, level - 1)
        return True

    def give(self, name: str) -> None:
        """Give one back."""
        self._put(name, min(self._burst, self.level(name) + 1))

    def _put(self, name: str, level: float) -> None:
        self._held[name] = (level, self._clock.monotonic())
        self._held.move_to_end(name)
        while len(self._held) > self._entries:
            self._held.popitem(last=False)


class Load:
    """Bytes that are held, in all and by address; used on one event loop only.

    A message is held from its first byte until its request is answered: a slow sender, a full queue and a long judgement cost memory.
    """

    def __init__(self, most: int, per_address: int) -> None:
        self._most = most
        self._per_address = per_address
        self._held: dict[str, int] = {}
        self.total = 0

    def add(self, address: str, size: int) -> bool:
        """Hold some more; False when that is too much."""
        mine = self._held.get(address, 0) + size
        allowed = self._per_address if 2 * self.total < self._most else self._per_address // 8
        if self.total + size > self._most or mine > allowed:
            return False
        self._held[address] = mine
        self.total += size
        return True

    def remove(self, address: str, size: int) -> None:
        """Let go."""
        self.total -= size
        left = self._held.get(address, 0) - size
        if left > 0:
            self._held[address] = left
        else:
            self._held.pop(address, None)


class Lane:
    """Some places, and a bounded queue before them that serves addresses in turn; used on one event loop only.

    Whoever comes from an address of its own waits for one attempt of each other address at most, however many those have
    sent.  When the queue is full, the address with the most attempts in it loses its last one to an address with fewer.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._free = places
        self._most = queue
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether nobody more may wait."""
        return self._count >= self._most

    @contextlib.asynccontextmanager
    async def place(self, address: str) -> AsyncIterator[None]:
        """A place, for as long as the block runs; raises BrokerError (Busy)."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(address)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, address: str) -> None:
        if self.full:
            self._displace(address)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        self._count += 1
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the place came in the same moment
            else:
                self._forget(address, turn)
            if isinstance(error, TimeoutError):
                raise busy() from error
            raise

    def _pass_on(self) -> None:
        """Give a place to the next address in turn, or keep it free."""
        while self._waiting:
            address, turns = next(iter(self._waiting.items()))
            turn = turns[0]
            self._forget(address, turn)
            if address in self._waiting:
                self._waiting.move_to_end(address)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _displace(self, address: str) -> None:
        longest = max(self._waiting, key=lambda name: len(self._waiting[name]))
        if len(self._waiting[longest]) <= len(self._waiting.get(address, ())) + 1:
            raise busy()
        last = self._waiting[longest][-1]
        self._forget(longest, last)
        if not last.done():
            last.set_exception(busy())

    def _forget(self, address: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(address)
        if turns is not None and turn in turns:
            turns.remove(turn)
            self._count -= 1
            if not turns:
                del self._waiting[address]


class Limits:
    """All limits of one broker process; used on its event loop only."""

    def __init__(self, settings: LimitSettings, places: int, clock: Clock) -> None:
        """places: attestations that are judged at once."""

        def buckets(rate: float, burst: float) -> Buckets:
            return Buckets(rate=rate, burst=burst, entries=settings.tracked_addresses, clock=clock)

        self.judges = CapacityLimiter(places + SUSPECT_PLACES)
        self._requests = buckets(settings.requests_per_second, 2 * settings.requests_per_second)
        self._calls = buckets(settings.calls_per_second, 2 * settings.calls_per_second)
        self._unproven = buckets(settings.unproven_attestations / REFUSAL_SECONDS, settings.unproven_attestations)
        self._failed_calls = buckets(settings.unproven_calls / REFUSAL_SECONDS, settings.unproven_calls)
        self._releases = buckets(RELEASES_PER_SECOND, RELEASES)
        self._slow = buckets(SUSPECT_REQUESTS, 2 * SUSPECT_REQUESTS)
        self._clock = clock
        self.messages = Load(settings.message_bytes, settings.message_bytes_per_address)
        self._good = Lane(places, settings.queued_attestations)
        self._suspect = Lane(SUSPECT_PLACES, SUSPECT_QUEUE)

    async def request(self, address: str) -> None:
        """Count a request; raises BrokerError (TooManyRequests), after a while: whoever floods shall wait, not spin."""
        fast = self._requests.take(address)
        if not fast or (self._unproven.level(address) < 1 and not self._slow.take(address)):
            await asyncio.sleep(HOLD_SECONDS)
            raise _too_many("requests from this address")

    async def attempt(self, address: str) -> bool:
        """Count an attempt to attest before its message is read; whether it is in good standing, for `attestation`.

        Raises BrokerError (Busy), after a while, for an address that is out of attempts while its like fill their queue.
        """
        if self._unproven.take(address):
            return True
        if self._suspect.full:
            await asyncio.sleep(HOLD_SECONDS)
            raise busy()
        return False

    def proved(self, address: str) -> None:
        """Give back an attempt that was accepted."""
        self._unproven.give(address)

    @contextlib.asynccontextmanager
    async def attestation(self, address: str, *, good: bool) -> AsyncIterator[None]:
        """A place to judge an attempt; raises BrokerError (Busy).

        Addresses whose attempts were refused lately share one place of their own, which rests after each, so that the others
        keep theirs and most of the machine.
        """
        async with (self._good if good else self._suspect).place(address):
            started = self._clock.monotonic()
            try:
                yield
            finally:
                if not good:
                    await asyncio.sleep(min(HOLD_SECONDS, SUSPECT_REST * (self._clock.monotonic() - started)))

    def release(self, address: str, result_id: str) -> None:
        """Count a request for a key; raises BrokerError (TooManyRequests)."""
        if not self._releases.take(f"{address} {result_id}"):
            raise _too_many("requests for a key under this result")

    def before_call(self, address: str) -> None:
        """Refuse an address with too many failed authentications lately; raises BrokerError (TooManyRequests)."""
        if self._failed_calls.level(address) < 1:
            raise _too_many("failed authentications from this address")

    def failed_call(self, address: str) -> None:
        """Count a failed authentication."""
        self._failed_calls.take(address)

    def call(self, caller: str) -> None:
        """Count an authenticated call; raises BrokerError (TooManyRequests)."""
        if not self._calls.take(caller):
            raise _too_many("calls with these credentials")


def busy() -> BrokerError:
    """There is no place for an attestation."""
    return BrokerError(BrokerReason.BUSY, "too many attestations at once", "try again in a second")


def _too_many(what: str) -> BrokerError:
    return BrokerError(BrokerReason.TOO_MANY_REQUESTS, f"too many {what}", "slow down, and try again in a minute")
