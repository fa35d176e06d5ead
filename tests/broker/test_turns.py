"""Writers of one SQLite file stand in line, and nobody stands there for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chrysalis.broker import turns
from chrysalis.broker.turns import Turns

HOLDS = """
import sys, time
from pathlib import Path
from chrysalis.broker.turns import Turns
with Turns(Path(sys.argv[1]), 5).turn():
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


def test_one_at_a_time(file: Path) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with Turns(file, 600).turn():
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.001)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_who_writes_again_and_again_lets_the_others_in_between(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is next as soon as it stands in line, however soon the first one comes back."""
    order: list[str] = []
    inside, stop = threading.Event(), threading.Event()
    in_line: list[int] = []
    lock = turns._lock

    def noting(descriptor: int, until: float) -> bool:
        had = lock(descriptor, until)
        if threading.current_thread() is not thread:
            in_line.append(len(order))  # at the line's lock, then at the writer's
        return had

    monkeypatch.setattr(turns, "_lock", noting)

    def greedy() -> None:
        while not stop.is_set() and len(order) < 10_000:
            with Turns(file, 600).turn():
                order.append("greedy")
                inside.set()
                time.sleep(0.01)

    thread = threading.Thread(target=greedy)
    thread.start()
    inside.wait()
    for _ in range(3):
        in_line.clear()
        with Turns(file, 600).turn():
            stood, had = in_line
            assert had - stood <= 1  # who has the writer's lock already may have to note yet that it is inside
    stop.set()
    thread.join()


def test_it_is_not_waited_for_ever_and_a_killed_process_holds_nothing(file: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    began = time.monotonic()
    with Turns(file, 0.2).turn():  # SQLite's own lock decides then
        assert time.monotonic() - began >= 0.2
        assert process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()
    with Turns(file, 3600).turn():
        pass  # or the time limit of all tests ends this one
