"""The main job, played once with kills: steps 1 to 10 of the demo, the comparison of the end state, and down again."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2e.cluster.layout import instance_for
from e2e.demo import ground
from e2e.demo.install import SYSTEM
from e2e.demo.marks import Mark
from e2e.demo.script import steps
from e2e.demo.story import Console, Outcome, Step, expect, play
from e2e.demo.world import World
from e2e.faults.endstate import the_same
from e2e.faults.injector import Injector
from e2e.faults.points import Point
from e2e.faults.sight import Sight
from e2e.faults.steadiness import Steadiness

INSTANCE = instance_for("faults")
PLAYED = (1, 2, 3, 4, 5, 7, 8, 9, 10)
LOG_LINES = 60


def run(points: Sequence[Point], console: Console, *, keep: bool = False) -> list[Outcome]:
    """Play; each outcome must be `proved`.  Prints the points first."""
    world = World(INSTANCE, Path(tempfile.mkdtemp(prefix="chrysalis-faults-")), keep=keep)
    sight = Sight(world)
    injector, steadiness, the_end = Injector(points, sight, console), Steadiness(), threading.Event()

    def reached(mark: Mark) -> None:
        if mark == Mark.KEY_STORED:
            steadiness.start(world)
        injector.reached(mark)

    def compare(_console: Console) -> str:
        injector.finish()
        killed = ", ".join(point.name for point in points)
        proved = the_same(world, sight)
        expect(steadiness.stop() and steadiness.seen, "the pods could not be followed until the end")
        expect(not steadiness.lost, f"attested pods lost their gate: {steadiness.lost}")
        the_end.set()
        return f"after {killed}: {proved}; no replica lost its gate"

    def end(_console: Console) -> str:
        if world.cluster is not None and not the_end.is_set():
            _show(world, console)
        steadiness.stop()
        return ground.down(world, console)

    world.reached = reached
    for point in points:
        console.head(f"kill -9 of the {point.victim} at {point.name}: {point.what}")
    script = {step.number: step for step in steps(world)}
    played = [script[number] for number in PLAYED] + [Step(0, "The end state is the same", compare), Step(0, "Down again", end)]
    try:
        return play([replace(step, number=number) for number, step in enumerate(played, 1)], console)
    finally:
        steadiness.stop()
        injector.close()


def _show(world: World, console: Console) -> None:
    """What the three processes said before and after their kill, for whoever has to find out why a run failed."""
    for component, container in (("operator", "operator"), ("operator", "settler"), ("broker", "broker")):
        for which in ("--previous=true", "--previous=false"):
            selector = ["-l", f"app.kubernetes.io/component={component}", "-c", container, which, f"--tail={LOG_LINES}"]
            done = world.try_kubectl("logs", "-n", SYSTEM, *selector)
            console.head(f"--- {container} {which}\n{done.stdout or done.stderr}")
    for kind in ("cw", "sacct"):
        console.head(world.try_kubectl("describe", kind, "-A").stdout)
    console.head(world.try_kubectl("get", "pods", "-A", "-o", "wide").stdout)
