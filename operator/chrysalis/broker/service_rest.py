"""How a service that is silent is left alone for a while, so that it does not hold one thread after the other."""

from __future__ import annotations

import threading

from chrysalis.clock import Clock
from chrysalis.wire.gpu_services import unavailable

FIRST_SECONDS, LONGEST_SECONDS = 2, 60
"""How long: doubled with each time."""
TRIAL_SECONDS = 90
"""For the one request that is made then, at most; its outcome ends this."""


class ServiceRest:
    """Of one service.  Thread-safe.

    After a rest one request is made; the others are told to come back until it is known what came of it.
    """

    def __init__(self, service: str, clock: Clock) -> None:
        """service: its name, for the message."""
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0

    def check(self) -> None:
        """Raise GpuError (GpuServiceUnavailable) while it rests."""
        if self._clock.monotonic() < self._until:
            raise unavailable(self._service, "it did not answer a moment ago")

    def begin(self) -> None:
        """The same, right before a request; `ended` has to follow."""
        with self._lock:
            self.check()
            if self._failures:
                self._until = self._clock.monotonic() + TRIAL_SECONDS

    def ended(self, *, silent: bool) -> None:
        """What came of a request: silent, or some answer, whatever it said."""
        with self._lock:
            if not silent:
                self._failures, self._until = 0, 0.0
                return
            self._failures += 1
            rest = min(FIRST_SECONDS * 2 ** min(self._failures - 1, 16), LONGEST_SECONDS)
            self._until = self._clock.monotonic() + rest
