"""NVSwitches: number, BIOS, reference values, and that GPUs and switches name each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chrysalis.attestation.gpu.verdict import GpuVerdict
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import ReportShape

World = Any
Reasons = Callable[[GpuVerdict], list[str]]


def _other(world: World, place: int, **shape: Any) -> GpuVerdict:
    """The fabric with one switch's report in another shape."""
    devices = world.fabric()
    gpus = [device for device in devices if device.stated.architecture != "LS10"]
    links = tuple(bytes.fromhex(pdi) for pdi in world.judge(devices, rules=world.fabric_rules()).switches[0].gpu_pdis)
    switch = world.switches[place]
    devices[len(gpus) + place] = world.evidence(switch, ReportShape(**{"vbios": simulated.SWITCH_BIOS, "links": links, **shape}))
    return world.judge(devices, rules=world.fabric_rules())


def _renamed(opaque: dict[int, bytes]) -> None:
    opaque[22] = b"\7" * 8


def _mis_sized(opaque: dict[int, bytes]) -> None:
    opaque[22] = b"1"


ROWS: dict[str, tuple[str, Callable[[World], GpuVerdict]]] = {
    "no switches": ("NvSwitchMissing", lambda world: world.judge(world.fabric()[:2], rules=world.fabric_rules())),
    "one too few": ("NvSwitchMissing", lambda world: world.judge(world.fabric()[:3], rules=world.fabric_rules())),
    "BIOS": (
        "NvSwitchBiosNotAllowed",
        lambda world: world.judge(world.fabric(), rules=world.fabric_rules(nvswitch={"count": 2, "biosVersions": ["96.10.6D.00.02"]})),
    ),
    "linked to other GPUs": ("NvSwitchTopologyMismatch", lambda world: _other(world, 0, links=(b"\1" * 8, b"\2" * 8))),
    "linked to too few GPUs": ("NvSwitchTopologyMismatch", lambda world: _other(world, 1, links=(b"\1" * 8,))),
    "another switch than the GPUs name": ("NvSwitchTopologyMismatch", lambda world: _other(world, 0, edit_opaque=_renamed)),
    "no identifier": ("NvSwitchTopologyMismatch", lambda world: _other(world, 0, edit_opaque=lambda opaque: opaque.pop(22))),
    "identifier of another size": (
        "GpuReportMalformed",
        lambda world: _other(world, 0, edit_opaque=_mis_sized),
    ),
    "list of GPUs cut": ("GpuReportMalformed", lambda world: _other(world, 0, edit_opaque=lambda opaque: opaque.update({26: bytes(63)}))),
    "measurement": ("GpuMeasurementMismatch", lambda world: _other(world, 0, changed={2: bytes(48)})),
}


def test_the_twin_is_accepted(world: World) -> None:
    verdict = world.judge(world.fabric(), rules=world.fabric_rules())
    assert verdict.accepted
    assert (len(verdict.gpus), len(verdict.switches)) == (2, 2)
    assert sorted(str(switch.device_pdi) for switch in verdict.switches) == verdict.gpus[0].switch_pdis
    assert all(switch.comparison == "Matched" for switch in verdict.switches)


@pytest.mark.parametrize("name", ROWS)
def test_refused_for_this_reason_alone(world: World, reasons: Reasons, name: str) -> None:
    expected, run = ROWS[name]
    assert set(reasons(run(world))) == {expected}


def test_gpus_of_another_machine(world: World, reasons: Reasons) -> None:
    devices = world.fabric()
    stranger = world.evidence(world.hopper[0], ReportShape(feature_flag=2, protected_pcie=0xAA, links=(b"\3" * 8, b"\4" * 8)))
    assert reasons(world.judge([devices[0], stranger, *devices[2:]], rules=world.fabric_rules())) == ["NvSwitchTopologyMismatch"]


def test_switches_in_a_file_of_their_own(world: World, reasons: Reasons) -> None:
    known = {"rules": None, "root": world.vendor.root_der}
    verdict = world.judge(world.fabric()[2:], **known)
    assert (verdict.accepted, len(verdict.gpus), len(verdict.switches), verdict.scope) == (True, 0, 2, "Genuineness")
    assert reasons(world.judge([world.fabric()[2]] * 2, **known)) == ["GpuNotUnique"]
    assert reasons(world.judge(world.fabric()[2:], rules=world.fabric_rules())) == ["GpuEvidenceMissing"]


def test_the_same_switch_twice(world: World, reasons: Reasons) -> None:
    devices = world.fabric()
    found = reasons(world.judge([*devices[:3], devices[2]], rules=world.fabric_rules()))
    assert found == ["GpuNotUnique", "NvSwitchTopologyMismatch"]


def test_switches_that_nobody_asked_for_must_still_be_genuine(world: World, reasons: Reasons) -> None:
    rules = world.fabric_rules(nvswitch=None)
    assert world.judge(world.fabric(), rules=rules).accepted
    devices = world.fabric()
    broken = devices[2].report[:-1] + bytes([devices[2].report[-1] ^ 1])
    devices[2] = type(devices[2])(broken, devices[2].chain)
    assert reasons(world.judge(devices, rules=rules)) == ["GpuSignatureInvalid"]
