"""The stopwatch counts work and waiting for somebody else; what a busy machine withholds it does not count."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from e2e.mortal import mortal
from tests.stopwatch import Stopwatch, at_most

WORK_SECONDS = 0.1


def work() -> None:
    began = time.thread_time()
    while time.thread_time() - began < WORK_SECONDS:
        pass


def elsewhere() -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def asleep() -> None:
    threading.Event().wait(WORK_SECONDS)


@pytest.mark.parametrize("what", [work, elsewhere, asleep])
def test_what_the_block_takes_is_counted(what: Callable[[], None]) -> None:
    with Stopwatch() as watch:
        what()
    assert watch.seconds + watch.withheld >= WORK_SECONDS
    assert watch.withheld >= 0


def test_what_others_take_is_not() -> None:
    """With more busy processes than processors, work takes several times as long by the clock."""
    others = [subprocess.Popen(mortal("sh", "-c", "while :; do :; done")) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for _ in range(200):
            with Stopwatch() as watch:
                work()
            if watch.withheld > WORK_SECONDS / 2 and watch.seconds < 2 * WORK_SECONDS:
                return  # they are at work, and the kernel has counted what they take
        pytest.fail(f"{watch.withheld} s are said to be withheld, {watch.seconds} s are not")
    finally:
        for process in others:
            process.kill()
            process.wait()


@pytest.mark.parametrize("bounded", [Stopwatch, lambda: at_most(60)])
def test_what_earlier_tests_hold_is_not_looked_through(bounded: Callable[[], AbstractContextManager[object]]) -> None:
    held: list[object] = [[] for _ in range(1000)]
    with bounded():
        assert not any(one is held for one in gc.get_objects())
    assert any(one is held for one in gc.get_objects())  # and afterwards the collector has it again
