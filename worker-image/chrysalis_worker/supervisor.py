"""The entry point of container `triton`: starts and ends Triton by the agent's orders.  Standard library only.

It waits on a unix socket; each order is one JSON line {"order": "start" | "stop" | "restart" | "status" | "watch"} and is
answered by one line, the status (a refused order adds `error`).  `watch` keeps the connection open and sends the status at
each change: that is how the agent learns that the pod ends, since Kubernetes ends this container before the sidecar that
the agent runs in.

On SIGTERM: the status says `terminating`, the agent drains and orders `stop`; without an agent, or after `drain_seconds`,
Triton is stopped anyway.  Left-overs in shared memory survive a container's restart, so they are removed before each start
and after each end.  As process 1 it reaps whatever lands on it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chrysalis_worker import logs, paths

LOG = logging.getLogger("chrysalis_worker.supervisor")
MAX_LINE_BYTES = 4096
TRITON_EXIT_SECONDS = 5
"""What Triton itself waits for running requests when it is told to end."""
STOP_SECONDS = TRITON_EXIT_SECONDS + 2.0
"""After SIGTERM; then the whole process group is killed."""
SICK_SECONDS = 0.2
"""`restart` is for a Triton that does not answer: there is nothing to wait for, and with a dead stub it would wait 5 s."""
DRAIN_SECONDS = 52.0
"""More than the agent takes to drain; with what follows, less than the pod's grace period."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class ServerCommand:
    """How Triton is started; the defaults are those of the worker image."""

    model_repository: Path = paths.RUN_MODEL
    run: Path = paths.RUN_TRITON
    triton_home: Path = paths.TRITON_HOME
    python_bin: Path = paths.OPT_TV / "bin"  # the Python backend takes the first `python3` on PATH
    shared_memory: Path = paths.SHARED_MEMORY
    shared_memory_prefix: str = paths.SHARED_MEMORY_PREFIX
    home: Path = paths.SCRATCH

    def argv(self) -> list[str]:
        """Triton's whole argument list.  One socket and nothing else: no HTTP, no metrics, no loading of models by request.

        The admin protocols that gRPC would still carry are closed by a key that nobody is told.
        """
        nobody = secrets.token_hex(16)
        return [
            str(self.triton_home / "bin/tritonserver"),
            f"--model-repository={self.model_repository}",
            "--model-control-mode=none",
            "--exit-on-error=true",
            "--strict-readiness=true",
            "--disable-auto-complete-config",
            f"--backend-directory={self.triton_home / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self.shared_memory_prefix}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--allow-gpu-metrics=false",
            f"--grpc-address=unix:{self.run / paths.GRPC_SOCKET}",
            f"--grpc-port={paths.GRPC_PORT}",
            f"--grpc-restricted-protocol=model-repository,statistics,shared-memory,trace,logging:closed={nobody}",
            "--pinned-memory-pool-byte-size=0",
            f"--exit-timeout-secs={TRITON_EXIT_SECONDS}",
        ]

    def environment(self) -> dict[str, str]:
        """The whole environment; nothing is inherited."""
        return {"PATH": f"{self.python_bin}:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}

    def clean(self) -> int:
        """Remove sockets and shared-memory regions of an earlier run; returns how many there were."""
        stale = [*self.run.glob(paths.GRPC_SOCKET + "*"), *self.shared_memory.glob(self.shared_memory_prefix + "*")]
        for path in stale:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return len(stale)


@dataclass
class Supervisor:
    """One Triton at most, and who listens for its changes."""

    command: ServerCommand
    drain_seconds: float = DRAIN_SECONDS
    stop_seconds: float = STOP_SECONDS
    state: str = "idle"  # idle, running, stopping, exited
    pid: int | None = None
    exit_code: int | None = None
    starts: int = 0
    terminating: bool = False
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _stopped_by_order: asyncio.Event = field(default_factory=asyncio.Event)
    _terminate: asyncio.Event = field(default_factory=asyncio.Event)
    _orders: asyncio.Lock = field(default_factory=asyncio.Lock)
    _answers: set[asyncio.Task[None]] = field(default_factory=set)
    _watchers: set[asyncio.StreamWriter] = field(default_factory=set)

    def status(self) -> dict[str, object]:
        """What the agent is told; exitCode is negative for a signal, as in `subprocess`."""
        return {
            "state": self.state,
            "pid": self.pid,
            "exitCode": self.exit_code,
            "starts": self.starts,
            "terminating": self.terminating,
        }

    async def run(self) -> int:
        """Serve orders until SIGTERM; returns this program's exit code: 0 when Triton ended in order or never ran."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate.set)
        _adopt_orphans()
        socket = self.command.run / paths.SUPERVISOR_SOCKET
        socket.unlink(missing_ok=True)
        logs.event(LOG, "supervisor.left-overs", removed=self.command.clean())
        server = await asyncio.start_unix_server(self._serve, path=str(socket), limit=MAX_LINE_BYTES)
        socket.chmod(0o600)
        logs.event(LOG, "supervisor.waiting", socket=str(socket))
        await self._terminate.wait()
        code = await self._end()
        server.close()
        if self._answers:  # who ordered the stop is told that it is done
            await asyncio.wait(self._answers, timeout=1)
        for writer in list(self._watchers):
            writer.close()
        socket.unlink(missing_ok=True)
        logs.event(LOG, "supervisor.ended", code=code)
        return code

    def start(self) -> None:
        """Start Triton unless it runs."""
        if self.state in ("running", "stopping"):
            return
        self.command.clean()
        self._ended.clear()
        self._stopped_by_order.clear()
        process = subprocess.Popen(
            self.command.argv(), env=self.command.environment(), cwd="/", stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.pid, self.exit_code, self.starts = process.pid, None, self.starts + 1
        process.returncode = 0  # _reap waits for it; without this, Popen's destructor would wait as well
        self._change("running")

    async def stop(self, patience: float | None = None) -> None:
        """End Triton: SIGTERM, after `patience` seconds SIGKILL for its whole process group; nothing of it is left afterwards."""
        pid = self.pid
        if self.state == "running" and pid is not None:
            self._change("stopping")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(self.stop_seconds if patience is None else patience):
                    await self._ended.wait()
            except TimeoutError:
                logs.event(LOG, "triton.killed", logging.WARNING, pid=pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                await self._ended.wait()
        self._stopped_by_order.set()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # the Python stubs of a Triton that was killed
                self.command.clean()
                self.pid, self.exit_code = None, os.waitstatus_to_exitcode(status)
                self._ended.set()
                self._change("exited")

    def _change(self, state: str) -> None:
        self.state = state
        logs.event(LOG, f"triton.{state}", pid=self.pid, exit_code=self.exit_code, starts=self.starts)
        self._tell()

    def _tell(self) -> None:
        line = json.dumps(self.status()).encode() + b"\n"
        for writer in self._watchers:
            writer.write(line)

    async def _end(self) -> int:
        self.terminating = True
        was_running = self.state in ("running", "stopping")
        logs.event(LOG, "supervisor.terminating", watchers=len(self._watchers))
        self._tell()
        if self._watchers and was_running:
            self._stopped_by_order.clear()
            try:
                async with asyncio.timeout(self.drain_seconds):
                    await self._stopped_by_order.wait()
            except TimeoutError:
                logs.event(LOG, "supervisor.drain-timeout", logging.WARNING, seconds=self.drain_seconds)
        async with self._orders:
            await self.stop()
        # A Triton that had not set up its handlers yet ends by the signal itself.
        return 0 if self.exit_code in (0, None, -signal.SIGTERM) or not was_running else 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answering = asyncio.create_task(self._answer(line, writer))
                self._answers.add(answering)
                try:
                    await answering
                finally:
                    self._answers.discard(answering)
        except (ValueError, ConnectionError) as error:  # a line beyond the limit, or a peer that went away
            logs.event(LOG, "supervisor.connection", logging.WARNING, detail=str(error))
        finally:
            self._watchers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(await self._obey(line, writer)).encode() + b"\n")
        await writer.drain()

    async def _obey(self, line: bytes, writer: asyncio.StreamWriter) -> dict[str, object]:
        try:
            message = json.loads(line)
            order = message["order"]
            if set(message) != {"order"} or order not in ("start", "stop", "restart", "status", "watch"):
                raise ValueError(line)
        except (ValueError, TypeError, KeyError, RecursionError):
            return {**self.status(), "error": "one JSON object with one member: order, being start, stop, restart, status or watch"}
        if order == "watch":
            self._watchers.add(writer)
        elif order != "status":
            async with self._orders:
                if order != "stop" and self.terminating:
                    return {**self.status(), "error": "the pod is ending; nothing is started any more"}
                if order in ("stop", "restart"):
                    await self.stop(SICK_SECONDS if order == "restart" else None)
                if order in ("start", "restart"):
                    self.start()
        return self.status()


def _adopt_orphans() -> None:
    """Make orphaned grandchildren land here even where this is not process 1 (on a developer's host)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; in the image without arguments, elsewhere with the folders to use."""
    default = ServerCommand()
    parser = argparse.ArgumentParser(prog="chrysalis_worker.supervisor", description="Starts and ends Triton by the agent's orders.")
    parser.add_argument("--model-repository", type=Path, default=default.model_repository)
    parser.add_argument("--run", type=Path, default=default.run)
    parser.add_argument("--triton-home", type=Path, default=default.triton_home)
    parser.add_argument("--python-bin", type=Path, default=default.python_bin)
    parser.add_argument("--shared-memory-prefix", default=default.shared_memory_prefix)
    parser.add_argument("--home", type=Path, default=default.home)
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS)
    given = vars(parser.parse_args(argv))
    drain_seconds = given.pop("drain_seconds")
    logs.configure()
    return asyncio.run(Supervisor(ServerCommand(**given), drain_seconds=drain_seconds).run())


if __name__ == "__main__":
    sys.exit(main())
