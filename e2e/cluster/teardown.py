"""Ending an instance so that nothing of it stays on the machine, and finding out whether that is true."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from e2e.cluster import cgroups, network
from e2e.cluster.commands import attempt
from e2e.cluster.layout import Layout
from e2e.cluster.processes import Process

_CNI_RESULTS = Path("/var/lib/cni/results")
_CONTAINER_LOGS = Path("/var/log/containers")


def clear(layout: Layout) -> None:
    """End every process, then remove mounts, network, control groups and files, in the order in which each lets go."""
    sockets = shim_sockets(layout)
    cgroups.kill(layout.cgroup)
    sockets += shim_sockets(layout)  # of a container that was made meanwhile
    for place in reversed(mounts(layout)):
        attempt(["umount", place]) or attempt(["umount", "--lazy", place])
    network.destroy(layout)
    cgroups.remove(layout.cgroup)
    for path in [*sockets, *_strays(layout)]:
        path.unlink(missing_ok=True)
    if not mounts(layout):  # a mount that stayed would have its content deleted
        shutil.rmtree(layout.folder, ignore_errors=True)


def leftovers(layout: Layout, processes: list[Process]) -> list[str]:
    """Everything of the instance that is still there, in words; the logs apart, which stay to be read."""
    found = [f"process {process.pid} ({process.name})" for process in processes if process.alive()]
    found += [f"process {pid} in control group {layout.cgroup}" for pid in sorted(cgroups.members(layout.cgroup))]
    found += [f"mount {place}" for place in mounts(layout)]
    found += network.leftovers(layout)
    found += [f"control group {place / layout.cgroup}" for place in cgroups.hierarchies() if (place / layout.cgroup).exists()]
    found += [f"file {path}" for path in [*_strays(layout), *shim_sockets(layout)]]
    if layout.folder.exists():
        found.append(f"folder {layout.folder}")
    return found


def mounts(layout: Layout) -> list[str]:
    """Mount points below the instance's folder, in the order in which they were mounted."""
    inside = f"{layout.folder}/"
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # mountinfo writes spaces and the like as octal escapes
    return [place for point in points if (place := point.encode().decode("unicode_escape")).startswith(inside)]


def _strays(layout: Layout) -> list[Path]:
    """Files that other programs keep in places of their own choice: libcni's results and kubelet's links to logs.

    A result names the pod's network namespace, which is a file in the instance's folder.
    """
    inside = f"{layout.folder}/".encode()
    results = [path for path in _CNI_RESULTS.iterdir() if inside in read(path)] if _CNI_RESULTS.is_dir() else []
    links = [path for path in _CONTAINER_LOGS.glob("*.log") if target(path).startswith(f"{layout.folder}/")]
    return results + links


def target(path: Path) -> str:
    """Where a symbolic link points; nowhere where it is none, or is removed meanwhile (see `read`)."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def read(path: Path) -> bytes:
    """A file's bytes; none where its owner, or another instance that clears up, removes it meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def shim_sockets(layout: Layout) -> list[Path]:
    """The sockets of the containers' shims: in one folder for the whole machine, named in a file that each container has."""
    found: list[Path] = []
    for address in layout.folder.glob("*/state/io.containerd.runtime.v2.task/*/*/address"):
        path = Path(read(address).decode().strip().removeprefix("unix://"))
        if path.is_socket():
            found.append(path)
    return found
