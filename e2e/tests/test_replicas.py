"""Two replicas of the broker over PostgreSQL in the real cluster, each scene a test."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from e2e.demo.story import Console, Outcome, play, table
from e2e.demo.world import World
from e2e.replicas.script import INSTANCE, steps

TITLES = {step.number: step.title for step in steps(World(INSTANCE, Path("/nonexistent"), keep=False))}

pytestmark = [pytest.mark.cluster, pytest.mark.postgres, pytest.mark.triton, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def outcomes(pytestconfig: pytest.Config) -> dict[int, Outcome]:
    world = World(INSTANCE, Path(tempfile.mkdtemp(prefix="chrysalis-e2e-")), keep=False)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # progress is for whoever watches a run that takes minutes
        print(file=sys.stdout)
        played = play(steps(world), Console(stream=sys.stdout))
        print(table(played), flush=True)
    return {outcome.step.number: outcome for outcome in played}


@pytest.mark.parametrize("number", sorted(TITLES), ids=[f"{n}-{TITLES[n]}" for n in sorted(TITLES)])
def test_step(number: int, outcomes: dict[int, Outcome]) -> None:
    assert outcomes[number].state == "proved", outcomes[number].proved
