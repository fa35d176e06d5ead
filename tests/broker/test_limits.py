"""Limits on strangers: addresses, buckets in bounded memory, lanes that serve addresses in turn, connections with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from chrysalis.broker import limits, server
from chrysalis.broker import main as broker_main
from chrysalis.broker.limits import Buckets, Limits, LimitSettings, Recent, Shares, Standing, Tiers
from chrysalis.broker.origins import Origin, origin_of
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.server import Connections
from chrysalis.clock import ManualClock
from tests.broker.test_main import Running

World = Any
Reasons = Callable[[Any], list[str]]


def test_buckets_empty_and_fill(clock: ManualClock) -> None:
    buckets = Buckets(rate=2, burst=3, entries=10, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    clock.advance(0.4)
    assert not buckets.take("a")
    clock.advance(0.1)
    assert buckets.take("a")
    buckets.give("a")
    assert buckets.level("a") == 1
    clock.advance(1000)
    assert buckets.level("a") == 3


def test_buckets_forget_the_longest_unseen(clock: ManualClock) -> None:
    buckets = Buckets(rate=0.001, burst=1, entries=100, clock=clock)
    for number in range(10_000):
        buckets.take(f"a{number}")
    assert len(buckets) == 100
    assert not buckets.take("a9999")
    assert buckets.take("a0")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))  # type: ignore[arg-type]


def test_who_is_refused_often_shares_one_place(clock: ManualClock) -> None:
    async def scenario() -> None:
        limit = Limits(LimitSettings(unproven_attestations=3), 8, clock)
        a, b = origin_of("192.0.2.1"), origin_of("192.0.2.2")
        assert [await limit.attempt(a) for _ in range(4)] == [Standing.NEW] * 3 + [Standing.SUSPECT]
        assert await limit.attempt(b) is Standing.NEW
        limit.proved(a)
        assert await limit.attempt(a) is Standing.PROVEN
        clock.advance(20)
        assert [await limit.attempt(a) for _ in range(2)] == [Standing.PROVEN, Standing.SUSPECT]
        clock.advance(limits.PROVEN_SECONDS)
        assert await limit.attempt(a) is Standing.NEW

    run(scenario)


def test_whoever_floods_waits(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HOLD_SECONDS", 0.05)

    async def scenario() -> None:
        limit = Limits(LimitSettings(requests_per_second=1), 8, clock)
        await limit.request(("a",))
        await limit.request(("a",))
        started = time.monotonic()
        with pytest.raises(BrokerError) as caught:
            await limit.request(("a",))
        assert caught.value.reason == BrokerReason.TOO_MANY_REQUESTS
        assert time.monotonic() - started >= 0.05
        await limit.request(("b",))

    run(scenario)


def test_failed_authentications_end(world: World, reasons: Reasons) -> None:
    object.__setattr__(world.deps, "limits", Limits(LimitSettings(unproven_calls=3), 8, world.clock))
    for _ in range(3):
        assert reasons(world.reading("/v1/results", "forged")) == ["CallerUnauthenticated"]
    answer = world.reading("/v1/results", "operator")
    assert (answer.status_code, reasons(answer)) == (429, ["TooManyRequests"])
    world.clock.advance(60)
    assert world.reading("/v1/results", "operator").status_code == 200


@pytest.mark.parametrize("path", ["/v1/keys/acme", "/v1/policies/workers", "/v1/reference-values"])
def test_envelopes_that_nobody_signed_end(world: World, reasons: Reasons, path: str) -> None:
    limits = LimitSettings.model_validate({"requestsPerSecond": 1_000_000, "unprovenCalls": 3})
    object.__setattr__(world.deps, "limits", Limits(limits, 8, world.clock))
    signed = world.rival.sign("application/vnd.chrysalis.key-record.v1+json", world.rival.record())
    forged = signed.model_copy(update={"signatures": [signed.signatures[0].model_copy(update={"keyid": world.acme.public.hex()})]})
    said = [reasons(world.put(path, forged))[0] for _ in range(5)]
    assert said[3:] == ["TooManyRequests"] * 2
    assert "TooManyRequests" not in said[:3]
    world.clock.advance(60)
    assert world.put_policy(world.acme, version=2).status_code == 201


@pytest.mark.parametrize("stated", ["application/json", "text/plain"])
def test_messages_that_cannot_be_read_end(world: World, reasons: Reasons, stated: str) -> None:
    limits = LimitSettings.model_validate({"requestsPerSecond": 1_000_000, "unprovenCalls": 3})
    object.__setattr__(world.deps, "limits", Limits(limits, 8, world.clock))
    said = [reasons(world.http.put("/v1/keys/acme", content=b"x", headers={"content-type": stated}))[0] for _ in range(5)]
    assert said == [said[0]] * 3 + ["TooManyRequests"] * 2
    assert said[0] != "TooManyRequests"


def test_one_result_asks_for_its_key_now_and_then(world: World, reasons: Reasons) -> None:
    """Clients see the result's id in the worker's token; each of their requests would ask the key service."""
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    for _ in range(limits.RELEASES):
        assert world.release("acme", result).status_code == 200
    assert reasons(world.release("acme", result)) == ["TooManyRequests"]
    other = world.attest(world.domain(world.acme)).json()["resultId"]
    assert world.release("acme", other).status_code == 200
    world.clock.advance(1)
    assert world.release("acme", result).status_code == 200


def test_calls_with_the_same_credentials(world: World, reasons: Reasons) -> None:
    object.__setattr__(world.deps, "limits", Limits(LimitSettings(calls_per_second=1), 8, world.clock))
    assert [world.reading("/v1/results").status_code for _ in range(3)] == [200, 200, 429]


def nobody(clock: ManualClock) -> Recent:
    return Recent(seconds=60, entries=16, clock=clock)


def test_held_bytes_are_counted_by_address(clock: ManualClock) -> None:
    a, b, c, d = (("a",), ("b",), ("c",), ("d",))
    load = Shares(1000, 400, nobody(clock))
    assert load.add(a, 400)
    assert not load.add(a, 1)
    assert load.add(b, 100)  # half of all: from now on an eighth
    assert not load.add(c, 51)
    assert load.add(c, 50)
    load.remove(a, 400)
    assert load.add(c, 350)
    for origin, size in ((b, 100), (c, 400)):
        load.remove(origin, size)
    assert (load.total, load._held) == (0, {})
    assert not load.add(d, 401)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_no_network_uses_up_the_one_around_it(clock: ManualClock, width: int) -> None:
    """Whoever holds every part of a network, of any width, leaves something to its neighbours, and to everybody half of all."""
    load = Shares(512, 64, nobody(clock))
    prefix = (64, 56, 48, 40, 32, 24)[width]
    mine = [origin_of(host) for host in parts("2600::", prefix, 1024)]
    held = sum(load.add(origin, 1) for origin in mine for _ in range(64))
    assert 64 < held <= 256 + 32  # once half is taken, only an eighth of each share
    neighbour = origin_of(next(host for host in neighbours("2600::", prefix)))
    assert load.add(neighbour, 1)
    stranger = origin_of("2a00:1450::1")
    assert sum(load.add(stranger, 1) for _ in range(100)) >= 8


def test_the_last_eighth_is_for_the_proven(clock: ManualClock) -> None:
    proven = nobody(clock)
    load = Shares(800, 100, proven)
    held = sum(load.add((f"{number}",), 1) for number in range(1000))
    assert held == 700
    assert not load.add(("good",), 1)
    proven.add("good")
    assert load.add(("good", "flooded"), 1)
    clock.advance(60)
    assert not load.add(("good", "flooded"), 1)


def parts(network: str, prefix: int, most: int) -> list[str]:
    """Addresses in different /64s of a network."""
    base, size = int(ipaddress.IPv6Address(network)), 1 << (64 - prefix)
    return [str(ipaddress.IPv6Address(base + (number * size // min(size, most) << 64) + 1)) for number in range(min(size, most))]


def neighbours(network: str, prefix: int) -> Iterator[str]:
    """The network beside it."""
    yield str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(network)) + (1 << (128 - prefix)) + 1))


def test_a_wider_network_has_twice_as_much(clock: ManualClock) -> None:
    tiers = Tiers(rate=1, burst=4, entries=1000, clock=clock)

    def taken(origins: list[Origin]) -> int:
        return sum(tiers.take(origin) for origin in origins for _ in range(8))

    assert taken([origin_of("192.0.2.1")]) == 4
    assert taken([origin_of(f"192.0.2.{number}") for number in range(2, 100)]) == 4  # the /24 had 8
    assert taken([origin_of(f"192.0.{number}.1") for number in range(3, 100)]) == 8  # the /16 had 16
    assert taken([origin_of("::ffff:192.0.2.200")]) == 0
    assert taken([origin_of("198.51.100.1")]) == 4
    clock.advance(4)
    assert taken([origin_of("192.0.2.200")]) == 4


def test_what_is_refused_for_a_network_fills_no_memory(clock: ManualClock) -> None:
    tiers = Tiers(rate=0.001, burst=4, entries=256, clock=clock)
    for host in parts("2600::", 48, 4096):
        tiers.take(origin_of(host))
    assert len(tiers) < 64
    for number in range(2000):  # and networks of their own are forgotten
        tiers.take(origin_of(f"{number % 220 + 1}.{number // 220}.0.1"))
    assert len(tiers) <= 256 + 128 + 64 + 32 + 16 + 16


def test_failed_authentications_of_neighbours_do_not_lock_out_who_has_authenticated(clock: ManualClock) -> None:
    limit = Limits(LimitSettings(unproven_calls=3), 8, clock)
    operator, newcomer = origin_of("10.0.0.1"), origin_of("10.0.0.2")
    limit.call(operator, "operator")
    for number in range(3, 20):
        limit.failed_call(origin_of(f"10.0.0.{number}"))
    limit.before_call(operator)
    with pytest.raises(BrokerError) as caught:
        limit.before_call(newcomer)
    assert caught.value.reason == BrokerReason.TOO_MANY_REQUESTS
    limit.before_call(origin_of("10.0.1.2"))  # the twin: another network
    for _ in range(3):
        limit.failed_call(operator)
    with pytest.raises(BrokerError):
        limit.before_call(operator)


def test_refused_evidence_counts_for_the_network_and_what_is_not_its_fault_does_not(world: World, reasons: Reasons) -> None:
    limit = Limits(LimitSettings.model_validate({"requestsPerSecond": 1_000_000, "unprovenAttestations": 2}), 8, world.clock)
    object.__setattr__(world.deps, "limits", limit)

    def attest(host: str, **quote_fields: Any) -> Any:
        world.http._transport.client = (host, 1)
        return world.attest(world.domain(world.acme), **quote_fields)

    for number in range(4):
        assert attest(f"192.0.2.{number}", mrtd=bytes(48)).status_code == 403
    assert not limit._refused.has(origin_of("192.0.2.200"))
    assert attest("192.0.2.200").status_code == 200  # by the suspects' place
    assert "192.0.2.200" in limit.proven
    assert limit._refused.has(origin_of("198.51.100.1"))


def test_messages_that_are_too_much_are_refused_and_let_go(world: World, reasons: Reasons) -> None:
    world.deps.limits.messages = Shares(1 << 20, 4096, world.deps.limits.proven)
    assert reasons(world.attest(world.domain(world.acme))) == ["Busy"]
    assert world.deps.limits.messages.total == 0
    world.deps.limits.messages = Shares(1 << 20, 1 << 20, world.deps.limits.proven)
    assert world.attest(world.domain(world.acme)).status_code == 200
    assert world.deps.limits.messages.total == 0


def test_connections_are_counted_by_address(clock: ManualClock) -> None:
    connections = Connections(LimitSettings(connections=32, connections_per_address=16), clock, nobody(clock))
    a, b = ("a",), ("b",)
    assert [connections.enter(a) for _ in range(17)] == [True] * 16 + [False]
    assert [connections.enter(b) for _ in range(3)] == [True, True, False]  # half are taken: an eighth for each
    connections.leave(a)
    assert connections.total == 17
    for _ in range(15):
        connections.leave(a)
    assert connections.enter(b)
    assert set(connections._open._held) == {"b"}


def test_new_connections_have_a_rate(clock: ManualClock) -> None:
    connections = Connections(LimitSettings(connections_per_second=2), clock, nobody(clock))
    for _ in range(4):
        assert connections.enter(("a",))
        connections.leave(("a",))
    assert not connections.enter(("a",))
    assert connections.total == 0
    assert connections.enter(("b",))


SHORT, PATIENCE = 1.5, 30.0
"""Seconds: what the server waits for a client, and what the test waits for the server; a busy machine must fit between."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for its clients for a short time only."""
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", SHORT)
    monkeypatch.setattr(server, "HEADER_SECONDS", SHORT)


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    bounds = LimitSettings(connections_per_address=8, connections=64, connections_per_second=1000)
    configuration = world.deps.settings.model_copy(update={"host": "127.0.0.1", "port": 0, "limits": bounds})
    object.__setattr__(world.deps, "settings", configuration)
    running = Running(broker_main.tls_server(world.deps))
    yield running
    running.stop()


