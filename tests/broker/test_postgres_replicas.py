"""Several broker processes over one database: what one does, the others know; what one leaves half done, nobody sees."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chrysalis.broker import audit
from chrysalis.broker.store import Store
from chrysalis.wire.broker import ResultView
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import Refused, WireError
from e2e.broker_fleet import KEY_ID, NO_LIMITS, POLICY_NAME, Fleet
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.slow

ATTEMPTS = 24


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[Fleet]:
    """Two replicas that were started at the same moment over an empty database, with a policy and a key."""
    shared = "" if database_url.startswith("sqlite") else database_url
    with Fleet(tmp_path, shared, {"limits": NO_LIMITS}) as running:
        running.start(2)
        asyncio.run(running.prepare())
        yield running


def store_of(fleet: Fleet) -> Store:
    return Store(fleet.database or f"sqlite:///{fleet.folder / 'state' / 'broker.db'}")


def test_a_nonce_counts_once_over_all_replicas(fleet: Fleet) -> None:
    async def story() -> list[str]:
        async with fleet.client(fleet.replicas[0]) as one, fleet.client(fleet.replicas[1]) as two:
            evidence = fleet.evidence((await one.challenge()).nonce)
            accepted = await two.attest(evidence)  # another replica than the one that made the challenge
            with pytest.raises(Refused) as caught:
                await one.attest(evidence)
            outcomes = [caught.value.reasons[0].reason]
            assert (await one.release(KEY_ID, accepted.result_id)).wrapped
            for _ in range(5):  # at once
                again = fleet.evidence((await two.challenge()).nonce)
                both = await asyncio.gather(one.attest(again), two.attest(again), return_exceptions=True)
                refused = [answer for answer in both if isinstance(answer, Refused)]
                assert len(refused) == 1, both
                outcomes.append(refused[0].reasons[0].reason)
            return outcomes

    assert set(asyncio.run(story())) == {"NonceReplayed"}


def test_a_policy_put_at_one_revokes_once_and_is_seen_at_the_other(fleet: Fleet) -> None:
    async def story() -> tuple[str, ResultView]:
        async with fleet.client(fleet.replicas[0]) as one, fleet.client(fleet.replicas[1]) as two:
            result = await one.attest(fleet.evidence((await one.challenge()).nonce))
            changes = two.watch_results(verdict="Accepted")
            heard = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.5)
            tighter = fleet.policy(2, measurements=[fleet.measurement() | {"mrtd": "ab" * 48}])
            with taken:
                await one.put_policy(POLICY_NAME, tighter)
                _, view = await asyncio.wait_for(heard, 60)
            return result.result_id, view

    taken = Stopwatch(*(replica.process.pid for replica in fleet.replicas))
    result, view = asyncio.run(story())
    assert (view.result_id, view.revoked_reason) == (result, "MeasurementNotAllowed")
    assert taken.seconds < 2.0
    time.sleep(1)  # the other replica's turn: there is nothing left for it to do
    store = store_of(fleet)
    revoked = [record for record in store.audit_log() if record.event == "ResultRevoked"]
    assert [record.document["resultId"] for record in revoked] == [result]
    assert audit.verify(store.audit_log()) == 4  # policy, key, policy, revocation
    store.close()


def test_a_replica_that_is_killed_leaves_nothing_half_done(fleet: Fleet) -> None:
    """kill -9 of one replica in the middle of many attestations: what was answered is stored whole, the rest can be done again."""
    victim, survivor = fleet.replicas
    answered: list[str] = []
    lost: list[int] = []

    async def attest(client: BrokerClient, pod: int) -> None:
        try:
            challenge = await client.challenge()
            result = await client.attest(fleet.evidence(challenge.nonce, pod))
            await client.release(KEY_ID, result.result_id)
            answered.append(result.result_id)
        except WireError:
            lost.append(pod)

    async def story() -> None:
        async with fleet.client(victim) as one, fleet.client(survivor) as two:
            timer = threading.Timer(0.6, lambda: fleet.kill(victim))
            timer.start()
            await asyncio.gather(*(attest(client, pod) for pod in range(ATTEMPTS) for client in (one, two)))
            timer.join()
            await asyncio.gather(*(attest(one, 1000 + pod) for pod in range(2)))  # the victim is gone
            for pod in list(lost):
                await attest(two, pod)

    asyncio.run(story())
    assert len(answered) >= 2 * ATTEMPTS
    store = store_of(fleet)
    stored = {result.result_id: result for result in store.results(limit=1000)}
    assert set(answered) <= set(stored)
    assert all(stored[result].released_at for result in answered)
    assert all(store.evidence(result) is not None for result in stored)
    released = [record.document["resultId"] for record in store.audit_log() if record.event == "KeyReleased"]
    assert len(released) == len(set(released)) == sum(result.released_at is not None for result in stored.values())
    assert audit.verify(store.audit_log()) == 2 + len(released)
    with store.database.reading() as db:
        nonces, kept = (db.execute(text(f"SELECT count(*) FROM {name}")).scalar() for name in ("spent_nonces", "results"))
    tokens = 2  # that the owner's policy and key came with: each is spent as well
    assert nonces == kept + tokens  # each result's nonce is spent, and no nonce without a result
    store.close()
    (again,) = fleet.start()

    async def still() -> None:
        async with fleet.client(again) as client:
            assert (await client.result(answered[0])).key_released_at

    asyncio.run(still())
