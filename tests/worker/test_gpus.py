"""A worker with GPUs, through the SimulatedNvml: evidence that the quote binds, and GPUs that take work when it was accepted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from chrysalis.api.policy_gpu import GpuRules
from chrysalis.attestation import binding, quote
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu as gpus
from chrysalis.wire.attested import open_connection
from chrysalis_worker.nvml import NvmlGpus
from chrysalis_worker.reasons import WorkerError
from e2e.simtd.nvml import SimulatedDriver
from tests.worker.nvml_guest import DEVICES, POOL, NvmlGuest, loaded
from tests.worker.test_agent import Running, clock, go, package, problem, told_ended  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[NvmlGuest]:
    with loaded(monkeypatch, SimulatedDriver(DEVICES)) as served:
        yield served


def test_a_session_binds_its_gpus(world: Any, guest: NvmlGuest) -> None:
    attester = dataclasses.replace(world.attester, gpus=NvmlGpus())
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


def test_a_session_whose_gpus_give_nothing_does_not_attest(world: Any, guest: NvmlGuest) -> None:
    guest.driver.returns = {"report": 15}
    attester = dataclasses.replace(world.attester, gpus=NvmlGpus())
    with pytest.raises(WorkerError):
        asyncio.run(attester.attest())
    assert world.broker.attested == []


def test_the_gpus_take_work_after_acceptance_and_triton_starts_after_that(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    seen: list[tuple[str, bool]] = []

    def watch(world: Any) -> None:
        attest, release = world.broker.attest, world.broker.release

        async def attesting(evidence: Any) -> Any:
            seen.append(("attest", guest.driver.ready))
            return await attest(evidence)

        async def releasing(*words: str) -> Any:
            seen.append(("release", guest.driver.ready))
            return await release(*words)

        world.broker.attest, world.broker.release = attesting, releasing

    async def scenario(running: Running) -> None:
        running.books.on_start = lambda: seen.append(("triton", guest.driver.ready))
        await running.ready()
        assert seen == [("attest", False), ("release", True), ("triton", True)]
        assert guest.driver.history == [True]
        phases = [str(phase) for phase in running.agent.state.phases]
        assert phases.index("Attested") < phases.index("GpusReady") < phases.index("KeyReleased")
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{running.agent.ports['metrics']}/metrics")).text
        assert "chrysalis_worker_gpus_ready 1.0" in text
        assert 'chrysalis_worker_gpu_ready_changes_total{state="ready"} 1.0' in text

    go(scenario, prepare=watch, gpus=NvmlGpus)


def test_a_refused_worker_has_gpus_that_take_no_work(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    async def scenario(running: Running) -> None:
        await running.until(lambda: len(running.world.broker.refusals) < 9_990)
        assert guest.driver.history == []
        assert "restart" not in running.books.orders
        running.world.broker.refusals.clear()
        await running.ready()
        assert guest.driver.history == [True]

    go(scenario, prepare=lambda w: w.broker.refusals.extend([problem("MeasurementNotAllowed")] * 10_000), gpus=NvmlGpus)


@pytest.mark.parametrize("once", [False, True])
def test_without_a_valid_result_they_take_no_work(go: Any, guest: NvmlGuest, once: bool) -> None:  # noqa: F811
    guest.driver.ready_once = once

    async def scenario(running: Running) -> None:
        await running.ready()
        deadline = running.agent.state.session.deadline
        running.world.broker.refusals.extend([problem("ServiceUnavailable")] * 10_000)
        order = running.books.orders
        await running.until(lambda: not guest.driver.ready)
        assert running.world.clock.monotonic() >= deadline
        assert order[-1] == "stop"
        assert not running.agent.state.ready
        await asyncio.sleep(0.2)
        assert order.count("restart") == 1
        running.world.broker.refusals.clear()
        if once:  # as the drivers of today: this domain is over
            await running.until(lambda: str(getattr(running.agent.state.problem, "reason", "")) == "GpuReadyRefused")
            assert order.count("restart") == 1
            assert not running.agent.state.ready
        else:
            await running.ready()
            assert guest.driver.history == [True, False, True]
            assert order.count("restart") == 2

    go(scenario, prepare=lambda w: setattr(w.broker, "life", 1), gpus=NvmlGpus)


def test_a_result_that_the_broker_ended_takes_no_job_and_costs_no_domain(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    """A driver of today makes GPUs ready once: they are taken back at the result's own end, not for a policy that may be mended."""

    async def scenario(running: Running) -> None:
        old = await told_ended(running, "StateRestored")
        running.world.broker.refusals.extend([problem("VersionLost")] * 10_000)
        await running.until(lambda: not running.agent.state.ready)
        assert running.world.clock.monotonic() < old.deadline
        await asyncio.sleep(4 * running.agent.timing.gpu_check)
        assert guest.driver.history == [True]
        running.world.broker.refusals.clear()
        await running.ready()
        assert guest.driver.history == [True]
        assert running.books.orders.count("restart") == 1

    go(scenario, gpus=NvmlGpus)


