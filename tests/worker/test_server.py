"""RA-TLS on a real socket: which certificate is shown when, no resumption, TLS 1.3 only, and a body of 100 MB."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509

from chrysalis.attestation import binding, quote, ratls
from chrysalis.clock import ManualClock
from chrysalis.wire.attested import open_connection
from chrysalis.wire.pinning import pinned_context, spki_sha256
from chrysalis.wire.worker_client import WorkerClient
from chrysalis_worker import server as server_module
from chrysalis_worker.server import Serving, Sessions

pytestmark = pytest.mark.slow


@pytest.fixture
def clock() -> ManualClock:
    """Real TLS peers compare certificates with the real time."""
    return ManualClock(datetime.now(UTC) - timedelta(seconds=500))


def serve(world: Any, scenario: Callable[[Serving, Sessions], Any], *, tls: bool = True) -> None:
    """Run a scenario against the gateway on loopback."""

    async def inside() -> None:
        sessions = Sessions()
        serving = Serving(world.build().app(), host="127.0.0.1", port=0, sessions=sessions if tls else None)
        await serving.started()
        try:
            await scenario(serving, sessions)
        finally:
            await serving.stop()

    asyncio.run(inside())


def handshake(port: int, *, name: str | None = None, maximum: ssl.TLSVersion | None = None) -> tuple[bytes, ssl.SSLSocket]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if maximum is not None:
        context.maximum_version = maximum
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60), server_hostname=name)
    return connection.getpeercert(binary_form=True) or b"", connection


@pytest.mark.parametrize("name", [None, "worker.example"])
def test_the_certificate_carries_the_evidence_of_its_own_key(make_world: Any, name: str | None) -> None:
    world = make_world("none")

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        session = await world.attested()
        sessions.replace(session)
        der, connection = await asyncio.to_thread(handshake, serving.port, name=name)
        connection.close()
        certificate = x509.load_der_x509_certificate(der)
        extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(ratls.OID)).value
        raw, claims = ratls.parse_extension(extension.value)
        parsed = binding.parse_claims(claims)
        assert parsed.spki_sha256 == spki_sha256(der) == session.tls.spki_sha256
        assert quote.parse(raw).report_data == binding.report_data(claims)
        assert certificate.not_valid_after_utc == session.result.expires_at
        assert len(der) < 16 * 1024

    serve(world, scenario)


def test_before_the_first_attestation_no_handshake_succeeds(make_world: Any) -> None:
    world = make_world("none")

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(handshake, serving.port)
        sessions.replace(await world.attested())
        await asyncio.to_thread(handshake, serving.port)

    serve(world, scenario)


def test_tls_13_without_resumption(make_world: Any) -> None:
    world = make_world("none")

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        sessions.replace(await world.attested())
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(handshake, serving.port, maximum=ssl.TLSVersion.TLSv1_2)

        def ask(earlier: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession | None, bool | None]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if earlier is None else contexts[0]
            contexts.append(context)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with context.wrap_socket(socket.create_connection(("127.0.0.1", serving.port), timeout=60), session=earlier) as connection:
                connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in connection.recv(65536)  # a ticket would have come by now
                return connection.session, connection.session_reused

        contexts: list[ssl.SSLContext] = []
        first, _ = await asyncio.to_thread(ask)
        assert first is None or not first.has_ticket
        assert (await asyncio.to_thread(ask, first))[1] is False

    serve(world, scenario)


def test_a_connection_stays_with_its_certificate_and_the_next_one_has_the_new(make_world: Any, body_of: Any) -> None:
    world = make_world("none")

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        first = await world.attested()
        sessions.replace(first)
        endpoint = f"https://127.0.0.1:{serving.port}"
        async with await open_connection(endpoint) as old:
            assert (await old.document()).evidence.keys.tls_spki_sha256 == first.tls.spki_sha256.hex()
            world.clock.advance(400)
            second = await world.attested()
            sessions.replace(second)
            assert second.tls.spki_sha256 != first.tls.spki_sha256
            document = await old.document(b"n" * 32)  # the old key's evidence, also when it is fresh
            assert document.evidence.keys.tls_spki_sha256 == first.tls.spki_sha256.hex()
            async with await open_connection(endpoint, spki_sha256=second.tls.spki_sha256) as new:
                assert (await new.document()).evidence.keys.tls_spki_sha256 == second.tls.spki_sha256.hex()
                assert (await old.send("POST", "/v1/embeddings", content=body_of())).status == 200
                world.clock.advance(200)  # the first result ends, the second does not
                refused = await old.send("POST", "/v1/embeddings", content=body_of())
                assert (refused.status, json.loads(refused.body)["error"]["reason"]) == (503, "AttestationExpired")
                assert (await new.send("POST", "/v1/embeddings", content=body_of())).status == 200

    serve(world, scenario)


def test_the_settlers_own_client_works(make_world: Any) -> None:
    world = make_world()

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        session = await world.attested()
        sessions.replace(session)
        endpoint, token = f"https://127.0.0.1:{serving.port}", world.settler()["authorization"].removeprefix("Bearer ")
        async with await WorkerClient.connect(endpoint, session.tls.spki_sha256, lambda: token) as settler:
            await settler.put_clients(world.clients())
            page = await settler.receipts(0)
            assert (page.wrk, page.last, page.receipts) == (world.domain.wrk, 0, [])
            assert await settler.offer()

    serve(world, scenario)


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.parametrize("declared", [True, False])
def test_a_request_of_100_mb_is_refused_and_never_held(make_world: Any, declared: bool) -> None:
    world = make_world("none")
    size = 100 << 20

    def send(port: int) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        piece = bytes(1 << 20)
        headers = {"content-length": str(size)} if declared else {}
        body = (piece for _ in range(size >> 20))
        connection.request("POST", "/v1/embeddings", body=body, headers=headers, encode_chunked=not declared)
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())["error"]["reason"]
        connection.close()
        return answer

    async def scenario(serving: Serving, _: Sessions) -> None:
        await world.attested()
        before = resident_kib()
        assert await asyncio.to_thread(send, serving.port) == (413, "RequestTooLarge")
        assert resident_kib() - before < 40 * 1024

    serve(world, scenario, tls=False)


def test_a_connection_that_asks_nothing_is_closed(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world("none")
    monkeypatch.setattr(server_module, "FIRST_REQUEST_SECONDS", 0.2)

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        sessions.replace(await world.attested())

        def wait() -> bytes:
            try:
                _, connection = handshake(serving.port)
                with connection:
                    connection.sendall(b"GET /v1/models HTTP/1.1\r\nHo")  # never finished
                    return connection.recv(1)
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):  # closed already, on a busy machine
                return b""

        assert await asyncio.wait_for(asyncio.to_thread(wait), 60) == b""

    serve(world, scenario)


def test_openais_own_client_works(make_world: Any) -> None:
    world = make_world("none")

    async def scenario(serving: Serving, sessions: Sessions) -> None:
        sessions.replace(await world.attested())
        server = await asyncio.to_thread(pinned_context, "127.0.0.1", serving.port)
        http_client = httpx.AsyncClient(verify=server.context)
        async with openai.AsyncOpenAI(
            base_url=f"https://127.0.0.1:{serving.port}/v1", api_key="unused", http_client=http_client, max_retries=0
        ) as client:
            answer = await client.embeddings.create(model="minilm", input=["one", "two"])  # asks for base64 by itself
            assert [len(d.embedding) for d in answer.data] == [4, 4]
            assert answer.usage.prompt_tokens == 6
            assert [m.id async for m in client.models.list()] == ["minilm"]
            with pytest.raises(openai.NotFoundError) as caught:
                await client.embeddings.create(model="other", input="one")
            assert caught.value.code == "model_not_found"

    serve(world, scenario)
