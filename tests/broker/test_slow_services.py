"""Services that the broker asks and that are slow, silent or send too much: they hold their own share of it and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.broker import app as app_module
from chrysalis.broker import deps as deps_module
from chrysalis.broker import vault
from chrysalis.broker.exchange import exchange
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.vault import VaultSettings, VaultTransit
from chrysalis.clock import ManualClock
from chrysalis.wire.broker import PAYLOAD_POLICY

World = Any
Reasons = Callable[[Any], list[str]]
SHARED_THREADS = 40
"""Of anyio's default limiter, which `run_in_threadpool` takes from."""


class Hanging:
    """A key service that does not answer until it is let go."""

    def __init__(self, opens: Any) -> None:
        self._opens = opens
        self.let_go = threading.Event()
        self.waiting = 0
        self._lock = threading.Lock()

    def decrypt(self, sealed: bytes, context: bytes) -> Any:
        with self._lock:
            self.waiting += 1
        assert self.let_go.wait(60)
        return self._opens.decrypt(sealed, context)


@contextmanager
def hanging_key_service(world: World) -> Iterator[Hanging]:
    opens = world.deps.results._encryption
    service = world.deps.results._encryption = Hanging(opens)
    try:
        yield service
    finally:
        service.let_go.set()
        world.deps.results._encryption = opens


async def until(what: Callable[[], bool]) -> None:
    for _ in range(3000):
        if what():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it does not come")


