"""Simulated devices and a set of rules that accepts them; tests change one thing each."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pytest

from chrysalis.api.policy_gpu import GpuReferenceValues, GpuRules
from chrysalis.attestation.gpu import evidence, rim
from chrysalis.attestation.gpu.appraisal import appraise_gpus
from chrysalis.attestation.gpu.evidence import GpuEvidence
from chrysalis.attestation.gpu.verdict import GpuVerdict
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import GOOD, ReportShape, RimShape, SimulatedDevice, SimulatedGpus

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))


@dataclass(frozen=True)
class World:
    """One vendor, devices of each kind, and the reference values of what runs on them."""

    vendor: SimulatedGpus
    hopper: tuple[SimulatedDevice, ...]
    blackwell: SimulatedDevice
    switches: tuple[SimulatedDevice, ...]

    @cached_property
    def references(self) -> list[GpuReferenceValues]:
        shapes = [
            RimShape(),
            RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES),
            RimShape(architecture=simulated.BLACKWELL),
            RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES, architecture=simulated.BLACKWELL),
            RimShape(version=simulated.SWITCH_BIOS, indices=simulated.VBIOS_INDICES, architecture=simulated.LS10),
        ]
        root = rim.root_digest(self.vendor.rim_root_der)
        return [rim.digest(self.vendor.rim(shape), at=AT, root_sha256=root) for shape in shapes]

    def rules(self, **changes: Any) -> GpuRules:
        """Rules that accept one Hopper in mode On."""
        document = {
            "count": 1,
            "architectures": ["Hopper", "Blackwell"],
            "driverVersions": [simulated.DRIVER],
            "vbiosVersions": [simulated.VBIOS],
            "ccMode": ["On"],
            "measurements": [reference.to_json_dict() for reference in self.references],
            "trustRoot": {"der": base64.b64encode(self.vendor.root_der).decode()},
        }
        return GpuRules.model_validate(document | changes)

    def evidence(self, device: SimulatedDevice | None = None, shape: ReportShape = GOOD, nonce: bytes = NONCE) -> GpuEvidence:
        """One device's evidence as the SDK writes it, read back."""
        entry = (device or self.hopper[0]).evidence(nonce, shape)
        return evidence.from_json(json.dumps([entry]))[0]

    def judge(self, devices: Sequence[GpuEvidence] | None = None, **changes: Any) -> GpuVerdict:
        """appraise_gpus over evidence that the rules accept; keyword arguments replace parts."""
        known: dict[str, Any] = {"evidence": [self.evidence()] if devices is None else devices, "nonce": NONCE, "at": AT}
        if "rules" not in changes:
            known["rules"] = self.rules()
        return appraise_gpus(**(known | changes))

    def fabric(self, gpus: int = 2) -> list[GpuEvidence]:
        """GPUs in protected-PCIe mode and two switches that name each other."""
        devices = [self.vendor.device() for _ in range(gpus)]
        to_switches = tuple(switch.pdi for switch in self.switches for _ in range(3))
        to_gpus = tuple(device.pdi for device in devices)
        gpu_shape = ReportShape(feature_flag=2, protected_pcie=0xAA, links=to_switches)
        switch_shape = ReportShape(vbios=simulated.SWITCH_BIOS, links=to_gpus)
        found = [self.evidence(device, gpu_shape) for device in devices]
        return found + [self.evidence(switch, switch_shape) for switch in self.switches]

    def fabric_rules(self, gpus: int = 2, **changes: Any) -> GpuRules:
        """Rules that accept `fabric`."""
        switch = {"count": len(self.switches), "biosVersions": [simulated.SWITCH_BIOS]}
        return self.rules(**{"count": gpus, "ccMode": ["ProtectedPCIe"], "nvswitch": switch, **changes})


@pytest.fixture(scope="session")
def world() -> World:
    vendor = SimulatedGpus.create()
    switches = (vendor.device(simulated.LS10), vendor.device(simulated.LS10))
    return World(vendor, (vendor.device(), vendor.device()), vendor.device(simulated.BLACKWELL), switches)


@pytest.fixture
def reasons() -> Callable[[GpuVerdict], list[str]]:
    return lambda verdict: [finding.reason.value for finding in verdict.reasons]
