"""The HTTP edge: bounded, strict, always a problem document, never a traceback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from chrysalis.broker import lanes, messages
from chrysalis.wire.broker import MAX_INITDATA_BYTES, MAX_QUOTE_BYTES

World = Any
Reasons = Callable[[Any], list[str]]


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/", 404, "NotFound"),
        ("GET", "/v1/challenge", 405, "MethodNotAllowed"),
        ("DELETE", "/v1/keys/acme", 405, "MethodNotAllowed"),
        ("GET", "/docs", 404, "NotFound"),
        ("GET", "/openapi.json", 404, "NotFound"),
        ("POST", "/v1/keys/A_B:release", 400, "MessageMalformed"),
        ("POST", "/v1/attest", 400, "MessageMalformed"),
        ("PUT", "/v1/keys/acme", 400, "MessageMalformed"),
        ("PUT", "/v1/policies/acme", 400, "MessageMalformed"),
        ("GET", "/v1/results", 401, "CallerUnauthenticated"),
        ("GET", "/v1/results/x", 401, "CallerUnauthenticated"),
        ("POST", "/v1/results/x:revoke", 401, "CallerUnauthenticated"),
    ],
)
def test_problems(world: World, reasons: Reasons, method: str, path: str, status: int, reason: str) -> None:
    answer = world.http.request(method, path)
    assert (answer.status_code, reasons(answer)) == (status, [reason])


@pytest.mark.parametrize("name", ["A", "a.b", "a_b", "-a", "a" * 64, "%2e%2e", "ä"])
def test_names_are_dns_labels(world: World, reasons: Reasons, name: str) -> None:
    body = {"schemaVersion": "chrysalis/v1", "resultId": "x"}
    assert reasons(world.http.post(f"/v1/keys/{name}:release", json=body)) == ["NotFound"]


@pytest.mark.parametrize(
    ("method", "path", "size"),
    [
        ("POST", "/v1/attest", 2 * 1024 * 1024),
        ("PUT", "/v1/keys/acme", 1024 * 1024),
        ("PUT", "/v1/policies/workers", 1024 * 1024),
        ("POST", "/v1/keys/acme:release", 4096),
        ("POST", "/v1/challenge", 4096),
    ],
)
def test_large_bodies(world: World, reasons: Reasons, method: str, path: str, size: int) -> None:
    assert world.http.request(method, path, content=b" " * size).status_code in (200, 400)
    answer = world.http.request(method, path, content=b" " * (size + 1))
    assert (answer.status_code, reasons(answer)) == (413, ["MessageTooLarge"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("quote", {"quote": "A" * (MAX_QUOTE_BYTES * 4 // 3 + 8)}),
        ("initdata", {"initdata": "A" * (MAX_INITDATA_BYTES * 4 // 3 + 8)}),
        ("pod name", {"claimed": {"podName": "a" * 254}}),
        ("nonce", {"nonce": "ab" * 33}),
        ("hpke key", {"keys": {"tlsSpkiSha256": "0" * 64, "hpke": "0" * 65, "receipt": "0" * 64}}),
        ("unknown field", {"extra": 1}),
        ("unknown version", {"schemaVersion": "chrysalis/v2"}),
        ("unknown type", {"type": "snp"}),
    ],
)
def test_oversized_and_unknown_fields(world: World, reasons: Reasons, name: str, change: dict[str, Any]) -> None:
    good = json.loads(world.domain(world.acme).evidence().model_dump_json(by_alias=True))
    answer = world.http.post("/v1/attest", json=good | change)
    assert (answer.status_code, reasons(answer)) == (400, ["MessageMalformed"])
    assert world.http.post("/v1/attest", json=good).status_code == 200  # the nonce was not spent


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_foreign_bytes_never_crash(world: World, body: bytes) -> None:
    for method, path in [("POST", "/v1/attest"), ("PUT", "/v1/keys/a"), ("PUT", "/v1/policies/a"), ("POST", "/v1/keys/a:release")]:
        answer = world.http.request(method, path, content=body)
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/problem+json"


def test_deep_json(world: World, reasons: Reasons) -> None:
    assert reasons(world.http.post("/v1/attest", content=b"[" * 100_000)) == ["MessageMalformed"]


def test_an_internal_error_tells_nothing(world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(world.deps.nonces, "make", broken)
    answer = world.http.post("/v1/challenge")
    assert (answer.status_code, reasons(answer)) == (500, ["InternalError"])
    assert "42" not in answer.text


def test_strangers_make_no_metrics(world: World) -> None:
    for number in range(3):
        assert world.http.request(f"MADE{number}UP", "/v1/challenge").status_code == 405
    text = generate_latest(world.deps.metrics.registry).decode()
    assert "UP" not in text
    assert 'operation="other /v1/challenge",status="405"} 3.0' in text


def test_too_many_at_once(world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    limit = world.deps.settings.max_concurrent_attestations
    evidence = world.domain(world.acme).evidence()

    def nested(message: Any) -> Any:
        # Each attempt starts the next while it is judged, so that `limit` of them are in flight.
        held.append(world.http.post("/v1/attest", content=message.model_dump_json(by_alias=True)))
        raise RuntimeError

    monkeypatch.setattr(lanes, "QUEUE_SECONDS", 0.05)
    monkeypatch.setattr(world.deps.attestor, "attest", nested)
    world.post("/v1/attest", evidence)
    assert len(held) == limit
    assert reasons(held[0]) == ["Busy"]
    assert held[0].headers["retry-after"]
    monkeypatch.undo()
    assert world.attest(world.domain(world.acme)).status_code == 200


def test_slow_senders_hold_no_place(world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than attestations are judged at once; an honest attempt in between is judged, and theirs end by themselves."""
    monkeypatch.setattr(messages, "BODY_SECONDS", 0.5)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async def scenario() -> None:
        transport = httpx.ASGITransport(world.http.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://broker") as http:
            places = world.deps.settings.max_concurrent_attestations
            waiting = [asyncio.create_task(http.post("/v1/attest", content=slow())) for _ in range(places)]
            await asyncio.sleep(0.1)
            evidence = world.domain(world.acme).evidence().model_dump_json(by_alias=True)
            assert (await http.post("/v1/attest", content=evidence)).status_code == 200
            for answer in await asyncio.gather(*waiting):
                assert (answer.status_code, reasons(answer)) == (408, ["MessageTooSlow"])

    asyncio.run(scenario())


def test_who_may_read(world: World, reasons: Reasons) -> None:
    acme = world.attest(world.domain(world.acme)).json()["resultId"]
    assert [v["resultId"] for v in world.reading("/v1/results").json()["results"]] == [acme]
    assert world.reading(f"/v1/results/{acme}", world.token(world.acme)).status_code == 200
    rival = world.token(world.rival)
    assert world.reading("/v1/results", rival).json()["results"] == []
    assert reasons(world.reading(f"/v1/results/{acme}", rival)) == ["ResultUnknown"]
    answer = world.reading("/v1/results", "default")
    assert (answer.status_code, reasons(answer)) == (403, ["CallerNotAllowed"])
    for token in ("forged", "", "ü"):
        answer = world.http.get("/v1/results", headers={"authorization": f"Bearer {token}".encode()})
        assert (answer.status_code, reasons(answer)) == (401, ["CallerUnauthenticated"])


def test_who_may_revoke(world: World, reasons: Reasons) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]

    def revoke(token: str) -> Any:
        return world.http.post(f"/v1/results/{result}:revoke", headers={"authorization": f"Bearer {token}"})

    assert reasons(revoke("operator")) == ["CallerNotAllowed"]
    assert reasons(revoke(world.token(world.rival))) == ["ResultUnknown"]
    first = revoke(world.token(world.acme)).json()["revokedAt"]
    world.clock.advance(5)
    assert revoke(world.token(world.acme)).json()["revokedAt"] == first
    assert [record.event for record in world.deps.store.audit_log()].count("ResultRevoked") == 1


