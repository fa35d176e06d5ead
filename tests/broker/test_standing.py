"""A worker asks whether its result still counts: the answer is that of a release, and says when to ask again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chrysalis.broker import standing
from chrysalis.broker.standing import LEAST_SECONDS, MOST_SECONDS, Standings
from chrysalis.wire.broker import ResultStanding

World = Any
Reasons = Callable[[Any], list[str]]


def ask(world: World, result_id: str) -> ResultStanding:
    answer = world.http.get(f"/v1/results/{result_id}:standing")
    assert answer.status_code == 200, answer.text
    return ResultStanding.model_validate_json(answer.content)


def revoked(world: World, result_id: str) -> None:
    headers = {"authorization": f"Bearer {world.token(world.acme)}"}
    assert world.http.post(f"/v1/results/{result_id}:revoke", headers=headers).status_code == 200


ENDS: dict[str, tuple[Callable[[World, str], Any], str]] = {
    "the owner revokes it": (revoked, "RevokedByOwner"),
    "it expires": (lambda world, result_id: world.clock.advance(601), "ResultExpired"),
}


@pytest.mark.parametrize(("ends", "reason"), ENDS.values(), ids=ENDS)
def test_a_result_that_has_ended(world: World, ends: Callable[[World, str], Any], reason: str) -> None:
    result_id = world.attest(world.domain(world.acme)).json()["resultId"]
    assert ask(world, result_id) == ResultStanding(living=True, ask_again_seconds=LEAST_SECONDS)
    assert world.release("acme", result_id).status_code == 200
    ends(world, result_id)
    assert ask(world, result_id) == ResultStanding(living=False, reason=reason, ask_again_seconds=LEAST_SECONDS)
    assert world.release("acme", result_id).status_code == 403


def test_a_policy_that_refuses_the_evidence_by_now(world: World) -> None:
    result_id = world.attest(world.domain(world.acme)).json()["resultId"]
    spec = world.policy(world.acme)
    spec["tdx"]["measurements"][0]["rtmr1"] = "ab" * 48
    assert world.put_policy(world.acme, version=2, tdx=spec["tdx"]).status_code == 201
    world.deps.reappraiser.work()
    told = ask(world, result_id)
    assert (told.living, told.reason) == (False, "MeasurementNotAllowed")


@pytest.mark.parametrize("result_id", ["0192f0c1-0000-7000-8000-000000000000", "x", "..%2e", "a" * 400])
def test_a_result_that_nobody_knows(world: World, result_id: str) -> None:
    assert ask(world, result_id) == ResultStanding(living=False, reason="ResultUnknown", ask_again_seconds=LEAST_SECONDS)


def test_a_refused_attempt(world: World) -> None:
    assert world.attest(world.domain(world.acme), td_attributes=bytes([1]) + bytes(7)).status_code == 403
    [found] = world.reading("/v1/results").json()["results"]
    assert ask(world, found["resultId"]).reason == "ResultRefused"


def test_nothing_else_is_asked(world: World, reasons: Reasons) -> None:
    assert reasons(world.http.get("/v1/results/x:standing?verbose=1")) == ["MessageMalformed"]


@pytest.mark.parametrize(("living", "seconds"), [(0, LEAST_SECONDS), (1501, 16), (10_000, 100), (10_000_000, MOST_SECONDS)])
def test_all_workers_together_ask_no_more_often_than_is_good(world: World, monkeypatch: Any, living: int, seconds: int) -> None:
    standings = Standings(world.deps.store, world.clock)
    monkeypatch.setattr(world.deps.store, "living_results", lambda now: living)
    assert standings.of("x").ask_again_seconds == seconds
    assert living / seconds <= standing.CHECKS_PER_SECOND or seconds == MOST_SECONDS


def test_the_number_of_workers_is_counted_now_and_then(world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(standing, "CHECKS_PER_SECOND", 1 / 10)
    standings = Standings(world.deps.store, world.clock)
    assert standings.of("x").ask_again_seconds == LEAST_SECONDS
    for _ in range(3):
        assert world.attest(world.domain(world.acme)).status_code == 200
    assert standings.of("x").ask_again_seconds == LEAST_SECONDS
    world.clock.advance(standing.COUNT_SECONDS)
    assert standings.of("x").ask_again_seconds == 30
    world.clock.advance(600)
    assert standings.of("x").ask_again_seconds == LEAST_SECONDS  # they are over
