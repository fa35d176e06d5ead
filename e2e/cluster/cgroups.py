"""Control groups: every process of an instance lives below one group, so that ending the instance finds each of them.

Works on the old hierarchies (one tree for each controller) and on the unified one.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from chrysalis.clock import Clock, SystemClock

_UNIFIED_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


def _mounted(kind: str) -> list[Path]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(place) for _, place, mounted, *_ in (line.split() for line in lines) if mounted == kind]


def hierarchies() -> list[Path]:
    """Where all trees are mounted, the unified one included where it stands beside the old ones (runc leaves groups there too)."""
    return _mounted("cgroup") + _mounted("cgroup2")


def is_unified() -> bool:
    """Whether this machine has the unified hierarchy only."""
    return not _mounted("cgroup")


def create(group: str) -> None:
    """Make the group (a path with slashes) in every hierarchy, ready to hold processes and further groups."""
    unified = is_unified()
    for hierarchy in _mounted("cgroup2" if unified else "cgroup"):
        place = hierarchy
        for part in Path(group).parts:
            if unified:
                _delegate(place)
            parent, place = place, place / part
            place.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                # the old cpuset tree starts empty, and a group without processors takes no process
                if not unified and (place / name).exists() and not (place / name).read_text().strip():
                    (place / name).write_text((parent / name).read_text())


def _delegate(place: Path) -> None:
    """Hand every controller that is there down to the children (unified hierarchy)."""
    available = (place / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in _UNIFIED_CONTROLLERS if name in available)
    (place / "cgroup.subtree_control").write_text(wanted)


def membership_file(group: str) -> Path:
    """The file to write a process id into so that the process, and all that it starts, counts to the group."""
    trees = hierarchies()
    tree = trees[0] if is_unified() else next((place for place in trees if place.name == "pids"), trees[0])
    return tree / group / "cgroup.procs"


def members(group: str) -> set[int]:
    """The ids of all processes in the group and below, in every hierarchy."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / group):
            try:
                found.update(int(line) for line in (Path(folder) / "cgroup.procs").read_text().split())
            except (FileNotFoundError, OSError):
                continue  # the group went away between listing and reading
    return found


def kill(group: str, *, patience_seconds: float = 20, clock: Clock | None = None) -> set[int]:
    """Kill every process in the group, children that appear meanwhile included; returns those that would not go."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + patience_seconds
    while left := members(group):
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if clock.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return set()


def remove(group: str) -> list[Path]:
    """Remove the group and all below it from every hierarchy; returns what would not go."""
    left: list[Path] = []
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / group, topdown=False):
            for _ in range(50):
                try:
                    os.rmdir(folder)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)  # the kernel lets go of a dead process's group a moment later
            else:
                left.append(Path(folder))
    return left
