"""A verification ends, by two clocks; from then on nothing leaves before the worker is verified again, on any connection of the pool."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.client.ear_mode import PolicyPin
from chrysalis.client.reasons import ClientError
from chrysalis.client.session import Client
from chrysalis.client.validity import Validity
from chrysalis.clock import ManualClock
from chrysalis.wire.attested import Connection, NothingSent, open_connection

CLIENT = Ed25519PrivateKey.generate()
MODES = [mode.value for mode in FreshnessMode]
LIFE = 100
"""Seconds that a verification holds in these tests."""


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def short(worker: Any) -> dict[str, Any]:
    """Bends under which a verification holds for LIFE seconds, in each mode."""

    def certificate(made: Any) -> Any:
        return made.model_copy(update={"exp": made.nbf + 60 + LIFE})

    return {"certificate": certificate}


def renewed(worker: Any, clock: ManualClock) -> None:
    """The worker has a new result: everything that it shows is of the clock's time."""
    worker.now = clock.now()


def pool(made: Client) -> Any:
    """The HTTP client under the verified connection."""
    assert made._link is not None
    return made._link.connection._http


def client(served: Any, mode: str, clock: ManualClock, **changes: Any) -> Client:
    worker = served.worker
    options: dict[str, Any] = {"policy": worker.policy(), "client_key": CLIENT, "model_digest": "sha256:" + "1" * 64}
    if mode == "ear":
        options |= {"ear_key": raw(worker.ear), "policy_pin": PolicyPin(raw(worker.owner), "minilm")}
    return Client(served.endpoint, mode=FreshnessMode(mode), clock=clock, **(options | changes))


@pytest.fixture
def served(serve: Callable[..., Any]) -> Any:
    made = serve(set_name="none")
    made.worker.bends = short(made.worker)
    return made


@pytest.fixture
def clock(served: Any) -> ManualClock:
    return ManualClock(served.worker.now.replace(microsecond=0))


@pytest.mark.parametrize("mode", MODES)
def test_it_is_verified_again_when_it_ends(served: Any, clock: ManualClock, mode: str) -> None:
    worker, kind = served.worker, "fresh-quote" if mode == "fresh-quote" else "stored"

    async def scenario() -> None:
        async with client(served, mode, clock) as made:
            await made.embeddings(["one"])
            clock.advance(LIFE - 1)
            await made.embeddings(["two"])
            assert worker.shown == [kind]  # one verification for both
            clock.advance(1)
            renewed(worker, clock)
            left = pool(made)
            await made.embeddings(["three"])
            assert (left.is_closed, pool(made).is_closed) == (True, False)
            assert worker.shown == [kind, kind]
            assert (await made.connect()).judged_at == clock.now()

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_no_prompt_leaves_when_it_has_ended_and_the_worker_cannot_renew(served: Any, clock: ManualClock, mode: str) -> None:
    async def scenario() -> None:
        async with client(served, mode, clock) as made:
            await made.embeddings(["one"])
            clock.advance(LIFE)
            with pytest.raises(ClientError) as refused:
                await made.embeddings(["secret"])
            assert refused.value.reason == "ResultExpired"
        assert [b"secret" in request.encode() for request in served.worker.requests] == [False]

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_setting_the_wall_clock_back_gains_nothing(served: Any, clock: ManualClock, mode: str) -> None:
    async def scenario() -> None:
        async with client(served, mode, clock) as made:
            await made.embeddings(["one"])
            clock.advance(LIFE)
            clock.set_back(LIFE - 10)
            await made.embeddings(["two"])
        assert len(served.worker.shown) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_connections_of_the_pool_end_together_and_answers_in_flight_still_come(served: Any, clock: ManualClock, mode: str) -> None:
    """Four jobs are under way on four connections when the verification ends: they are answered, and the next ones verify anew, once."""
    worker, jobs = served.worker, 4
    arrived, release = threading.Barrier(jobs + 1), threading.Event()

    def hold() -> None:
        arrived.wait(60)
        release.wait(60)

    async def scenario() -> None:
        async with client(served, mode, clock) as made:
            worker.during = hold
            under_way = [asyncio.create_task(made.embeddings([f"early {number}"])) for number in range(jobs)]
            await asyncio.to_thread(arrived.wait, 60)
            clock.advance(LIFE)
            renewed(worker, clock)
            worker.during, left = None, pool(made)
            late = [asyncio.create_task(made.embeddings([f"late {number}"])) for number in range(jobs)]
            found = await asyncio.gather(*late)
            assert not left.is_closed
            release.set()
            found += await asyncio.gather(*under_way)
            assert left.is_closed
            assert all(job.vectors for job in found)
        assert len(worker.shown) == 2

    worker.bends |= {"headers": lambda headers: {}}  # several jobs at once keep no chain here
    asyncio.run(scenario())


