"""attest.gpu: one Hopper GPU's report judged under a policy, its measurements compared with driver and VBIOS reference values.

A broker meets the same device again and again, so its chain's signatures are kept by the chain's bytes; both times are measured.
The signatures of the authorities above, which all devices share, are kept by their own bytes.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from datetime import UTC, datetime

from bench import Row
from chrysalis.api.policy_gpu import GpuRules
from chrysalis.attestation.gpu import chain, evidence, rim
from chrysalis.attestation.gpu.appraisal import appraise_gpus
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import RimShape, SimulatedGpus

IDS = ("attest.gpu", "attest.gpu-again")
ROUNDS = 100
REACH_MS = 4.0
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))


def measure() -> list[Row]:
    """CPU time of whole appraisals, from the evidence's JSON to the verdict."""
    vendor = SimulatedGpus.create()
    text = json.dumps([vendor.device().evidence(NONCE)])
    shapes = (RimShape(), RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES))
    root = rim.root_digest(vendor.rim_root_der)
    references = [rim.digest(vendor.rim(shape), at=AT, root_sha256=root).to_json_dict() for shape in shapes]
    document = {
        "count": 1,
        "architectures": ["Hopper"],
        "driverVersions": [simulated.DRIVER],
        "vbiosVersions": [simulated.VBIOS],
        "ccMode": ["On"],
        "measurements": references,
        "trustRoot": {"der": base64.b64encode(vendor.root_der).decode()},
    }
    rules = GpuRules.model_validate(document)
    anew = [_milliseconds(text, rules, anew=True) for _ in range(ROUNDS)]
    again = [_milliseconds(text, rules, anew=False) for _ in range(ROUNDS)]
    return [_row(IDS[0], anew, REACH_MS), _row(IDS[1], again, None)]


def _milliseconds(text: str, rules: GpuRules, *, anew: bool) -> float:
    if anew:
        chain.read.cache_clear()
    started = time.process_time_ns()
    verdict = appraise_gpus(evidence=evidence.from_json(text), rules=rules, nonce=NONCE, at=AT)
    spent = (time.process_time_ns() - started) / 1e6
    if not verdict.accepted or verdict.gpus[0].compared != len(simulated.DRIVER_INDICES) + len(simulated.VBIOS_INDICES):
        raise RuntimeError("the report was not accepted, so its time would say nothing")
    return spent


def _row(name: str, rounds: list[float], reach: float | None) -> Row:
    value = statistics.median(rounds)
    return Row(
        id=name,
        value=value,
        unit="ms CPU",
        reference=f"median of {len(rounds)}, fastest {min(rounds):.2f} ms; device's chain {'verified anew' if reach else 'at hand'}",
        ratio=None,
        reach=None if reach is None else f"≤ {reach:.0f} ms",
        ok=None if reach is None else value <= reach,
    )
