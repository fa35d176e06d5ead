"""What HTTP itself asks of answers (RFC 9110, RFC 9111), and a database that does not do its part."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, InternalError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chrysalis.broker import database, openapi
from chrysalis.broker.group_commit import GroupCommit
from chrysalis.broker.reasons import BrokerError, BrokerReason

World = Any
Reasons = Callable[[Any], list[str]]
SECRET = "sealed-key-of-a-parameter"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/challenge", "POST"),
        ("OPTIONS", "/v1/attest", "POST"),
        ("HEAD", "/.well-known/jwks.json", "GET"),
        ("DELETE", "/v1/keys/acme", "GET, PUT"),  # two routes of one path
        ("POST", "/v1/policies/workers", "GET, PUT"),
        ("GET", "/v1/results/x:revoke", None),  # the twin: GET is a method of that path
    ],
)
def test_a_method_that_is_not_there_is_told_which_are(world: World, method: str, path: str, allow: str | None) -> None:
    answer = world.http.request(method, path)
    assert answer.headers.get("allow") == allow
    assert (answer.status_code == 405) == (allow is not None)


def test_who_lacks_credentials_is_told_of_which_kind(world: World, reasons: Reasons) -> None:
    answer = world.http.get("/v1/results")
    assert (answer.status_code, reasons(answer), answer.headers["www-authenticate"]) == (401, ["CallerUnauthenticated"], "Bearer")
    assert "www-authenticate" not in world.reading("/v1/results").headers


STATED = [
    # Content-Type of a body that cannot be read, status
    ("text/plain", 415),
    ("application/x-www-form-urlencoded", 415),
    ("multipart/form-data; boundary=x", 415),
    ("application/cbor", 415),
    ("application/problem+json", 415),
    ("application/json-seq", 415),
    ("text/json; charset=application/json", 415),
    ("json", 415),
    ("application/json", 400),  # the twins: it is no JSON, but nobody said that it was something else
    ("Application/JSON", 400),
    ("application/json; charset=utf-8", 400),
    (" application/json ;x=y", 400),
    ("", 400),
    (None, 400),
]


@pytest.mark.parametrize("operation", [one for one in openapi.OPERATIONS if one.body], ids=lambda operation: operation.name)
def test_a_body_that_cannot_be_read_and_says_it_is_no_json(world: World, reasons: Reasons, operation: openapi.Operation) -> None:
    path = operation.path.replace("{key_id}", "acme").replace("{name}", "workers")
    for stated, status in STATED:
        headers = {} if stated is None else {"content-type": stated}
        headers |= {"authorization": f"Bearer {world.token(world.acme)}"} if operation.caller else {}
        for content in (b"no JSON", b"{}", b""):
            answer = world.http.request(operation.method, path, content=content, headers=headers)
            reason = "ContentTypeUnsupported" if status == 415 else "MessageMalformed"
            assert (answer.status_code, reasons(answer)) == (status, [reason]), stated
            assert answer.headers.get("accept") == ("application/json" if status == 415 else None)
            assert status != 415 or "application/json" in answer.json()["remedy"]


@pytest.mark.parametrize("stated", ["application/x-www-form-urlencoded", "text/plain", "application/json", ""])  # curl's own comes first
def test_a_body_that_can_be_read_is_taken_whatever_it_is_called(world: World, stated: str) -> None:
    headers = {"content-type": stated}
    evidence = world.domain(world.acme).evidence().model_dump_json(by_alias=True)
    accepted = world.http.post("/v1/attest", content=evidence, headers=headers)
    assert accepted.status_code == 200
    release = json.dumps({"resultId": accepted.json()["resultId"]})
    assert world.http.post("/v1/keys/acme:release", content=release, headers=headers).status_code == 200
    for path in ("/v1/challenge", "/v1/results/x:revoke"):  # what stands in these bodies means nothing
        assert world.http.post(path, content=b"no JSON", headers=headers).status_code in (200, 401)


def test_no_cache_keeps_an_answer(world: World) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    answers = [
        world.http.get("/nothing"),
        world.http.get("/readyz"),
        world.http.get("/.well-known/ear-recalls"),
        world.http.post("/v1/challenge"),
        world.reading("/v1/results"),
        world.reading(f"/v1/bundles/{result}"),
        world.http.request("POST", "/v1/challenge", headers={"x": "a" * 40_000}),  # refused before any route
    ]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    # the twin: the key set may be kept, for less time than a key stands in it before it signs
    assert world.http.get("/.well-known/jwks.json").headers["cache-control"] == "public, max-age=60"


def failing(kind: type[Any], words: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise kind("INSERT INTO key_records VALUES (?)", (SECRET,), words)

    return fail


AWAY = [
    pytest.param(OperationalError, sqlite3.OperationalError("database or disk is full"), id="disk full"),
    pytest.param(OperationalError, sqlite3.OperationalError("attempt to write a readonly database"), id="read-only file"),
    pytest.param(OperationalError, psycopg.errors.AdminShutdown("terminating connection"), id="server restarted"),
    pytest.param(InternalError, psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"), id="server demoted"),
    pytest.param(InterfaceError, psycopg.InterfaceError("the connection is closed"), id="connection closed"),
]


@pytest.mark.parametrize(("kind", "words"), AWAY)
def test_a_database_that_is_away_is_no_failure_of_the_brokers(
    world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[Any], words: Exception
) -> None:
    evidence, result = world.domain(world.acme).evidence(), world.attest(world.domain(world.acme)).json()["resultId"]
    with monkeypatch.context() as patched:
        patched.setattr(world.deps.store.database, "reading", failing(kind, words))
        patched.setattr(world.deps.store.database, "transact", failing(kind, words))
        answers = [
            world.http.get("/readyz"),
            world.reading("/v1/results"),
            world.post("/v1/attest", evidence),
            world.release("acme", result),
            world.put_key(world.acme, version=2),
        ]
    for answer in answers:
        assert (answer.status_code, reasons(answer), answer.headers["retry-after"]) == (503, ["DatabaseUnavailable"], "1")
        assert str(words) not in answer.text
    assert any(str(words) in getattr(record, "error", "") for record in caplog.records)  # the operator is told
    assert SECRET not in caplog.text + "".join(getattr(record, "error", "") for record in caplog.records)
    assert world.post("/v1/attest", evidence).status_code == 200  # its nonce was not used up
    assert world.release("acme", result).status_code == 200


@pytest.mark.parametrize("kind", [IntegrityError, DataError, ProgrammingError])
def test_a_mistake_of_the_brokers_own_stays_one(world: World, reasons: Reasons, monkeypatch: pytest.MonkeyPatch, kind: type[Any]) -> None:
    monkeypatch.setattr(world.deps.store.database, "reading", failing(kind, Exception("no such column")))
    answer = world.http.get("/readyz")
    assert (answer.status_code, reasons(answer)) == (500, ["InternalError"])


def test_all_connections_in_use_is_the_databases_affair_too() -> None:
    refusal = database.unavailable(PoolTimeout("QueuePool limit"))
    assert refusal is not None
    assert (refusal.reason, refusal.status) == (BrokerReason.DATABASE_UNAVAILABLE, 503)
    assert database.unavailable(SQLAlchemyError("anything else")) is None


def test_a_broker_that_ends_takes_no_more_work() -> None:
    writer = GroupCommit(lambda: pytest.fail("no transaction begins"))
    writer.close()
    with pytest.raises(BrokerError) as caught:
        writer.run(lambda _: None)
    assert (caught.value.reason, caught.value.status) == (BrokerReason.DATABASE_UNAVAILABLE, 503)


@pytest.mark.parametrize(("stated", "status"), [(4096, 400), (4097, 413), (10**19, 413)])
def test_what_is_too_large_is_refused_before_it_is_sent(world: World, stated: int, status: int) -> None:
    """A client that says how much it has (with Expect: 100-continue it waits for the word) need not send it."""
    sent: list[int] = []

    async def receive() -> dict[str, Any]:
        sent.append(1)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    answers: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/keys/acme:release", "query_string": b"", "http_version": "1.1", "scheme": "https",
        "headers": [(b"content-length", str(stated).encode()), (b"expect", b"100-continue")], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(world.http.app(scope, receive, send))
    assert answers[0]["status"] == status
    assert bool(sent) == (status == 400)