def test_a_request_that_waited_for_its_connection_is_stopped_before_it_leaves(served: Any) -> None:
    """The last question is asked when the connection stands; what says no then, stops headers and body."""
    asked: list[int] = []

    def allowed(limit: int) -> Callable[[], bool]:
        def ask() -> bool:
            asked.append(limit)
            return len(asked) <= limit

        return ask

    async def scenario() -> None:
        for limit in (0, 1):  # before the headers; between headers and body
            asked.clear()
            async with await open_connection(served.endpoint) as connection:
                with pytest.raises(NothingSent) as stopped:
                    await connection.send("POST", "/v1/embeddings", content=b'{"input": ["secret"]}', allowed=allowed(limit))
                assert stopped.value.reason == "VerificationExpired"
                assert len(asked) == limit + 1
        assert served.worker.requests == []
        async with client(served, "offline", ManualClock(served.worker.now)) as made:  # the twin
            await made.embeddings(["a"])
        assert len(served.worker.requests) == 1

    asyncio.run(scenario())


def test_a_job_whose_verification_ends_on_its_way_is_verified_again(served: Any, clock: ManualClock) -> None:
    """Between the check in the client and the moment of sending the verification ends: the job goes out once, after another one."""

    class Late(Client):
        turns = 0

        def _ticket(self, *given: Any) -> str | None:
            Late.turns += 1
            if Late.turns == 1:
                clock.advance(LIFE)
                renewed(served.worker, clock)
            return super()._ticket(*given)

    async def scenario() -> None:
        worker = served.worker
        async with Late(served.endpoint, policy=worker.policy(), model_digest="sha256:" + "1" * 64, clock=clock) as made:
            assert (await made.embeddings(["one"])).vectors
        assert (len(worker.requests), len(worker.shown), Late.turns) == (1, 2, 2)

    asyncio.run(scenario())


def test_a_worker_whose_key_is_gone_is_verified_again(served: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection to the verified key can be made any more: once, the client verifies anew; a second time, it says so."""

    async def gone(*_: Any, **__: Any) -> Any:
        raise NothingSent("ServiceUnreachable", "no connection to the verified key")

    async def scenario() -> None:
        async with client(served, "fresh-quote", clock) as made:
            assert made._link is not None
            made._link.connection.send = gone
            left = pool(made)
            assert (await made.embeddings(["one"])).vectors
            assert (len(served.worker.shown), left.is_closed) == (2, True)
            monkeypatch.setattr(Connection, "send", gone)
            with pytest.raises(NothingSent):
                await made.embeddings(["two"])

    asyncio.run(scenario())


def refusing(code: str) -> dict[str, Any]:
    error = json.dumps({"error": {"code": code, "message": "no", "remedy": "connect again"}}).encode()
    return {"status": lambda s: 503, "body": lambda b: error, "headers": lambda h: {}}


@pytest.mark.parametrize(("code", "jobs", "verifications"), [("AttestationExpired", 2, 2), ("Overloaded", 1, 1)])
def test_a_worker_that_counts_its_result_as_ended_is_verified_again_once(
    served: Any, clock: ManualClock, code: str, jobs: int, verifications: int
) -> None:
    """It refuses the job before it begins; its clock may be a little ahead.  Any other refusal is the caller's to judge."""

    async def scenario() -> None:
        async with client(served, "ear", clock) as made:
            with pytest.raises(ClientError, match=code) as refused:
                await made.embeddings(["one"])
            assert (refused.value.reason, refused.value.status, refused.value.code) == ("JobRefused", 503, code)
        assert (len(served.worker.requests), len(served.worker.shown)) == (jobs, verifications)

    served.worker.bends |= refusing(code)
    asyncio.run(scenario())


def test_a_job_that_was_refused_for_an_ended_result_succeeds_after_verifying_again(served: Any, clock: ManualClock) -> None:
    worker = served.worker

    def once() -> None:
        if len(worker.requests) > 1:
            worker.bends = short(worker)

    async def scenario() -> None:
        async with client(served, "ear", clock) as made:
            assert (await made.embeddings(["one"])).vectors
        assert (len(worker.requests), len(worker.shown)) == (2, 2)

    worker.bends |= refusing("AttestationExpired")
    worker.during = once
    asyncio.run(scenario())


MOVES = st.lists(st.tuples(st.floats(0, 500), st.floats(-500, 500)), max_size=20)


@given(life=st.integers(0, 1000), moves=MOVES)
def test_a_verification_never_holds_longer_than_it_lasts(life: int, moves: list[tuple[float, float]]) -> None:
    """However the wall clock jumps: never for longer than its life, nor past its expiry; and while neither is reached, it holds."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    began = clock.now()
    expires_at = began + timedelta(seconds=life)
    validity = Validity.of(expires_at, began=began, began_monotonic=clock.monotonic())
    for passed, jumped in [(0.0, 0.0), *moves]:
        clock.advance(passed)
        clock.set_back(-jumped)
        over = clock.monotonic() >= life or clock.now() >= expires_at
        assert validity.holds(clock) is not over
