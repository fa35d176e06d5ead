"""Agent, broker, settler's client and the public client together, over loopback: only the platform and the model are stand-ins."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.testclient import TestClient

from chrysalis.api.initdata import mrconfigid, to_annotation
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.broker import main as broker_main
from chrysalis.broker.app import create_app
from chrysalis.broker.settings import Settings
from chrysalis.client.reasons import ClientError
from chrysalis.client.session import Client
from chrysalis.clock import SystemClock, unix
from chrysalis.receipts import worker_id
from chrysalis.receipts.objects import ClientList, ListedClient, SettlerToken
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.worker_client import WorkerClient
from chrysalis_worker.agent import Agent, Listen
from chrysalis_worker.evidence import Gpus, NoGpus, RawEvidence
from chrysalis_worker.nvml import NvmlGpus
from chrysalis_worker.paths import PodPaths
from e2e.simtd.nvml import SimulatedDriver
from e2e.simtd.pki import SimulatedPlatform
from tests.broker import conftest as broker_world
from tests.worker.conftest import FakeEngine
from tests.worker.nvml_guest import DEVICES, POOL, loaded
from tests.worker.test_agent import FAST, Books, package  # noqa: F401 - a fixture

SET = "-239:0:" + "ab" * 32


@dataclasses.dataclass
class Guest:
    """The evidence service of one domain."""

    platform: SimulatedPlatform
    mrconfigid: bytes
    quotes: int = 0

    async def evidence(self, report_data: bytes) -> RawEvidence:
        self.quotes += 1
        return RawEvidence(self.platform.quote(report_data, mrconfigid=self.mrconfigid), self.platform.event_log)


class Engine:
    """A model of four dimensions."""

    dimension = 4

    def __init__(self, target: str, model: str) -> None:
        self.load, self.embed, self.canary = (getattr(FakeEngine(), name) for name in ("load", "embed", "canary"))


@dataclasses.dataclass
class Scene:
    """Everything that a scenario needs."""

    broker: Any
    tenant: Any
    port: int
    agent: Agent
    client_key: Ed25519PrivateKey
    reservation: Ed25519PrivateKey
    model_digest: str
    task: asyncio.Task[int] | None = None

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.agent.ports['gateway']}"

    async def until(self, what: Callable[[], bool], seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                assert self.task is not None
                assert not self.task.done()
                await asyncio.sleep(0.01)

    async def ready(self) -> None:
        await self.until(lambda: self.agent.state.ready)

    def policy(self, **changes: Any) -> AttestationPolicySpec:
        return AttestationPolicySpec.model_validate(self.broker.policy(self.tenant, **changes))

    def client(self, rules: dict[str, Any] | None = None, **options: Any) -> Client:
        policy = self.policy() if rules is None else self.policy(gpu=rules)
        return Client(self.endpoint, policy=policy, model_digest=self.model_digest, **options)

    async def list_client(self) -> None:
        """What the settler does for its account."""
        now = unix(SystemClock().now())
        listed = ListedClient(key=self.client_key.public_key().public_bytes_raw().hex(), cap=1_000_000)
        clients = ClientList(set=SET, keys=[listed], iat=now, exp=now + 600).sign(self.reservation)
        session = self.agent.state.session
        wrk = session.stored.evidence.keys.receipt

        def token() -> str:
            return SettlerToken(aud=worker_id(bytes.fromhex(wrk)), iat=now, exp=now + 60).sign(self.reservation)

        async with await WorkerClient.connect(self.endpoint, session.tls.spki_sha256, token) as settler:
            await settler.put_clients(clients)


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def go(tmp_path: Path, package: Any, platform: SimulatedPlatform, clock: SystemClock) -> Iterator[Callable[..., None]]:  # noqa: F811
    short = Path(tempfile.mkdtemp(prefix="ww"))
    (url, sealed, size, plain), secret = package
    tenant = broker_world.Tenant("acme", identity=secret)
    settings = Settings.model_validate(
        {
            "stateDir": tmp_path / "state",
            "placement": "Development",
            "tenants": [{"name": "acme", "owners": [tenant.public.hex()]}],
            "kubernetes": {"serviceAccounts": [broker_world.READER]},
            "host": "127.0.0.1",
            "port": 0,
        }
    )
    deps = broker_main.assemble(settings, clock=clock, fetcher=broker_world.FakePccs(platform, clock), reviewer=broker_world.FakeReviewer())
    world = broker_world.World(deps, TestClient(create_app(deps)), clock, platform, broker_world.FakePccs(platform, clock), tenant, tenant)
    assert world.put_policy(tenant).status_code == 201
    assert world.put_key(tenant, model_digest=plain).status_code == 201
    server = broker_main.tls_server(deps)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def run(
        scenario: Callable[[Scene], Any],
        set_name: str = SET,
        gpus: Callable[[], Gpus] = NoGpus,
        policy: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """Play a scenario; policy: members that the owner's policy has instead; changes are of the worker's measured identity."""
        if policy is not None:
            assert world.put_policy(tenant, version=2, **policy).status_code == 201
        reservation = Ed25519PrivateKey.generate()
        model = {"name": "minilm", "package": {"url": url, "digest": sealed, "sizeBytes": size}, "digest": plain, "keyId": "acme"}
        pin = {
            "url": f"https://127.0.0.1:{port}",
            "spkiSha256": deps.keys.tls_spki_sha256.hex(),
            "earKey": deps.keys.ear_public.hex(),
        }
        keys = [reservation.public_key().public_bytes_raw().hex()]
        members = {"model": model, "broker": pin, "set": set_name, "reservationKeys": keys, "prices": {"prompt": 2_000_000}}
        toml = world.initdata(tenant, **(members | changes))
        paths = PodPaths(**{name: tmp_path / name for name in ("model", "receipts", "podinfo", "scratch")}, triton=short)
        for folder in (paths.model, paths.receipts, paths.podinfo, paths.scratch):
            folder.mkdir()
        (paths.podinfo / "initdata").write_text(to_annotation(toml))

        async def inside() -> None:
            agent = Agent(
                paths=paths,
                clock=clock,
                source=Guest(platform, mrconfigid(toml)),
                broker=lambda identity: BrokerClient(identity.broker.url, spki_sha256=identity.broker.spki_sha256),
                engine=Engine,
                listen=Listen("127.0.0.1", 0, 0, 0),
                timing=FAST,
                gpus=gpus(),
            )
            scene = Scene(world, tenant, port, agent, Ed25519PrivateKey.generate(), reservation, plain)
            async with Books(short / "supervisor.sock"):
                scene.task = asyncio.create_task(agent.run())
                try:
                    await scenario(scene)
                finally:
                    agent.end()
                    assert await asyncio.wait_for(scene.task, 60) == 0

        asyncio.run(inside())

    yield run
    server.should_exit = True
    thread.join(60)
    shutil.rmtree(short)


def test_a_client_verifies_and_pays(go: Any) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        await scene.list_client()
        async with scene.client(client_key=scene.client_key) as client:
            for seq in (1, 2):
                job = await client.embeddings(["one", "two"], max_nanoton=100)
                assert len(job.vectors) == 2
                assert job.receipt is not None
                assert (job.receipt.seq, job.receipt.amt) == (seq, 12)
            with pytest.raises(ClientError) as refused:
                await client.embeddings(["one", "two"], max_nanoton=11)
            assert "ReservationExhausted" in str(refused.value)
        async with scene.client(client_key=Ed25519PrivateKey.generate()) as stranger:
            with pytest.raises(ClientError) as refused:
                await stranger.embeddings(["one"])
            assert "ClientNotListed" in str(refused.value)

    go(scenario)


def test_an_in_house_pool_and_a_policy_that_is_another(go: Any) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        async with scene.client() as client:
            job = await client.embeddings(["one"])
            assert job.receipt is not None
            assert job.receipt.ticket == ""
        other = scene.policy(tdx=scene.broker.policy(scene.tenant)["tdx"] | {"measurements": []})
        with pytest.raises(ClientError):
            await Client(scene.endpoint, policy=other).connect()

    go(scenario, set_name="none", wallet="", reservationKeys=[])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"imageDigest": "sha256:" + "9" * 64}, "InitdataNotAllowed"),
        ({"templateVersion": 2}, "InitdataNotAllowed"),
    ],
)
def test_what_the_policy_does_not_list_never_gets_the_key(go: Any, changes: dict[str, Any], reason: str) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.until(lambda: scene.agent.state.problem is not None)
        assert scene.agent.state.problem.as_dict()["reason"] == reason
        assert scene.agent.state.problem.as_dict()["remedy"]
        assert "KeyReleased" not in scene.agent.state.phases
        assert not list(scene.agent.paths.model.iterdir())

    go(scenario, **changes)


def test_gpus_that_the_broker_accepts_take_work(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(monkeypatch, SimulatedDriver(DEVICES)) as guest:

        async def scenario(scene: Scene) -> None:
            await scene.ready()
            assert guest.driver.history == [True]
            await scene.list_client()
            async with scene.client(rules=POOL.rules(), client_key=scene.client_key) as client:
                assert len((await client.embeddings(["one"], max_nanoton=100)).vectors) == 1

        go(scenario, gpus=NvmlGpus, policy={"gpu": POOL.rules()})


@pytest.mark.parametrize("listed", [0, 1])
def test_gpus_that_the_broker_refuses_take_none(go: Any, monkeypatch: pytest.MonkeyPatch, listed: int) -> None:
    """The policy demands two GPUs, and NVML lists fewer."""
    with loaded(monkeypatch, SimulatedDriver(DEVICES[:listed])) as guest:

        async def scenario(scene: Scene) -> None:
            await scene.until(lambda: scene.agent.state.problem is not None)
            await asyncio.sleep(0.2)
            assert scene.agent.state.problem.as_dict()["reason"] == ("GpuCountMismatch" if listed else "GpuEvidenceMissing")
            assert "KeyReleased" not in scene.agent.state.phases
            assert guest.driver.history == []

        go(scenario, gpus=NvmlGpus, policy={"gpu": POOL.rules()})
