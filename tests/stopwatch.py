"""Time that a busy machine cannot falsify.

A bound on what the product takes holds for the time in which it could have run.  What the machine gave to others meanwhile is no
fault of the product: Linux counts for each thread how long it was ready to run and did not (proc(5), schedstat), for all together
how long anybody was (pressure stall information), and what the hypervisor gave to other machines (proc(5), stat, steal).  Nor is it
the product's fault how much the tests that ran before have left for Python's collector of garbage to look through: seconds, after
some thousands.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

LOOK_SECONDS = 0.02
_PRESSURE = Path("/proc/pressure/cpu")
_STAT = Path("/proc/stat")


class Stopwatch:
    """A context manager that measures the block.  processes: ids of further processes that the block waits for.

    withheld: the seconds in which these processes' threads stood in line for a processor, at most those in which anybody on the
    machine did, and those that the hypervisor took (stolen).  seconds: those that went by otherwise.  Where the kernel does not
    count, nothing is taken off.
    """

    def __init__(self, *processes: int) -> None:
        self._folders = [Path("/proc/self/task"), *(Path(f"/proc/{process}/task") for process in processes)]
        self._before: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stopwatch", daemon=True)
        self.seconds = 0.0
        self.withheld = 0.0
        self.stolen = 0.0

    def __enter__(self) -> Self:
        gc.freeze()
        self._before, self._pressed, self._stolen_before = self._waits(), _pressed(), _stolen()
        self._thread.start()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed = time.monotonic() - self._began
        gc.unfreeze()
        self._over.set()
        self._thread.join()
        waited = sum(max(0.0, seconds - self._before.get(thread, 0.0)) for thread, seconds in self._latest.items())
        self.stolen = _stolen() - self._stolen_before
        self.withheld = min(elapsed, min(waited, _pressed() - self._pressed) + self.stolen)
        self.seconds = elapsed - self.withheld

    def _look(self) -> None:
        """Now and then, since what a thread has waited is forgotten with it."""
        while not self._over.wait(LOOK_SECONDS):
            self._latest |= self._waits()
        self._latest |= self._waits()

    def _waits(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for folder in self._folders:
            with suppress(OSError):  # a process that ended
                for thread in list(folder.iterdir()):
                    with suppress(OSError):  # a thread that ended
                        found[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        return found


def _pressed() -> float:
    """Seconds in which somebody stood in line for a processor, since the machine's start."""
    with suppress(OSError):
        return int(_PRESSURE.read_text().splitlines()[0].rpartition("total=")[2]) / 1e6
    return float("inf")


def _stolen() -> float:
    """Seconds that the hypervisor gave to others while this machine was ready to run, since its start; of all processors together."""
    with suppress(OSError, IndexError):
        return int(_STAT.read_text().splitlines()[0].split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """The block takes this thread less than so many seconds of a processor; AssertionError otherwise."""
    gc.freeze()
    began = time.thread_time()
    try:
        yield
        spent = time.thread_time() - began
    finally:
        gc.unfreeze()
    assert spent < seconds, f"{spent:.2f} s of the processor instead of {seconds:g}"
