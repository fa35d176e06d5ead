"""What was read from the database, for as long as the mark of its state (`rooms.mark`) is the same.

Whoever asks has read the mark a moment before, in the same statement as something that it needs anyway; so nothing is
served that is older than that moment, and an attestation does not read again what has not changed for days.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """What was read under a number of `Inputs`; forgotten with the first reading under another one, be it lower: then the database
    was set back, or somebody was slow.  Thread-safe."""

    def __init__(self, most: int = 16) -> None:  # a policy may have more than a megabyte
        self._most = most
        self._number: int | None = None
        self._held: dict[K, V] = {}
        self._lock = threading.Lock()

    def find(self, key: K, number: int | None, read: Callable[[], V | None]) -> V | None:
        """What is held under that number, or what `read` finds; without a number it is always read."""
        if number is None:
            return read()
        with self._lock:
            if number == self._number and key in self._held:
                return self._held[key]
        found = read()  # not before the number was read, so it is at least as new
        with self._lock:
            if number != self._number:
                self._number, self._held = number, {}
            if found is not None:
                while len(self._held) >= self._most:
                    del self._held[next(iter(self._held))]
                self._held[key] = found
        return found
