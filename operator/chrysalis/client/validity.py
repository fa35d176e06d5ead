"""How long a verification holds: by two clocks, of which neither alone can be trusted with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chrysalis.clock import Clock


@dataclass(frozen=True)
class Validity:
    """Until an expiry on the wall clock, and for no longer than it was away when the verification began.

    The monotonic clock goes on where somebody sets the wall clock back; the wall clock goes on where the machine sleeps.
    """

    expires_at: datetime
    deadline: float
    """On the monotonic clock, in seconds."""

    @classmethod
    def of(cls, expires_at: datetime, *, began: datetime, began_monotonic: float) -> Validity:
        """Of a verification that began then, and that the evidence carries until `expires_at`."""
        return cls(expires_at, began_monotonic + (expires_at - began).total_seconds())

    def holds(self, clock: Clock) -> bool:
        """Whether something may still be sent."""
        return clock.monotonic() < self.deadline and clock.now() < self.expires_at
