"""Whether a result still counts, for the worker whose it is: a worker that hears of its end attests again at once, not at its renewal.

Workers ask; nobody is called back and no connection is held, so ten thousand of them cost no memory here.  The answer says when to
ask again: all living results together shall not make more than CHECKS_PER_SECOND questions, however many there are.

The question needs no credential, like a release: who knows a result's id learns no more than the release of its key would tell.
"""

from __future__ import annotations

import threading

from chrysalis.broker.reasons import BrokerReason
from chrysalis.broker.store import Store
from chrysalis.clock import Clock, unix
from chrysalis.wire.broker import ResultStanding

CHECKS_PER_SECOND = 100
"""Over all replicas; each is a look at one row."""
LEAST_SECONDS, MOST_SECONDS = 15, 600
"""Between two questions of one worker."""
COUNT_SECONDS = 30.0
"""How long a count of the living results is used."""


class Standings:
    """Answers; remembers only how many results there are.  Thread-safe."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # of the members below
        self._seconds = LEAST_SECONDS
        self._counted_at: float | None = None

    def of(self, result_id: str) -> ResultStanding:
        """How a result stands now; one that is not known has ended, as far as this broker can say."""
        now = unix(self._clock.now())
        found = self._store.standing(result_id)
        if found is None:
            return self._ended(BrokerReason.RESULT_UNKNOWN, now)
        verdict, expires_at, revoked_reason = found
        if verdict != "Accepted" or expires_at is None:
            return self._ended(BrokerReason.RESULT_REFUSED, now)
        if revoked_reason is not None:
            return self._ended(revoked_reason, now)
        if now >= expires_at:
            return self._ended(BrokerReason.RESULT_EXPIRED, now)
        return ResultStanding(living=True, ask_again_seconds=self._pace(now))

    def _ended(self, reason: str, now: int) -> ResultStanding:
        return ResultStanding(living=False, reason=str(reason), ask_again_seconds=self._pace(now))

    def _pace(self, now: int) -> int:
        """When a worker asks again, in seconds."""
        with self._lock:
            at = self._clock.monotonic()
            if self._counted_at is not None and at - self._counted_at < COUNT_SECONDS:
                return self._seconds
            self._counted_at = at  # the others go on with the last number meanwhile
        seconds = min(MOST_SECONDS, max(LEAST_SECONDS, -(-self._store.living_results(now) // CHECKS_PER_SECOND)))
        with self._lock:
            self._seconds = seconds
        return seconds
