"""A result that ends at the real broker: the real agent hears of it and is back by itself; and what a client gets from that broker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from chrysalis.broker import fresh_start, standing
from chrysalis.client.answers import from_broker
from chrysalis.clock import SystemClock, unix
from chrysalis.wire.bundle_answers import AnswersOf
from chrysalis.wire.reasons import WireError
from e2e.simtd.gpu_pool import GpuPool
from tests.worker.test_agent import package  # noqa: F401 - a fixture
from tests.worker.test_whole_way import Scene, clock, go  # noqa: F401 - fixtures
from tests.worker.test_whole_way_modes import IN_HOUSE, client, revocation


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "LEAST_SECONDS", 1)


def test_a_worker_is_back_after_the_broker_was_set_back(go: Any) -> None:  # noqa: F811
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        store, old = scene.broker.deps.store, scene.agent.state.session
        async with client(scene, "fresh-quote") as made:
            assert (await made.embeddings(["one"])).vectors
            ended = await asyncio.to_thread(
                store.database.transact, lambda db: fresh_start.begin(db, unix(SystemClock().now()), "an older database was put back")
            )
            assert ended == 1
            await scene.until(lambda: scene.agent.state.session is not old)
            new = scene.agent.state.session.result.result_id
            await scene.until(lambda: store.result(new).released_at is not None)  # the operator waits for that
            assert store.result(old.result.result_id).revoked_reason == "StateRestored"
            assert scene.agent.state.ready
            assert (await made.embeddings(["two"])).vectors

    go(scenario, **IN_HOUSE)


def test_a_worker_that_the_broker_refuses_by_now_takes_no_jobs(go: Any) -> None:  # noqa: F811
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        tdx = scene.broker.policy(scene.tenant)["tdx"]
        tightened = tdx | {"tcb": tdx["tcb"] | {"minEvaluationDataNumber": 1 << 20}}
        assert scene.broker.put_policy(scene.tenant, version=2, tdx=tightened).status_code == 201
        await scene.until(lambda: not scene.agent.state.ready)
        assert scene.agent.state.session.deadline > scene.agent.clock.monotonic()
        assert scene.agent.state.problem.as_dict()["reason"] == "TcbEvaluationTooOld"
        assert scene.broker.put_policy(scene.tenant, version=3).status_code == 201  # the twin
        await scene.ready()

    go(scenario, **IN_HOUSE)


def test_the_brokers_bundle_is_about_the_evidence_that_the_worker_shows(go: Any) -> None:  # noqa: F811
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        async with client(scene, "ear") as made:
            worker = await made.connect()
        wanting = replace(worker, policy=scene.policy(gpu=GpuPool(1).rules() | {"backend": "NRAS"}))
        assert wanting.answers_of is AnswersOf.ABSENT
        assert (await from_broker(wanting, revocation(scene))).gpu_answers is None  # there was no GPU to ask about
        with pytest.raises(WireError) as refused:
            await from_broker(wanting, revocation(scene, stranger=True))
        assert refused.value.as_dict()["reason"] == "CallerUnauthenticated"
        other = replace(wanting, document=worker.document.model_copy(update={"evidence": made_up(worker.document.evidence)}))
        with pytest.raises(WireError) as differs:
            await from_broker(other, revocation(scene))
        assert differs.value.reason == "EarClaimMismatch"

    go(scenario, **IN_HOUSE)


def made_up(evidence: Any) -> Any:
    """The same with another pod's name, which nothing but the transcript covers."""
    return evidence.model_copy(update={"claimed": evidence.claimed.model_copy(update={"pod_name": "another"})})
