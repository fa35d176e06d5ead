"""A client judges a worker's GPUs by its own policy: over its own nonce, bound by the quote."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import binding
from chrysalis.attestation.gpu import evidence as gpu_evidence
from chrysalis.client.reasons import ClientError
from chrysalis.client.verification import VerifiedWorker, verify_worker
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import AttestationDocument
from e2e.simtd.gpu import GOOD, ReportShape
from e2e.simtd.gpu_pool import GpuPool

POOL = GpuPool(1)
[DEVICE] = POOL.take()
Judge = Callable[..., VerifiedWorker]


@pytest.fixture
def judge(serve: Any) -> Judge:
    """verify_worker over a worker with one GPU; what a test says is bent."""
    worker = serve().worker

    def run(
        *, rules: bool = True, shape: ReportShape = GOOD, sent: bool = True, bound: bool = True, own_nonce: bool = True
    ) -> VerifiedWorker:
        nonce = secrets.token_bytes(32)

        def with_gpu(document: AttestationDocument) -> AttestationDocument:
            evidence = document.evidence
            parts = {
                "nonce": nonce,
                "tls_spki_sha256": worker.spki,
                "hpke": bytes(32),
                "receipt": bytes.fromhex(evidence.keys.receipt),
                "identity": {"measured": worker.identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
            }
            asked = binding.gpu_nonce(**parts) if own_nonce else bytes(32)
            listed = [gpus.GpuDevice.of(one) for one in gpu_evidence.from_json(json.dumps(DEVICE.evidence(asked, shape)))]
            made = binding.bind(**parts, gpu_digest=gpus.digest(listed) if bound else b"")
            quoted = base64.b64encode(worker.quote(made.report_data)).decode()
            changed = evidence.model_copy(update={"gpu": listed if sent else [], "quote": quoted})
            claims = base64.b64encode(made.claims_buffer).decode()
            return document.model_copy(update={"evidence": changed, "claims_buffer": claims})

        worker.bends["document"] = with_gpu
        spec = worker.policy().to_json_dict() | ({"gpu": POOL.rules()} if rules else {})
        return verify_worker(
            worker.document(nonce),
            nonce=nonce,
            certificate_der=worker.certificate.public_bytes(serialization.Encoding.DER),
            spki_sha256=worker.spki,
            policy=AttestationPolicySpec.model_validate(spec),
            at=worker.now,
            model_digest=worker.identity.model.digest,
        )

    return run


def test_accepted(judge: Judge) -> None:
    assert judge().verdict.accepted
    assert judge(rules=False).verdict.accepted  # bound, not judged


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        ({"shape": ReportShape(devtools=True)}, "GpuMeasurementMismatch"),
        ({"own_nonce": False}, "GpuNonceMismatch"),
        ({"bound": False}, "ReportDataMismatch"),
        ({"sent": False, "bound": False}, "GpuEvidenceMissing"),
        ({"sent": False}, "ReportDataMismatch"),
        ({"rules": False, "bound": False}, "ReportDataMismatch"),
    ],
)
def test_refused(judge: Judge, bend: dict[str, Any], reason: str) -> None:
    with pytest.raises(ClientError) as refused:
        judge(**bend)
    assert refused.value.reason == "EvidenceRefused"
    assert reason in refused.value.message
