"""`kill -9` of operator, broker and settler at named points of the main job: the end state is the same.

`make test` plays one run at points that a SEED draws (printed; SEED=… repeats it).  `make test-faults` plays every point, and SEEDS=N
further seeds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

from e2e.demo.marks import Mark
from e2e.demo.story import Console, table
from e2e.faults.__main__ import seed_of
from e2e.faults.points import POINTS, Point, draw, points_of, rounds
from e2e.faults.processes import Victim
from e2e.faults.scenario import run

FIRST = seed_of(os.environ.get("SEED"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS") or 1))
REAL = [pytest.mark.cluster, pytest.mark.tvm, pytest.mark.triton, pytest.mark.fault, pytest.mark.timeout(1500)]


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


def test_the_sweep_leaves_no_point_out() -> None:
    assert {point.name for points in rounds() for point in points} == {point.name for point in POINTS}
    assert len(rounds()) == max(len(points_of(victim)) for victim in Victim)
