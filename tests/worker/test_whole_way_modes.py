"""A client's three modes against the real agent, gateway and broker: what each rests on, what it costs, and where it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.client.ear_mode import PolicyPin
from chrysalis.client.reasons import ClientError
from chrysalis.client.revocation import RevocationCheck
from chrysalis.client.session import Client
from chrysalis.clock import ManualClock, SystemClock
from chrysalis.wire import owner_token
from chrysalis.wire.bundle import BundleFile, to_bytes
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations
from chrysalis.wire.reasons import WireError
from chrysalis_worker.nvml import NvmlGpus
from e2e.simtd.nvml import SimulatedDriver
from tests.worker.nvml_guest import DEVICES, POOL, loaded
from tests.worker.test_agent import package  # noqa: F401 - a fixture
from tests.worker.test_whole_way import Scene, clock, go  # noqa: F401 - fixtures

IN_HOUSE = {"set_name": "none", "wallet": "", "reservationKeys": []}
"""A worker that belongs to no account."""


def client(scene: Scene, mode: str, **options: Any) -> Client:
    """A client of that mode that knows the broker's key and the owner's policy."""
    if mode == "ear":
        options = {"policy_pin": PolicyPin(scene.tenant.public, "workers")} | options
    return scene.client(mode=FreshnessMode(mode), **({"ear_key": scene.broker.deps.keys.ear_public} | options))


def revocation(scene: Scene, *, stranger: bool = False, required: bool = False) -> RevocationCheck:
    def token() -> str:
        return owner_token.make(scene.tenant.key, SystemClock().now(), scene.broker.deps.keys.tls_spki_sha256)

    return RevocationCheck(
        url=f"https://127.0.0.1:{scene.port}",
        spki_sha256=scene.broker.deps.keys.tls_spki_sha256.hex(),
        token=None if stranger else token,
        required=required,
    )


async def connect_for(client: Client, seconds: float) -> None:
    """Verify anew, again and again."""
    async with asyncio.timeout(seconds):
        while await client.connect():
            await client.aclose()


@pytest.mark.parametrize(
    ("mode", "freshness", "judged_by", "quotes"),
    [("fresh-quote", "OwnNonce", "Client", 1), ("ear", "BrokerNonce", "Broker", 0), ("offline", "NotChecked", "Client", 0)],
)
def test_each_mode_verifies_and_pays(go: Any, mode: str, freshness: str, judged_by: str, quotes: int) -> None:  # noqa: F811
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        await scene.list_client()
        before = scene.agent.source.quotes
        async with client(scene, mode, client_key=scene.client_key) as made:
            for seq in (1, 2):
                job = await made.embeddings(["one", "two"], max_nanoton=100)
                assert job.receipt is not None
                assert (job.receipt.seq, len(job.vectors)) == (seq, 2)
            worker = await made.connect()
        assert scene.agent.source.quotes - before == quotes
        facts = worker.facts()
        assert (facts["mode"], facts["freshness"], facts["judgedBy"]) == (mode, freshness, judged_by)
        assert (facts["evidenceClass"], facts["isolation"], facts["revocation"]) == ("Simulated", "PodTD", "NotChecked")
        assert worker.result_id == scene.agent.state.session.result.result_id
        kept = judge(BundleFile.read(to_bytes(worker.bundle(worker.judged_at))), Expectations(ear_key=scene.broker.deps.keys.ear_public))
        assert kept.accepted, kept.to_json()

    go(scenario)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ear_key": b"\1" * 32}, "EarSignatureInvalid"),
        ({"policy_pin": PolicyPin(b"\1" * 32, "workers")}, "EarRefused"),
        ({"policy_pin": None}, "PolicyNotPinned"),
        ({"ear_key": None}, "EarKeyNotPinned"),
    ],
    ids=["another broker", "another owner", "no policy named", "no broker pinned"],
)
def test_a_result_is_believed_under_what_the_client_pins(go: Any, options: dict[str, Any], reason: str) -> None:  # noqa: F811
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        with pytest.raises((ClientError, WireError)) as refused:
            await client(scene, "ear", **options).connect()
        assert refused.value.reason == reason
        async with client(scene, "ear") as twin:
            assert (await twin.embeddings(["one"])).vectors

    go(scenario, **IN_HOUSE)


@pytest.mark.parametrize(("mode", "reason"), [("ear", "EarExpired"), ("offline", "CertificateMismatch")])
def test_a_client_whose_result_has_ended_sends_nothing_more(go: Any, mode: str, reason: str) -> None:  # noqa: F811
    async def scenario(scene: Scene) -> None:
        await scene.ready()
        clock = ManualClock(SystemClock().now())  # noqa: F811
        async with client(scene, mode, clock=clock) as made:
            assert (await made.embeddings(["one"])).vectors
            clock.advance(665)  # past the receipt key's certificate and its leeway, too
            with pytest.raises((ClientError, WireError)) as refused:
                await made.embeddings(["two"])
            assert refused.value.reason == reason
        async with client(scene, "fresh-quote") as twin:
            job = await twin.embeddings(["three"])
            assert job.receipt is not None
            assert job.receipt.seq == 2  # "two" never arrived

    go(scenario, **IN_HOUSE)


def test_renewal_carries_a_client_of_each_mode_over(go: Any) -> None:  # noqa: F811
    """A result that lives ten seconds: the worker renews it, and each client verifies the new one when its own has ended."""

    async def scenario(scene: Scene) -> None:
        await scene.ready()
        clients = [client(scene, mode.value) for mode in FreshnessMode]
        first = [await each.connect() for each in clients]
        for each in clients:
            await each.embeddings(["one"])
        session = scene.agent.state.session
        async with asyncio.timeout(200):
            await scene.until(lambda: scene.agent.state.session is not session)
            await asyncio.sleep(max(0.0, (max(worker.expires_at for worker in first) - SystemClock().now()).total_seconds()) + 0.1)
        for each, before in zip(clients, first, strict=True):
            assert (await each.embeddings(["two"])).vectors
            after = await each.connect()
            assert after.judged_at > before.judged_at
            assert after.result_id != before.result_id
            assert after.document.evidence.keys.tls_spki_sha256 != before.document.evidence.keys.tls_spki_sha256
            await each.aclose()

    go(scenario, policy={"freshness": {"maxResultAgeSeconds": 10}}, **IN_HOUSE)


def test_the_broker_is_asked_whether_it_revoked_the_result(go: Any) -> None:  # noqa: F811
    """Its owner may ask; a stranger may not, and is told that nothing was checked; a revoked result is refused."""

    async def scenario(scene: Scene) -> None:
        await scene.ready()
        for mode in ("ear", "fresh-quote"):
            async with client(scene, mode, revocation=revocation(scene, required=True)) as owner:
                assert (await owner.connect()).revocation == "NotRevoked"
            async with client(scene, mode, revocation=revocation(scene, stranger=True)) as stranger:
                worker = await stranger.connect()
                assert (worker.revocation, "CallerUnauthenticated" in worker.revocation_detail) == ("NotChecked", True)
            with pytest.raises(ClientError) as refused:
                await client(scene, mode, revocation=revocation(scene, stranger=True, required=True)).connect()
            assert refused.value.reason == "RevocationNotChecked"
        stricter = scene.broker.policy(scene.tenant)["tdx"] | {"measurements": []}
        assert (await asyncio.to_thread(scene.broker.put_policy, scene.tenant, version=2, tdx=stricter)).status_code == 201
        asking = client(scene, "ear", revocation=revocation(scene, required=True))
        with pytest.raises(ClientError) as refused:
            await connect_for(asking, 60)  # until the broker's sweep has come by
        assert refused.value.reason == "ResultRevoked"
        async with client(scene, "ear") as unasking:  # the result itself does not know it
            assert (await unasking.connect()).revocation == "NotChecked"

    go(scenario, **IN_HOUSE)


@pytest.mark.parametrize("mode", list(FreshnessMode))
def test_gpus_in_each_mode(go: Any, monkeypatch: pytest.MonkeyPatch, mode: FreshnessMode) -> None:  # noqa: F811
    """Judged by the client where it has the reports, read from the result where it has not; another number is refused in both."""
    with loaded(monkeypatch, SimulatedDriver(DEVICES)):

        async def scenario(scene: Scene) -> None:
            await scene.ready()
            async with client(scene, mode, rules=POOL.rules()) as made:
                assert (await made.embeddings(["one"])).vectors
                worker = await made.connect()
            assert worker.evidence_class == "Simulated"
            assert (worker.gpu is None) is (mode == "ear")
            assert ("gpu.measurements" in worker.checked_by["broker"]) is (mode == "ear")
            assert judge(BundleFile.read(to_bytes(worker.bundle(worker.judged_at)))).accepted
            with pytest.raises(ClientError) as refused:
                await client(scene, mode, rules=POOL.rules() | {"count": 1}).connect()
            assert "GpuCountMismatch" in [reason.reason for reason in refused.value.reasons]

        go(scenario, gpus=NvmlGpus, policy={"gpu": POOL.rules()}, **IN_HOUSE)
