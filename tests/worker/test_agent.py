"""The agent's whole way with a simulated platform, a broker and a model in this process, and a supervisor that only keeps books."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from chrysalis.clock import SystemClock
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Receipt
from chrysalis.sealing.package import seal
from chrysalis.wire.attested import open_connection
from chrysalis.wire.broker import NamedReason, Problem
from chrysalis.wire.reasons import Refused, WireError, WireReason
from chrysalis_worker.agent import Agent, Listen, Timing
from chrysalis_worker.evidence import Gpus, NoGpus
from chrysalis_worker.reasons import WorkerError, WorkerReason

pytestmark = pytest.mark.slow

FAST = Timing(
    retry_first=0.02,
    retry_most=0.05,
    canary_interval=0.05,
    standing=0.03,
    standing_least=0.03,
    triton_start=2,
    poll=0.01,
    gpu_check=0.05,
    drain=2,
    last_pull=1,
)


class Books:
    """A supervisor without a Triton."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.orders: list[str] = []
        self.state = "idle"
        self.terminating = False
        self.watchers: list[asyncio.StreamWriter] = []
        self.on_start: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Books:
        self.server = await asyncio.start_unix_server(self.serve, path=str(self.socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self.watchers:
            writer.close()
        self.server.close()

    def line(self) -> bytes:
        status = {"state": self.state, "pid": 1, "exitCode": None, "starts": 1, "terminating": self.terminating}
        return json.dumps(status).encode() + b"\n"

    def terminate(self) -> None:
        self.terminating = True
        for writer in self.watchers:
            writer.write(self.line())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while raw := await reader.readline():
            order = json.loads(raw)["order"]
            if order == "watch":
                self.watchers.append(writer)
            elif order != "status":
                self.orders.append(order)
                self.state = "exited" if order == "stop" else "running"
                if order == "restart":
                    self.on_start()
            writer.write(self.line())
        writer.close()


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def package(tmp_path: Path) -> Iterator[tuple[tuple[str, str, int, str], str]]:
    model = tmp_path / "source/minilm/1"
    model.mkdir(parents=True)
    (model / "model.py").write_text("pass\n")
    path = tmp_path / "p.age"
    made = seal(tmp_path / "source", path)
    data = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/p.age"
    yield (url, made.package_digest, made.size_bytes, made.model_digest), made.identity
    server.shutdown()
    server.server_close()
    thread.join()


class Running:
    """An agent and what it works with."""

    def __init__(self, world: Any, agent: Agent, books: Books) -> None:
        self.world, self.agent, self.books = world, agent, books
        self.task = asyncio.create_task(agent.run())

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not what():
                assert not self.task.done() or what(), self.task
                await asyncio.sleep(0.005)

    async def ready(self) -> None:
        await self.until(lambda: self.agent.state.ready)

    async def probe(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as http:
            return await http.get(f"http://127.0.0.1:{self.agent.ports['health']}{path}")

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.agent.ports['gateway']}"


@pytest.fixture
def go(make_world: Any, package: Any) -> Iterator[Callable[..., None]]:
    short = Path(tempfile.mkdtemp(prefix="ag"))  # the path of a unix socket is limited

    def run(
        scenario: Callable[[Running], Any],
        *,
        set_name: str = "none",
        prepare: Callable[[Any], None] = lambda w: None,
        gpus: Callable[[], Gpus] = NoGpus,
    ) -> None:
        async def inside() -> None:
            spec, secret = package
            world = make_world(set_name, package=spec, secret=secret)
            prepare(world)
            agent = Agent(
                paths=dataclasses.replace(world.paths, triton=short),
                clock=world.clock,
                source=world.source,
                broker=lambda identity: world.broker,
                engine=lambda target, model: world.engine,
                listen=Listen("127.0.0.1", 0, 0, 0),
                timing=FAST,
                gpus=gpus(),
            )
            async with Books(short / "supervisor.sock") as books:
                running = Running(world, agent, books)
                try:
                    await scenario(running)
                finally:
                    agent.end()
                    await asyncio.wait({running.task}, timeout=60)

        asyncio.run(inside())

    yield run
    shutil.rmtree(short)


def test_from_initdata_to_ready(go: Any, body_of: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        assert (await running.probe("/healthz")).status_code == (await running.probe("/readyz")).status_code == 200
        status = (await running.probe("/status")).json()
        phases = [p["phase"] for p in status["phases"]]
        assert sorted(phases) == sorted(["Started", "Attested", "PackageFetched", "KeyReleased", "ModelOpened", "TritonReady", "Serving"])
        assert phases[0] == "Started"
        assert phases[3:] == ["KeyReleased", "ModelOpened", "TritonReady", "Serving"]
        assert (status["problem"], status["result"]["evidenceClass"]) == (None, "Simulated")
        assert (running.world.paths.model / "minilm/1/model.py").exists()
        assert not list(running.world.paths.scratch.iterdir())  # the sealed package is gone
        async with await open_connection(running.endpoint) as connection:
            answer = await connection.send("POST", "/v1/embeddings", content=body_of())
            assert answer.status == 200
            assert Receipt.parse_unverified(answer.headers["chrysalis-receipt"]).seq == 1
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{running.agent.ports['metrics']}/metrics")).text
        assert "chrysalis_worker_ready 1.0" in text
        assert 'chrysalis_worker_jobs_total{status="done"} 1.0' in text
        assert 'chrysalis_worker_attestations_total{outcome="Accepted"} 1.0' in text

    go(scenario)


def problem(reason: str) -> Problem:
    return Problem(title="refused", status=403, reason=reason, reasons=[NamedReason(reason=reason, message="m", remedy="do r")])


def test_a_refusal_is_told_and_asked_again(go: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.until(lambda: running.agent.state.problem is not None)
        assert "health" in running.agent.ports
        response = await running.probe("/readyz")
        told = (await running.probe("/status")).json()["problem"]
        assert response.status_code == 503 or told is None
        if told is not None:
            assert (told["reason"], told["remedy"]) == ("MeasurementNotAllowed", "do r")
        await running.ready()
        counter = running.agent.metrics.attestations.labels("MeasurementNotAllowed")._value.get()
        assert counter == 3

    go(scenario, prepare=lambda w: w.broker.refusals.extend([problem("MeasurementNotAllowed")] * 3))


def test_a_result_that_ended_before_the_key_came_is_replaced_at_once(go: Any) -> None:
    """The owner stored another policy between attestation and release; the renewal is minutes away."""

    def ended(world: Any) -> None:
        release = world.broker.release

        async def refused(key_id: str, result_id: str) -> Any:
            if len(world.broker.attested) == 1:
                raise Refused(problem("PolicyChanged"))
            return await release(key_id, result_id)

        world.broker.release = refused

    async def scenario(running: Running) -> None:
        await running.ready()
        assert len(running.world.broker.attested) == 2

    go(scenario, prepare=ended)


def test_with_initdata_that_is_not_measured_it_never_asks_for_an_appraisal(go: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.until(lambda: running.agent.state.problem is not None)
        assert str(running.agent.state.problem.reason) == "InitdataMismatch"
        await asyncio.sleep(0.1)
        assert (await running.probe("/healthz")).status_code == 200
        assert (await running.probe("/readyz")).text == "InitdataMismatch\n"
        assert running.world.broker.attested == []

    go(scenario, prepare=lambda w: setattr(w.source, "mrconfigid", bytes(48)))


def test_without_initdata_it_ends(go: Any) -> None:
    async def scenario(running: Running) -> None:
        assert await asyncio.wait_for(running.task, 60) == 1

    go(scenario, prepare=lambda w: (w.paths.podinfo / "initdata").unlink())


def test_a_renewal_goes_unnoticed(go: Any, body_of: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        first = running.agent.state.session
        async with await open_connection(running.endpoint) as connection:
            assert (await connection.send("GET", "/v1/models")).status == 200  # the connection is made now, before the renewal
            await running.until(lambda: running.agent.state.session is not first)
            assert running.agent.state.ready
            assert (await connection.send("POST", "/v1/embeddings", content=body_of())).status == 200
            async with await open_connection(running.endpoint) as other:
                assert other.server.spki_sha256 != connection.server.spki_sha256
        assert running.books.orders == ["stop", "restart"]  # Triton was not touched

    go(scenario, prepare=lambda w: setattr(w.broker, "life", 4))


def test_without_a_broker_it_serves_until_the_result_ends_and_no_longer(go: Any, body_of: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        deadline = running.agent.state.session.deadline
        running.world.broker.refusals.extend([problem("ServiceUnavailable")] * 10_000)
        async with await open_connection(running.endpoint) as connection:
            assert (await connection.send("GET", "/v1/models")).status == 200
            await running.until(lambda: running.agent.state.problem is not None)
            assert (await connection.send("POST", "/v1/embeddings", content=body_of())).status == 200
            await running.until(lambda: not running.agent.state.ready)
            assert running.world.clock.monotonic() >= deadline
            answer = await connection.send("POST", "/v1/embeddings", content=body_of())
            assert (answer.status, json.loads(answer.body)["error"]["reason"]) == (503, "AttestationExpired")
            running.world.broker.refusals.clear()
            await running.ready()

    go(scenario, prepare=lambda w: setattr(w.broker, "life", 4))


async def told_ended(running: Running, reason: str = "StateRestored") -> Any:
    """A worker that serves; then the broker says that its result has ended.  Returns the session that was."""
    await running.ready()
    session = running.agent.state.session
    running.world.broker.ended[session.result.result_id] = reason
    return session


def test_a_result_that_has_ended_is_replaced_at_once(go: Any, body_of: Any) -> None:
    """The renewal is minutes away."""

    async def scenario(running: Running) -> None:
        old = await told_ended(running)
        await running.until(lambda: running.agent.state.session is not old)
        new = running.agent.state.session.result.result_id
        broker = running.world.broker
        await running.until(lambda: broker.released[-1] == new)  # a broker that was set back learns that this domain has the key
        await running.until(lambda: new in broker.asked)
        assert (len(broker.attested), running.agent.state.ready) == (2, True)
        assert running.agent.metrics.results_ended._value.get() == 1
        assert running.books.orders == ["stop", "restart"]  # Triton was not touched
        async with await open_connection(running.endpoint) as connection:
            assert (await connection.send("POST", "/v1/embeddings", content=body_of())).status == 200

    go(scenario)


def test_a_result_that_has_ended_and_is_not_replaced_takes_no_job(go: Any, body_of: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        async with await open_connection(running.endpoint) as connection:
            assert (await connection.send("POST", "/v1/embeddings", content=body_of())).status == 200
            old = await told_ended(running, "MeasurementNotAllowed")
            running.world.broker.refusals.extend([problem("MeasurementNotAllowed")] * 10_000)
            await running.until(lambda: not running.agent.state.ready)
            assert running.world.clock.monotonic() < old.deadline
            answer = await connection.send("POST", "/v1/embeddings", content=body_of())
            assert (answer.status, json.loads(answer.body)["error"]["reason"]) == (503, "AttestationExpired")
            running.world.broker.refusals.clear()
            await running.ready()
            assert (await connection.send("POST", "/v1/embeddings", content=body_of())).status == 503  # made under the ended result
        async with await open_connection(running.endpoint) as other:
            assert (await other.send("POST", "/v1/embeddings", content=body_of())).status == 200

    go(scenario)


def test_a_broker_that_is_busy_or_away_ends_nothing(go: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        broker = running.world.broker
        broker.away = True
        many = len(broker.asked) + 3
        await running.until(lambda: len(broker.asked) >= many)
        assert (running.agent.state.ready, len(broker.attested)) == (True, 1)
        busy = problem("Busy").model_copy(update={"status": 503})
        broker.refusals.extend([busy] * 3)
        broker.away = False
        old = await told_ended(running)
        await running.until(lambda: len(broker.refusals) < 2)
        assert running.agent.state.ready
        await running.until(lambda: running.agent.state.session is not old)
        await running.until(lambda: broker.released[-1] == running.agent.state.session.result.result_id)

    go(scenario)


def test_the_key_is_asked_for_again_until_the_broker_knows(go: Any) -> None:
    """Its second answer: that the new result has ended, too; its third: that it is busy."""

    async def scenario(running: Running) -> None:
        await running.ready()
        release, answers = running.world.broker.release, [problem("ResultRevoked"), problem("Busy").model_copy(update={"status": 503})]

        async def sometimes(key_id: str, result_id: str) -> Any:
            if answers:
                raise Refused(answers.pop(0))
            return await release(key_id, result_id)

        running.world.broker.release = sometimes
        await told_ended(running)
        await running.until(lambda: len(running.world.broker.released) == 2)
        assert (len(running.world.broker.attested), answers) == (3, [])
        assert running.world.broker.released[-1] == running.agent.state.session.result.result_id

    go(scenario)


def test_a_renewal_notices_that_the_broker_was_set_back(go: Any) -> None:
    """It came before the next question whether the result still counts."""

    def unnoticed(world: Any) -> None:
        world.broker.life = 2
        standing = world.broker.standing

        async def only_about_earlier_ones(result_id: str) -> Any:
            if len(world.broker.attested) < 2:
                raise WireError(WireReason.SERVICE_UNREACHABLE, "no answer", "wait")
            return await standing(result_id)

        world.broker.standing = only_about_earlier_ones

    async def scenario(running: Running) -> None:
        old = await told_ended(running, "ResultUnknown")
        await running.until(lambda: running.agent.state.session is not old)
        assert running.agent.metrics.results_ended._value.get() == 0
        await running.until(lambda: running.world.broker.released[-1] == running.agent.state.session.result.result_id)

    go(scenario, prepare=unnoticed)


def test_a_renewal_that_follows_on_asks_for_no_key(go: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        first = running.agent.state.session
        await running.until(lambda: running.agent.state.session is not first)
        second = running.agent.state.session
        await running.until(lambda: running.agent.state.session is not second)
        assert len(running.world.broker.released) == 1

    go(scenario, prepare=lambda w: setattr(w.broker, "life", 2))


def test_a_sick_model_is_restarted(go: Any, body_of: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        await running.until(lambda: running.agent.state.phases.get("Serving") is not None)
        running.books.on_start = lambda: setattr(running.world.engine, "failure", None)
        running.world.engine.failure = WorkerError(WorkerReason.INFERENCE_FAILED, "the stub is dead", "wait")
        async with await open_connection(running.endpoint) as connection:
            answer = await connection.send("POST", "/v1/embeddings", content=body_of())
            assert Receipt.parse_unverified(answer.headers["chrysalis-receipt"]).amt == 0
            await running.until(lambda: running.books.orders[-1:] == ["restart"] and len(running.books.orders) == 3)
            await running.ready()
            assert (await connection.send("POST", "/v1/embeddings", content=body_of())).status == 200
        assert running.agent.metrics.triton_restarts._value.get() == 1

    go(scenario)


@pytest.mark.parametrize("by", ["agent", "supervisor"])
def test_the_drain(go: Any, body_of: Any, by: str) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        running.world.engine.gate = asyncio.Event()
        async with await open_connection(running.endpoint) as connection:
            job = asyncio.create_task(connection.send("POST", "/v1/embeddings", content=body_of()))
            await running.until(lambda: running.agent.state.in_flight == 1)
            if by == "agent":
                running.agent.end()
            else:
                running.books.terminate()
            await running.until(lambda: running.agent.state.draining)
            assert (await running.probe("/readyz")).text == "Draining\n"
            refused = await connection.send("POST", "/v1/embeddings", content=body_of())
            assert (refused.status, json.loads(refused.body)["error"]["reason"]) == (503, "Draining")
            assert running.books.orders[-1] == "restart"
            running.world.engine.gate.set()
            assert (await job).status == 200
        assert await asyncio.wait_for(running.task, 60) == 0
        assert running.books.orders[-1] == "stop"

    go(scenario)


@pytest.mark.parametrize("pulled", [True, False])
def test_the_settler_may_fetch_the_last_receipts(go: Any, body_of: Any, pulled: bool) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        running.agent.state.unpulled = lambda: 1 - running.agent.state.pulled
        began = running.world.clock.monotonic()
        running.agent.timing = dataclasses.replace(FAST, last_pull=3600 if pulled else FAST.last_pull)
        running.agent.end()
        await running.until(lambda: running.agent.state.draining)
        if pulled:
            async with await open_connection(running.endpoint) as connection:
                assert (await connection.send("GET", "/v1/receipts", headers=running.world.settler())).status == 200
                running.agent.state.pulled = 1
                running.agent.state.pull.set()
                await running.until(lambda: running.books.orders[-1] == "stop")
        else:
            assert await asyncio.wait_for(running.task, 60) == 0
            assert running.world.clock.monotonic() - began >= FAST.last_pull

    go(scenario, set_name="-239:0:" + "ab" * 32)


def test_an_agent_that_was_killed_continues_where_it_was(go: Any, body_of: Any) -> None:
    async def scenario(running: Running) -> None:
        await running.ready()
        async with await open_connection(running.endpoint) as connection:
            first = await connection.send("POST", "/v1/embeddings", content=body_of())
        wrk = running.agent.state.session.stored.evidence.keys.receipt
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        assert "stop" not in running.books.orders[1:]  # Triton was left running
        again = Running(running.world, dataclasses.replace(running.agent), running.books)
        await again.ready()
        assert running.books.orders[-2:] == ["stop", "restart"]
        assert again.agent.state.session.stored.evidence.keys.receipt == wrk
        async with await open_connection(again.endpoint) as connection:
            second = await connection.send("POST", "/v1/embeddings", content=body_of())
        one, two = (Receipt.parse_unverified(a.headers["chrysalis-receipt"]) for a in (first, second))
        assert (one.wrk, one.seq, two.seq) == (two.wrk, 1, 2)
        assert two.prev == jws.identity(first.headers["chrysalis-receipt"])
        again.agent.end()
        assert await asyncio.wait_for(again.task, 60) == 0

    go(scenario)
