"""The broker's client against answers that no broker gives."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from chrysalis.wire import broker_client
from chrysalis.wire.broker import Problem
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import Refused, WireError, WireReason

NONCE = {"schemaVersion": "chrysalis/v1", "nonce": "ab" * 32, "expiresAt": "2026-01-01T00:00:00Z"}


def ask(handler: Any, question: Any = lambda client: client.challenge()) -> Any:
    async def run() -> Any:
        client = BrokerClient("https://broker", spki_sha256="00" * 32)
        client._http = httpx.AsyncClient(base_url="https://broker", transport=httpx.MockTransport(handler))
        async with client:
            return await question(client)

    return asyncio.run(run())


def problem(status: int, **members: Any) -> httpx.Response:
    body = Problem(title="t", status=status, reason="SomeReason", remedy="r").model_dump(by_alias=True) | members
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json; charset=utf-8"})


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("not JSON", httpx.Response(200, content=b"<html>"), WireReason.ANSWER_MALFORMED),
        ("unknown version", httpx.Response(200, json=NONCE | {"schemaVersion": "chrysalis/v2"}), WireReason.ANSWER_MALFORMED),
        ("unknown field", httpx.Response(200, json=NONCE | {"x": 1}), WireReason.ANSWER_MALFORMED),
        ("plain error", httpx.Response(502, content=b"bad gateway"), WireReason.ANSWER_MALFORMED),
        ("redirect", httpx.Response(302, headers={"location": "https://elsewhere"}), WireReason.ANSWER_MALFORMED),
        ("a problem that is none", problem(403, title=1), WireReason.ANSWER_MALFORMED),
        ("huge", httpx.Response(200, content=b" " * (broker_client.MAX_ANSWER_BYTES + 1)), WireReason.ANSWER_TOO_LARGE),
        ("refused", problem(403), WireReason.REFUSED_BY_SERVICE),
    ],
)
def test_unusable_answers(name: str, answer: httpx.Response, reason: WireReason) -> None:
    assert ask(lambda request: httpx.Response(200, json=NONCE)).nonce == "ab" * 32
    with pytest.raises(WireError) as caught:
        ask(lambda request: answer)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (409, False), (415, False), (429, True), (503, True)])
def test_refusals_say_whether_to_try_again(status: int, retryable: bool) -> None:
    with pytest.raises(Refused) as caught:
        ask(lambda request: problem(status))
    assert caught.value.retryable is retryable
    assert [r.reason for r in caught.value.reasons] == ["SomeReason"]
    assert caught.value.as_dict()["reason"] == "SomeReason"


@pytest.mark.parametrize("error", [httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x"), httpx.ReadError("x")])
def test_lost_connections(error: httpx.HTTPError) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(WireError) as caught:
        ask(handler)
    assert caught.value.reason == WireReason.SERVICE_UNREACHABLE


@pytest.mark.parametrize("keys", [b"[]", b"x", b"[" * 100_000])
def test_key_sets_that_are_none(keys: bytes) -> None:
    with pytest.raises(WireError) as caught:
        ask(lambda request: httpx.Response(200, content=keys), lambda client: client.jwks())
    assert caught.value.reason == WireReason.ANSWER_MALFORMED


def test_paths_cannot_be_bent() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return problem(404)

    with pytest.raises(Refused):
        ask(handler, lambda client: client.result("../keys/x?y#z"))
    assert seen == ["/v1/results/..%2Fkeys%2Fx%3Fy%23z"]
    for name in ("../x", "A", "", "a" * 64):
        with pytest.raises(WireError):
            ask(handler, lambda client, name=name: client.release(name, "r"))
    assert len(seen) == 1
