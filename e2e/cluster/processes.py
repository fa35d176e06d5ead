"""Starting the cluster's daemons, and knowing later whether a recorded one is still the same one.

A process id alone can be reused; with the start time that the kernel keeps it names one process for good.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.reasons import ClusterError, Reason

# Joins the control group first, so that no child can be born outside it. The daemon is its own session, and an orphan from the
# start: whoever starts the cluster may end without taking it along, and leaves no zombie either.
_LAUNCH = """
group=$1 log=$2; shift 2
echo $$ >"$group" || exit 1
setsid "$@" </dev/null >>"$log" 2>&1 &
echo $!
"""


@dataclass(frozen=True)
class Process:
    """One daemon: its name, id, and the kernel's start time (clock ticks since boot)."""

    name: str
    pid: int
    started: int

    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        return _started(self.pid) == self.started

    def kill(self) -> None:
        """`kill -9`, if it still runs."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)


def named(name: str, pid: int) -> Process | None:
    """The process that has this id now; None if there is none."""
    started = _started(pid)
    return None if started is None else Process(name, pid, started)


def this(name: str) -> Process:
    """The process that asks."""
    found = named(name, os.getpid())
    if found is None:
        raise AssertionError("who asks is alive")
    return found


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def start(
    name: str,
    arguments: Sequence[str],
    *,
    group: Path,
    log: Path,
    namespace: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a daemon in a control group (its membership file) and, if given, in a network namespace.

    Only the network namespace is entered: `ip netns exec` would also replace /sys and hide the control groups from kubelet.
    """
    entered = ["nsenter", f"--net={namespace}", *arguments] if namespace else list(arguments)
    done = subprocess.run(
        ["sh", "-c", _LAUNCH, "sh", str(group), str(log), *entered],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=dict(environment) if environment is not None else None,
    )
    if done.returncode or not done.stdout.strip().isdigit():
        raise ClusterError(Reason.COMMAND_FAILED, f"{name} could not be started: {done.stderr.strip()}", f"read {log}")
    process = named(name, int(done.stdout))
    if process is None:
        raise ended(name, log)
    return process


def ended(name: str, log: Path) -> ClusterError:
    """The error of a daemon that should run and does not, with the last lines of its log."""
    return ClusterError(Reason.PROCESS_ENDED, f"{name} ended by itself", f"read {log}", detail=last_lines(log))


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, long lines cut."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(line[:400] for line in lines[-count:])
