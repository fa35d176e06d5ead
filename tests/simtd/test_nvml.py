"""The SimulatedNvml: NVML's ABI as NVIDIA's binding has it, and a driver that answers as one does."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path
from typing import Any

import pynvml
import pytest

from chrysalis.attestation.gpu import chain, spdm
from e2e.simtd import nvml, platform, runtime
from e2e.simtd.gpu_pool import GpuPool
from e2e.simtd.nvml import PATH, SimulatedDriver

POOL = GpuPool(2)
DEVICES = POOL.take()
NONCE = bytes(range(32))
STRUCTURES = (
    pynvml.c_nvmlConfComputeSystemState_t,
    pynvml.c_nvmlSystemConfComputeSettings_v1_t,
    pynvml.c_nvmlConfComputeGpuCertificate_t,
    pynvml.c_nvmlConfComputeGpuAttestationReport_t,
)
NVML_H = (
    *(12, 0, 4, 8),
    *(20, 0, 4, 8, 12, 16),
    *(8 + 0x1000 + 0x1400, 0, 4, 8, 8 + 0x1000),
    *(12 + 0x20 + 0x2000 + 0x1000, 0, 4, 8, 12, 12 + 0x20, 12 + 0x20 + 0x2000),
)
"""Size and offsets of each of them, after nvml.h."""


def test_the_structures_are_those_of_nvidias_binding() -> None:
    ours = tuple((ctypes.c_uint * len(NVML_H)).in_dll(ctypes.CDLL(str(nvml.library())), "simulated_nvml_layout"))
    theirs: list[int] = []
    for structure in STRUCTURES:
        theirs += [ctypes.sizeof(structure), *(getattr(structure, name).offset for name, _ in structure._fields_)]
    assert ours == tuple(theirs) == NVML_H


def test_it_calls_itself_simulated_and_offers_what_the_worker_calls() -> None:
    library = nvml.library()
    assert library.name == "libnvidia-ml.so.1"
    words = subprocess.run(["strings", "-a", library], capture_output=True, text=True)
    text = words.stdout if words.returncode == 0 else library.read_bytes().decode("latin-1")
    assert "Simulated GPU %d (protects nothing)" in text
    loaded = ctypes.CDLL(str(library))
    source = (Path(__file__).parents[2] / "worker-image/chrysalis_worker/nvml.py").read_text()
    binding = Path(pynvml.__file__).read_text()
    for name in set(re.findall(r"pynvml\.(nvml\w+)\b", source)):
        symbols = re.search(rf'^def {name}\(.*?_nvmlGetFunctionPointer\("(\w+)"\)', binding, re.DOTALL | re.MULTILINE)
        assert symbols, name
        assert getattr(loaded, symbols[1])


def ask(driver: SimulatedDriver, method: str, target: str) -> nvml.Answer:
    return driver.answer(method, PATH + target)


def test_reports_and_chains_are_those_of_the_device() -> None:
    driver = SimulatedDriver(DEVICES)
    assert ask(driver, "GET", "system").body == b"2 1 1 0 0 0"
    report = ask(driver, "GET", f"report?gpu=1&nonce={NONCE.hex()}").body
    assert spdm.parse(report).nonce == NONCE
    attestation = ask(driver, "GET", "certificates?gpu=1&of=attestation").body
    assert attestation == DEVICES[1].chain
    assert len(attestation) <= 0x1400  # NVML's field
    device = ask(driver, "GET", "certificates?gpu=1&of=device").body
    assert [*chain.load(device)] == [*chain.load(attestation)][1:]
    assert len(device) <= 0x1000


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", f"report?gpu=2&nonce={NONCE.hex()}", 400),
        ("GET", f"report?gpu=x&nonce={NONCE.hex()}", 400),
        ("GET", "report?gpu=0&nonce=00", 400),
        ("GET", "report?gpu=0", 400),
        ("GET", "certificates?gpu=0&of=other", 400),
        ("POST", "ready?state=2", 400),
        ("GET", "ready?state=1", 404),
        ("POST", "system", 404),
        ("GET", "", 404),
        ("GET", f"report?gpu=1&nonce={NONCE.hex()}", 200),
    ],
)
def test_what_the_driver_is_not_asked(method: str, target: str, status: int) -> None:
    driver = SimulatedDriver(DEVICES)
    assert ask(driver, method, target).status == status
    assert not driver.history


def test_a_ready_state_that_was_taken_back_is_spent() -> None:
    driver = SimulatedDriver(DEVICES)
    codes = [ask(driver, "POST", f"ready?state={state}").code for state in (0, 1, 1, 0, 1, 0)]
    assert codes == [0, 0, 0, 0, 2, 2]
    assert (driver.ready, driver.history) == (False, [False, True, True, False])
    older = SimulatedDriver(DEVICES, ready_once=False)
    assert [ask(older, "POST", f"ready?state={state}").code for state in (1, 0, 1)] == [0, 0, 0]
    assert older.ready


@pytest.mark.parametrize(
    ("changes", "system", "code"),
    [
        ({}, b"2 1 1 0 0 0", 0),
        ({"devtools": True}, b"2 1 1 1 0 1", 0),  # ready without anybody's word
        ({"protected_pcie": True}, b"2 1 0 0 1 0", 0),
        ({"confidential": False}, b"2 1 0 0 0 0", 3),
        ({"confidential": False, "protected_pcie": True}, b"2 1 0 0 1 0", 0),
    ],
)
def test_modes(changes: dict[str, Any], system: bytes, code: int) -> None:
    driver = SimulatedDriver(DEVICES, **changes)
    assert ask(driver, "GET", "system").body == system
    assert ask(driver, "GET", f"report?gpu=0&nonce={NONCE.hex()}").code == code
    assert ask(driver, "POST", "ready?state=1").code == code


def test_the_library_lies_in_the_shared_folder_only_where_there_are_gpus(tmp_path: Path) -> None:
    platform.lay_nvml(tmp_path, POOL)
    assert (tmp_path / runtime.NVML).read_bytes() == nvml.library().read_bytes()
    platform.lay_nvml(tmp_path, None)
    assert not (tmp_path / runtime.NVML).exists()
