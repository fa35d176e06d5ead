"""A worker's GPUs: evidence from the simulated guest, over the session's GPU nonce, bound by the quote, accepted by its rules."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chrysalis.api.policy_gpu import GpuRules
from chrysalis.attestation import binding, quote
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu as gpus
from chrysalis_worker.evidence import GPU_PATH, CocoRest, GuestGpus, NoGpus
from chrysalis_worker.reasons import WorkerError
from e2e.simtd.gpu_pool import GpuPool
from e2e.simtd.pki import SimulatedPlatform
from e2e.simtd.platform import Guests

NONCE = bytes(range(32))
POOL = GpuPool(2)


def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def guest() -> Iterator[str]:
    yield from serve(Guests(SimulatedPlatform.create(), POOL)._handler(bytes(48)))


@pytest.fixture(scope="module")
def guest_without() -> Iterator[str]:
    yield from serve(Guests(SimulatedPlatform.create())._handler(bytes(48)))


@pytest.fixture
def answering() -> Iterator[tuple[str, dict[str, Any]]]:
    """A guest that answers what a test says."""
    said: dict[str, Any] = {"status": 200, "body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said["path"] = self.path
            self.send_response(said["status"])
            self.send_header("Content-Length", str(len(said["body"])))
            self.end_headers()
            self.wfile.write(said["body"])

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    for url in serve(Handler):
        yield url, said


def test_the_simulated_guests_gpus_are_accepted_by_its_rules(guest: str) -> None:
    devices = asyncio.run(GuestGpus(guest).gpus(NONCE))
    rules = GpuRules.model_validate(POOL.rules())
    verdict = gpus.appraise(devices, rules=rules, nonce=NONCE, at=SystemClock().now())
    assert (verdict.accepted, len(verdict.gpus), verdict.evidence_class) == (True, 2, "Simulated")
    assert not gpus.appraise(devices, rules=rules, nonce=bytes(32), at=SystemClock().now()).accepted
    assert asyncio.run(CocoRest(guest).evidence(bytes(64))).quote


def test_a_guest_without_gpus(guest_without: str) -> None:
    assert asyncio.run(GuestGpus(guest_without).gpus(NONCE)) == []
    assert asyncio.run(NoGpus().gpus(NONCE)) == []


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (200, b""), (200, b"{}"), (200, b"[{}]"), (200, json.dumps([{"evidence": "11e0"}]).encode())]
)
def test_answers_that_are_no_evidence(answering: tuple[str, dict[str, Any]], status: int, body: bytes) -> None:
    url, said = answering
    said.update(status=status, body=body)
    with pytest.raises(WorkerError) as refused:
        asyncio.run(GuestGpus(url).gpus(NONCE))
    assert refused.value.reason == "EvidenceUnavailable"
    assert said["path"] == f"{GPU_PATH}?nonce={NONCE.hex()}"


def test_a_session_binds_its_gpus(world: Any, guest: str) -> None:
    attester = dataclasses.replace(world.attester, gpus=GuestGpus(guest))
    session = asyncio.run(attester.attest())
    evidence = session.stored.evidence
    parts = {
        "nonce": bytes.fromhex(evidence.nonce),
        "tls_spki_sha256": bytes.fromhex(evidence.keys.tls_spki_sha256),
        "hpke": bytes.fromhex(evidence.keys.hpke),
        "receipt": bytes.fromhex(evidence.keys.receipt),
        "identity": {"measured": world.identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
    }
    assert len(evidence.gpu) == 2
    assert quote.parse(session.stored.quote).report_data == binding.bind(**parts, gpu_digest=gpus.digest(evidence.gpu)).report_data
    assert quote.parse(session.stored.quote).report_data != binding.bind(**parts).report_data
    rules = GpuRules.model_validate(POOL.rules())
    assert gpus.appraise(evidence.gpu, rules=rules, nonce=binding.gpu_nonce(**parts), at=SystemClock().now()).accepted


def test_a_session_whose_gpus_give_nothing_does_not_attest(world: Any) -> None:
    attester = dataclasses.replace(world.attester, gpus=GuestGpus("http://127.0.0.1:9"))
    with pytest.raises(WorkerError):
        asyncio.run(attester.attest())
    assert world.broker.attested == []
