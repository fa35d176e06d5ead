"""What strangers may take of the broker: requests of an address, places among the attestations.  Constant memory.

Whoever holds a network holds all of its addresses, so limits by address alone cost an attacker nothing: everything is limited at
each width of chrysalis.broker.origins.  With the defaults, and whatever it sends, a /64 has 32 refused attempts a minute before it is
suspect, a /48 128 in all of its 65,536 networks, a /32 512.  What has been proved from an address lately has a share of its own.

What anybody can send in another's name (a key id, a claimed namespace, a receipt key before its quote is judged) is never what is
limited by: a flood that names a tenant's key must not use up the tenant's share.  Tenants are limited by what has proved itself:
accepted attestations, signed documents (chrysalis.broker.tenants.Quotas), authenticated calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from enum import StrEnum
from typing import Annotated

from anyio import CapacityLimiter
from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.broker.lanes import Lane, busy
from chrysalis.broker.origins import WIDTHS, Origin
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock

SUSPECT_PLACES = 1
SUSPECT_QUEUE = 4
SUSPECT_REST = 3
"""For how many times as long as an attempt took its place stays empty afterwards."""
SUSPECT_REQUESTS = 10
"""A second, of an address that is out of attempts."""
HOLD_SECONDS = 1.0
"""For a refusal of what is too much."""
REFUSAL_SECONDS = 60.0
"""An address that has used up its unproven attempts gets all of them back in this time; a network around it in twice as much, since
it may owe what was on its way."""
RELEASES, RELEASES_PER_SECOND = 16, 1
"""Of one result, to one address: its id is no secret, and each release asks the key service.  To wider networks twice as many each."""
LARGE_ANSWERS, LARGE_ANSWERS_PER_SECOND = 8, 1
"""To one address without credentials: what costs a quote, or is a document of up to a megabyte for each publisher."""
PROVEN_SECONDS = 86_400.0
"""For how long an address from which evidence was accepted, or a call authenticated, is known for it: longer than results live."""
RESERVED = 8
"""The share (one of so many) of connections and bytes that is kept for addresses with proven evidence."""
MIN_TRACKED = 16


class LimitSettings(Model):
    """Limits on strangers.

    An address is an IPv4 address or an IPv6 /64.  Rates and counts of failures are twice as high for each wider network around it
    (/56, /48, /40, /32, /24; for IPv4 /24, /16).  Of what is held, the widest network may have half, those between equal steps.

    connections: open at once.  connectionsPerAddress: of these, of one address; an eighth of it while more than half of all
    are taken.  connectionsPerSecond: new ones of one address; twice as many at once.
    requestsPerSecond: of one address; twice as many at once.  callsPerSecond: of one authenticated caller; twice as many at once.
    unprovenAttestations: attempts of one address that were not accepted, within a minute; more have to share one place.
    unprovenCalls: failed authentications, and envelopes that nobody signed, of one address within a minute; more are refused unseen.
    messageBytes: of messages that are being read, wait or are worked on.  messageBytesPerAddress: of these, of one address; an eighth of
    it while more than half of all are taken.
    queuedAttestations: attempts that wait for a place.  trackedAddresses: how many are remembered, half as many networks of each
    wider kind; the longest unseen go first.
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

    def owe(self, name: str) -> None:
        """Take one token even where there is none; at most as many as the bucket holds are owed."""
        self._put(name, max(-self._burst, self.level(name) - 1))

    def give(self, name: str) -> None:
        """Give one back."""
        self._put(name, min(self._burst, self.level(name) + 1))

    def _put(self, name: str, level: float) -> None:
        self._held[name] = (level, self._clock.monotonic())
        self._held.move_to_end(name)
        while len(self._held) > self._entries:
            self._held.popitem(last=False)


class Tiers:
    """Buckets for an origin: one for its address, and one for each wider network, which has twice as much as the one inside of it.

    Whoever holds a network of 65,536 parts so has the shares of 2, 4 … of them, not of all.  Wider networks are remembered in smaller
    numbers: fewer of them are in use.  Not thread-safe.
    """

    def __init__(self, *, rate: float, burst: float, entries: int, clock: Clock, narrowest: int = 0) -> None:
        """narrowest: the first width that is counted; 0 is the address."""
        self._narrowest = narrowest
        self._tiers = [
            Buckets(rate=rate * 2**width, burst=burst * 2**width, entries=max(MIN_TRACKED, entries >> width), clock=clock)
            for width in range(narrowest, WIDTHS)
        ]

    def __len__(self) -> int:
        return sum(len(tier) for tier in self._tiers)

    def has(self, origin: Origin) -> bool:
        """Whether each width has a token left."""
        return all(tier.level(name) >= 1 for tier, name in self._of(origin))

    def take(self, origin: Origin) -> bool:
        """Take a token of each width; False, and nothing taken, where one has none: what is refused for a network fills no memory."""
        if not self.has(origin):
            return False
        for tier, name in self._of(origin):
            tier.take(name)
        return True

    def owe(self, origin: Origin) -> None:
        """Take a token of each width for what was let in before it was known to be bad: many may have come in at once.

        A network that owes already counts no further outwards: it must not use up what its neighbours have.
        """
        for tier, name in self._of(origin):
            had = tier.level(name) >= 1
            tier.owe(name)
            if not had:
                return

    def _of(self, origin: Origin) -> Iterable[tuple[Buckets, str]]:
        return zip(self._tiers, origin[self._narrowest :], strict=False)


