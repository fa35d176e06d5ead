"""When a document is asked for again: half of its life after a good answer, ever later after bad ones.  Pure.

Times are Unix seconds.  `spread` is a number in [0, 1) that the caller draws: replicas and documents then do not all ask
at the same moment.
"""

from __future__ import annotations

JITTER = 0.2
"""A share: the half-life is cut or stretched by up to this."""
SHORTEST_SECONDS = 60
"""Between two good answers, however little life is left."""
FIRST_RETRY_SECONDS = 30
MISSING_RETRY_SECONDS = 300
"""The longest wait while workers wait for a document that is not there, or has ended."""
HELD_RETRY_SECONDS = 3600
"""The longest wait while the last good document still serves."""
UNKNOWN_RETRY_SECONDS = 900
"""Where the source says that it does not have the document."""


def after_success(now: int, ends_at: int, spread: float) -> int:
    """When to ask again for a document that was confirmed now."""
    half = (ends_at - now) / 2 * (1 - JITTER + 2 * JITTER * spread)
    return now + max(int(half), SHORTEST_SECONDS)


def after_failure(now: int, failures: int, spread: float, *, held: bool, unknown: bool = False) -> int:
    """When to ask again after `failures` bad answers in a row (at least one): doubled each time, cut by up to a fifth.

    held: whether a current document serves meanwhile.  unknown: whether the source said that there is none.
    """
    limit = HELD_RETRY_SECONDS if held else MISSING_RETRY_SECONDS
    wait = min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 16), limit)
    if unknown:
        wait = max(wait, UNKNOWN_RETRY_SECONDS)
    return now + int(wait * (1 - JITTER * spread))


class Allowance:
    """At most `burst` at once, and `per_minute` in the long run.  Not thread-safe."""

    def __init__(self, burst: int, per_minute: int, now: float) -> None:
        self._burst, self._per_minute = burst, per_minute
        self._left, self._at = float(burst), now

    def take(self, now: float) -> bool:
        """Use one up at a (monotonic) time; False when none is left."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_minute / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
