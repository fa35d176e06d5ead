"""NvmlGpus through the real dynamic linker and NVIDIA's binding: what is evidence, what is no GPU, and what is an error."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from chrysalis.api.policy_gpu import GpuRules
from chrysalis.attestation.gpu import spdm
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu as gpus
from chrysalis_worker.evidence import NoGpus
from chrysalis_worker.nvml import NvmlGpus
from chrysalis_worker.reasons import WorkerError
from e2e.simtd import nvml
from e2e.simtd.gpu import ReportShape
from e2e.simtd.nvml import SimulatedDriver
from tests.worker.nvml_guest import DEVICES, POOL, PORT_VARIABLE, NvmlGuest, loaded, nvml_guest

pytestmark = pytest.mark.slow

NONCE = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[NvmlGuest]:
    with loaded(monkeypatch, SimulatedDriver(DEVICES)) as served:
        yield served


def evidence(*, seconds: float = 5.0) -> list[gpus.GpuDevice]:
    return asyncio.run(NvmlGpus(seconds=seconds).gpus(NONCE))


def refused(ask: Callable[[], Any] = evidence) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        ask()
    assert caught.value.remedy
    return caught.value


def test_every_gpu_gives_evidence_that_its_rules_accept(guest: NvmlGuest) -> None:
    devices = evidence()
    rules = GpuRules.model_validate(POOL.rules())
    verdict = gpus.appraise(devices, rules=rules, nonce=NONCE, at=SystemClock().now())
    assert (verdict.accepted, len(verdict.gpus), verdict.evidence_class) == (True, 2, "Simulated")
    assert not gpus.appraise(devices, rules=rules, nonce=bytes(32), at=SystemClock().now()).accepted
    assert [base64.b64decode(device.chain) for device in devices] == [device.chain for device in DEVICES]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_as_many_as_nvml_lists(guest: NvmlGuest, count: int) -> None:
    guest.driver = SimulatedDriver(DEVICES[:count])
    assert len(evidence()) == count
    assert asyncio.run(NvmlGpus().ready()) is (False if count else None)


def test_a_domain_without_gpus() -> None:
    assert asyncio.run(NoGpus().gpus(NONCE)) == []
    assert asyncio.run(NoGpus().ready()) is None
    with pytest.raises(ValueError, match="no GPUs"):
        asyncio.run(NoGpus().set_ready(True))


PROGRAM = """
import asyncio, json, pathlib, sys
from chrysalis_worker.nvml import NvmlGpus
from chrysalis_worker.reasons import WorkerError
try:
    print(json.dumps({"gpus": len(asyncio.run(NvmlGpus(device_files=pathlib.Path(sys.argv[1])).gpus(bytes(32))))}))
except WorkerError as error:
    print(json.dumps(error.as_dict()))
"""


def in_a_process_of_its_own(folder: Path, *, port: int = 9) -> dict[str, Any]:
    """What a worker gets that finds libraries in folder/lib and device files in folder/dev."""
    variables = {
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'worker-image'}",
        PORT_VARIABLE: str(port),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder / "dev"], capture_output=True, text=True, env=variables, timeout=30)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("lib", "dev"):
        (tmp_path / name).mkdir()
    return tmp_path


def compiled(folder: Path, source: str, *words: str) -> None:
    """A library of NVML's name from this source."""
    (folder / "x.c").write_text(source)
    place = folder / "lib/libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", place, folder / "x.c", *words], check=True, cwd=folder)


def test_without_the_library_there_are_no_gpus(folder: Path) -> None:
    assert in_a_process_of_its_own(folder) == {"gpus": 0}


def test_devices_without_the_library_are_an_error(folder: Path) -> None:
    (folder / "dev/nvidia0").touch()
    said = in_a_process_of_its_own(folder)
    assert said["reason"] == "GpuLibraryFailed"
    assert "device files: nvidia0" in said["detail"]


def test_the_library_of_a_guest_is_found_by_its_name(folder: Path) -> None:
    (folder / "lib/libnvidia-ml.so.1").symlink_to(nvml.library())
    with nvml_guest(SimulatedDriver(DEVICES)) as served:
        assert in_a_process_of_its_own(folder, port=served.port) == {"gpus": 2}
        assert served.asked.count("report") == 2


def test_a_library_that_is_none(folder: Path) -> None:
    (folder / "lib/libnvidia-ml.so.1").write_text("not a library\n")
    said = in_a_process_of_its_own(folder)
    assert (said["reason"], said["message"]) == ("GpuLibraryFailed", "the domain's NVML cannot be loaded")


