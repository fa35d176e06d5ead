"""gateway.minilm: embedding jobs through the gateway, paid and receipted over RA-TLS, against the same Triton without it.

Both clients are Python and asynchronous; the gateway runs in a process of its own, as in a pod.  Rounds take turns, so that
noise falls on both.  A job embeds three sentences.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc.aio as triton
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import Row
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import Placement
from chrysalis.api.worker import BrokerPin, Isolation, ModelPackage, ModelSpec, Prices
from chrysalis.attestation import binding
from chrysalis.clock import SystemClock, unix
from chrysalis.receipts import jws, salted
from chrysalis.receipts.objects import ClientList, ListedClient, Ticket
from chrysalis.wire.broker import AttestResult, Evidence
from chrysalis.wire.pinning import pinned_context
from chrysalis_worker import keys
from chrysalis_worker.gateway import Gateway
from chrysalis_worker.inference import Triton
from chrysalis_worker.metering import Meter
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.offers import OfferBook
from chrysalis_worker.orders import Orders
from chrysalis_worker.receiptlog import ReceiptLog
from chrysalis_worker.server import Serving, Sessions
from chrysalis_worker.session import Appraisable, Session, server_context
from chrysalis_worker.state import WorkerState
from chrysalis_worker.tickets import TicketBook
from e2e.simtd.pki import SimulatedPlatform
from e2e.triton import host, install, model

IDS = ("gateway.minilm", "gateway.minilm-throughput")
TEXTS = ["The cat sat on the mat", "A kitten rests on a rug", "Quarterly revenue grew"]
ROUNDS = 7
JOBS_ALONE = 12
JOBS_TOGETHER = 24
CONCURRENCY = 6
SET = "-239:0:" + "ab" * 32
CAP = 1 << 60

Job = Callable[[], Awaitable[None]]


def measure() -> list[Row]:
    """Medians of rounds: the time of a job alone, and jobs a second with several at once."""
    installation = install.prepare()
    with tempfile.TemporaryDirectory(prefix="bg") as name:
        folder = Path(name)
        repository = model.build(folder / "model", installation)
        with host.supervisor(folder, repository, installation) as supervisor:
            return asyncio.run(_measure(folder, supervisor))


async def _measure(folder: Path, supervisor: host.HostSupervisor) -> list[Row]:
    paths = supervisor.folders
    await Orders(paths.supervisor_socket).order("start")
    raw = triton.InferenceServerClient(paths.grpc_target)
    client, reservation = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    now = unix(SystemClock().now())
    listed = ListedClient(key=client.public_key().public_bytes_raw().hex(), cap=CAP)
    clients = ClientList(set=SET, keys=[listed], iat=now, exp=now + 3600).sign(reservation)
    given = {"clients": clients, "reservation": reservation.public_key().public_bytes_raw().hex(), "target": paths.grpc_target}
    await _until_ready(raw)
    with _gateway_process(folder, given) as told:
        server = await asyncio.to_thread(pinned_context, "127.0.0.1", told["port"])
        async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{told['port']}", verify=server.context, timeout=60) as http:

            async def through() -> None:
                await _paid_job(http, client, told)

            async def direct() -> None:
                await _raw_job(raw)

            triton_pids = [*_servers(supervisor.process.pid), *supervisor.stubs()]
            return await _compare(through, direct, _Processes(told["pid"], triton_pids))


@dataclass
class _Processes:
    """Who works for a job; the client is this process."""

    gateway: int
    triton: list[int]

    def seconds(self) -> dict[str, float]:
        """CPU time of each so far."""
        return {
            "client": time.process_time(),
            "gateway": _cpu_seconds(self.gateway),
            "Triton": sum(_cpu_seconds(pid) for pid in self.triton),
        }


async def _compare(through: Job, direct: Job, processes: _Processes) -> list[Row]:
    alone: dict[str, list[float]] = {"ours": [], "theirs": []}
    together: dict[str, list[float]] = {"ours": [], "theirs": []}
    cpu: dict[str, Counter[str]] = {"ours": Counter(), "theirs": Counter()}
    for _ in range(3):  # warm both ways
        await through()
        await direct()
    for _ in range(ROUNDS):
        for name, job in (("theirs", direct), ("ours", through)):
            before = processes.seconds()
            alone[name].append(await _milliseconds(job))
            together[name].append(await _per_second(job))
            cpu[name].update({who: spent - before[who] for who, spent in processes.seconds().items()})
    ours, theirs = (statistics.median(alone[name]) for name in ("ours", "theirs"))
    ours_rate, theirs_rate = (statistics.median(together[name]) for name in ("ours", "theirs"))
    spread = f"{min(alone['ours']):.1f}–{max(alone['ours']):.1f} against {min(alone['theirs']):.1f}–{max(alone['theirs']):.1f} ms"
    ours_cpu, theirs_cpu = (_said(cpu[name]) for name in ("ours", "theirs"))
    return [
        _row("gateway.minilm", ours, "ms a job", f"raw Triton: {theirs:.1f} ms; {spread}", ours / theirs),
        _row(
            "gateway.minilm-throughput",
            ours_rate,
            "jobs/s",
            f"raw Triton: {theirs_rate:.1f} jobs/s; {CONCURRENCY} at once; ms CPU a job: {ours_cpu} (raw: {theirs_cpu})",
            ours_rate / theirs_rate,
        ),
    ]


def _said(cpu: Counter[str]) -> str:
    """Milliseconds a job of each process that took part."""
    jobs = ROUNDS * (JOBS_ALONE + JOBS_TOGETHER)
    return ", ".join(f"{who} {seconds * 1000 / jobs:.1f}" for who, seconds in cpu.items() if seconds > 0)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _servers(supervisor: int) -> list[int]:
    """The process ids of Triton, the supervisor's child."""
    return [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]