def test_a_key_service_that_hangs_holds_releases_and_nothing_else(world: World) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    evidence = world.domain(world.acme).evidence()
    body = {"schemaVersion": "chrysalis/v1", "resultId": result}

    async def talk(service: Hanging) -> list[httpx.Response]:
        async def release(http: httpx.AsyncClient, number: int) -> httpx.Response:
            # from networks apart: what one address may ask for is bounded besides
            transport = httpx.ASGITransport(app=world.http.app, client=(f"198.{number}.100.1", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://broker") as own:
                return await own.post("/v1/keys/acme:release", json=body)

        transport = httpx.ASGITransport(app=world.http.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://broker") as http:
            releases = [asyncio.create_task(release(http, number)) for number in range(SHARED_THREADS + 8)]
            await until(lambda: service.waiting == deps_module.KEY_CALLS)
            others = [
                await http.get("/readyz"),
                await http.get("/v1/results", headers={"authorization": "Bearer operator"}),
                await http.get("/v1/results?wait=0&after=0", headers={"authorization": "Bearer operator"}),
                await http.get("/.well-known/jwks.json"),
                await http.post("/v1/attest", content=evidence.model_dump_json(by_alias=True)),
            ]
            assert service.waiting == deps_module.KEY_CALLS  # all of these came by while the key service hung
            service.let_go.set()
            done = await asyncio.gather(*releases)
        assert {answer.status_code for answer in done} == {200}
        return others

    with hanging_key_service(world) as service:
        assert [answer.status_code for answer in asyncio.run(talk(service))] == [200] * 5


def test_what_the_broker_does_by_itself_waits_for_no_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shared thread is taken: evidence is judged again all the same, and whoever watches sees what comes of it."""
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    stuck, held = threading.Event(), []

    def hold() -> None:
        held.append(1)
        assert stuck.wait(60)

    monkeypatch.setattr(world.deps.store.database, "check", hold)
    tighter = world.policy(world.acme)["tdx"]
    tighter["measurements"] = []
    spec = AttestationPolicySpec.model_validate(world.policy(world.acme, version=2, tdx=tighter))
    envelope = world.acme.sign(PAYLOAD_POLICY, SignedPolicy(name="workers", spec=spec))

    async def talk() -> Any:
        transport = httpx.ASGITransport(app=world.http.app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://broker", timeout=60) as http,
            world.http.app.router.lifespan_context(world.http.app),
        ):
            asking = [asyncio.create_task(http.get("/readyz")) for _ in range(SHARED_THREADS + 8)]
            try:
                await until(lambda: len(held) == SHARED_THREADS)
                after = await asyncio.to_thread(world.deps.store.change_number)
                await asyncio.to_thread(world.deps.records.put_policy, "workers", envelope)
                headers = {"authorization": "Bearer operator"}
                return (await http.get(f"/v1/results?wait=30&after={after}", headers=headers)).json()["results"]
            finally:
                stuck.set()
                await asyncio.gather(*asking)

    seen = asyncio.run(talk())
    assert [(view["resultId"], view["revokedReason"]) for view in seen] == [(result, "MeasurementNotAllowed")]


def test_the_event_loop_proves_itself_while_housekeeping_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer is no reason to end the process, which is what /healthz asks for."""
    stuck = threading.Event()
    monkeypatch.setattr(world.deps.store, "trim", lambda _: stuck.wait(60))
    monkeypatch.setattr(app_module, "BEAT_SECONDS", 0.01)

    async def talk() -> None:
        async with world.http.app.router.lifespan_context(world.http.app):
            try:
                for _ in range(2):
                    world.clock.advance(1000)
                    await until(lambda: world.deps.beat.at == world.clock.monotonic())
            finally:
                stuck.set()

    asyncio.run(talk())


def transit(tmp_path: Path, clock: ManualClock, answer: Callable[[httpx.Request], httpx.Response], **members: Any) -> VaultTransit:
    (tmp_path / "token").write_text("root")
    settings = {"kind": "Vault", "url": "https://vault:8200", "key": "models", "tokenFile": tmp_path / "token"} | members
    return VaultTransit(VaultSettings.model_validate(settings), clock, httpx.MockTransport(answer))


GOOD = json.dumps({"data": {"ciphertext": "vault:v1:AAAA"}}).encode()


class Dripping(httpx.SyncByteStream):
    """A body of a few bytes at a time, each of which takes a while by this clock."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(GOOD), 8):
            self._clock.advance(self._seconds)
            yield GOOD[at : at + 8]


@pytest.mark.parametrize(("seconds", "taken"), [(0.1, True), (2.0, False)])
def test_vault_that_drips_is_given_up(tmp_path: Path, clock: ManualClock, seconds: float, taken: bool) -> None:
    wrapper = transit(tmp_path, clock, lambda _: httpx.Response(200, stream=Dripping(clock, seconds)), attempts=1)
    if taken:
        assert wrapper.wrap(b"secret", b"") == b"vault:v1:AAAA"
        return
    with pytest.raises(BrokerError) as caught:
        wrapper.wrap(b"secret", b"")
    assert (caught.value.reason, "in time" in caught.value.detail) == (BrokerReason.KEY_SERVICE_UNAVAILABLE, True)


def test_vault_that_is_silent_is_left_alone_for_a_moment(tmp_path: Path, clock: ManualClock) -> None:
    asked: list[str] = []
    silent = True

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if silent:
            raise httpx.ReadTimeout("nobody")
        return httpx.Response(200, content=GOOD)

    wrapper = transit(tmp_path, clock, answer, attempts=1)
    for _ in range(5):
        with pytest.raises(BrokerError) as caught:
            wrapper.wrap(b"secret", b"")
        assert caught.value.reason == BrokerReason.KEY_SERVICE_UNAVAILABLE
    assert len(asked) == 1
    silent = False
    clock.advance(vault.REST_SECONDS)
    assert wrapper.wrap(b"secret", b"") == b"vault:v1:AAAA"
    assert wrapper.wrap(b"secret", b"") == b"vault:v1:AAAA"


def test_vault_that_says_no_is_not_silent(tmp_path: Path, clock: ManualClock) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(403, json={"errors": ["permission denied"]})

    wrapper = transit(tmp_path, clock, answer)
    for _ in range(2):
        with pytest.raises(BrokerError):
            wrapper.wrap(b"secret", b"")
    assert len(asked) == 2


def compressed(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=gzip.compress(GOOD), headers={"content-encoding": "gzip"})


def test_nothing_that_a_service_sends_is_unpacked(tmp_path: Path, clock: ManualClock) -> None:
    """A few kilobytes may be hundreds of megabytes when they are unpacked."""
    with pytest.raises(BrokerError) as caught:
        transit(tmp_path, clock, compressed, attempts=1).wrap(b"secret", b"")
    assert "compressed" in caught.value.detail

    def ask(answer: Callable[[httpx.Request], httpx.Response]) -> bytes:
        http = httpx.Client(transport=httpx.MockTransport(answer))
        return exchange(http, "GET", "https://issuer/keys", clock=clock, seconds=5, max_bytes=1 << 20)

    with pytest.raises(ValueError, match="compressed"):
        ask(compressed)
    assert ask(lambda request: httpx.Response(200, text=request.headers["accept-encoding"])) == b"identity"