def connect(running: Running, *, tls: bool = True) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    if not tls:
        return raw
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(raw)


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


REQUEST = b"POST /v1/challenge HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("name", "tls", "said"),
    [
        ("nothing at all", False, b""),
        ("half a handshake", False, b"\x16\x03\x01"),
        ("no request", True, b""),
        ("half a header", True, b"POST /v1/challenge HTTP/1.1\r\nhost: "),
        ("half a second request", True, REQUEST + b"POST /v1/ch"),
    ],
)
def test_silent_clients_are_let_go(impatient: None, running: Running, name: str, tls: bool, said: bytes) -> None:
    with connect(running, tls=tls) as connection:
        connection.sendall(said)
        assert closed_within(connection, PATIENCE)
    with connect(running) as connection:  # the twin: who speaks is answered
        connection.sendall(REQUEST)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_headers_are_bounded(running: Running) -> None:
    for size, status in ((16 * 1024, b"200"), (server.MAX_HEADER_BYTES, b"413"), (1024 * 1024, b"400")):
        with connect(running) as connection:
            with contextlib.suppress(OSError):  # it may be closed before all is sent
                connection.sendall(REQUEST.replace(b"host: x", b"host: x\r\nx: " + b"a" * size))
            assert connection.recv(12) == b"HTTP/1.1 " + status


def test_connections_beyond_the_limit_are_dropped_and_come_back(running: Running) -> None:
    held = [connect(running) for _ in range(8)]
    with pytest.raises(OSError, match=r"(?i)reset|eof|closed|abort"), connect(running):
        raise AssertionError
    for connection in held:
        connection.close()
    deadline = time.monotonic() + PATIENCE
    while running.server.connections.total and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running.server.connections.total == 0
    with connect(running) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_forwarding_headers_are_not_believed(world: World, running: Running) -> None:
    object.__setattr__(world.deps, "limits", Limits(LimitSettings(requests_per_second=1), 8, world.clock))
    seen = set()
    with connect(running) as connection:
        for number in range(3):
            connection.sendall(REQUEST.replace(b"host: x", b"host: x\r\nx-forwarded-for: 192.0.2.%d" % number))
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()
            seen.add(answer.status)
    assert seen == {200, 429}
