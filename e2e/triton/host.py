"""Run Triton on the host under the worker's own supervisor, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chrysalis_worker import paths
from e2e.mortal import mortal
from e2e.triton.install import ROOT, Installation

SOCKET_SECONDS = 60.0


@dataclass
class HostSupervisor:
    """A running supervisor process; it starts Triton when it is told to."""

    process: subprocess.Popen[bytes]
    folders: paths.PodPaths
    log: Path
    shared_memory_prefix: str

    def stubs(self) -> list[int]:
        """The process ids of the Python stubs of this supervisor's Triton."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"triton_python_backend_stub" in command.split(b"\0")[0] and self.shared_memory_prefix.encode() in command:
                    found.append(int(entry.name))
        return found


@contextlib.contextmanager
def supervisor(folder: Path, repository: Path, installation: Installation) -> Iterator[HostSupervisor]:
    """Start the supervisor with its sockets under folder/run/triton; ends it and its Triton afterwards.

    The path of a unix socket is limited to 107 characters, so the folder should be a short one.
    """
    run = folder / "run"
    folders = paths.PodPaths(
        model=repository, triton=run / "triton", receipts=run / "receipts", podinfo=run / "podinfo", scratch=folder / "tmp"
    )
    for path in (folders.triton, folders.receipts, folders.podinfo, folders.scratch):
        path.mkdir(parents=True, exist_ok=True)
    prefix = f"chrysalis_{secrets.token_hex(4)}_"
    log = folder / "triton.log"
    argv = [sys.executable, "-m", "chrysalis_worker.supervisor", "--model-repository", str(repository), "--run", str(folders.triton)]
    argv += ["--triton-home", str(installation.triton_home), "--python-bin", str(installation.python_bin)]
    argv += ["--shared-memory-prefix", prefix, "--home", str(folders.scratch), "--drain-seconds", "30"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "worker-image")}
    with log.open("wb") as out:
        process = subprocess.Popen(mortal(*argv), stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        until = time.monotonic() + SOCKET_SECONDS
        while not folders.supervisor_socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the supervisor did not come up: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield HostSupervisor(process, folders, log, prefix)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
