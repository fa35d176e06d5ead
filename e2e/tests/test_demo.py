"""The demo's twelve steps, each a test: what a person sees in `make demo` is what CI holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.cluster.layout import instance_for
from e2e.demo.script import steps
from e2e.demo.story import Outcome
from e2e.demo.world import World

INSTANCE = instance_for("e2edemo")
TITLES = {step.number: step for step in steps(World(INSTANCE, Path("/nonexistent"), keep=False))}

pytestmark = [pytest.mark.cluster, pytest.mark.vectors, pytest.mark.tvm, pytest.mark.triton, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def outcomes(told: Callable[..., dict[int, Outcome]]) -> dict[int, Outcome]:
    return told(INSTANCE, steps)


@pytest.mark.parametrize("number", sorted(TITLES), ids=[f"{n}-{TITLES[n].title}" for n in sorted(TITLES)])
def test_step(number: int, outcomes: dict[int, Outcome]) -> None:
    outcome = outcomes[number]
    if outcome.step.run is None:
        assert outcome.state == "not built"  # never passed off as proved
        return
    assert outcome.state == "proved", outcome.proved
