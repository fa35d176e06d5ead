"""Whether a kill of operator, broker or settler took a replica out of service: the attested gate of each pod, watched all along."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable

from chrysalis.api import names
from e2e.cluster.build import programs
from e2e.demo import objects
from e2e.demo.world import World

SEEN = '{.metadata.name} {.status.conditions[?(@.type=="' + names.READINESS_ATTESTED + '")].status}{"\\n"}'


class Steadiness:
    """Follows the pods of the pool from `start` to `stop`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._last: dict[str, str] = {}
        self.lost: list[str] = []
        """What an attested pod's gate turned to, for each time that one turned."""
        self.seen = 0
        """How many states of pods were seen."""

    def start(self, world: World) -> None:
        """Begin to follow."""
        words = ["get", "pods", "-n", objects.NAMESPACE, "--watch", "-o", f"jsonpath={SEEN}"]
        command = [str(programs(lambda _: None) / "kubectl"), "--kubeconfig", str(world.running.kubeconfig), *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self.read, args=(self._process.stdout or (),), name="steadiness", daemon=True)
        self._reader.start()

    def stop(self) -> bool:
        """End; whether it could follow until now."""
        if self._process is None or self._reader is None:
            return False
        followed = self._process.poll() is None
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        self._process = self._reader = None
        return followed

    def read(self, lines: Iterable[str]) -> None:
        """Take lines of NAME and the gate's status in."""
        for line in lines:
            name, _, gate = line.strip().partition(" ")
            self.seen += 1
            if self._last.get(name) == "True" and gate != "True":
                self.lost.append(f"{name}: {gate or 'gone'}")
            self._last[name] = gate
