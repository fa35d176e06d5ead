"""A PostgreSQL server that goes away under a running broker and comes back: refusals that say so, and then as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import make_url

from chrysalis.broker import main as broker_main
from e2e.postgres import Postgres

pytestmark = pytest.mark.postgres
World = Any
Reasons = Callable[[Any], list[str]]


@pytest.fixture
def more_settings(postgres_url: str) -> dict[str, Any]:
    """The broker's database is a server's."""
    return {"database": {"url": postgres_url}}


def cut_off(postgres: Postgres, name: str) -> None:
    with postgres.connect("postgres") as server:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


@contextmanager
def away(postgres: Postgres, name: str) -> Iterator[None]:
    """Every connection is cut off, and no new one is taken."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with postgres.connect("postgres") as server:
        server.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
    try:
        cut_off(postgres, name)
        yield
    finally:
        with postgres.connect("postgres") as server:
            server.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


def test_an_outage_is_said_and_passes(world: World, reasons: Reasons, postgres: Postgres, postgres_url: str) -> None:
    name = str(make_url(postgres_url).database)
    ready = broker_main.plain_paths(world.deps)[0]["/readyz"]
    world.clock.advance(1)
    world.deps.beat.at = world.clock.monotonic()
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    evidence, token = world.domain(world.acme).evidence(), world.token(world.acme)
    revoking = {"authorization": f"Bearer {token}"}
    with away(postgres, name):
        for answer in (
            world.post("/v1/attest", evidence),
            world.release("acme", result),
            world.reading("/v1/results"),
            world.put_policy(world.acme, version=2),
            world.http.post(f"/v1/results/{result}:revoke", headers=revoking),
            world.http.get("/readyz"),
        ):
            assert (answer.status_code, reasons(answer)) == (503, ["DatabaseUnavailable"])
        assert world.http.post("/v1/challenge").status_code == 200  # it asks no database
        assert ready()[0] == 503
    assert ready()[0] == 200
    # Nothing of it was half done: nonce and token are unused, the policy is the old one, and the key is released.
    assert world.reading("/v1/policies/workers", world.token(world.acme)).json()["version"] == 1
    assert world.post("/v1/attest", evidence).status_code == 200
    assert world.release("acme", result).status_code == 200
    assert world.http.post(f"/v1/results/{result}:revoke", headers=revoking).status_code == 200


def test_connections_that_were_cut_off_are_made_anew(world: World, postgres: Postgres, postgres_url: str) -> None:
    """A restart, or another server that was promoted: each pool may notice it once, whoever asks again is served."""
    name = str(make_url(postgres_url).database)
    domain = world.domain(world.acme)
    for _ in range(3):
        cut_off(postgres, name)
        assert world.attest(domain).status_code in (200, 503)
        assert world.reading("/v1/results").status_code in (200, 503)
        assert world.attest(domain).status_code == 200
        assert world.reading("/v1/results").status_code == 200
