"""What HTTP itself asks of answers (RFC 9110, RFC 9111), and a database that does not do its part."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, InternalError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chrysalis.broker import database
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
