"""What is paid: tickets, caps, receipts, lists of clients; each refusal beside the request that differs in one thing and is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.clock import unix
from chrysalis.receipts import chain, jws, salted
from chrysalis.receipts.objects import ListedClient, Offer, Receipt, Status
from chrysalis.wire.worker import ReceiptPage
from chrysalis_worker.inference import Embedded
from chrysalis_worker.reasons import WorkerError, WorkerReason
from tests.worker.gateway_bench import SALT, Bench, reason


def test_a_paid_job_is_answered_and_has_a_receipt(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        response = await bench.job(body)
        assert response.status_code == 200
        answer = response.json()
        assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
        assert [d["index"] for d in answer["data"]] == [0, 1]
        receipt = bench.receipt(response)
        assert (receipt.seq, receipt.prev, receipt.set) == (1, bench.world.domain.wrk, bench.world.identity.set)
        assert (receipt.use.prompt, receipt.use.job, receipt.amt, receipt.status) == (6, 1, 6 * 2 + 5, Status.DONE)
        assert receipt.rsp == salted.response_hash(SALT, response.content)
        assert "chrysalis-salt" not in response.headers

    paid(scenario)


def test_receipts_are_a_chain(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        tokens = [(await bench.job(body_of())).headers["chrysalis-receipt"] for _ in range(3)]
        public = bench.world.domain.receipt_public
        head = chain.verify(chain.Head.start(bench.world.domain.wrk), [(Receipt.parse(t, public), t) for t in tokens])
        assert head.seq == 3
        page = ReceiptPage.model_validate_json((await bench.http.get("/v1/receipts?after=1", headers=bench.world.settler())).content)
        assert page.receipts == tokens[1:]
        assert (page.last, page.wrk) == (3, bench.world.domain.wrk)
        assert [jws.identity(o) for o in page.offers] == [Receipt.parse(tokens[0], public).offer]
        assert Offer.parse(page.offers[0], public).prices.prompt == 2_000_000
        assert bench.world.state.pulled == 1

    paid(scenario)


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({}, 200, None),
        ({"max": 17}, 200, None),
        ({"max": 16}, 402, "ReservationExhausted"),  # known only after the tokens are counted
        ({"max": 8}, 402, "ReservationExhausted"),  # known before: two tokens at least
        ({"wrk": "00" * 32}, 402, "TicketMismatch"),
        ({"set": "-239:0:" + "00" * 32}, 402, "TicketMismatch"),
        ({"digest": "sha256:" + "00" * 32}, 402, "TicketMismatch"),
        ({"req": "00" * 32}, 402, "TicketMismatch"),
        ({"offer": "00" * 32}, 402, "OfferUnknown"),
        ({"exp": 1}, 402, "TicketExpired"),
        ({"max": 1_000_000}, 200, None),
        ({"max": 1_000_001}, 402, "DailyCapReached"),
    ],
)
def test_a_ticket_that_differs_in_one_member(paid: Any, body_of: Any, changes: dict[str, Any], status: int, expected: str | None) -> None:
    async def scenario(bench: Bench) -> None:
        response = await bench.job(body_of(), **changes)
        assert response.status_code == status
        if expected is not None:
            assert reason(response) == expected
            assert response.json()["error"]["code"] == expected
            assert sum(r.amt for r in stored(bench)) == 0

    paid(scenario)


def stored(bench: Bench) -> list[Receipt]:
    return [Receipt.parse_unverified(t) for t in bench.gateway.receipts.after(0, 1000, 1 << 20)]


def test_a_ticket_far_ahead_is_refused(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        now = unix(bench.world.clock.now())
        assert (await bench.job(body_of(), exp=now + 660)).status_code == 200
        late = await bench.job(body_of(), exp=now + 661)
        assert (late.status_code, reason(late)) == (402, "TicketExpired")

    paid(scenario)


def test_a_ticket_serves_once(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        ticket, other = (bench.world.ticket(bench.gateway, body, SALT) for _ in range(2))
        assert (await bench.job(body, ticket)).status_code == 200
        again = await bench.job(body, ticket)
        assert (again.status_code, reason(again)) == (402, "TicketSpent")
        assert (await bench.job(body, other)).status_code == 200
        assert [r.amt for r in stored(bench)] == [17, 17]

    paid(scenario)


def test_a_ticket_serves_once_also_after_a_restart_of_the_agent(paid: Any, body_of: Any, client_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        ticket = bench.world.ticket(bench.gateway, body, SALT)
        assert (await bench.job(body, ticket)).status_code == 200
        bench.gateway.receipts.close()
        gateway = bench.world.build()
        async with client_of(gateway) as http:
            restarted = Bench(bench.world, gateway, http)
            again = await restarted.job(body, ticket)
            assert (again.status_code, reason(again)) == (402, "TicketSpent")
            assert restarted.receipt(await restarted.job(body)).seq == 2
            # the cap counts what was billed before: 1,000,000 less 34 is left
            assert reason(await restarted.job(body, max=1_000_000 - 33)) == "DailyCapReached"
            assert (await restarted.job(body, max=1_000_000 - 34)).status_code == 200

    paid(scenario)


def test_one_ticket_for_two_jobs_at_once_serves_one(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.world.engine.gate = asyncio.Event()
        body = body_of()
        ticket = bench.world.ticket(bench.gateway, body, SALT)
        jobs = [asyncio.create_task(bench.job(body, ticket)) for _ in range(4)]
        await asyncio.sleep(0.05)
        bench.world.engine.gate.set()
        answers = sorted(response.status_code for response in await asyncio.gather(*jobs))
        assert answers == [200, 402, 402, 402]
        assert [r.amt for r in stored(bench)] == [17]

    paid(scenario)


def test_the_cap_holds_for_jobs_in_flight_and_begins_anew_each_day(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.world.engine.gate = asyncio.Event()
        running = asyncio.create_task(bench.job(body_of(), max=999_990))
        await bench.world.engine.entered.wait()
        held = await bench.job(body_of(), max=20)
        assert reason(held) == "DailyCapReached"
        bench.world.engine.gate.set()
        assert (await running).status_code == 200
        assert (await bench.job(body_of(), max=20)).status_code == 200
        assert (await bench.job(body_of(), max=1_000_000)).status_code == 402
        bench.world.clock.advance(12 * 3600)  # the next UTC day
        await bench.world.attested()
        assert (await bench.put_clients()).status_code == 204
        assert (await bench.job(body_of(), max=1_000_000)).status_code == 200

    paid(scenario)


def test_the_ticket_of_an_unlisted_key_is_refused(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        stranger = Ed25519PrivateKey.generate()
        refused = await bench.job(body_of(), key=stranger)
        assert (refused.status_code, reason(refused)) == (403, "ClientNotListed")
        listed = [ListedClient(key=stranger.public_key().public_bytes_raw().hex(), cap=1000)]
        assert (await bench.put_clients(bench.world.clients(keys=listed))).status_code == 204
        assert (await bench.job(body_of(), key=stranger)).status_code == 200
        assert reason(await bench.job(body_of())) == "ClientNotListed"  # and the other is no longer listed

    paid(scenario)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda t: t, None),
        (lambda t: t[:-8] + ("A" * 8), "TicketInvalid"),
        (lambda t: t + ".x", "TicketInvalid"),
        (lambda t: "x", "TicketInvalid"),
        (lambda t: None, "TicketRequired"),
    ],
)
def test_a_ticket_must_be_whole(paid: Any, body_of: Any, damage: Callable[[str], str | None], expected: str | None) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        response = await bench.job(body, damage(bench.world.ticket(bench.gateway, body, SALT)))
        assert (response.status_code, expected and reason(response)) == (402 if expected else 200, expected)

    paid(scenario)


@pytest.mark.parametrize(("salt", "status"), [(SALT, 200), (SALT[:31], 400), (None, 400)])
def test_a_paid_job_has_a_salt_of_32_bytes(paid: Any, body_of: Any, salt: bytes | None, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        response = await bench.job(body, bench.world.ticket(bench.gateway, body, SALT), salt=salt)
        assert response.status_code == status
        assert status == 200 or reason(response) == "SaltInvalid"

    paid(scenario)


def test_another_salt_is_another_request(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        ticket = bench.world.ticket(bench.gateway, body, SALT)
        assert reason(await bench.job(body, ticket, salt=bytes(32))) == "TicketMismatch"
        assert (await bench.job(body, ticket)).status_code == 200

    paid(scenario)


def test_a_failed_job_bills_nothing_and_says_so(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.world.engine.failure = WorkerError(WorkerReason.INFERENCE_FAILED, "no answer", "again")
        response = await bench.job(body_of())
        assert (response.status_code, reason(response)) == (502, "InferenceFailed")
        receipt = bench.receipt(response)
        assert (receipt.status, receipt.amt, receipt.use.prompt) == (Status.FAILED, 0, 0)
        assert receipt.rsp == salted.response_hash(SALT, response.content)
        assert bench.world.suspicions == 1
        bench.world.engine.failure = None
        assert (await bench.job(body_of(), max=1_000_000)).status_code == 200  # the cap was given back

    paid(scenario)


def test_a_bug_bills_nothing_and_tells_nothing(paid: Any, body_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        async def broken(texts: Any, seconds: float) -> Embedded:
            raise RuntimeError("the secret prompt " + texts[0])

        bench.world.engine.embed = broken
        response = await bench.job(body_of())
        assert (response.status_code, reason(response)) == (500, "InternalError")
        assert [(r.amt, r.status) for r in stored(bench)] == [(0, Status.FAILED)]
        assert "secret" not in caplog.text + response.text

    paid(scenario)


def test_a_full_store_of_receipts_stops_paid_jobs(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.job(body_of())).status_code == 200
        bench.gateway.receipts._max_bytes = 0
        response = await bench.job(body_of())
        assert (response.status_code, reason(response)) == (503, "ReceiptStoreFull")
        assert bench.world.engine.calls == 1

    paid(scenario)


def test_without_a_current_list_no_paid_job_is_taken(make_world: Any, client_of: Any, body_of: Any) -> None:
    async def inside() -> None:
        world = make_world()
        await world.attested()
        gateway = world.build()
        async with client_of(gateway) as http:
            bench = Bench(world, gateway, http)
            assert reason(await bench.job(body_of())) == "ClientListMissing"
            await bench.put_clients(world.clients(exp=unix(world.clock.now()) + 100))
            assert (await bench.job(body_of())).status_code == 200
            world.clock.advance(100)
            assert reason(await bench.job(body_of())) == "ClientListMissing"

    asyncio.run(inside())


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 204),
        ({"set": "-239:0:" + "00" * 32}, 400),
        ({"exp": 1}, 400),
        ({"iat": 1}, 400),  # older than the one held
        ({"iat": 1 << 40, "exp": 1 << 41}, 400),
        ({"key": Ed25519PrivateKey.generate()}, 400),
    ],
)
def test_a_list_of_clients(paid: Any, body_of: Any, changes: dict[str, Any], status: int) -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.put_clients(bench.world.clients(**changes))
        assert answer.status_code == status
        assert status == 204 or reason(answer) == "ClientListInvalid"
        assert (await bench.job(body_of())).status_code == 200  # the list that is held stays in force

    paid(scenario)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"aud": "00" * 32}, 401),
        ({"exp": 1}, 401),
        ({"exp": 1 << 40}, 401),
        ({"iat": 1 << 40, "exp": 1 << 41}, 401),
        ({"key": Ed25519PrivateKey.generate()}, 401),
    ],
)
def test_only_the_settler_reads_receipts_and_sends_lists(paid: Any, changes: dict[str, Any], status: int) -> None:
    async def scenario(bench: Bench) -> None:
        headers = bench.world.settler(**changes)
        assert (await bench.http.get("/v1/receipts", headers=headers)).status_code == status
        assert (await bench.put_clients(headers=headers)).status_code == (204 if status == 200 else status)

    paid(scenario)


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer x", "Basic abc", "Bearer \u00e9"])
def test_without_a_token_nothing_is_shown(paid: Any, authorization: str | None) -> None:
    async def scenario(bench: Bench) -> None:
        headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
        answer = await bench.http.get("/v1/receipts", headers=headers)
        assert (answer.status_code, reason(answer)) == (401, "NotAuthorized")

    paid(scenario)
