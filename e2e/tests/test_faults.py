"""`kill -9` of operator, broker and settler at named points of the main job: the end state is the same.

`make test` plays one run at points that a SEED draws (printed; SEED=… repeats it).  `make test-faults` plays every point, and SEEDS=N
further seeds.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from e2e.demo.marks import Mark
from e2e.demo.story import Console, StepFailed, table
from e2e.demo.world import World
from e2e.faults.__main__ import seed_of
from e2e.faults.injector import Injector
from e2e.faults.points import POINTS, Point, draw, points_of, rounds
from e2e.faults.processes import Target, Victim
from e2e.faults.scenario import run
from e2e.faults.sight import Sight
from e2e.faults.steadiness import Steadiness

FIRST = seed_of(os.environ.get("SEED"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS") or 1))
REAL = [pytest.mark.cluster, pytest.mark.tvm, pytest.mark.triton, pytest.mark.fault, pytest.mark.timeout(2400)]


def real(function: object) -> object:
    """Marks of a run on the real cluster."""
    for mark in REAL:
        function = mark(function)
    return function


def play(points: Sequence[Point], config: pytest.Config, title: str) -> None:
    """One run; the story is printed as it goes, since it takes minutes."""
    if os.geteuid() != 0:
        pytest.skip("the cluster needs root")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{title}", flush=True)
        outcomes = run(points, Console(stream=sys.stdout))
        print(table(outcomes), flush=True)
    failed = [f"{outcome.step.title}: {outcome.proved or outcome.state}" for outcome in outcomes if outcome.state != "proved"]
    assert not failed, f"{title}: {failed}"


@real
@pytest.mark.parametrize("seed", SEEDS)
def test_the_end_state_is_the_same(seed: int, pytestconfig: pytest.Config) -> None:
    play(draw(seed), pytestconfig, f"SEED={seed}")


@real
@pytest.mark.sweep
@pytest.mark.parametrize("points", rounds(), ids=lambda points: "+".join(point.name for point in points))
def test_every_point(points: list[Point], pytestconfig: pytest.Config) -> None:
    play(points, pytestconfig, "every point")


def test_a_seed_draws_the_same_points_again() -> None:
    assert [draw(seed) for seed in range(50)] == [draw(seed) for seed in range(50)]
    assert all([point.victim for point in draw(seed)] == list(Victim) for seed in range(50))
    assert {point.name for seed in range(500) for point in draw(seed)} == {point.name for point in POINTS}


def test_points_have_names_of_their_own() -> None:
    assert len({point.name for point in POINTS}) == len(POINTS)
    assert all(point.name.startswith(f"{point.victim}.") for point in POINTS)
    assert {point.mark for point in POINTS} <= set(Mark)


def test_a_point_that_was_not_reached_fails_the_run() -> None:
    injector = Injector(draw(1), Sight(World("faults", Path("/nonexistent"), keep=False)), Console(stream=io.StringIO()))
    with pytest.raises(StepFailed, match="was never reached"):
        injector.finish(seconds=0.01)


@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        (["a", "a False", "a True", "b True", "a True"], []),
        (["a True", "a False"], ["a: False"]),
        (["a True", "b True", "b"], ["b: gone"]),
    ],
)
def test_a_lost_gate_is_noticed(lines: list[str], lost: list[str]) -> None:
    steadiness = Steadiness()
    steadiness.read(lines)
    assert (steadiness.lost, steadiness.seen) == (lost, len(lines))


def test_only_the_named_process_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as process, subprocess.Popen(["sleep", "60"]) as other:
        target = Target(Victim.BROKER, "broker-0", process.pid)
        target.pause()
        target.kill()
        assert process.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_the_sweep_leaves_no_point_out() -> None:
    assert {point.name for points in rounds() for point in points} == {point.name for point in POINTS}
    assert len(rounds()) == max(len(points_of(victim)) for victim in Victim)