def test_a_renewal_makes_ready_what_the_driver_closed(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    async def scenario(running: Running) -> None:
        await running.ready()
        guest.driver.ready = False
        await running.until(lambda: guest.driver.history == [True, True])
        assert running.agent.state.ready

    go(scenario, gpus=NvmlGpus)


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        (lambda driver: setattr(driver, "devtools", True), "GpuDevtoolsMode"),
        (lambda driver: setattr(driver, "confidential", False), "GpuConfidentialComputingOff"),
        (lambda driver: setattr(driver, "returns", {"ready": 4}), "GpuReadyRefused"),
        (lambda driver: setattr(driver, "returns", {"system": 18}), "GpuLibraryFailed"),
        (lambda driver: setattr(driver, "sizes", {"report": 9}), "GpuEvidenceInvalid"),
    ],
)
def test_what_nvml_refuses_is_told_and_no_key_is_asked_for(
    go: Any,  # noqa: F811
    guest: NvmlGuest,
    bend: Callable[[SimulatedDriver], None],
    reason: str,
) -> None:
    bend(guest.driver)

    async def scenario(running: Running) -> None:
        await running.until(lambda: str(getattr(running.agent.state.problem, "reason", "")) == reason)
        assert (await running.probe("/readyz")).text == f"{reason}\n"
        assert "KeyReleased" not in running.agent.state.phases
        assert "restart" not in running.books.orders
        guest.driver = SimulatedDriver(DEVICES)
        await running.ready()

    go(scenario, gpus=NvmlGpus)


def test_an_agent_that_was_killed_does_not_take_the_gpus_back(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    async def scenario(running: Running) -> None:
        await running.ready()
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        again = Running(running.world, dataclasses.replace(running.agent), running.books)
        await again.ready()
        assert guest.driver.history == [True]
        again.agent.end()
        assert await asyncio.wait_for(again.task, 60) == 0

    go(scenario, gpus=NvmlGpus)


def test_strangers_who_ask_for_reports_do_not_hold_up_the_renewal(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    """A report takes a real GPU a second: the clients' wait behind each other, and the renewal behind one of them."""

    async def scenario(running: Running) -> None:
        await running.ready()
        first = running.agent.state.session
        guest.report_seconds = 0.3  # of two GPUs for sixteen clients: longer than what is left of the result

        async def asks() -> int:
            async with await open_connection(running.endpoint) as connection:
                answer = await connection.send("GET", "/.well-known/attestation", query={"nonce": "ab" * 32})
                assert len(json.loads(answer.body)["evidence"]["gpu"]) == 2
                return answer.status

        asking = [asyncio.create_task(asks()) for _ in range(16)]
        await running.until(lambda: running.agent.state.session is not first)
        assert running.world.clock.monotonic() < first.deadline
        assert sum(task.done() for task in asking) < 16
        guest.report_seconds = 0.0
        assert await asyncio.gather(*asking) == [200] * 16
        assert guest.driver.history == [True]

    go(scenario, prepare=lambda w: setattr(w.broker, "life", 8), gpus=NvmlGpus)


def test_an_agent_whose_library_hangs_says_so_and_ends(go: Any, guest: NvmlGuest) -> None:  # noqa: F811
    guest.returning.clear()

    async def scenario(running: Running) -> None:
        await running.until(lambda: str(getattr(running.agent.state.problem, "reason", "")) == "GpuLibraryTimeout")
        assert (await running.probe("/healthz")).status_code == 200
        assert running.world.broker.attested == []
        running.agent.end()
        assert await asyncio.wait_for(running.task, 60) == 0

    go(scenario, gpus=lambda: NvmlGpus(seconds=0.1))
