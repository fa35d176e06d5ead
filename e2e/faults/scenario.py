"""The main job, played once with kills: steps 1 to 10 of the demo, the comparison of the end state, and down again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from e2e.demo.script import steps
from e2e.demo.story import Console, Outcome, Step, play
from e2e.demo.world import World
from e2e.faults.endstate import the_same
from e2e.faults.injector import Injector
from e2e.faults.points import Point
from e2e.faults.sight import Sight

INSTANCE = "faults"
PLAYED = (1, 2, 3, 4, 5, 7, 8, 9, 10)
SETTLEMENT = 10


def run(points: Sequence[Point], console: Console, *, keep: bool = False) -> list[Outcome]:
    """Play; each outcome must be `proved`.  Prints the points first."""
    world = World(INSTANCE, Path(tempfile.mkdtemp(prefix="chrysalis-faults-")), keep=keep)
    sight = Sight(world)
    injector = Injector(points, sight, console)
    world.reached = injector.reached
    for point in points:
        console.head(f"kill -9 of the {point.victim} at {point.name}: {point.what}")
    script = {step.number: step for step in steps(world)}

    def compare(_console: Console) -> str:
        injector.finish()
        killed = ", ".join(kill.point.name for kill in injector.kills)
        return f"after {killed}: {the_same(world, sight)}"

    ending = [Step(SETTLEMENT + 1, "The end state is the same", compare), script[max(script)]]
    try:
        return play([script[number] for number in PLAYED] + ending, console)
    finally:
        injector.close()
