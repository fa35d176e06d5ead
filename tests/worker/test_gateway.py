"""Every rule of the gateway: each way to be refused beside the request that differs in that one thing and is served."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.attestation import binding, quote
from chrysalis.clock import unix
from chrysalis.receipts import chain, jws, salted
from chrysalis.receipts.objects import ListedClient, Offer, Receipt, Status
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.worker import MAX_BODY_BYTES, ReceiptPage
from chrysalis_worker.gateway import Gateway
from chrysalis_worker.inference import Embedded
from chrysalis_worker.reasons import WorkerError, WorkerReason

SALT = bytes(range(32))


@dataclass
class Bench:
    """An attested worker with a client list, and a way to send it jobs."""

    world: Any
    gateway: Gateway
    http: httpx.AsyncClient

    async def put_clients(self, token: str | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
        content = json.dumps({"schemaVersion": "chrysalis/v1", "clients": token or self.world.clients()})
        return await self.http.put("/v1/clients", content=content, headers=headers or self.world.settler())

    async def job(self, body: bytes, ticket: str | None = "good", salt: bytes | None = SALT, **changes: Any) -> httpx.Response:
        headers = {}
        if salt is not None:
            headers["Chrysalis-Salt"] = jws.b64u(salt)
        if ticket == "good":
            ticket = self.world.ticket(self.gateway, body, salt or SALT, **changes)
        if ticket is not None:
            headers["Chrysalis-Ticket"] = ticket
        return await self.http.post("/v1/embeddings", content=body, headers=headers)

    def receipt(self, response: httpx.Response) -> Receipt:
        return Receipt.parse(response.headers["chrysalis-receipt"], self.world.domain.receipt_public)


def reason(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert error["message"]
    assert error["remedy"]
    return str(error["reason"])


def run(make_world: Callable[..., Any], client_of: Callable[[Gateway], httpx.AsyncClient], set_name: str | None = None) -> Any:
    """A runner for coroutines that take a Bench."""

    def go(scenario: Callable[[Bench], Any]) -> None:
        async def inside() -> None:
            world = make_world(set_name) if set_name is not None else make_world()
            await world.attested()
            gateway = world.build()
            async with client_of(gateway) as http:
                bench = Bench(world, gateway, http)
                if set_name is None:
                    assert (await bench.put_clients()).status_code == 204
                await scenario(bench)

        asyncio.run(inside())

    return go


@pytest.fixture
def paid(make_world: Any, client_of: Any) -> Any:
    return run(make_world, client_of)


@pytest.fixture
def free(make_world: Any, client_of: Any) -> Any:
    return run(make_world, client_of, "none")


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


def test_base64_and_floats_are_the_same_numbers(free: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        floats = (await bench.job(body_of(), ticket=None)).json()["data"]
        packed = (await bench.job(body_of(encoding_format="base64"), ticket=None)).json()["data"]
        for one, other in zip(floats, packed, strict=True):
            expected = np.array(one["embedding"], np.float32)
            assert np.array_equal(np.frombuffer(base64.b64decode(other["embedding"]), "<f4"), expected)

    free(scenario)


def test_without_settlement_a_job_needs_no_ticket_and_still_has_a_receipt(free: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        response = await bench.job(body_of(), ticket=None, salt=None)
        receipt = bench.receipt(response)
        assert (receipt.set, receipt.ticket, receipt.amt) == ("none", "", 6 * 2 + 5)
        salt = jws.from_b64u(response.headers["chrysalis-salt"])
        assert receipt.rsp == salted.response_hash(salt, response.content)
        refused = await bench.job(body_of(), ticket="x.y.z")
        assert (refused.status_code, reason(refused)) == (400, "TicketNotExpected")

    free(scenario)


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
        await asyncio.sleep(0.05)
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


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"input": "one text"}, 200),
        ({"user": "me", "encoding_format": "float", "dimensions": 4}, 200),
        ({"input": ["t"] * 256}, 200),
        ({"input": ["t"] * 257}, 400),
        ({"input": []}, 400),
        ({"input": ""}, 400),
        ({"input": [""]}, 400),
        ({"input": [1, 2]}, 400),
        ({"input": None}, 400),
        ({"dimensions": 5}, 400),
        ({"encoding_format": "hex"}, 400),
        ({"surprise": 1}, 400),
        ({"model": 7}, 400),
    ],
)
def test_request_fields(free: Any, body_of: Any, changes: dict[str, Any], status: int) -> None:
    async def scenario(bench: Bench) -> None:
        response = await bench.job(body_of(**changes), ticket=None)
        assert response.status_code == status
        if status == 400:
            assert reason(response) == "RequestMalformed"
            assert bench.gateway.receipts.last == 0

    free(scenario)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model":"minilm","input":"\\ud800"}', b"[" * 100_000])
def test_what_is_not_json_is_refused(free: Any, body: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        assert reason(await bench.job(body, ticket=None)) == "RequestMalformed"

    free(scenario)


def test_an_unknown_model_is_not_found(paid: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        response = await bench.job(body_of(model="gpt-5"))
        assert (response.status_code, response.json()["error"]["code"], reason(response)) == (404, "model_not_found", "ModelNotFound")
        assert bench.gateway.receipts.last == 0
        names = [m["id"] for m in (await bench.http.get("/v1/models")).json()["data"]]
        assert names == ["minilm"]
        assert (await bench.job(body_of(model=names[0]))).status_code == 200

    paid(scenario)


def test_a_declared_size_over_the_limit_is_refused_before_any_byte(free: Any) -> None:
    async def scenario(bench: Bench) -> None:
        taken = 0

        async def pieces() -> Any:
            nonlocal taken
            for _ in range(100):
                taken += 1 << 20
                yield bytes(1 << 20)

        declared = await bench.http.post("/v1/embeddings", content=pieces(), headers={"content-length": str(100 << 20)})
        assert (declared.status_code, reason(declared), taken) == (413, "RequestTooLarge", 0)
        chunked = await bench.http.post("/v1/embeddings", content=pieces())
        assert (chunked.status_code, reason(chunked)) == (413, "RequestTooLarge")
        assert taken <= MAX_BODY_BYTES + (2 << 20)
        assert bench.world.state.in_flight == 0

    free(scenario)


def test_a_request_of_exactly_the_limit_is_read(free: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        body = body_of()
        assert (await bench.job(body + b" " * (MAX_BODY_BYTES - len(body)), ticket=None)).status_code == 200
        assert (await bench.job(body + b" " * (MAX_BODY_BYTES + 1 - len(body)), ticket=None)).status_code == 413

    free(scenario)


def test_compressed_requests_are_refused(free: Any, body_of: Any) -> None:
    async def scenario(bench: Bench) -> None:
        response = await bench.http.post("/v1/embeddings", content=body_of(), headers={"content-encoding": "gzip"})
        assert (response.status_code, reason(response)) == (415, "ContentEncodingRefused")

    free(scenario)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: None, None),
        (lambda w: setattr(w.state, "draining", True), "Draining"),
        (lambda w: setattr(w.state, "canary_passes", False), "NotReady"),
        (lambda w: w.clock.advance(600), "AttestationExpired"),
        (lambda w: w.clock.advance(599), None),
        (lambda w: setattr(w.state, "in_flight", 64), "Overloaded"),
        (lambda w: setattr(w.state, "in_flight", 63), None),
    ],
)
def test_jobs_are_taken_only_while_ready(free: Any, body_of: Any, change: Callable[[Any], None], expected: str | None) -> None:
    async def scenario(bench: Bench) -> None:
        change(bench.world)
        response = await bench.job(body_of(), ticket=None)
        assert response.status_code == (503 if expected else 200)
        if expected:
            assert reason(response) == expected
            assert response.headers["retry-after"] == "1"

    free(scenario)


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


def test_the_evidence_binds_the_clients_nonce_and_the_same_keys(free: Any) -> None:
    async def scenario(bench: Bench) -> None:
        stored_document = AttestationDocument.model_validate_json((await bench.http.get("/.well-known/attestation")).content)
        nonce = secrets.token_bytes(32)
        answer = await bench.http.get("/.well-known/attestation", params={"nonce": nonce.hex()})
        fresh = AttestationDocument.model_validate_json(answer.content)
        assert (stored_document.mode, fresh.mode) == ("stored", "fresh-quote")
        assert fresh.evidence.nonce == nonce.hex()
        assert fresh.evidence.keys == stored_document.evidence.keys
        assert stored_document.evidence == bench.world.broker.attested[0]
        for document in (stored_document, fresh):
            keys = document.evidence.keys
            bound = binding.bind(
                nonce=bytes.fromhex(document.evidence.nonce),
                tls_spki_sha256=bytes.fromhex(keys.tls_spki_sha256),
                hpke=bytes.fromhex(keys.hpke),
                receipt=bytes.fromhex(keys.receipt),
                identity={"measured": bench.world.identity.to_json_dict(), "claimed": document.evidence.claimed.to_json_dict()},
            )
            assert base64.b64decode(document.claims_buffer) == bound.claims_buffer
            assert quote.parse(base64.b64decode(document.evidence.quote)).report_data == bound.report_data
            Offer.parse(document.offer, bytes.fromhex(keys.receipt))

    free(scenario)


@pytest.mark.parametrize(
    ("query", "status"), [("nonce=" + "ab" * 32, 200), ("nonce=ab", 400), ("nonce=" + "zz" * 32, 400), ("nonce=", 400), ("other=1", 400)]
)
def test_a_nonce_has_32_bytes(free: Any, query: str, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.http.get("/.well-known/attestation?" + query)).status_code == status

    free(scenario)


def test_fresh_quotes_are_rate_limited_and_stored_ones_are_not(free: Any) -> None:
    async def scenario(bench: Bench) -> None:
        fresh = "/.well-known/attestation?nonce=" + "ab" * 32
        assert [(await bench.http.get(fresh)).status_code for _ in range(17)] == [200] * 16 + [429]
        assert (await bench.http.get("/.well-known/attestation")).status_code == 200
        assert reason(await bench.http.get(fresh)) == "TooManyQuotes"
        bench.world.clock.advance(0.25)
        assert [(await bench.http.get(fresh)).status_code for _ in range(2)] == [200, 429]

    free(scenario)


def test_without_a_result_there_is_no_evidence(free: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.world.clock.advance(600)
        assert reason(await bench.http.get("/.well-known/attestation")) == "NotReady"

    free(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/v1/embeddings", 405), ("POST", "/v1/chat/completions", 404)]
)
def test_what_is_not_offered(free: Any, method: str, path: str, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        response = await bench.http.request(method, path)
        assert response.status_code == status
        assert reason(response) in ("PathNotFound", "MethodNotAllowed")

    free(scenario)
