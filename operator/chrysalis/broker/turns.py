"""Processes of one machine that write to the same SQLite file take turns.

SQLite lets whoever asks in the right moment have its lock and has the others sleep longer and longer, up to a tenth of a second at a
time; between two busy processes, one can wait for seconds.  Here whoever wants to write stands in line: the first lock says who
is next, the second one who writes.  This is a courtesy and no safeguard: who has waited too long goes on and has SQLite decide.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_SECONDS = 0.0005


class Turns:
    """The line of one database file; any thread of any process may stand in it."""

    def __init__(self, database: Path, wait_seconds: float) -> None:
        """The locks lie beside the file; they are let go of by the kernel when a process ends."""
        self._next = database.with_name(database.name + "-next")
        self._writer = database.with_name(database.name + "-writer")
        self._wait = wait_seconds

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have it, or have waited long enough, while the block runs."""
        until = time.monotonic() + self._wait
        with _opened(self._writer) as writer:
            with _opened(self._next) as following:
                if _lock(following, until):
                    _lock(writer, until)
            yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file descriptor of its own, with whose end its lock ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
