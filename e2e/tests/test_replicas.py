"""Two replicas of the broker over PostgreSQL in the real cluster, each scene a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.demo.story import Outcome
from e2e.demo.world import World
from e2e.replicas.script import INSTANCE, steps

TITLES = {step.number: step.title for step in steps(World(INSTANCE, Path("/nonexistent"), keep=False))}

pytestmark = [pytest.mark.cluster, pytest.mark.postgres, pytest.mark.triton, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def outcomes(told: Callable[..., dict[int, Outcome]]) -> dict[int, Outcome]:
    return told(INSTANCE, steps)


@pytest.mark.parametrize("number", sorted(TITLES), ids=[f"{n}-{TITLES[n]}" for n in sorted(TITLES)])
def test_step(number: int, outcomes: dict[int, Outcome]) -> None:
    assert outcomes[number].state == "proved", outcomes[number].proved
