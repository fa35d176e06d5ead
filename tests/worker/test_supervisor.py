"""The supervisor as its own process, with a stand-in for Triton that obeys, hangs, or dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chrysalis_worker import paths
from chrysalis_worker.orders import Orders, TritonStatus
from chrysalis_worker.reasons import WorkerError
from chrysalis_worker.supervisor import ServerCommand
from e2e.mortal import mortal
from tests.conftest import ROOT

OBEYS = "trap 'kill $!; exit 0' TERM; echo up > $HOME/up; sleep 60 & wait"
HANGS = "trap '' TERM; echo up > $HOME/up; while :; do sleep 60; done"
DIES = "echo up > $HOME/up; exit 3"


class Running:
    """A supervisor process over a fake Triton script."""

    def __init__(self, folder: Path, script: str, drain_seconds: float = 5) -> None:
        self.folder = folder
        home = folder / "tritonserver"
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin/tritonserver").write_text(f"#!/bin/sh\necho $$ > {folder}/pid\n{script}\n")
        (home / "bin/tritonserver").chmod(0o755)
        argv = [sys.executable, "-m", "chrysalis_worker.supervisor", "--run", str(folder), "--triton-home", str(home)]
        argv += ["--home", str(folder), "--shared-memory-prefix", f"chrysalis_test_{os.getpid()}_", "--drain-seconds", str(drain_seconds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "worker-image")}
        self.process = subprocess.Popen(mortal(*argv), env=environment, stderr=subprocess.PIPE)
        self.orders = Orders(folder / paths.SUPERVISOR_SOCKET)

    async def reachable(self) -> TritonStatus:
        for _ in range(6000):
            try:
                return await self.orders.order("status")
            except WorkerError:
                await asyncio.sleep(0.01)
        raise AssertionError("the supervisor did not come up")

    async def up(self) -> None:
        for _ in range(6000):
            if (self.folder / "up").exists():
                (self.folder / "up").unlink()
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the stand-in did not start")

    async def ended(self) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), 60)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sv"))  # short: the path of a unix socket is limited
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path) -> Iterator[object]:
    made: list[Running] = []

    def make(script: str, drain_seconds: float = 5) -> Running:
        made.append(Running(folder, script, drain_seconds))
        return made[-1]

    yield make
    for running in made:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
            with contextlib.suppress(OSError, ValueError):  # a test that failed: nobody else ends the stand-in
                os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)
        running.process.stderr.close()


def test_it_uses_only_the_standard_library() -> None:
    code = "import chrysalis_worker.supervisor, sys; print([m for m in sys.modules if m.split('.')[0] not in sys.stdlib_module_names])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'worker-image')!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {name.split(".")[0] for name in eval(done.stdout)} <= {"__main__", "chrysalis_worker"}


def test_start_stop_restart_status(start: object) -> None:
    running = start(OBEYS)

    async def scenario() -> None:
        assert (await running.reachable()).state == "idle"
        first = await running.orders.order("start")
        await running.up()
        assert (first.state, first.starts) == ("running", 1)
        assert (await running.orders.order("start")).pid == first.pid  # no second one
        second = await running.orders.order("restart")
        await running.up()
        assert (second.state, second.starts) == ("running", 2)
        assert second.pid != first.pid
        stopped = await running.orders.order("stop")
        assert (stopped.state, stopped.exit_code, stopped.pid) == ("exited", 0, None)
        running.process.terminate()
        assert await running.ended() == 0

    asyncio.run(scenario())


def test_a_triton_that_does_not_end_is_killed(start: object) -> None:
    running = start(HANGS)

    async def scenario() -> None:
        await running.reachable()
        first = await running.orders.order("start")
        await running.up()
        again = await running.orders.order("restart")
        assert again.pid != first.pid
        for _ in range(6000):  # its children are gone too, as soon as they are reaped
            try:
                os.killpg(first.pid, 0)
            except ProcessLookupError:
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("a process of the killed group is left")
        os.killpg(again.pid, signal.SIGKILL)

    asyncio.run(scenario())


def test_a_death_is_told_to_who_watches(start: object) -> None:
    running = start(DIES)

    async def scenario() -> None:
        await running.reachable()
        seen: list[TritonStatus] = []
        told = asyncio.Event()

        async def watch() -> None:
            async for status in running.orders.watch():
                seen.append(status)
                told.set()
                if status.state == "exited":
                    return

        watching = asyncio.create_task(watch())
        await told.wait()
        await running.orders.order("start")
        await asyncio.wait_for(watching, 60)
        assert [s.state for s in seen] == ["idle", "running", "exited"]
        assert seen[-1].exit_code == 3

    asyncio.run(scenario())


def test_the_end_of_the_pod_waits_for_the_agents_drain(start: object) -> None:
    running = start(OBEYS)

    async def scenario() -> None:
        await running.reachable()
        await running.orders.order("start")
        await running.up()
        terminating = asyncio.Event()

        async def watch() -> None:
            async for status in running.orders.watch():
                if status.terminating:
                    terminating.set()

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.05)
        running.process.terminate()
        await asyncio.wait_for(terminating.wait(), 60)
        await asyncio.sleep(0.2)
        assert (await running.orders.order("status")).state == "running"  # still there for jobs in flight
        with pytest.raises(WorkerError):
            await running.orders.order("restart")
        assert (await running.orders.order("stop")).exit_code == 0
        assert await running.ended() == 0
        watching.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("watched", [False, True])
def test_the_end_does_not_wait_for_ever(start: object, watched: bool) -> None:
    running = start(OBEYS, drain_seconds=0.3)

    async def scenario() -> None:
        await running.reachable()
        await running.orders.order("start")
        await running.up()
        stream = running.orders.watch()
        if watched:
            await anext(stream)
        running.process.terminate()
        assert await running.ended() == 0
        await stream.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("line", [b"x\n", b"[]\n", b'{"order": "load"}\n', b'{"order": "start", "x": 1}\n', b"\xff\n"])
def test_other_orders_are_refused(start: object, line: bytes) -> None:
    running = start(OBEYS)

    async def scenario() -> None:
        await running.reachable()
        reader, writer = await asyncio.open_unix_connection(str(running.folder / paths.SUPERVISOR_SOCKET))
        writer.write(line)
        assert b'"error"' in await reader.readline()
        writer.write(b'{"order": "status"}\n')
        assert b'"error"' not in await reader.readline()
        writer.close()

    asyncio.run(scenario())


def test_an_endless_line_ends_only_its_connection(start: object) -> None:
    running = start(OBEYS)

    async def scenario() -> None:
        await running.reachable()
        reader, writer = await asyncio.open_unix_connection(str(running.folder / paths.SUPERVISOR_SOCKET))
        writer.write(b"x" * 100_000)
        assert await reader.read() == b""
        writer.close()
        assert (await running.orders.order("status")).state == "idle"

    asyncio.run(scenario())


def test_left_overs_of_its_own_prefix_are_removed(tmp_path: Path) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    for name in ("chrysalis_1", "chrysalis_2", "somebody_else"):
        (memory / name).touch()
    (tmp_path / "g.sock:1").touch()
    assert ServerCommand(run=tmp_path, shared_memory=memory).clean() == 3
    assert [p.name for p in memory.iterdir()] == ["somebody_else"]


def test_the_command_line_of_triton() -> None:
    argv = ServerCommand().argv()
    assert argv[0] == "/opt/tv/lib/python3.11/site-packages/pytriton/tritonserver/bin/tritonserver"
    assert {"--model-control-mode=none", "--allow-http=false", "--grpc-address=unix:/run/triton/g.sock", "--grpc-port=1"} <= set(argv)
    assert not [a for a in argv if "0.0.0.0" in a]
    assert set(ServerCommand().environment()) == {"PATH", "HOME", "LANG", "PYTHONDONTWRITEBYTECODE"}
