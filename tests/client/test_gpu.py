"""A client judges a worker's GPUs by its own policy: over its own nonce, bound by the quote."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import binding
from chrysalis.attestation.gpu import evidence as gpu_evidence
from chrysalis.client.reasons import ClientError
from chrysalis.client.session import Client
from chrysalis.client.verification import VerifiedWorker, verify_worker
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.bundle import BundleFile, to_bytes
from chrysalis.wire.bundle_answers import KeysOf
from chrysalis.wire.bundle_judgement import Expectations
from chrysalis.wire.bundle_judgement import judge as judge_bundle
from chrysalis.wire.gpu_service_settings import GpuServiceSettings
from chrysalis.wire.gpu_services import GpuServices
from e2e.gpu_services.faults import Fault
from e2e.gpu_services.server import ATTEST, JWKS, OCSP, SimulatedGpuServices
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
        *,
        rules: bool = True,
        shape: ReportShape = GOOD,
        sent: bool = True,
        bound: bool = True,
        own_nonce: bool = True,
        services: GpuServices | None = None,
        bends: Callable[[Any], None] = lambda worker: None,
        **more: Any,
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
        bends(worker)
        spec = worker.policy().to_json_dict() | ({"gpu": POOL.rules() | more} if rules else {})
        return verify_worker(
            worker.document(nonce),
            nonce=nonce,
            certificate_der=worker.certificate.public_bytes(serialization.Encoding.DER),
            spki_sha256=worker.spki,
            policy=AttestationPolicySpec.model_validate(spec),
            at=worker.now,
            model_digest=worker.identity.model.digest,
            gpu_services=services,
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


# NVIDIA's services

BOTH = {"backend": "NRAS", "revocation": "Required"}


@pytest.fixture
def nvidia(tmp_path: Path) -> Iterator[SimulatedGpuServices]:
    with SimulatedGpuServices(SystemClock(), tmp_path) as running:
        running.ocsp.tell(DEVICE)
        yield running


def asking(nvidia: SimulatedGpuServices, **changes: Any) -> GpuServices:
    return GpuServices(GpuServiceSettings.model_validate(nvidia.settings(**changes)), SystemClock())


def test_the_client_asks_nvidias_services_itself(judge: Judge, nvidia: SimulatedGpuServices) -> None:
    worker = judge(services=asking(nvidia), **BOTH)
    assert worker.gpu is not None
    assert (worker.gpu.accepted, worker.gpu.revocation, worker.gpu.service) == (True, "Good", nvidia.nras.issuer)
    assert worker.gpu.gpus[0].comparison == "MatchedByService"
    assert nvidia.asked == {ATTEST: 1, JWKS: 1, OCSP: 3}
    nvidia.asked.clear()
    assert judge(services=asking(nvidia)).gpu is not None
    assert nvidia.asked == {}  # a policy that wants none of it


def test_the_answers_end_the_verification(judge: Judge, nvidia: SimulatedGpuServices) -> None:
    nvidia.nras.life_seconds = 300
    worker = judge(services=asking(nvidia), **BOTH)
    assert worker.limited_by == "nras.exp"
    assert worker.expires_at - worker.judged_at < timedelta(seconds=310)


def test_a_clients_bundle_holds_the_answers(judge: Judge, nvidia: SimulatedGpuServices) -> None:
    worker = judge(services=asking(nvidia), **BOTH)
    file = BundleFile.read(to_bytes(worker.bundle(SystemClock().now())))
    nvidia.asked.clear()
    judgement = judge_bundle(file, Expectations(nras_keys=nvidia.nras.jwks))
    assert judgement.accepted, judgement.to_json()["reasons"]
    assert (judgement.nras, judgement.nras_issuer) == (KeysOf.READER, nvidia.nras.issuer)
    assert judge_bundle(file).nras == KeysOf.BUNDLE
    assert nvidia.asked == {}


@pytest.mark.parametrize(
    ("rules", "left_out", "named"),
    [
        ({"backend": "NRAS"}, {"nras": None}, "gpu.nras"),
        ({"revocation": "Required"}, {"ocsp": None}, "gpu.ocsp"),
    ],
)
def test_without_a_service_the_refusal_names_it(
    judge: Judge, nvidia: SimulatedGpuServices, rules: dict[str, Any], left_out: dict[str, None], named: str
) -> None:
    for services in (None, asking(nvidia, **left_out)):
        with pytest.raises(ClientError) as refused:
            judge(services=services, **rules)
        [reason] = refused.value.reasons
        assert (reason.reason, reason.detail) == ("GpuServiceNotConfigured", named)
        assert "--nras-url" in refused.value.remedy
    assert judge(services=asking(nvidia), **rules).gpu is not None  # the twin


@pytest.mark.parametrize(
    ("path", "fault", "expected"),
    [
        (ATTEST, Fault.FAIL, "GpuServiceUnavailable"),
        (JWKS, Fault.FAIL, "GpuServiceUnavailable"),
        (OCSP, Fault.FAIL, "GpuServiceUnavailable"),
        (ATTEST, Fault.REDIRECT, "GpuServiceUnavailable"),
        (ATTEST, Fault.OTHER_NONCE, "NrasNonceMismatch"),
        (ATTEST, Fault.ALG_NONE, "NrasAlgorithmNotAllowed"),
        (ATTEST, Fault.OTHER_KEY, "NrasSignatureInvalid"),
        (ATTEST, Fault.DENIED, "NrasClaimRefused"),
        (OCSP, Fault.FORGED, "GpuServiceUnavailable"),
        (OCSP, Fault.WRONG_NONCE, "GpuServiceUnavailable"),
    ],
)
def test_a_service_that_answers_badly(judge: Judge, nvidia: SimulatedGpuServices, path: str, fault: Fault, expected: str) -> None:
    nvidia.behave(fault, path)
    with pytest.raises(ClientError) as refused:
        judge(services=asking(nvidia), **BOTH)
    assert [reason.reason for reason in refused.value.reasons] == [expected]
    nvidia.behave()
    assert judge(services=asking(nvidia), **BOTH).gpu is not None


def test_a_revoked_certificate(judge: Judge, nvidia: SimulatedGpuServices) -> None:
    nvidia.ocsp.revoked.add(DEVICE.certificates[2].serial_number)
    with pytest.raises(ClientError) as refused:
        judge(services=asking(nvidia), **BOTH)
    assert "GpuCertificateRevoked" in {reason.reason for reason in refused.value.reasons}


@pytest.mark.parametrize(
    "bend",
    [
        {"own_nonce": False},
        {"bound": False},
        {"sent": False, "bound": False},
        {"shape": ReportShape(driver="1.0")},
        {"bends": lambda worker: worker.bends.update(ear_key=lambda _: Ed25519PrivateKey.generate())},
    ],
)
def test_nvidia_hears_of_no_worker_that_is_refused_for_anything_else(
    judge: Judge, nvidia: SimulatedGpuServices, bend: dict[str, Any]
) -> None:
    with pytest.raises(ClientError):
        judge(services=asking(nvidia), **BOTH, **bend)
    assert nvidia.asked == {}


def test_services_belong_to_the_mode_that_asks(nvidia: SimulatedGpuServices, serve: Any) -> None:
    policy = serve().worker.policy()
    for mode in ("ear", "offline"):
        with pytest.raises(ValueError, match="fresh-quote"):
            Client("https://worker:1", policy=policy, mode=mode, gpu_services=asking(nvidia))
    Client("https://worker:1", policy=policy, gpu_services=asking(nvidia))