def test_listing(world: World, reasons: Reasons) -> None:
    ids = [world.attest(world.domain(world.acme)).json()["resultId"] for _ in range(5)]

    def listed(query: str) -> list[str]:
        return [view["resultId"] for view in world.reading(f"/v1/results?{query}").json()["results"]]

    assert listed("") == ids[::-1]
    assert listed("limit=2") == ids[:2:-1]
    assert listed(f"after={ids[0]}&limit=2") == [ids[2], ids[1]]  # the next ones, newest first
    assert listed(f"after={ids[2]}") == [ids[4], ids[3]]
    assert listed("namespace=pool&worker=w&podUID=uid-1") == ids[::-1]
    assert listed("namespace=other") == []
    assert listed("verdict=Accepted") == ids[::-1]
    assert listed("verdict=Refused") == []
    for query in ("limit=0", "limit=1001", "verdict=Maybe", "limit=x", "limit=-1", "limit=99999999999999999999", "colour=red"):
        assert reasons(world.reading(f"/v1/results?{query}")) == ["MessageMalformed"]
    assert reasons(world.reading("/v1/results?after=unknown")) == ["ResultUnknown"]


def test_the_key_set_is_public(world: World) -> None:
    keys = world.http.get("/.well-known/jwks.json").json()["keys"]
    assert len({key["kid"] for key in keys}) == len(keys)
    assert {key["use"] for key in keys} == {"sig"}
    assert not [key for key in keys if "d" in key]  # never a private half
    assert (keys[0]["kty"], keys[0]["crv"], keys[0]["alg"]) == ("OKP", "Ed25519", "EdDSA")
    assert len(keys) == 3  # the pinned one, the one that signs, and the next
