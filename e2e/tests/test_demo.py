"""The demo's twelve steps, each a test: what a person sees in `make demo` is what CI holds."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from e2e.cluster.layout import instance_for
from e2e.demo.script import steps
from e2e.demo.story import Console, Outcome, play, table
from e2e.demo.world import World

INSTANCE = instance_for("e2edemo")
TITLES = {step.number: step for step in steps(World(INSTANCE, Path("/nonexistent"), keep=False))}

pytestmark = [pytest.mark.cluster, pytest.mark.vectors, pytest.mark.tvm, pytest.mark.triton, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def outcomes(pytestconfig: pytest.Config) -> dict[int, Outcome]:
    world = World(INSTANCE, Path(tempfile.mkdtemp(prefix="chrysalis-e2e-")), keep=False)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # progress is for whoever watches a run that takes minutes
        print(file=sys.stdout)
        played = play(steps(world), Console(stream=sys.stdout))
        print(table(played), flush=True)
    return {outcome.step.number: outcome for outcome in played}


@pytest.mark.parametrize("number", sorted(TITLES), ids=[f"{n}-{TITLES[n].title}" for n in sorted(TITLES)])
def test_step(number: int, outcomes: dict[int, Outcome]) -> None:
    outcome = outcomes[number]
    if outcome.step.run is None:
        assert outcome.state == "not built"  # never passed off as proved
        return
    assert outcome.state == "proved", outcome.proved
