"""Every rule of the gateway: each way to be refused beside the request that differs in that one thing and is served."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chrysalis.attestation import binding, quote
from chrysalis.receipts import jws, salted
from chrysalis.receipts.objects import Offer
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.worker import MAX_BODY_BYTES
from tests.worker.gateway_bench import Bench, reason


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