def test_a_library_that_lacks_another(folder: Path) -> None:
    """The linker's words for it differ from those for a missing NVML in the name alone."""
    compiled(folder, "int other(void) { return 0; }")
    (folder / "lib/libnvidia-ml.so.1").rename(folder / "libother.so")
    compiled(folder, "int other(void); int nvmlInitWithFlags(unsigned f) { return other(); }", "-L.", "-lother")
    said = in_a_process_of_its_own(folder)
    assert said["reason"] == "GpuLibraryFailed"
    assert "libother.so: cannot open shared object file" in said["detail"]


def test_a_library_without_the_calls(folder: Path) -> None:
    compiled(folder, "int nothing;")
    said = in_a_process_of_its_own(folder)
    assert (said["reason"], "FunctionNotFound" in said["message"]) == ("GpuLibraryFailed", True)


def test_a_driver_that_does_not_answer(folder: Path) -> None:
    (folder / "lib/libnvidia-ml.so.1").symlink_to(nvml.library())
    said = in_a_process_of_its_own(folder)
    assert (said["reason"], "DriverNotLoaded (9)" in said["message"]) == ("GpuLibraryFailed", True)


CODES = [*sorted({getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_ERROR_")}), 12345]


@pytest.mark.parametrize("call", ["system", "certificates", "report"])
def test_no_error_is_no_gpu(guest: NvmlGuest, call: str) -> None:
    for code in CODES:
        guest.driver.returns = {call: code}
        error = refused()
        assert (error.reason, f"{code}" in error.message) == ("GpuLibraryFailed", True), (code, error)
    guest.driver.returns = {}
    assert len(evidence()) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"devtools": True}, "GpuDevtoolsMode"),
        ({"confidential": False}, "GpuConfidentialComputingOff"),
        ({"confidential": False, "protected_pcie": True}, ""),
        ({"protected_pcie": True}, ""),
        ({"protected_pcie": True, "devtools": True}, "GpuDevtoolsMode"),
    ],
)
def test_modes(guest: NvmlGuest, changes: dict[str, Any], reason: str) -> None:
    guest.driver = SimulatedDriver(DEVICES, **changes)
    if not reason:
        assert len(evidence()) == 2
        assert asyncio.run(NvmlGpus().ready()) is False
        return
    assert refused().reason == reason
    assert refused(lambda: asyncio.run(NvmlGpus().ready())).reason == reason
    assert "report" not in guest.asked


def test_a_driver_that_knows_the_older_call_only(guest: NvmlGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlSystemGetConfComputeSettings", missing)
    assert len(evidence()) == 2
    guest.driver = SimulatedDriver(DEVICES, devtools=True)
    assert refused().reason == "GpuDevtoolsMode"


REPORT_BYTES = len(DEVICES[0].report(NONCE))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({}, ""),
        ({"report": REPORT_BYTES + 8}, ""),  # zeros behind it, as tools pad
        ({"report": 0x2000}, ""),
        ({"report": 0}, "states 0 bytes for the report"),
        ({"report": 0x2001}, "states 8193 bytes for the report of GPU 0, in a field of 8192"),
        ({"report": 0xFFFFFFFF}, "states 4294967295 bytes"),
        ({"report": REPORT_BYTES - 1}, "the report ends within the signature"),
        ({"report": 36}, "the report ends within"),
        ({"certificates": 0}, "states 0 bytes for the certificates"),
        ({"certificates": 0x1401}, "in a field of 5120"),
        ({"certificates": 100}, "the evidence of GPU 0 is not what NVML's fields hold"),
        ({"certificates": 0x1400}, ""),
    ],
)
def test_lengths(guest: NvmlGuest, sizes: dict[str, int], words: str) -> None:
    guest.driver.sizes = sizes
    if not words:
        assert len(evidence()) == 2
        return
    error = refused()
    assert error.reason == "GpuEvidenceInvalid"
    assert words in error.message