class Recent:
    """Addresses that have done well lately, a bounded number; not thread-safe."""

    def __init__(self, *, seconds: float, entries: int, clock: Clock) -> None:
        self._seconds = seconds
        self._entries = entries
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, address: str) -> bool:
        return self._clock.monotonic() < self._until.get(address, 0.0)

    def add(self, address: str) -> None:
        """It has just done well."""
        self._until[address] = self._clock.monotonic() + self._seconds
        self._until.move_to_end(address)
        while len(self._until) > self._entries:
            self._until.popitem(last=False)


class Shares:
    """What is held (bytes, connections), in all and by origin; used on one event loop only.

    An address may hold `per_address`, its widest network half of all, and the networks between in equal steps: none can use up
    the one around it, so that its neighbours find something left.  While more than half of all is held, each may hold an eighth
    of that.  The last eighth of all is for addresses whose evidence was accepted lately, which are counted by their address only.
    """

    def __init__(self, most: int, per_address: int, proven: Recent) -> None:
        self._most = most
        self._per_address = per_address
        self._proven = proven
        self._held: dict[str, int] = {}
        self.total = 0

    def add(self, origin: Origin, size: int) -> bool:
        """Hold some more; False when that is too much."""
        proven = origin[0] in self._proven
        if self.total + size > (self._most if proven else self._most - self._most // RESERVED):
            return False
        scarce = RESERVED if 2 * self.total >= self._most else 1
        for width, name in enumerate(origin[:1] if proven else origin):
            if self._held.get(name, 0) + size > self._allowed(width, len(origin)) // scarce:
                return False
        for name in origin:
            self._held[name] = self._held.get(name, 0) + size
        self.total += size
        return True

    def remove(self, origin: Origin, size: int) -> None:
        """Let go."""
        self.total -= size
        for name in origin:
            left = self._held.get(name, 0) - size
            if left > 0:
                self._held[name] = left
            else:
                self._held.pop(name, None)

    def _allowed(self, width: int, widths: int) -> int:
        """At most, of a network of this width, of so many."""
        if not width:
            return self._per_address
        return self._per_address + max(0, self._most // 2 - self._per_address) * width // (widths - 1)


class Standing(StrEnum):
    """How an origin stands, for a place among the attestations."""

    PROVEN = "proven"  # evidence from this address was accepted lately
    NEW = "new"  # nothing is known against it
    SUSPECT = "suspect"  # too many attempts from this address, or from a network around it, were refused lately


class Limits:
    """All limits of one broker process; used on its event loop only."""

    def __init__(self, settings: LimitSettings, places: int, clock: Clock) -> None:
        """places: attestations that are judged at once."""
        entries = settings.tracked_addresses

        def tiers(rate: float, burst: float, narrowest: int = 0) -> Tiers:
            return Tiers(rate=rate, burst=burst, entries=entries, clock=clock, narrowest=narrowest)

        def buckets(rate: float, burst: float) -> Buckets:
            return Buckets(rate=rate, burst=burst, entries=entries, clock=clock)

        unproven, failed = settings.unproven_attestations, settings.unproven_calls
        self.proven = Recent(seconds=PROVEN_SECONDS, entries=entries, clock=clock)
        self.judges = CapacityLimiter(places + SUSPECT_PLACES)
        self._requests = tiers(settings.requests_per_second, 2 * settings.requests_per_second)
        self._calls = buckets(settings.calls_per_second, 2 * settings.calls_per_second)
        self._unproven = buckets(unproven / REFUSAL_SECONDS, unproven)
        self._refused = tiers(unproven / REFUSAL_SECONDS, unproven, narrowest=1)
        self._failed_calls = buckets(failed / REFUSAL_SECONDS, failed)
        self._failed_around = tiers(failed / REFUSAL_SECONDS, failed, narrowest=1)
        self._called = Recent(seconds=PROVEN_SECONDS, entries=entries, clock=clock)
        self._releases = tiers(RELEASES_PER_SECOND, RELEASES)
        self._large = tiers(LARGE_ANSWERS_PER_SECOND, LARGE_ANSWERS)
        self._slow = buckets(SUSPECT_REQUESTS, 2 * SUSPECT_REQUESTS)
        self._clock = clock
        self.messages = Shares(settings.message_bytes, settings.message_bytes_per_address, self.proven)
        self._good = Lane(places, settings.queued_attestations)
        self._suspect = Lane(SUSPECT_PLACES, SUSPECT_QUEUE)

    async def request(self, origin: Origin) -> None:
        """Count a request; raises BrokerError (TooManyRequests), after a while: whoever floods shall wait, not spin."""
        address = origin[0]
        fast = self._requests.take(origin[:1] if self._vouched(address) else origin)
        if not fast or (self._unproven.level(address) < 1 and not self._slow.take(address)):
            await asyncio.sleep(HOLD_SECONDS)
            raise _too_many("requests from this address or the network around it")

    async def attempt(self, origin: Origin) -> Standing:
        """Count an attempt to attest before its message is read; its standing, for `attestation`.

        `proved` or `refused` says afterwards what came of it.  Networks around an address count what was refused, not what is
        on its way: many good workers may come from one at once.
        Raises BrokerError (Busy), after a while, for a suspect while those that have less fill the suspects' queue.
        """
        address = origin[0]
        standing = Standing.PROVEN if address in self.proven else Standing.NEW
        if (standing is Standing.PROVEN or self._refused.has(origin)) and self._unproven.take(address):
            return standing
        if not self._suspect.admits(_path(origin)):
            await asyncio.sleep(HOLD_SECONDS)
            raise busy()
        return Standing.SUSPECT

    def proved(self, origin: Origin) -> None:
        """An attempt was accepted: give it back, and know the address."""
        self._unproven.give(origin[0])
        self.proven.add(origin[0])

    def refused(self, origin: Origin, standing: Standing) -> None:
        """An attempt was refused, or was none.  Networks count those of new addresses: suspects and the proven have limits of their own."""
        if standing is Standing.NEW:
            self._refused.owe(origin)

    @contextlib.asynccontextmanager
    async def attestation(self, origin: Origin, standing: Standing) -> AsyncIterator[None]:
        """A place to judge an attempt; raises BrokerError (Busy).

        Every second place that becomes free is for addresses that have proven evidence lately, while there are such, and half
        of the queue.  Suspects share one place of their own, which rests after each, so that the others keep theirs and most of the
        machine; a good worker among them, whose network is abused by its neighbours, has its turn there.
        """
        suspect = standing is Standing.SUSPECT
        lane, path = (self._suspect, _path(origin)) if suspect else (self._good, (standing.value, *_path(origin)))
        async with lane.place(path):
            started = self._clock.monotonic()
            try:
                yield
            finally:
                if suspect:
                    await asyncio.sleep(min(HOLD_SECONDS, SUSPECT_REST * (self._clock.monotonic() - started)))

    def release(self, origin: Origin, result_id: str) -> None:
        """Count a request for a key; raises BrokerError (TooManyRequests)."""
        if not self._releases.take(tuple(f"{network} {result_id}" for network in origin)):
            raise _too_many("requests for a key under this result")

    def large_answer(self, origin: Origin) -> None:
        """Count a request without credentials whose answer costs much; raises BrokerError (TooManyRequests)."""
        if not self._large.take(origin):
            raise _too_many("requests for this from this address or the network around it")

    def before_call(self, origin: Origin) -> None:
        """Refuse an address with too many failed authentications lately, of its own or of the networks around it.

        Those of its neighbours do not count against an address that has authenticated itself lately.
        Raises BrokerError (TooManyRequests).
        """
        address = origin[0]
        if self._failed_calls.level(address) < 1 or not (address in self._called or self._failed_around.has(origin)):
            raise _too_many("failed authentications from this address or the network around it")

    def failed_call(self, origin: Origin) -> None:
        """Count a failed authentication."""
        if self._failed_calls.take(origin[0]):
            self._failed_around.owe(origin)

    def call(self, origin: Origin, caller: str) -> None:
        """Count an authenticated call; raises BrokerError (TooManyRequests)."""
        self._called.add(origin[0])
        if not self._calls.take(caller):
            raise _too_many("calls with these credentials")

    def _vouched(self, address: str) -> bool:
        return address in self.proven or address in self._called


def _path(origin: Origin) -> tuple[str, ...]:
    """From the widest network down to the address."""
    return origin[::-1]


def _too_many(what: str) -> BrokerError:
    return BrokerError(BrokerReason.TOO_MANY_REQUESTS, f"too many {what}", "slow down, and try again in a minute")
