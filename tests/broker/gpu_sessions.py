"""What a worker with simulated GPUs sends to the broker of the conftest, and rules that accept it."""

from __future__ import annotations

import base64
import json
from typing import Any

from chrysalis.api import initdata as initdata_form
from chrysalis.api.policy_gpu import GpuReferenceValues
from chrysalis.attestation import binding
from chrysalis.attestation.gpu import evidence as gpu_evidence
from chrysalis.attestation.gpu import rim
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import Evidence
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import GOOD, ReportShape, RimShape, SimulatedDevice, SimulatedGpus

VENDOR = SimulatedGpus.create()
Domain = Any
"""The conftest's."""


def reference_values() -> list[dict[str, Any]]:
    """Of the simulated driver and VBIOS."""
    shapes = (RimShape(), RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES))
    root = rim.root_digest(VENDOR.rim_root_der)
    values: list[GpuReferenceValues] = [rim.digest(VENDOR.rim(shape), at=None, root_sha256=root) for shape in shapes]
    return [one.to_json_dict() for one in values]


def accepting(references: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Rules that accept one simulated Hopper."""
    return {
        "count": 1,
        "architectures": ["Hopper"],
        "driverVersions": [simulated.DRIVER],
        "vbiosVersions": [simulated.VBIOS],
        "ccMode": ["On"],
        "measurements": references,
        "trustRoot": {"der": base64.b64encode(VENDOR.root_der).decode()},
    } | changes


def session_parts(domain: Domain, nonce: str) -> dict[str, Any]:
    identity = initdata_form.parse(domain.toml).identity
    return {
        "nonce": bytes.fromhex(nonce),
        "tls_spki_sha256": domain.tls_spki,
        "hpke": bytes.fromhex(domain.keys.hpke),
        "receipt": bytes.fromhex(domain.keys.receipt),
        "identity": {"measured": identity.to_json_dict(), "claimed": domain.claimed.to_json_dict()},
    }


def session_evidence(
    domain: Domain, *devices: SimulatedDevice, shape: ReportShape = GOOD, gpu_nonce: bytes | None = None, bound: bool = True
) -> Evidence:
    """What a worker with these GPUs sends; gpu_nonce: instead of the session's; bound: whether the quote covers the reports."""
    nonce = domain.world.challenge()
    parts = session_parts(domain, nonce)
    asked = binding.gpu_nonce(**parts) if gpu_nonce is None else gpu_nonce
    listed = [gpus.GpuDevice.of(one) for device in devices for one in gpu_evidence.from_json(json.dumps([device.evidence(asked, shape)]))]
    report_data = binding.bind(**parts, gpu_digest=gpus.digest(listed) if bound else b"").report_data
    made: Evidence = domain.evidence(nonce=nonce, report_data=report_data)
    return made.model_copy(update={"gpu": listed})