def test_a_report_over_another_nonce(guest: NvmlGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    report = DEVICES[0].report(bytes(32))
    monkeypatch.setattr(SimulatedDriver, "_report", lambda self, device, nonce: report)
    error = refused()
    assert (error.reason, error.message) == ("GpuEvidenceInvalid", "the report of GPU 0 is over another nonce")
    assert spdm.parse(report).nonce != NONCE
    with pytest.raises(ValueError, match="32 bytes"):
        asyncio.run(NvmlGpus().gpus(b"short"))


def test_a_report_of_another_shape_is_passed_on_unjudged(guest: NvmlGuest) -> None:
    guest.driver.shape = ReportShape(driver="1.2")
    devices = evidence()
    assert not gpus.appraise(devices, rules=GpuRules.model_validate(POOL.rules()), nonce=NONCE, at=SystemClock().now()).accepted


def test_a_call_that_hangs_is_given_up_and_not_made_again(guest: NvmlGuest) -> None:
    async def scenario() -> None:
        source = NvmlGpus()
        assert len(await source.gpus(NONCE)) == 2
        source._seconds = 0.2
        guest.returning.clear()
        beats, answered = 0, guest.answered

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        beating = asyncio.create_task(beat())
        for _ in range(2):
            with pytest.raises(WorkerError) as caught:
                await source.gpus(NONCE)
            assert caught.value.reason == "GpuLibraryTimeout"
        beating.cancel()
        assert "has not returned yet" in caught.value.message
        assert guest.answered == answered  # it was not waited for
        assert beats >= 5  # the event loop went on
        calls = len(guest.asked)
        with pytest.raises(WorkerError):
            await source.ready()
        assert len(guest.asked) == calls
        guest.returning.set()
        source._seconds = 60
        async with asyncio.timeout(60):
            while True:
                try:
                    assert len(await source.gpus(NONCE)) == 2
                    return
                except WorkerError:
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(6))  # of the loop, between the answer and the cancellation: one of them is the moment
def test_a_cancellation_in_the_moment_of_an_answer_counts(turns: int) -> None:
    async def forever(call: Callable[[], int]) -> None:
        source = NvmlGpus(seconds=60)
        while True:
            await source._call("nvmlSimulated", call)

    async def scenario() -> None:
        called, returning = threading.Event(), threading.Event()

        def call() -> int:
            called.set()
            return int(returning.wait(60))

        watching = asyncio.create_task(forever(call))
        await asyncio.to_thread(called.wait)
        [thread] = [one for one in threading.enumerate() if one.name == "nvmlSimulated"]
        returning.set()
        thread.join(60)  # the loop stands still meanwhile: the answer is there, and nobody has heard of it
        for _ in range(turns):
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait({watching}, timeout=10)
        assert watching.cancelled()

    asyncio.run(scenario())


def test_a_cancelled_call_does_not_let_another_pass(guest: NvmlGuest) -> None:
    async def scenario() -> None:
        source = NvmlGpus(seconds=60)
        guest.returning.clear()
        asking = asyncio.create_task(source.gpus(NONCE))
        await asyncio.to_thread(guest.called.wait)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        with pytest.raises(WorkerError, match="has not returned yet"):
            await source.gpus(NONCE)

    asyncio.run(scenario())


def test_the_ready_state(guest: NvmlGuest) -> None:
    async def scenario() -> None:
        source = NvmlGpus()
        assert await source.ready() is False
        await source.set_ready(True)
        assert (await source.ready(), guest.driver.ready) == (True, True)
        await source.set_ready(False)
        assert (await source.ready(), guest.driver.history) == (False, [True, False])
        with pytest.raises(WorkerError) as caught:
            await source.set_ready(True)
        assert caught.value.reason == "GpuReadyRefused"
        assert "once in its life" in caught.value.remedy

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("returns", "reason", "words"),
    [
        ({"ready": pynvml.NVML_ERROR_NO_PERMISSION}, "GpuReadyRefused", "CAP_SYS_ADMIN"),
        ({"ready": pynvml.NVML_ERROR_UNKNOWN}, "GpuReadyRefused", "kernel log"),
        ({"system": pynvml.NVML_ERROR_GPU_IS_LOST}, "GpuLibraryFailed", "delete the pod"),
    ],
)
def test_a_ready_state_that_cannot_be_set(guest: NvmlGuest, returns: dict[str, int], reason: str, words: str) -> None:
    guest.driver.returns = returns
    error = refused(lambda: asyncio.run(NvmlGpus().set_ready(True)))
    assert error.reason == reason
    assert words in error.remedy
    guest.driver.returns = {}
    asyncio.run(NvmlGpus().set_ready(True))


def test_a_driver_that_says_yes_and_does_nothing(guest: NvmlGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedDriver, "_set", lambda self, ready: 0)
    error = refused(lambda: asyncio.run(NvmlGpus().set_ready(True)))
    assert (error.reason, "says that they are not" in error.message) == ("GpuReadyRefused", True)


def test_nothing_is_made_ready_where_there_is_no_gpu(guest: NvmlGuest) -> None:
    guest.driver = SimulatedDriver(())
    assert refused(lambda: asyncio.run(NvmlGpus().set_ready(True))).reason == "GpuLibraryFailed"
