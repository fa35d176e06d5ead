"""Watching results: every change is seen in time, by whoever may see it, and by nobody else."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import uvicorn

from chrysalis.broker import main as broker_main
from chrysalis.broker import watch
from chrysalis.wire.broker import ResultView
from chrysalis.wire.broker_client import BrokerClient
from tests.stopwatch import Stopwatch

World = Any
Reasons = Callable[[Any], list[str]]
SEEN_WITHIN = 2.0


def number(world: World) -> int:
    return int(world.reading("/v1/results").json()["change"])


def attest(world: World, tenant: Any = None) -> str:
    return str(world.attest(world.domain(tenant or world.acme)).json()["resultId"])


def poll(world: World, after: int, wait: int = 0, token: str = "operator", **filters: str) -> Any:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return world.reading(f"/v1/results?wait={wait}&after={after}&{query}", token)


def test_every_change_of_a_result_is_seen(world: World) -> None:
    start = number(world)
    result = attest(world)
    issued = poll(world, start).json()
    assert [view["resultId"] for view in issued["results"]] == [result]
    world.release("acme", result)
    released = poll(world, issued["next"]).json()
    assert released["results"][0]["keyReleasedAt"]
    token = world.token(world.acme)
    world.http.post(f"/v1/results/{result}:revoke", headers={"authorization": f"Bearer {token}"})
    revoked = poll(world, released["next"]).json()
    assert revoked["results"][0]["revokedReason"] == "RevokedByOwner"
    assert poll(world, revoked["next"]).json() == {"schemaVersion": "chrysalis/v1", "results": [], "next": revoked["next"]}
    assert [view["resultId"] for view in poll(world, start).json()["results"]] == [result]  # once, as it is now


def test_a_wait_ends_with_the_change(world: World) -> None:
    start = number(world)
    timer = threading.Timer(0.5, lambda: attest(world))
    with Stopwatch() as taken:
        timer.start()
        found = poll(world, start, wait=60).json()
    timer.join()
    assert len(found["results"]) == 1
    assert taken.seconds < 0.5 + SEEN_WITHIN


def test_a_wait_ends_without_a_change(world: World) -> None:
    attest(world)
    start = number(world)
    began = time.monotonic()
    assert poll(world, start, wait=1).json() == {"schemaVersion": "chrysalis/v1", "results": [], "next": start}
    assert 0.9 < time.monotonic() - began < watch.MAX_WAIT_SECONDS  # however busy the machine is


def test_filters_and_tenants(world: World) -> None:
    start = number(world)
    mine, others = attest(world), attest(world, world.rival)
    token = world.token(world.rival)
    assert [view["resultId"] for view in poll(world, start, token=token).json()["results"]] == [others]
    assert [view["resultId"] for view in poll(world, start).json()["results"]] == [mine, others]
    assert poll(world, start, worker="another").json()["results"] == []
    one = poll(world, start, limit="1").json()
    assert ([view["resultId"] for view in one["results"]], len(poll(world, one["next"]).json()["results"])) == ([mine], 1)


@pytest.mark.parametrize(
    "query",
    [
        "watch=false",
        "watch=true&wait=1",
        "wait=x",
        "wait=61",
        "wait=-1",
        "wait=1&after=x",
        "wait=1&after=9223372036854775808",
        "wait=1&odd=1",
    ],
)
def test_questions_that_cannot_be_read(world: World, reasons: Reasons, query: str) -> None:
    assert reasons(world.reading(f"/v1/results?{query}")) == ["MessageMalformed"]


def test_strangers_watch_nothing(world: World) -> None:
    assert world.reading("/v1/results?watch=true", "nobody").status_code == 401


def test_watchers_are_bounded(world: World) -> None:
    watching = watch.Watching(world.deps.store)
    places = [watching.admit("one") for _ in range(watch.MAX_WATCHERS_OF_A_CALLER)]
    with pytest.raises(Exception, match="watchers of one caller"):
        watching.admit("one")
    watching.admit("two")
    places[0].give_back()
    places[0].give_back()
    watching.admit("one")
    with pytest.raises(Exception, match="watchers"):
        watching.admit("one")


def test_administrators_do_not_take_the_operators_places(world: World) -> None:
    watching = watch.Watching(world.deps.store)
    for number in range(watch.MAX_WATCHERS - watch.KEPT_FOR_READERS):
        watching.admit(f"administrator {number}")
    with pytest.raises(Exception, match="watchers"):
        watching.admit("one more")
    watching.admit("operator", reader=True)


def test_a_stream_tells_what_changes(world: World) -> None:
    watching = watch.Watching(world.deps.store)

    def page(after: int) -> list[tuple[int, ResultView]]:
        return [(n, ResultView.model_validate_json(result.document)) for n, result in world.deps.store.changes(after, limit=1)]

    async def read() -> list[str]:
        async with aclosing(watching.stream(page, 0, seconds=1.5)) as events:
            return [event async for event in events]

    first, second = attest(world), attest(world)
    events = asyncio.run(read())
    assert events[0] == ": watching from 0\n\n"
    assert [event.split("\n")[0] for event in events[1:3]] == ["id: 1", "id: 2"]
    assert first in events[1]
    assert second in events[2]
    assert events[1].endswith("\n\n")
    assert set(events[3:]) <= {": alive\n\n"}


@pytest.fixture
def server(world: World) -> Iterator[uvicorn.Server]:
    configuration = world.deps.settings.model_copy(update={"host": "127.0.0.1", "port": 0})
    object.__setattr__(world.deps, "settings", configuration)
    server: uvicorn.Server = broker_main.tls_server(world.deps)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join(60)


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    found: int = server.servers[0].sockets[0].getsockname()[1]
    return found


def test_a_client_sees_a_policys_revocation_in_time(world: World, port: int) -> None:
    """The whole way: the new policy is stored, the broker judges again by itself, and the watcher hears of it."""
    result = attest(world)
    tdx = world.policy(world.acme)["tdx"]
    tighter = tdx | {"measurements": [tdx["measurements"][0] | {"mrtd": "ab" * 48}]}

    async def watching() -> ResultView:
        pin = world.deps.keys.tls_spki_sha256.hex()
        async with BrokerClient(f"https://127.0.0.1:{port}", spki_sha256=pin, token=lambda: "operator") as client:
            changes = client.watch_results(worker="w")
            heard = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.7)
            with taken:
                answer = await asyncio.to_thread(world.put_policy, world.acme, version=2, tdx=tighter)
                assert answer.status_code == 201
                _, view = await asyncio.wait_for(heard, 60)
            return view

    taken = Stopwatch()
    view = asyncio.run(watching())
    assert (view.result_id, view.revoked_reason) == (result, "MeasurementNotAllowed")
    assert taken.seconds < SEEN_WITHIN


def test_server_sent_events_over_the_wire(world: World, port: int) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=60)
    connection.request("GET", "/v1/results?watch=true&after=0", headers={"authorization": "Bearer operator"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.readline() == b": watching from 0\n"
    answer.readline()
    result = attest(world)
    with Stopwatch() as taken:
        assert answer.readline() == b"id: 1\n"
    assert taken.seconds < SEEN_WITHIN
    assert answer.readline() == b"event: result\n"
    assert result.encode() in answer.readline()
    connection.close()


def test_a_broker_that_ends_lets_its_watchers_go(world: World, server: uvicorn.Server, port: int, caplog: pytest.LogCaptureFixture) -> None:
    """At once and in good order: both ways of watching get a whole answer, and nothing that was being answered is broken off."""
    ready = broker_main.plain_paths(world.deps)[0]["/readyz"]
    world.clock.advance(1)
    world.deps.beat.at = world.deps.clock.monotonic()
    assert ready()[0] == 200
    after = world.deps.store.change_number()
    ways = (f"/v1/results?watch=true&after={after}", f"/v1/results?wait=60&after={after}")
    connections = [http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=60) for _ in ways]
    for connection, way in zip(connections, ways, strict=True):
        connection.request("GET", way, headers={"authorization": "Bearer operator"})
    stream = connections[0].getresponse()
    assert stream.readline() == f": watching from {after}\n".encode()
    time.sleep(0.5)  # the other one waits by now
    server.should_exit = True
    assert stream.read().replace(b": alive\n\n", b"") == b"\n"  # to its end: http.client raises where a body is cut off
    poll_answer = connections[1].getresponse()
    found = json.loads(poll_answer.read())
    assert (poll_answer.status, found["results"], found["next"]) == (200, [], after)
    assert ready() == (503, "text/plain", b"ending\n")
    assert not [record for record in caplog.records if "Cancel" in record.getMessage()]
    for connection in connections:
        connection.close()
