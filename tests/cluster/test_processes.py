"""Daemons: started outside this process, known by id and start time, and told apart from a later owner of the id."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from e2e.cluster import processes
from e2e.cluster.processes import Process
from e2e.cluster.reasons import ClusterError, Reason


@pytest.fixture
def sleeper(tmp_path: Path) -> Process:
    return processes.start("sleeper", ["sleep", "600"], group=tmp_path / "group", log=tmp_path / "log")


def gone(process: Process) -> bool:
    for _ in range(6000):
        if not process.alive():
            return True
        time.sleep(0.01)
    return False


def test_a_daemon_lives_until_it_is_killed_and_is_no_child_of_ours(sleeper: Process, tmp_path: Path) -> None:
    try:
        assert sleeper.alive()
        assert (tmp_path / "group").read_text().strip().isdigit()
        with pytest.raises(ChildProcessError):
            os.waitpid(sleeper.pid, os.WNOHANG)
    finally:
        os.kill(sleeper.pid, signal.SIGKILL)
    assert gone(sleeper)


def test_another_process_with_the_same_id_is_not_it(sleeper: Process) -> None:
    try:
        assert not dataclasses.replace(sleeper, started=sleeper.started - 1).alive()
    finally:
        os.kill(sleeper.pid, signal.SIGKILL)


def test_what_a_daemon_writes_goes_to_its_log(tmp_path: Path) -> None:
    made = processes.start("words", ["sh", "-c", "echo out; echo err >&2; sleep 0.2"], group=tmp_path / "group", log=tmp_path / "log")
    assert gone(made)
    assert processes.last_lines(tmp_path / "log") == "out\nerr"


def test_a_group_that_cannot_be_joined_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as refused:
        processes.start("lost", ["sleep", "600"], group=tmp_path / "no" / "group", log=tmp_path / "log")
    assert refused.value.reason == Reason.COMMAND_FAILED
