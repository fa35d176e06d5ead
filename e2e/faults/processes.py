"""A container's process as the machine sees it: found by its pod and its command line, ended by its own id."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from e2e.demo.install import SYSTEM
from e2e.demo.story import StepFailed
from e2e.demo.world import World


class Victim(StrEnum):
    """What is killed: the container's name."""

    OPERATOR = "operator"
    BROKER = "broker"
    SETTLER = "settler"


MODULES = {
    Victim.OPERATOR: b"chrysalis.controller.main",
    Victim.BROKER: b"chrysalis.broker.main",
    Victim.SETTLER: b"chrysalis.settlement.main",
}


@dataclass(frozen=True)
class Target:
    """A running process of the product."""

    victim: Victim
    pod: str
    pid: int

    def pause(self) -> None:
        """Stop it where it is, so that one can look whether the point still holds."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """`kill -9`; works on a paused process, too."""
        os.kill(self.pid, signal.SIGKILL)


def find(world: World, victim: Victim) -> Target:
    """The victim's process; raises StepFailed when there is not exactly one."""
    pod = pod_of(world, victim)
    uid = str(pod["metadata"]["uid"])
    found = [int(process.name) for process in Path("/proc").glob("[0-9]*") if _is(process, uid, MODULES[victim])]
    if len(found) != 1:
        raise StepFailed(f"{len(found)} processes of the {victim} run in pod {pod['metadata']['name']}: {found}")
    return Target(victim, str(pod["metadata"]["name"]), found[0])


def pod_of(world: World, victim: Victim) -> dict[str, Any]:
    """The pod that runs the victim's container."""
    component = "broker" if victim == Victim.BROKER else "operator"
    items = world.get("pods", "-n", SYSTEM, "-l", f"app.kubernetes.io/component={component}")["items"]
    living: list[dict[str, Any]] = [item for item in items if "deletionTimestamp" not in item["metadata"]]
    if len(living) != 1:
        raise StepFailed(f"{len(living)} pods run the {component}")
    return living[0]


def restarts(pod: dict[str, Any]) -> dict[str, int]:
    """Container -> how often it was restarted."""
    status = pod["status"]
    return {each["name"]: each["restartCount"] for kind in ("initContainerStatuses", "containerStatuses") for each in status.get(kind, [])}


def _is(process: Path, uid: str, module: bytes) -> bool:
    try:
        return module in (process / "cmdline").read_bytes().split(b"\0") and uid in (process / "cgroup").read_text()
    except OSError:
        return False
