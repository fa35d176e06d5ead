"""The fuzz target of NVIDIA's services' answers (a room of its own beside tests.fuzz.targets)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence

from chrysalis.errors import ChrysalisError


def gpu_answers() -> tuple[Callable[[bytes], object], Sequence[bytes]]:
    """What NVIDIA's services said, as it is stored and stands in a bundle: judged for a GPU that nobody vouched for."""
    from pydantic import ValidationError

    from chrysalis.api.policy_gpu import GpuRules
    from chrysalis.attestation.gpu import nras
    from chrysalis.attestation.gpu.evidence import GpuEvidence
    from chrysalis.clock import ManualClock
    from chrysalis.wire import gpu
    from e2e.gpu_services.nras import SimulatedNras
    from e2e.simtd import gpu as simulated
    from tests.fuzz.material import AT

    vendor, nonce = simulated.SimulatedGpus.create(), bytes(32)
    device = vendor.device()
    sent = [gpu.GpuDevice.of(GpuEvidence(device.report(nonce), device.chain))]
    rules = GpuRules.model_validate(
        {
            "count": 1,
            "architectures": ["Hopper"],
            "driverVersions": [simulated.DRIVER],
            "vbiosVersions": [simulated.VBIOS],
            "ccMode": ["On"],
            "measurements": [],
            "backend": "NRAS",
            "revocation": "Required",
            "trustRoot": {"der": base64.b64encode(vendor.root_der).decode()},
        }
    )
    keys = SimulatedNras(ManualClock(AT)).jwks

    def call(data: bytes) -> None:
        try:
            answers = gpu.GpuAnswers.model_validate_json(data)
        except ValidationError:
            return
        try:
            nras.key_ids(answers.nras)
        except ChrysalisError:
            pass
        if gpu.appraise(sent, rules=rules, nonce=nonce, at=AT, answers=answers, nras_keys=keys).accepted:
            raise AssertionError("answers that the key of the service did not sign were accepted")

    other = SimulatedNras(ManualClock(AT))
    body = {"nonce": nonce.hex(), "arch": "HOPPER", "claims_version": "3.0", "evidence_list": [device.evidence(nonce)]}
    said = (other.answer(json.dumps(body).encode()) or b"").decode()
    ocsp = gpu.GpuAnswers.of_ocsp([device.ocsp(AT, place) for place in (1, 2, 3)])
    good = gpu.GpuAnswers(nras=said, nras_keys=other.jwks, nras_issuer=other.issuer, ocsp=ocsp)
    return call, [good.model_dump_json(by_alias=True).encode()]
