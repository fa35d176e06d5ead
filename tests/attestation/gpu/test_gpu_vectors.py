"""Real Hopper reports and RIMs: every outcome that the vectors' manifest states."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from chrysalis.api.policy_gpu import GpuRevocation
from chrysalis.attestation.gpu import chain, evidence, rim, rim_signers
from chrysalis.attestation.gpu.appraisal import appraise_gpus
from chrysalis.attestation.gpu.evidence import GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.clock import parse_rfc3339

pytestmark = pytest.mark.vectors

AT = datetime(2024, 6, 1, tzinfo=UTC)
"""Within the validity of the RIMs' signers."""
NVTRUST = "nvidia-nvtrust"
SDK_SAMPLE = "nvidia-sdk/sample_attestation_data/gpu/hopperAttestationReport.txt"
NAMES = [
    f"{NVTRUST}/hopperAttestationReport.txt",
    "nvidia-sdk/hopperAttestationReport.txt",
    SDK_SAMPLE,
    "nvidia-sdk/sample_attestation_data/gpu/hopperAttestationReportExpired.txt",
    "nvidia-sdk/sample_attestation_data/gpu/hopperAttestationReportInvalidSignature.txt",
    *(f"{NVTRUST}/gpu_evidence.json#{place}" for place in range(8)),
]


@pytest.fixture(scope="session")
def stated(vectors: Path) -> dict[str, dict[str, Any]]:
    return {item["report"]: item for item in json.loads((vectors / "MANIFEST.json").read_text())["gpu"]}


def _evidence(vectors: Path, item: dict[str, Any]) -> GpuEvidence:
    file, _, place = item["report"].partition("#")
    given = None if place else (vectors / item["chain"]).read_bytes()
    return evidence.read((vectors / file).read_bytes(), given)[int(place or 0)]


def test_every_outcome_of_the_manifest_is_in_the_table(stated: dict[str, dict[str, Any]]) -> None:
    assert sorted(stated) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outcome(vectors: Path, stated: dict[str, dict[str, Any]], name: str) -> None:
    item = stated[name]
    nonce = bytes.fromhex(item["nonce"]) if "nonce" in item else None
    verdict = appraise_gpus(evidence=[_evidence(vectors, item)], rules=None, nonce=nonce, at=AT)
    if item["signature"] == "Refused":
        assert item["why"] == "InvalidSignature"
        assert [finding.reason for finding in verdict.reasons] == ["GpuSignatureInvalid"]
        assert verdict.gpus[0].signature == "Invalid"
        return
    assert (verdict.accepted, verdict.evidence_class, verdict.nonce_checked) == (True, "Hardware", True)
    [facts] = verdict.gpus
    assert facts.signature == item["signature"]
    assert (facts.measurements, facts.nonce, facts.driver_version) == (item["measurements"], item["nonce"], item["driver"])
    assert facts.chain_valid_to == parse_rfc3339(item["chainValidTo"])
    assert (facts.architecture, facts.hardware_model) == ("Hopper", "GH100 A01 GSP BROM")
    assert facts.firmware_id_matched in (True, None)


def _certificates(vectors: Path) -> list[bytes]:
    devices = evidence.read((vectors / NVTRUST / "gpu_evidence.json").read_bytes())
    return [part + b"-----END CERTIFICATE-----\n" for part in devices[0].chain.split(b"-----END CERTIFICATE-----")[:-1]]


def test_a_chain_may_leave_nvidias_root_out(vectors: Path) -> None:
    certificates = _certificates(vectors)
    whole, rootless = chain.read(b"".join(certificates)), chain.read(b"".join(certificates[:-1]))
    rootless.check(AT)
    assert (whole.complete, rootless.complete) == (True, False)
    assert (rootless.root_sha256, rootless.device_id, rootless.fwid) == (whole.root_sha256, whole.device_id, whole.fwid)
    with pytest.raises(GpuError) as refused:
        rootless.check(AT, "00" * 32)
    assert refused.value.reason == "GpuTrustRootMismatch"


def test_a_chain_that_leaves_more_out_is_refused(vectors: Path) -> None:
    with pytest.raises(GpuError) as refused:
        chain.read(b"".join(_certificates(vectors)[:-2]))
    assert refused.value.reason == "GpuCertificateInvalid"