def _row(name: str, value: float, unit: str, reference: str, ratio: float) -> Row:
    return Row(id=name, value=value, unit=unit, reference=reference, ratio=ratio, reach=None, ok=None)


async def _milliseconds(job: Job) -> float:
    times = []
    for _ in range(JOBS_ALONE):
        began = time.perf_counter()
        await job()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def _per_second(job: Job) -> float:
    left = JOBS_TOGETHER

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await job()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return JOBS_TOGETHER / (time.perf_counter() - began)


async def _raw_job(raw: Any) -> None:
    text = triton.InferInput("TEXT", [len(TEXTS), 1], "BYTES")
    text.set_data_from_numpy(np.array([[t.encode()] for t in TEXTS], dtype=np.object_))
    answer = await raw.infer("minilm", [text])
    if answer.as_numpy("EMBEDDING").shape != (len(TEXTS), 384):
        raise RuntimeError("Triton answered with another shape")


async def _paid_job(http: httpx.AsyncClient, client: Ed25519PrivateKey, told: dict[str, Any]) -> None:
    body = json.dumps({"model": "minilm", "input": TEXTS, "encoding_format": "base64"}).encode()
    salt = secrets.token_bytes(32)
    ticket = Ticket(
        set=SET,
        wrk=told["wrk"],
        offer=told["offer"],
        exp=unix(SystemClock().now()) + 300,
        nonce=jws.b64u(secrets.token_bytes(16)),
        digest=told["digest"],
        max=1_000_000,
        req=salted.request_hash(salt, body),
    ).sign(client)
    answer = await http.post("/v1/embeddings", content=body, headers={"Chrysalis-Ticket": ticket, "Chrysalis-Salt": jws.b64u(salt)})
    if answer.status_code != 200 or "chrysalis-receipt" not in answer.headers:
        raise RuntimeError(f"the gateway answered {answer.status_code}: {answer.text[:500]}")


async def _until_ready(raw: Any) -> None:
    for _ in range(400):
        with contextlib.suppress(Exception):
            if await raw.is_model_ready("minilm"):
                return
        await asyncio.sleep(0.05)
    raise RuntimeError("Triton did not get ready")


