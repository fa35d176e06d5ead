"""Simulated GPUs for the domains of a simulated platform, and the policy rules that accept them."""

from __future__ import annotations

import base64
from typing import Any

from chrysalis.attestation.gpu import rim
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import RimShape, SimulatedDevice, SimulatedGpus


class GpuPool:
    """One vendor; every domain gets devices of its own."""

    def __init__(self, each: int) -> None:
        """each: how many GPUs a domain has."""
        self._each = each
        self._vendor = SimulatedGpus.create()

    def take(self) -> tuple[SimulatedDevice, ...]:
        """The devices of one more domain."""
        return tuple(self._vendor.device() for _ in range(self._each))

    def rules(self) -> dict[str, Any]:
        """`gpu` of a policy that accepts these devices and no others."""
        shapes = (RimShape(), RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES))
        root = rim.root_digest(self._vendor.rim_root_der)
        values = [rim.digest(self._vendor.rim(shape), at=None, root_sha256=root) for shape in shapes]
        return {
            "count": self._each,
            "architectures": ["Hopper"],
            "driverVersions": [simulated.DRIVER],
            "vbiosVersions": [simulated.VBIOS],
            "ccMode": ["On"],
            "measurements": [one.to_json_dict() for one in values],
            "trustRoot": {"der": base64.b64encode(self._vendor.root_der).decode()},
        }