def test_eight_gpus_of_one_machine(vectors: Path) -> None:
    devices = evidence.read((vectors / NVTRUST / "gpu_evidence.json").read_bytes())
    verdict = appraise_gpus(evidence=devices, rules=None, nonce=devices[0].stated.nonce, at=AT)
    assert verdict.accepted
    assert {facts.mode for facts in verdict.gpus} == {"ProtectedPCIe"}
    assert len({facts.device_id for facts in verdict.gpus}) == 8
    assert {len(facts.switch_pdis) for facts in verdict.gpus} == {4}
    assert len({tuple(facts.switch_pdis) for facts in verdict.gpus}) == 1
    twice = appraise_gpus(evidence=[*devices, devices[0]], rules=None, nonce=None, at=AT)
    assert [finding.reason for finding in twice.reasons] == ["GpuNotUnique"]


@pytest.mark.parametrize(
    ("file", "kind", "version", "active"),
    [
        ("Driver_RIM_test_no_gpu.swidtag", "Driver", "545.00", 21),
        ("1010_0200_882_96005E0001_test_no_gpu.swidtag", "Vbios", "96.00.5E.00.01", 12),
        ("1010_0200_882_96005E0001_PROD.swidtag", "Vbios", "96.00.5E.00.01", 12),
    ],
)
def test_real_rims(vectors: Path, file: str, kind: str, version: str, active: int) -> None:
    values = rim.digest((vectors / NVTRUST / file).read_bytes(), at=AT)
    assert (values.kind, values.version, values.architecture, len(values.values)) == (kind, version, "Hopper", active)
    assert rim.digest((vectors / NVTRUST / file).read_bytes(), at=AT) == values


@pytest.mark.parametrize("file", ["Driver_RIM_test_no_gpu.swidtag", "1010_0200_882_96005E0001_PROD.swidtag"])
def test_nvidias_responder_knows_every_certificate_below_the_rim_root(vectors: Path, file: str) -> None:
    signers = rim.read((vectors / NVTRUST / file).read_bytes(), at=AT).signers
    pairs = rim_signers.revocable(signers)
    assert [certificate for certificate, _ in pairs] == list(signers[:3])
    for certificate, _ in pairs:
        [service] = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        assert service.access_method == AuthorityInformationAccessOID.OCSP
    assert rim_signers.revocation(signers, [], at=AT) == "NotChecked"
    with pytest.raises(GpuError) as refused:
        rim_signers.revocation(signers, [], at=AT, rule=GpuRevocation.REQUIRED)
    assert refused.value.reason == "RimRevocationNotChecked"


def test_comparison_with_the_rims_of_other_versions(vectors: Path, stated: dict[str, dict[str, Any]]) -> None:
    files = ("Driver_RIM_test_no_gpu.swidtag", "1010_0200_882_96005E0001_test_no_gpu.swidtag")
    references = [rim.digest((vectors / NVTRUST / file).read_bytes(), at=None) for file in files]
    device = _evidence(vectors, stated[f"{NVTRUST}/hopperAttestationReport.txt"])
    verdict = appraise_gpus(evidence=[device], rules=None, nonce=None, at=AT, references=references)
    expected = ["GpuReferenceVersionMismatch", "GpuReferenceVersionMismatch", "GpuMeasurementMismatch"]
    assert [finding.reason for finding in verdict.reasons] == expected
    facts = verdict.gpus[0]
    assert facts.compared == 33
    assert facts.mismatches == [1, 2, 3, 7, 9, 11, 21, 22, 25, 26, 27, 29, 30, 31, 32, 34, 36, 37, 39, 40]
    later = appraise_gpus(evidence=[device], rules=None, nonce=None, at=datetime(2026, 11, 1, tzinfo=UTC), references=references)
    assert "GpuReferenceExpired" in [finding.reason for finding in later.reasons]


def test_the_boards_firmware_matches_its_own_rim(vectors: Path, stated: dict[str, dict[str, Any]]) -> None:
    reference = rim.digest((vectors / NVTRUST / "1010_0200_882_96005E0001_PROD.swidtag").read_bytes(), at=AT)
    verdict = appraise_gpus(evidence=[_evidence(vectors, stated[SDK_SAMPLE])], rules=None, nonce=None, at=AT, references=[reference])
    assert [finding.reason for finding in verdict.reasons] == ["GpuReferenceMissing"]  # the driver's is not there
    assert (verdict.gpus[0].compared, verdict.gpus[0].mismatches) == (12, [])
