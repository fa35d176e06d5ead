"""What this process signed lately, so that a release need not verify its own signature a moment after it was made.

A release takes a result's facts from the signed token that lies in the database, never from the columns beside it: who can write
to the database cannot have a key wrapped to another one.  A token that is, byte for byte, one that this process signed holds
what was signed; any other is verified.  Its times are checked in each case.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from datetime import datetime

from chrysalis.wire import ear
from chrysalis.wire.ear import Ear, Opened

REMEMBERED = 512


class SignedResults:
    """The memory, bounded; thread-safe."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._tokens: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, token: str, opened: Opened) -> None:
        """A token that was signed right now, and what is in it."""
        with self._lock:
            self._tokens[token] = opened
            while len(self._tokens) > self._size:
                self._tokens.popitem(last=False)

    def open(self, token: str, ear_key: bytes, now: datetime, recalled: Collection[str] = ()) -> Ear:
        """`ear.verify`, with the same errors; recalled: thumbprints of recalled keys."""
        with self._lock:
            known = self._tokens.get(token)
        opened = known or ear.open_token(token, ear_key)
        ear.check_times(opened, now)
        ear.check_recalled(opened, recalled)
        return opened.ear
