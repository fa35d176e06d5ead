"""Challenges that prove their own age: time ‖ random ‖ MAC, 32 bytes.  Nothing is stored until one is spent.

A flood of challenges costs no memory; a spent nonce is remembered by the store until it would be refused for its age.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock, from_unix, unix

TIME_BYTES = 6
RANDOM_BYTES = 10
MAC_BYTES = 16
SKEW_SECONDS = 10
"""How far the clocks of two replicas may be apart.  A spent nonce is remembered for twice as long beyond its life: by the slowest
clock it is refused for its age before the fastest one lets it be forgotten."""
CONTEXT = b"chrysalis/v1/nonce"
REMEDY = "ask for a new challenge and attest with that one"


class Nonces:
    """Makes and checks challenges under one MAC key, which replicas share."""

    def __init__(self, key: bytes, clock: Clock, life_seconds: int) -> None:
        self._key = key
        self._clock = clock
        self._life = life_seconds
        self._lock = threading.Lock()
        self._in_use: set[str] = set()

    def make(self) -> tuple[bytes, datetime]:
        """A new nonce and the time from which it is refused."""
        now = unix(self._clock.now())
        head = now.to_bytes(TIME_BYTES, "big") + secrets.token_bytes(RANDOM_BYTES)
        return head + self._mac(head), from_unix(now) + timedelta(seconds=self._life)

    def check(self, nonce: bytes) -> datetime:
        """The time from which an own, fresh nonce is refused; raises BrokerError: NonceInvalid, NonceExpired."""
        head, mac = nonce[:-MAC_BYTES], nonce[-MAC_BYTES:]
        if len(nonce) != TIME_BYTES + RANDOM_BYTES + MAC_BYTES or not hmac.compare_digest(mac, self._mac(head)):
            raise BrokerError(BrokerReason.NONCE_INVALID, "the nonce is not from this broker", REMEDY)
        made = int.from_bytes(head[:TIME_BYTES], "big")
        now = unix(self._clock.now())
        if not made - SKEW_SECONDS <= now < made + self._life:
            words = f"the nonce is older than {self._life} s, or from the future"
            raise BrokerError(BrokerReason.NONCE_EXPIRED, words, REMEDY, f"made {made}, now {now}")
        return from_unix(made + self._life)

    @contextlib.contextmanager
    def in_use(self, nonce: str) -> Iterator[None]:
        """Keep others from judging evidence under the same nonce meanwhile; raises BrokerError (NonceReplayed).

        It saves work in this process only: that a nonce counts once is up to the database.
        """
        with self._lock:
            if nonce in self._in_use:
                raise replayed()
            self._in_use.add(nonce)
        try:
            yield
        finally:
            with self._lock:
                self._in_use.discard(nonce)

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._key, CONTEXT + head, "sha256")[:MAC_BYTES]


def replayed() -> BrokerError:
    """The refusal of a nonce that was used before."""
    return BrokerError(BrokerReason.NONCE_REPLAYED, "this nonce was used before", REMEDY)
