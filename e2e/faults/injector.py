"""Carries kills out while the scenario plays: at a mark at once, at an observed point as soon as it holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from e2e.demo.marks import Mark
from e2e.demo.story import Console, StepFailed
from e2e.faults.points import Point
from e2e.faults.processes import Target, Victim, find, pod_of, restarts
from e2e.faults.sight import Sight

LOOK_SECONDS = 0.002
RECOVERY_SECONDS = 120
"""Until a killed container is ready again: the kubelet restarts it at once, but the machine may be busy."""


@dataclass
class Kill:
    """What became of one point."""

    point: Point
    done: threading.Event = field(default_factory=threading.Event)
    target: Target | None = None
    problem: str = ""


class Injector:
    """Arms points when their mark comes by; `finish` waits until every kill happened and what was killed is back."""

    def __init__(self, points: Sequence[Point], sight: Sight, console: Console) -> None:
        self.kills = [Kill(point) for point in points]
        self._sight = sight
        self._console = console
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def reached(self, mark: Mark) -> None:
        """Called by the scenario at each mark."""
        for kill in self.kills:
            if kill.point.mark != mark:
                continue
            target = find(self._sight.world, kill.point.victim)
            if kill.point.holds is None:
                target.kill()
                self._killed(kill, target)
            else:
                thread = threading.Thread(target=self._watch, args=(kill, target), name=kill.point.name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def finish(self, seconds: float = RECOVERY_SECONDS) -> None:
        """Raise StepFailed unless each point was reached, each victim restarted exactly once, and all are ready again."""
        deadline = time.monotonic() + seconds
        for kill in self.kills:
            if not kill.done.wait(max(0.0, deadline - time.monotonic())):
                raise StepFailed(f"the point {kill.point.name} was never reached: {kill.point.what}")
            if kill.problem:
                raise StepFailed(f"{kill.point.name}: {kill.problem}")
        expected = {victim: sum(kill.point.victim == victim for kill in self.kills) for victim in Victim}
        while (found := self._found()) != (expected, True):
            if time.monotonic() > deadline:
                raise StepFailed(f"restarts and readiness after the kills: {found}; expected {expected}")
            time.sleep(0.5)

    def close(self) -> None:
        """End what still looks, and leave the chain undisturbed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _found(self) -> tuple[dict[Victim, int], bool]:
        counts, ready = {}, True
        for victim in Victim:
            pod = pod_of(self._sight.world, victim)
            counts[victim] = restarts(pod).get(victim, 0)
            ready = ready and all(each["ready"] for each in pod["status"].get("containerStatuses", []))
        return counts, ready

    def _watch(self, kill: Kill, target: Target) -> None:
        point = kill.point
        try:
            self._await(point, target)
        except Exception as error:  # reported by `finish`, in the scenario's own thread
            kill.problem = f"{type(error).__name__}: {error}"
        finally:
            with suppress(OSError):
                if point.lose_messages or point.hide_blocks:
                    self._sight.disturb_chain()
        if not self._stop.is_set():
            self._killed(kill, target)

    def _await(self, point: Point, target: Target) -> None:
        """Kill as soon as the point holds, and holds still while the victim is paused."""
        if point.holds is None:
            return
        while point.before is not None and not point.before(self._sight):
            if self._stop.wait(LOOK_SECONDS):
                return
        if point.lose_messages or point.hide_blocks:
            self._sight.disturb_chain(lose_messages=point.lose_messages, hide_blocks=point.hide_blocks)
        while not self._stop.wait(LOOK_SECONDS):
            if not point.holds(self._sight):
                continue
            target.pause()
            try:
                if point.holds(self._sight):
                    target.kill()
                    return
            finally:
                with suppress(ProcessLookupError):
                    target.go_on()  # a killed one stays killed

    def _killed(self, kill: Kill, target: Target) -> None:
        kill.target = target
        if not kill.problem:
            self._console.say(f"⚡ kill -9 {target.pid} ({kill.point.victim}) at {kill.point.name}: {kill.point.what}")
        kill.done.set()