@contextlib.contextmanager
def _gateway_process(folder: Path, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The gateway in its own process; yields what it tells: port, wrk, offer, digest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.gateway", str(folder), json.dumps(given)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError("the gateway did not come up; its messages are above")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


async def _serve(folder: Path, given: dict[str, Any]) -> None:
    """A gateway as the agent wires it, under simulated evidence that nobody appraised."""
    clock, metrics = SystemClock(), Metrics()
    identity = _identity(given["reservation"])
    domain = keys.domain_keys(folder)
    state = WorkerState(clock)
    session = _session(domain, identity)
    state.session, state.canary_passes = session, True
    engine = Triton(given["target"], identity.model.name)
    await engine.load()
    receipts, offers = ReceiptLog(folder, domain.receipt, SET), OfferBook(folder, domain, identity, clock)
    tickets = TicketBook(
        folder,
        set_name=SET,
        wrk=domain.wrk,
        model_digest=identity.model.digest,
        reservation_keys=[bytes.fromhex(given["reservation"])],
        offers=offers,
        clock=clock,
    )
    tickets.replace_clients(given["clients"])

    async def fresh(current: Session, nonce: bytes) -> Appraisable:
        return current.stored

    gateway = Gateway(
        identity=identity,
        wrk=domain.wrk,
        state=state,
        engine=engine,
        meter=Meter(offers=offers, receipts=receipts, tickets=tickets, clock=clock, metrics=metrics),
        offers=offers,
        receipts=receipts,
        tickets=tickets,
        fresh=fresh,
        suspect=lambda: None,
        clock=clock,
        metrics=metrics,
    )
    sessions = Sessions()
    sessions.replace(session)
    serving = Serving(gateway.app(), host="127.0.0.1", port=0, sessions=sessions)
    await serving.started()
    offer = jws.identity(offers.current())
    told = {"port": serving.port, "pid": os.getpid(), "wrk": domain.wrk, "offer": offer, "digest": identity.model.digest}
    print(json.dumps(told), flush=True)
    await asyncio.Event().wait()


def _identity(reservation: str) -> MeasuredIdentity:
    package = ModelPackage(url="http://127.0.0.1/p", digest="sha256:" + "22" * 32, size_bytes=1)
    return MeasuredIdentity(
        template_version=1,
        isolation=Isolation.POD_TD,
        image_digest="sha256:" + "11" * 32,
        model=ModelSpec(name="minilm", package=package, digest="sha256:" + "33" * 32, key_id="key"),
        policy_name="p",
        broker=BrokerPin(url="https://127.0.0.1", spki_sha256="44" * 32, ear_key="55" * 32),
        set=SET,
        wallet="0:" + "66" * 32,
        reservation_keys=[reservation],
        prices=Prices(prompt=1_000_000, job=1_000_000),
    )


def _session(domain: keys.DomainKeys, identity: MeasuredIdentity) -> Session:
    tls, now = keys.TlsKey(), datetime.now(UTC)
    nonce = secrets.token_bytes(32)
    bound = binding.bind(
        nonce=nonce,
        tls_spki_sha256=tls.spki_sha256,
        hpke=domain.hpke_public,
        receipt=domain.receipt_public,
        identity={"measured": identity.to_json_dict(), "claimed": {}},
    )
    quote = SimulatedPlatform.create().quote(bound.report_data)
    evidence = Evidence(nonce=nonce.hex(), quote=base64.b64encode(quote).decode(), initdata="", keys=tls.public(domain))
    result = AttestResult(
        result_id="bench",
        ear="",
        receipt_certificate="",
        evidence_class="Simulated",
        tcb_status="UpToDate",
        expires_at=now + timedelta(hours=1),
        limited_by="policy",
        policy_name="p",
        policy_version=1,
        placement=Placement.DEVELOPMENT,
        collateral="{}",
    )
    certificate = tls.certificate(quote, bound.claims_buffer, now, result.expires_at)
    context: ssl.SSLContext = server_context(certificate, tls.private_pem())
    asked_at = time.monotonic()
    deadline = asked_at + 3600
    return Session(tls, Appraisable(evidence, bound.claims_buffer, quote), result, context, asked_at, deadline, deadline)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
