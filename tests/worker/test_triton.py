"""The real Triton under the real supervisor and the real agent: what the model answers, and what happens when its stub dies."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio as client
from tritonclient.utils import InferenceServerException

from chrysalis.clock import SystemClock
from chrysalis.receipts import chain, jws
from chrysalis.receipts.objects import Receipt, Status
from chrysalis.sealing.package import seal
from chrysalis.wire.attested import Connection, open_connection
from chrysalis_worker.agent import Agent, Listen, Timing
from chrysalis_worker.inference import Triton
from e2e.triton import host, install, model

pytestmark = pytest.mark.triton

TEXTS = ["The cat sat on the mat", "A kitten rests on a rug", "Quarterly revenue grew", "x " * 400, "köttur 猫"]
DIRECT = """
import json, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from model import Encoder
vectors, tokens = Encoder(Path(sys.argv[1])).encode(json.load(sys.stdin))
json.dump({"vectors": vectors.tolist(), "tokens": tokens.ravel().tolist()}, sys.stdout)
"""


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture(scope="module")
def installation() -> install.Installation:
    return install.prepare()


@pytest.fixture(scope="module")
def served(installation: install.Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path]]:
    """The sealed MiniLM on an HTTP server: (url, digest, size, model digest), its key, the plain repository."""
    folder = tmp_path_factory.mktemp("model")
    repository = model.build(folder / "repository", installation)
    (folder / "public").mkdir()
    made = seal(repository, folder / "public/minilm.age")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder / "public")))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/minilm.age"
    yield (url, made.package_digest, made.size_bytes, made.model_digest), made.identity, repository
    server.shutdown()
    server.server_close()
    thread.join()


class Running:
    """A worker with a real Triton."""

    def __init__(self, world: Any, agent: Agent, supervisor: host.HostSupervisor) -> None:
        self.world, self.agent, self.supervisor = world, agent, supervisor
        self.task = asyncio.create_task(agent.run())

    async def until(self, what: Callable[[], bool], seconds: float = 120) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                assert not self.task.done(), self.task
                await asyncio.sleep(0.01)

    async def connect(self) -> Connection:
        return await open_connection(f"https://127.0.0.1:{self.agent.ports['gateway']}")

    async def readyz(self) -> int:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"http://127.0.0.1:{self.agent.ports['health']}/readyz")).status_code


@pytest.fixture
def go(make_world: Any, served: Any, installation: install.Installation) -> Iterator[Callable[..., None]]:
    short = Path(tempfile.mkdtemp(prefix="tr"))

    def run(scenario: Callable[[Running], Any], set_name: str = "none") -> None:
        async def inside(supervisor: host.HostSupervisor, world: Any) -> None:
            agent = Agent(
                paths=dataclasses.replace(supervisor.folders, receipts=world.paths.receipts, podinfo=world.paths.podinfo),
                clock=world.clock,
                source=world.source,
                broker=lambda identity: world.broker,
                engine=Triton,
                listen=Listen("127.0.0.1", 0, 0, 0),
                timing=Timing(retry_first=0.1, canary_interval=0.3, last_pull=0.1),
            )
            running = Running(world, agent, supervisor)
            try:
                await running.until(lambda: agent.state.ready)
                await scenario(running)
            finally:
                agent.end()
                await asyncio.wait_for(running.task, 120)

        spec, secret, _ = served
        world = make_world(set_name, package=spec, secret=secret)
        (short / "model").mkdir()
        with host.supervisor(short, short / "model", installation) as supervisor:
            asyncio.run(inside(supervisor, world))
        log = supervisor.log.read_text()
        assert supervisor.process.returncode == 0, log
        assert not list(Path("/dev/shm").glob(supervisor.shared_memory_prefix + "*"))

    yield run
    shutil.rmtree(short)


async def embed(connection: Connection, texts: list[str], headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any], Receipt]:
    content = json.dumps({"model": "minilm", "input": texts}).encode()
    answer = await connection.send("POST", "/v1/embeddings", content=content, headers=headers)
    return answer.status, json.loads(answer.body), Receipt.parse_unverified(answer.headers["chrysalis-receipt"])


def test_the_answer_is_that_of_the_model_itself(go: Any, served: Any, installation: install.Installation) -> None:
    folder = served[2] / "minilm/1"
    direct = subprocess.run(
        [str(installation.python_bin / "python3"), "-c", DIRECT, str(folder)],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(direct.stdout)

    async def scenario(running: Running) -> None:
        async with await running.connect() as connection:
            status, answer, receipt = await embed(connection, TEXTS)
            assert status == 200
            vectors = np.array([d["embedding"] for d in answer["data"]])
            assert vectors.shape == (len(TEXTS), 384)
            np.testing.assert_allclose(vectors, np.array(expected["vectors"]), atol=1e-6)
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]
            assert answer["usage"]["prompt_tokens"] == sum(expected["tokens"]) == receipt.use.prompt
            assert max(expected["tokens"]) == 256  # the long text was cut there
            one_by_one = [(await embed(connection, [text]))[1]["data"][0]["embedding"] for text in TEXTS]
            np.testing.assert_allclose(np.array(one_by_one), vectors, atol=1e-6)  # no text depends on its neighbours
            many = await embed(connection, TEXTS[:3] * 30)  # more than one batch of the model
            np.testing.assert_allclose(np.array([d["embedding"] for d in many[1]["data"]]), np.tile(vectors[:3], (30, 1)), atol=1e-6)
            assert many[2].use.prompt == 30 * sum(expected["tokens"][:3])

    go(scenario)


def test_a_killed_stub_is_noticed_and_replaced_and_no_job_is_billed_wrongly(go: Any) -> None:
    async def scenario(running: Running) -> None:
        world = running.world
        answers: list[tuple[int, Receipt]] = []
        refused: list[str] = []
        stop = asyncio.Event()
        async with await running.connect() as connection:
            clients = json.dumps({"schemaVersion": "chrysalis/v1", "clients": world.clients()}).encode()
            assert (await connection.send("PUT", "/v1/clients", content=clients, headers=world.settler())).status == 204
            document = await connection.document()
            gateway = type("Offers", (), {"offers": type("Book", (), {"current": staticmethod(lambda: document.offer)})})

            async def work() -> None:
                while not stop.is_set():
                    content = json.dumps({"model": "minilm", "input": ["some words", "and some more"]}).encode()
                    salt = secrets.token_bytes(32)
                    headers = {"Chrysalis-Salt": jws.b64u(salt), "Chrysalis-Ticket": world.ticket(gateway, content, salt)}
                    answer = await connection.send("POST", "/v1/embeddings", content=content, headers=headers)
                    if "chrysalis-receipt" in answer.headers:
                        answers.append((answer.status, Receipt.parse_unverified(answer.headers["chrysalis-receipt"])))
                    else:
                        refused.append(json.loads(answer.body)["error"]["reason"])
                        await asyncio.sleep(0.05)

            workers = [asyncio.create_task(work()) for _ in range(3)]
            await running.until(lambda: len(answers) >= 6)
            (stub,) = running.supervisor.stubs()
            os.kill(stub, signal.SIGKILL)
            began = world.clock.monotonic()
            await running.until(lambda: not running.agent.state.ready)
            noticed = world.clock.monotonic() - began
            assert await running.readyz() == 503
            await running.until(lambda: running.agent.state.ready)
            recovered = world.clock.monotonic() - began
            good = len(answers)
            await running.until(lambda: len(answers) >= good + 6)
            stop.set()
            await asyncio.gather(*workers)
            page = await connection.send("GET", "/v1/receipts", headers=world.settler())
        assert noticed < 4
        assert recovered < 12
        assert {status for status, _ in answers} == {200, 502}
        assert set(refused) <= {"NotReady"}
        for status, receipt in answers:
            done = receipt.status == Status.DONE
            assert done == (status == 200)
            assert (receipt.amt > 0) == done
        tokens = json.loads(page.body)["receipts"]
        public = running.agent.state.session.stored.evidence.keys.receipt
        stored = [Receipt.parse(token, bytes.fromhex(public)) for token in tokens]
        chain.verify(chain.Head.start(stored[0].wrk), zip(stored, tokens, strict=True))
        assert sum(r.amt for r in stored) == sum(r.amt for _, r in answers)
        assert len(stored) == len(answers)
        (other,) = running.supervisor.stubs()
        assert other != stub

    go(scenario, "-239:0:" + "ab" * 32)


def test_triton_itself_is_out_of_reach(go: Any) -> None:
    async def scenario(running: Running) -> None:
        async with client.InferenceServerClient(running.supervisor.folders.grpc_target) as triton:
            assert await triton.is_server_ready()
            for call in (triton.get_model_repository_index, triton.get_system_shared_memory_status, triton.get_log_settings):
                with pytest.raises(InferenceServerException):
                    await call()
            with pytest.raises(InferenceServerException):
                await triton.load_model("minilm")
        listening = await asyncio.to_thread(subprocess.run, ["ss", "-Hltnp"], capture_output=True, text=True, check=True)
        assert "tritonserver" not in listening.stdout

    go(scenario)


def test_the_end_of_the_pod(go: Any) -> None:
    async def scenario(running: Running) -> None:
        async with await running.connect() as connection:
            jobs = [asyncio.create_task(embed(connection, ["long " * 100] * 40)) for _ in range(2)]
            await running.until(lambda: running.agent.state.in_flight == 2)
            running.supervisor.process.terminate()  # as the kubelet ends container triton first
            assert [(await job)[0] for job in jobs] == [200, 200]
        assert await asyncio.wait_for(running.task, 120) == 0

    go(scenario)
