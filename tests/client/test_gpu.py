"""A client judges a worker's GPUs by its own policy: over its own nonce, bound by the quote."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import binding
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.attestation.gpu import evidence as gpu_evidence
from chrysalis.cli import infer
from chrysalis.cli.verify_bundle import cautions
from chrysalis.client.answers import from_broker
from chrysalis.client.reasons import ClientError
from chrysalis.client.revocation import RevocationCheck
from chrysalis.client.session import Client
from chrysalis.client.verification import VerifiedWorker, verify_worker
from chrysalis.clock import SystemClock
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import AttestationDocument
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.bundle import Bundle, BundleFile, canonical, to_bytes
from chrysalis.wire.bundle_answers import KeysOf
from chrysalis.wire.bundle_judgement import judge as judge_bundle
from chrysalis.wire.bundle_verdict import Expectations
from chrysalis.wire.gpu_service_settings import GpuServiceSettings
from chrysalis.wire.gpu_services import GpuServices
from chrysalis.wire.reasons import WireError, WireReason
from e2e.gpu_services.faults import Fault
from e2e.gpu_services.server import ATTEST, JWKS, OCSP, SimulatedGpuServices
from e2e.simtd.gpu import GOOD, ReportShape
from e2e.simtd.gpu_pool import GpuPool

CHECK = RevocationCheck(url="https://broker:8443", spki_sha256="00" * 32)
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


@pytest.fixture
def by_ear(judge: Judge, nvidia: SimulatedGpuServices, monkeypatch: pytest.MonkeyPatch) -> tuple[VerifiedWorker, list[Bundle]]:
    """A worker that a client verified by its broker's result, and the bundle that its broker hands over."""
    served: list[Any] = []
    own = judge(services=asking(nvidia), bends=served.append, **BOTH)
    evidence = own.document.evidence
    token = served[0].token(evidence.keys).model_copy(update={"nonce": evidence.nonce})
    own = replace(own, document=own.document.model_copy(update={"ear": token.sign(served[0].ear)}))
    kept = [own.bundle(own.judged_at)]

    async def bundle(_: BrokerClient, result_id: str) -> bytes:
        assert result_id == own.result_id
        return to_bytes(kept[0])

    monkeypatch.setattr(BrokerClient, "bundle", bundle)
    return replace(own, mode=FreshnessMode.EAR, verdict=None, gpu=None, gpu_answers=None, ear=token), kept


def test_a_bundle_of_a_client_that_had_its_brokers_word_says_what_is_absent(by_ear: tuple[VerifiedWorker, list[Bundle]]) -> None:
    worker, _ = by_ear
    judgement = judge_bundle(BundleFile.read(to_bytes(worker.bundle(worker.judged_at))))
    assert {reason["reason"] for reason in judgement.to_json()["reasons"]} == {"NrasAnswerMissing", "GpuRevocationNotChecked"}
    assert judgement.to_json()["recordedVerification"]["gpuAnswers"] == "Absent"
    assert any("the broker's own bundle" in caution for caution in cautions(judgement))


def test_the_broker_hands_its_answers_over(by_ear: tuple[VerifiedWorker, list[Bundle]], nvidia: SimulatedGpuServices) -> None:
    worker, kept = by_ear
    nvidia.asked.clear()
    answered = asyncio.run(from_broker(worker, CHECK))
    assert (answered.answers_of, answered.gpu_answers) == ("Broker", kept[0].gpu_answers)
    judgement = judge_bundle(BundleFile.read(to_bytes(answered.bundle(answered.judged_at))), Expectations(nras_keys=nvidia.nras.jwks))
    assert judgement.accepted, judgement.to_json()["reasons"]
    assert not any("the bundle does not hold" in caution for caution in cautions(judgement))
    assert nvidia.asked == {}
    assert asyncio.run(from_broker(answered, CHECK)) is answered


def test_who_saves_a_bundle_is_told_what_is_absent(
    by_ear: tuple[VerifiedWorker, list[Bundle]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker, _ = by_ear
    assert asyncio.run(infer._answered(worker, CHECK)).answers_of == "Broker"
    assert capsys.readouterr().err == ""

    async def refused(_: BrokerClient, result_id: str) -> bytes:
        raise WireError(WireReason.SERVICE_UNREACHABLE, "no answer", "wait")

    monkeypatch.setattr(BrokerClient, "bundle", refused)
    for check, why in ((CHECK, "ServiceUnreachable"), (None, "--check-revocation")):
        assert asyncio.run(infer._answered(worker, check)).answers_of == "Absent"
        assert why in capsys.readouterr().err


def test_a_bundle_about_other_evidence_answers_nothing(by_ear: tuple[VerifiedWorker, list[Bundle]]) -> None:
    worker, kept = by_ear
    kept[0] = kept[0].model_copy(update={"evidence": kept[0].evidence.model_copy(update={"nonce": "ab" * 32})})
    with pytest.raises(WireError) as refused:
        asyncio.run(from_broker(worker, CHECK))
    assert refused.value.reason == "EarClaimMismatch"


@pytest.mark.parametrize(
    ("said", "answers"), [("Broker", False), ("Client", False), ("Absent", True), ("NotWanted", True)], ids=lambda value: str(value)
)
def test_a_record_that_is_wrong_about_the_answers(by_ear: tuple[VerifiedWorker, list[Bundle]], said: str, answers: bool) -> None:
    worker, _ = by_ear
    if answers:
        worker = asyncio.run(from_broker(worker, CHECK))
    document = worker.bundle(worker.judged_at).to_json_dict()
    document["verification"]["gpuAnswers"] = said
    judgement = judge_bundle(BundleFile.read(canonical(document)))
    assert "verification.gpuAnswers" in {difference.member for difference in judgement.differences}
    assert not judgement.accepted


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
