"""Time as a parameter.  The only module that may ask the system what time it is (a lint rule holds this)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a program gets its time from."""

    def now(self) -> datetime:
        """The wall-clock time, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move; for tests and simulations."""

    def __init__(self, at: datetime) -> None:
        if at.tzinfo is None:
            raise ValueError("a clock needs an aware time")
        self._at = at.astimezone(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._at

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by a number of seconds."""
        self._at = datetime.fromtimestamp(self._at.timestamp() + seconds, UTC)
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Move the wall clock back, as an administrator may; the monotonic one goes on."""
        self._at = datetime.fromtimestamp(self._at.timestamp() - seconds, UTC)


def unix(at: datetime) -> int:
    """Whole Unix seconds of an aware time, rounded down."""
    if at.tzinfo is None:
        raise ValueError("an aware time is needed")
    return int(at.timestamp())


def from_unix(seconds: int) -> datetime:
    """The aware UTC time of Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def rfc3339(at: datetime) -> str:
    """RFC 3339 in UTC with Z, whole seconds: the form of JSON and of custom resources."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> datetime:
    """Parse RFC 3339 with an offset; raises ValueError on anything else, a missing offset included."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no offset; end it with Z")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} lies before the first or after the last year") from error
