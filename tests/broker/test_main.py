"""The broker as a server: pinned TLS, its client, the plain ports, and its refusal to start on what it cannot trust."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn

from chrysalis.broker import health, settings
from chrysalis.broker import main as broker_main
from chrysalis.broker.anchor_keeper import Keeper
from chrysalis.broker.anchor_places import FilePlace
from chrysalis.broker.anchors import Anchor
from chrysalis.broker.health import PlainServer
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import ManualClock
from chrysalis.receipts import jws
from chrysalis.sealing import hpke
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY, ReleaseRequest, ResultView
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import Refused, WireError, WireReason
from e2e.ports import free_port

T = TypeVar("T")
World = Any


class Running:
    """A uvicorn server in a thread."""

    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server
        self.thread = threading.Thread(target=server.run, daemon=True)
        self.thread.start()
        while not server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.port: int = server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    configuration = world.deps.settings.model_copy(update={"host": "127.0.0.1", "port": 0})
    object.__setattr__(world.deps, "settings", configuration)
    server = Running(broker_main.tls_server(world.deps))
    yield server
    server.stop()


def ask(world: World, running: Running, question: Callable[[BrokerClient], Awaitable[T]], token: str = "operator") -> T:
    async def run() -> T:
        pin = world.deps.keys.tls_spki_sha256.hex()
        async with BrokerClient(f"https://127.0.0.1:{running.port}", spki_sha256=pin, token=lambda: token) as client:
            return await question(client)

    return asyncio.run(run())


def test_the_client_goes_the_whole_way(world: World, running: Running) -> None:
    async def way(client: BrokerClient) -> list[ResultView]:
        domain = world.domain(world.acme)
        challenge = await client.challenge()
        result = await client.attest(domain.evidence(challenge.nonce))
        wrapped = await client.release("acme", result.result_id)
        info = hpke.model_key_info("acme", "sha256:" + "1" * 64, result.result_id)
        assert hpke.unwrap(domain.hpke, base64.b64decode(wrapped.wrapped), info).decode() == world.acme.identity
        assert (await client.result(result.result_id)).key_released_at is not None
        assert await client.results(namespace="pool", worker="w", after=result.result_id) == []
        await client.put_key("acme", world.acme.sign(PAYLOAD_KEY_RECORD, world.acme.record(version=2)))
        record, policy, audit = await client.key("acme"), await client.policy("workers"), await client.audit(limit=1000)
        assert (record.key_id, record.version, policy.name, policy.version) == ("acme", 2, "workers", 1)
        assert dsse.verify(policy.envelope, PAYLOAD_POLICY, [world.acme.public])
        assert audit.links[-1].event == "KeyStored"
        assert (audit.head, audit.head_hash) == (audit.links[-1].seq, audit.links[-1].hash)
        assert (await client.jwks())["keys"][0]["x"] == jws.b64u(world.deps.keys.ear_public)
        assert await client.healthy()
        return await client.results(pod_uid="uid-1", limit=5)

    (view,) = ask(world, running, way, world.token(world.acme))
    assert view.verdict == "Accepted"


def test_an_owner_reads_its_own_results(world: World, running: Running) -> None:
    world.attest(world.domain(world.acme))
    world.attest(world.domain(world.rival))
    token = world.token(world.acme)
    found = ask(world, running, lambda client: client.results(), token)
    assert [view.key_id for view in found] == ["acme"]


def test_refusals_carry_every_reason(world: World, running: Running) -> None:
    evidence = world.domain(world.acme).evidence(mrtd=bytes(48)).model_copy(update={"event_log": ""})
    with pytest.raises(Refused) as caught:
        ask(world, running, lambda client: client.attest(evidence))
    assert {reason.reason for reason in caught.value.reasons} == {"MeasurementNotAllowed", "EventLogMissing"}
    assert caught.value.status == 403
    assert not caught.value.retryable
    assert all(reason.remedy for reason in caught.value.reasons)


def test_a_wrong_pin_sends_nothing(world: World, running: Running) -> None:
    async def run() -> None:
        async with BrokerClient(f"https://127.0.0.1:{running.port}", spki_sha256="00" * 32) as client:
            assert not await client.healthy()
            await client.challenge()

    with pytest.raises(WireError) as caught:
        asyncio.run(run())
    assert caught.value.reason == WireReason.PIN_MISMATCH


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def run() -> None:
        async with BrokerClient(f"https://127.0.0.1:{port}", spki_sha256="00" * 32) as client:
            await client.challenge()

    with pytest.raises(WireError) as caught:
        asyncio.run(run())
    assert caught.value.reason == WireReason.SERVICE_UNREACHABLE


@pytest.mark.parametrize(("url", "pin"), [("http://x", "00" * 32), ("https://", "00" * 32), ("https://x", "zz"), ("https://x", "00")])
def test_addresses_and_pins_are_checked(url: str, pin: str) -> None:
    with pytest.raises(WireError):
        BrokerClient(url, spki_sha256=pin)


def test_only_tls_1_3(running: Running) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", running.port)) as raw, context.wrap_socket(raw) as tls:
        assert tls.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", running.port)) as raw, pytest.raises(OSError, match=r"(?i)alert|version|protocol|reset"):
        context.wrap_socket(raw)


def test_a_restart_keeps_the_pin_and_clients_come_back(world: World) -> None:
    port = free_port()
    object.__setattr__(world.deps, "settings", world.deps.settings.model_copy(update={"host": "127.0.0.1", "port": port}))
    running = Running(broker_main.tls_server(world.deps))

    async def run() -> None:
        pin = world.deps.keys.tls_spki_sha256.hex()
        async with BrokerClient(f"https://127.0.0.1:{port}", spki_sha256=pin) as client:
            nonces = [(await client.challenge()).nonce]
            await asyncio.to_thread(running.stop)
            again = Running(broker_main.tls_server(world.deps))
            try:
                nonces.append((await client.challenge()).nonce)
            finally:
                await asyncio.to_thread(again.stop)
        assert len(set(nonces)) == 2

    asyncio.run(run())


def test_a_broker_whose_anchor_does_not_follow_is_not_ready(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "anchor"
    folder.mkdir()
    anchor = Anchor(FilePlace(folder / "state.json"), world.deps.keys.ear_key)
    keeper = Keeper(world.deps.store.database, anchor, 10, world.clock)
    health, _ = broker_main.plain_paths(world.deps, keeper)
    world.clock.advance(1)
    world.deps.beat.at = world.deps.clock.monotonic()
    keeper.follow()
    assert health["/readyz"]()[0] == 200
    (folder / "state.json").unlink()
    (folder / ".state.json.lock").unlink()
    folder.rmdir()  # the volume is gone
    assert world.put_policy(world.acme, version=2).status_code == 201
    keeper.follow()
    assert health["/readyz"]()[0] == 200, "a moment refuses nobody"
    world.clock.advance(5)
    assert health["/readyz"]() == (503, "text/plain", b"the anchor does not follow the database\n")
    folder.mkdir()
    keeper.follow()
    assert health["/readyz"]()[0] == 200


def test_plain_ports(world: World) -> None:
    health, metrics = broker_main.plain_paths(world.deps)
    server = PlainServer("127.0.0.1", 0, health | metrics)
    server.start()

    def get(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    try:
        assert get("/readyz")[0] == 503
        world.clock.advance(1)  # a beat at 0 means none
        with world.http:  # runs the application's lifespan
            while not world.deps.beat.at:
                time.sleep(0.01)
            assert get("/readyz") == (200, b"ok\n")
            assert get("/healthz") == (200, b"ok\n")
            world.clock.advance(1000)
            assert get("/healthz")[0] == 503
        assert get("/nothing")[0] == 404
        world.attest(world.domain(world.acme))
        status, body = get("/metrics")
        assert status == 200
        assert b'chrysalis_broker_attestations_total{reason="",verdict="Accepted"} 1.0' in body
        assert b'operation="POST /v1/attest",status="200"' in body
    finally:
        server.stop()


def test_plain_ports_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 4)
    server = PlainServer("127.0.0.1", 0, {"/": lambda: (200, "text/plain", b"ok\n")})
    server.start()
    try:
        silent = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(4)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as one_more:
            assert one_more.recv(1) == b""
        silent.pop().close()
        for _ in range(3000):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as again:
                again.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    if again.recv(64).startswith(b"HTTP/1.0 200"):
                        break
            time.sleep(0.02)
        else:
            pytest.fail("a place that was given back is not taken")
        for connection in silent:
            connection.close()
    finally:
        server.stop()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unknown key", "stateDir: s\nplacement: Development\nowners: []\n"),
        ("no placement", "stateDir: s\n"),
        ("unknown placement", "stateDir: s\nplacement: Cluster\n"),
        ("short owner", "stateDir: s\nplacement: External\ntenants: [{name: a, owners: [ab]}]\n"),
        ("long nonce", "stateDir: s\nplacement: External\nnonceSeconds: 301\n"),
        ("not YAML", "{"),
        ("a list", "[]"),
    ],
)
def test_settings_are_strict(tmp_path: Path, name: str, text: str) -> None:
    good = settings.load(write(tmp_path / "good.yaml", "stateDir: s\nplacement: Development\n"))
    assert good.owner_keys == frozenset()
    with pytest.raises(BrokerError) as caught:
        settings.load(write(tmp_path / "bad.yaml", text))
    assert caught.value.reason == BrokerReason.SETTINGS_INVALID


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stateDir: s\nplacement: Development\ndatabase: {url: 'postgresql+psycopg://broker:hunter2@db/c'}\n", "database.url"),
        ("stateDir: s\nplacement: Development\nhunter2: {\n", "line"),
        ("stateDir: s\nplacement: Development\nkeyEncryption: {kind: Plugin, plugin: kms, options: {secret: [hunter2]}}\n", "options"),
    ],
)
def test_settings_that_are_refused_are_not_repeated(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BrokerError) as caught:
        settings.load(write(tmp_path / "bad.yaml", text))
    assert said in caught.value.detail
    assert "hunter2" not in caught.value.detail


def test_main_says_why_it_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert broker_main.main(["--config", str(tmp_path / "missing.yaml")]) == 2
    assert "SettingsInvalid" in capsys.readouterr().err


def test_state_is_made_once(world: World, tmp_path: Path, clock: ManualClock) -> None:
    again = broker_main.assemble(world.deps.settings, clock=clock)
    assert again.keys.ear_public == world.deps.keys.ear_public
    assert again.keys.tls_spki_sha256 == world.deps.keys.tls_spki_sha256
    assert again.keys.nonce_key == world.deps.keys.nonce_key
    directory = world.deps.settings.state_dir
    private = {path.name: path.stat().st_mode & 0o077 for path in directory.iterdir() if path.suffix == ".key"}
    assert private == {"ear.key": 0, "tls.key": 0, "nonce.key": 0, "root.key": 0}
    certificate = ssl.PEM_cert_to_DER_cert((directory / "tls.crt").read_text())
    assert hashlib.sha256(certificate).digest() != again.keys.tls_spki_sha256


@pytest.mark.parametrize(
    ("file", "content"), [("ear.key", "junk"), ("nonce.key", "abcd"), ("root.key", "zz" * 32), ("tls.crt", "junk"), ("ear.key", "tls.key")]
)
def test_unusable_state_is_refused(world: World, clock: ManualClock, file: str, content: str) -> None:
    directory = world.deps.settings.state_dir
    (directory / file).write_text((directory / content).read_text() if content == "tls.key" else content)
    with pytest.raises(BrokerError) as caught:
        broker_main.assemble(world.deps.settings, clock=clock)
    assert caught.value.reason == BrokerReason.STATE_UNUSABLE


def test_another_root_key_opens_nothing(world: World, tmp_path: Path, clock: ManualClock) -> None:
    result = world.attest(world.domain(world.acme)).json()["resultId"]
    other = write(tmp_path / "root", "ab" * 32)
    configuration = world.deps.settings.model_copy(update={"root_key_file": other})
    deps = broker_main.assemble(configuration, clock=clock)
    with pytest.raises(BrokerError) as caught:
        deps.results.release("acme", ReleaseRequest(result_id=result))
    assert caught.value.reason == BrokerReason.STATE_UNUSABLE
    assert world.release("acme", result).status_code == 200
