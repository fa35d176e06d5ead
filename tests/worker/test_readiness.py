"""The gate before the GPUs: what takes work when, and what a driver that says no leads to."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.clock import ManualClock
from chrysalis.wire.gpu import GpuDevice
from chrysalis_worker import readiness
from chrysalis_worker.evidence import NoGpus
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.readiness import GpuGate
from chrysalis_worker.reasons import WorkerError, WorkerReason

AT = datetime(2026, 11, 1, tzinfo=UTC)


class Driver:
    """Two GPUs without evidence; `failing` names calls that fail."""

    def __init__(self, *, ready: bool = False, once: bool = True) -> None:
        self.is_ready, self.once, self.spent = ready, once, False
        self.events: list[str] = []
        self.failing: set[str] = set()

    async def gpus(self, nonce: bytes) -> list[GpuDevice]:
        return []

    async def ready(self) -> bool | None:
        if "ready" in self.failing:
            raise WorkerError(WorkerReason.GPU_LIBRARY_FAILED, "lost", "r")
        return self.is_ready

    async def set_ready(self, ready: bool) -> None:
        if "set_ready" in self.failing or self.spent:
            raise WorkerError(WorkerReason.GPU_READY_REFUSED, "no", "r")
        self.spent = self.once and self.is_ready and not ready
        self.is_ready = ready
        self.events.append("ready" if ready else "not ready")


class Bench:
    """A gate with its driver and clock, and a Triton that only has a state."""

    def __init__(self, folder: Path, driver: Driver) -> None:
        self.folder, self.driver = folder, driver
        self.clock = ManualClock(AT)
        self.gate = self.again()

    def again(self) -> GpuGate:
        """The gate of an agent that was started anew."""

        async def stop() -> None:
            self.driver.events.append("triton stopped")

        self.gate = GpuGate(self.driver, self.clock, Metrics(), self.folder, stop)
        return self.gate

    def accept(self, seconds: float) -> None:
        self.gate.accept(self.clock.monotonic() + seconds)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **driver: Bench(tmp_path, Driver(**driver))


def run(scenario: Awaitable[None]) -> None:
    async def inside() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(inside())


def reason(error: pytest.ExceptionInfo[WorkerError]) -> str:
    return str(error.value.reason)


def test_ready_after_acceptance_and_not_before(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        await b.gate.settle()
        assert (b.gate.present, b.gate.is_open, b.driver.events) == (True, False, [])
        b.accept(60)
        assert not b.gate.is_open  # the driver was not told yet
        await b.gate.check_open()
        assert (b.gate.is_open, b.driver.events) == (True, ["ready"])
        await b.gate.settle()
        assert b.driver.events == ["ready"]

    run(scenario())


def test_without_gpus_the_gate_stands_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def stop() -> None:
            raise AssertionError("nothing has to be stopped")

        clock = ManualClock(AT)
        gate = GpuGate(NoGpus(), clock, Metrics(), tmp_path, stop)
        assert not gate.is_open  # NVML was not asked yet
        await gate.check_open()
        assert (gate.present, gate.is_open) == (False, True)
        gate.accept(clock.monotonic() + 1)
        assert os.listdir(tmp_path) == []
        clock.advance(2)
        await gate.settle()
        async with gate.passing():
            assert gate.is_open

    run(scenario())


def test_the_end_of_a_result_stops_triton_and_then_the_gpus(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench(once=False)
        await b.gate.settle()
        b.accept(60)
        await b.gate.settle()
        b.clock.advance(59)
        await b.gate.settle()
        assert b.gate.is_open
        b.clock.advance(1)
        await b.gate.settle()
        assert b.driver.events == ["ready", "triton stopped", "triton stopped", "not ready"]
        assert not b.gate.is_open
        with pytest.raises(WorkerError) as refused:
            await b.gate.check_open()
        assert reason(refused) == "AttestationExpired"
        b.accept(60)
        await b.gate.check_open()
        assert (b.gate.is_open, b.driver.is_ready) == (True, True)

    run(scenario())


def test_a_renewal_in_time_changes_nothing(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        b.clock.advance(40)
        b.accept(60)
        b.clock.advance(30)
        await b.gate.settle()
        assert (b.gate.is_open, b.driver.events) == (True, ["ready"])

    run(scenario())


def test_a_driver_that_lets_them_be_ready_once(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        b.clock.advance(61)
        await b.gate.settle()
        b.accept(60)
        with pytest.raises(WorkerError) as refused:
            await b.gate.settle()
        assert (reason(refused), b.gate.is_open) == ("GpuReadyRefused", False)

    run(scenario())


def test_gpus_that_the_driver_closed_by_itself_are_opened_again_while_a_result_is_valid(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        b.driver.is_ready = False
        with pytest.raises(WorkerError) as refused:
            async with b.gate.passing():
                raise AssertionError("Triton would start")
        assert (reason(refused), b.gate.is_open) == ("GpuNotReady", False)
        await b.gate.settle()
        async with b.gate.passing():
            assert b.driver.is_ready

    run(scenario())


@pytest.mark.parametrize("refusing", [False, True])
def test_gpus_that_are_ready_before_any_acceptance(bench: Callable[..., Bench], refusing: bool) -> None:
    async def scenario() -> None:
        b = bench(ready=True)
        if refusing:
            b.driver.failing = {"set_ready"}
            with pytest.raises(WorkerError) as refused:
                await b.gate.settle()
            assert reason(refused) == "GpuReadyTooEarly"
            assert "nvrc.smi.srs" in refused.value.remedy
            assert not b.gate.is_open
            return
        await b.gate.settle()
        assert b.driver.events == ["triton stopped", "not ready"]

    run(scenario())


def test_a_new_agent_keeps_what_its_forerunner_was_allowed(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        b.clock.advance(30)
        gate = b.again()
        await gate.settle()
        assert b.driver.events == ["ready"]  # they stay ready
        assert not gate.is_open  # and nothing starts on them before this agent was accepted, too
        b.accept(60)
        await gate.settle()
        assert gate.is_open

    run(scenario())


def test_the_file_alone_makes_nothing_ready(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)  # killed before it told the driver
        gate = b.again()
        await gate.settle()
        assert (b.driver.events, gate.is_open) == ([], False)

    run(scenario())


def test_a_volume_that_cannot_be_written_stops_nothing(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.gate.folder = b.folder / "none"
        b.accept(60)
        await b.gate.settle()
        assert (b.gate.is_open, b.driver.is_ready) == (True, True)

    run(scenario())


def test_a_new_agent_takes_back_what_has_ended(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        b.clock.advance(61)
        await b.again().settle()
        assert b.driver.events == ["ready", "triton stopped", "not ready"]

    run(scenario())


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1e999", "\N{SNOWMAN}"])
def test_a_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / readiness.FILE).write_text(text)
    assert Bench(tmp_path, Driver()).gate.seconds_left == -math.inf
    (tmp_path / readiness.FILE).write_text("12.5")
    assert Bench(tmp_path, Driver()).gate.seconds_left == 12.5


def test_without_a_valid_result_triton_is_stopped_even_if_nvml_fails(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        b.driver.failing = {"ready"}
        with pytest.raises(WorkerError):
            await b.gate.settle()
        assert b.gate.is_open  # a valid result, and a call that failed: Triton goes on
        b.clock.advance(61)
        with pytest.raises(WorkerError):
            await b.gate.settle()
        assert (b.gate.is_open, b.driver.events[-1]) == (False, "triton stopped")
        b.driver.failing = set()
        await b.gate.settle()
        assert not b.driver.is_ready

    run(scenario())


def test_a_new_agent_stops_the_triton_of_its_forerunner_even_if_nvml_fails(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.check_open()
        b.driver.events.clear()
        b.driver.failing.add("ready")
        b.again()
        with pytest.raises(WorkerError):
            await b.gate.settle()
        assert b.driver.events == []  # the twin: the last result is valid still
        b.clock.advance(61)
        with pytest.raises(WorkerError):
            await b.gate.settle()
        assert b.driver.events == ["triton stopped"]

    run(scenario())


def test_the_gate_does_not_close_while_triton_is_started(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench()
        b.accept(60)
        await b.gate.settle()
        async with b.gate.passing():
            b.clock.advance(61)
            closing = asyncio.create_task(b.gate.settle())
            await asyncio.sleep(0.02)
            assert b.driver.events == ["ready"]
            b.driver.events.append("triton started")
        await closing
        assert b.driver.events[1:] == ["triton started", "triton stopped", "triton stopped", "not ready"]

    run(scenario())


STEPS = st.lists(st.sampled_from(["settle", "accept", "advance", "restart", "driver closes", "fail", "heal"]), max_size=30)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, once=st.booleans(), early=st.booleans())
def test_ready_only_with_a_valid_result_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], once: bool, early: bool
) -> None:
    """After each look at the gate: open, or ready by the agent's word, means that a result is valid."""

    async def scenario() -> None:
        b = Bench(tmp_path_factory.mktemp("gate"), Driver(ready=early, once=once))
        for step in steps:
            if step == "accept":
                b.accept(10)
            elif step == "advance":
                b.clock.advance(6)
            elif step == "restart":
                b.again()
            elif step == "driver closes":
                b.driver.is_ready = False
            elif step in ("fail", "heal"):
                b.driver.failing = {"set_ready"} if step == "fail" else set()
            try:
                await b.gate.settle()
            except WorkerError:
                assert step == "fail" or b.driver.failing or b.driver.spent
            if b.gate.is_open:
                assert b.gate.seconds_left > 0
                assert b.driver.is_ready
            if b.gate.seconds_left <= 0 and not b.driver.failing and not b.driver.spent:
                assert not b.driver.is_ready

    run(scenario())
