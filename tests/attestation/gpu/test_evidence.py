"""Evidence files: NVIDIA SDK JSON in its shapes, raw reports with a chain, and the digest for transcripts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.gpu import chain, evidence
from chrysalis.attestation.gpu.evidence import GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError
from e2e.simtd.gpu import LS10, SimulatedGpus

NONCE = bytes(range(32))
VENDOR = SimulatedGpus.create()
DEVICE = VENDOR.device()
ENTRY = DEVICE.evidence(NONCE)
REPORT = base64.b64decode(ENTRY["evidence"])


def _renamed(**names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in ENTRY.items()}


def _packed(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


PARTS = [part.strip() + "\n-----END CERTIFICATE-----" for part in DEVICE.chain.decode().split("-----END CERTIFICATE-----")[:-1]]
URLSAFE = base64.urlsafe_b64encode(REPORT).decode().rstrip("=")
ITEM = {
    "__cmwc_t": "tag:vendor.example,2026:evidence-item/v1",
    "evidence": ["application/vnd.vendor.spdm-measurement-transcript", URLSAFE],
    "certificate": ["application/vnd.vendor.pem-cert-chain", ENTRY["certificate"].rstrip("=")],
}
SAID = {"nonce": ["application/octet-stream", base64.urlsafe_b64encode(NONCE).decode().rstrip("="), 4], "arch": "HOPPER"}
COLLECTION = {"__cmwc_t": "tag:vendor.example,2026:verifier-input", **SAID, "gpu_0": ITEM}


@pytest.mark.parametrize(
    "document",
    [
        [ENTRY],
        ENTRY,
        {"evidences": [ENTRY], "result_code": 0},
        {"nonce": NONCE.hex(), "arch": "HOPPER", "evidence_list": [{name: ENTRY[name] for name in ("evidence", "certificate")}]},
        {"device_evidence_list": [{name: ENTRY[name] for name in ("arch", "evidence", "certificate", "nonce")} | {"uuid": DEVICE.uuid}]},
        {"nvidia": {"device_evidence_list": [ENTRY | {"arch": "Hopper"}]}},
        [ENTRY | {"evidence": REPORT.hex()}],
        [ENTRY | {"evidence": base64.b64encode(REPORT.hex().encode()).decode()}],
        [ENTRY | {"certificate": DEVICE.chain.decode()}],
        [ENTRY | {"nonce": "0X" + NONCE.hex().upper()}],
        [
            {
                "attestationReport": ENTRY["evidence"],
                "attestationCertificateChain": ENTRY["certificate"],
                "arch": "HOPPER",
                "nonce": NONCE.hex(),
            }
        ],
        [ENTRY | {"arch": "hopper", "more": {"is": "passed over"}}],
        COLLECTION,
        {"gpus": [ENTRY], "switches": []},
        {"gpu_0": ENTRY, "result": {"code": 0}},
        {"tdx": {"quote": "AAAA"}, "nvgpu": ENTRY},
        {
            "result": {
                "attestations": [{"intel_quote": "00", "nvidia_payload": json.dumps({"nonce": NONCE.hex(), "evidence_list": [ENTRY]})}]
            }
        },
        {"requests": [{"tee": "nvidia", "evidence": _packed({"device_evidence_list": [ENTRY]})}]},
        [ENTRY | {"nonce": base64.b64encode(NONCE).decode()}],
        [ENTRY | {"nonce": base64.urlsafe_b64encode(NONCE).decode().rstrip("=")}],
        [ENTRY | {"certificate": PARTS}],
        [ENTRY | {"evidence": ", ".join(f"0x{byte:02x}" for byte in REPORT)}],
        [ENTRY | {"arch": "GH100"}],
        [ENTRY | {"arch": "GPU_ARCHITECTURE_TYPE_HOPPER"}],
        [ENTRY | {"nonce": list(NONCE)}],
        [ENTRY | {"evidence": list(REPORT), "certificate": list(DEVICE.chain)}],
        [ENTRY | {"evidence": {"type": "Buffer", "data": list(REPORT)}}],
        [ENTRY | {"certificate": DEVICE.chain.decode().replace("\n", "\\n")}],
        [ENTRY | {"certificate": DEVICE.chain.hex()}],
        [_renamed(evidence="attestationReportHexStr") | {"attestationReportHexStr": REPORT.hex().upper()}],
        [_renamed(evidence="spdm_report", certificate="certChainBase64Encoded")],
        [_renamed(evidence="report", certificate="certs") | {"certs": DEVICE.chain.decode()}],
        [ENTRY | {"evidence_hex": REPORT.hex()}],
    ],
)
def test_shapes_of_json(document: Any) -> None:
    for text in (json.dumps(document), json.dumps(document, indent=4).replace("\n", "\r\n"), "\ufeff" + json.dumps(document)):
        [device] = evidence.read(text.encode())
        assert device.report == REPORT
        assert device.chain == DEVICE.chain.strip()
        assert device.stated.architecture == "Hopper"
        assert device.stated.nonce == NONCE


TEXT = json.dumps([ENTRY])


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT.encode()),
        TEXT.encode("utf-16"),
        base64.b64encode(TEXT.encode()),
        json.dumps(TEXT).encode(),
        TEXT.encode() + bytes(7),
    ],
)
def test_what_is_around_a_whole_file(data: bytes) -> None:
    assert evidence.read(data) == evidence.from_json(TEXT)


def test_certificates_in_der() -> None:
    ders = [one.public_bytes(Encoding.DER) for one in DEVICE.certificates]
    expected = chain.read(DEVICE.chain).certificates
    listed = [ENTRY | {"certificate": [base64.b64encode(der).decode() for der in ders]}]
    assert chain.read(evidence.from_json(json.dumps(listed))[0].chain).certificates == expected
    for together in (b"".join(ders), b"".join(ders) + bytes(9), base64.b64encode(b"".join(ders)), b"".join(reversed(ders))):
        [device] = evidence.read(gzip.compress(REPORT), together)
        assert chain.read(device.chain).certificates == expected
    for damaged in (b"".join(ders)[:-1], b"".join(ders) + b"\1", ders[0] * 9, b"\x30"):
        with pytest.raises(GpuError) as refused:
            chain.read(chain.read_pem(damaged))
        assert refused.value.reason == "GpuChainUnreadable"


def test_a_raw_report_needs_its_chain() -> None:
    assert evidence.read(REPORT, DEVICE.chain) == [GpuEvidence(REPORT, DEVICE.chain.strip())]
    with pytest.raises(GpuError) as refused:
        evidence.read(REPORT)
    assert refused.value.reason == "GpuChainUnreadable"


def test_switches_are_devices_too() -> None:
    switch = VENDOR.device(LS10)
    found = evidence.from_json(json.dumps([ENTRY, switch.evidence(NONCE)]))
    assert [device.stated.architecture for device in found] == ["Hopper", "LS10"]


def _with(**changes: Any) -> str:
    return json.dumps([{name: value for name, value in (ENTRY | changes).items() if value is not None}])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "GpuEvidenceUnreadable"),
        ("{}", "GpuEvidenceUnreadable"),
        ("[1]", "GpuEvidenceUnreadable"),
        ("[" * 100_000, "GpuEvidenceUnreadable"),
        (_with(evidence=None), "GpuEvidenceUnreadable"),
        (_with(evidence=7), "GpuEvidenceUnreadable"),
        (_with(evidence="no report"), "GpuEvidenceUnreadable"),
        (_with(certificate=None), "GpuChainUnreadable"),
        (_with(certificate="no chain"), "GpuChainUnreadable"),
        (_with(attestation_report=ENTRY["evidence"]), "GpuEvidenceUnreadable"),
        (_with(arch="AMPERE"), "GpuEvidenceUnreadable"),
        (_with(nonce="xy"), "GpuEvidenceUnreadable"),
        (_with(driver_version="5" * 200), "GpuEvidenceUnreadable"),
        (_with(devtools="ON"), "GpuEvidenceUnreadable"),
        (_with(nonce="G" * 40), "GpuEvidenceUnreadable"),
        (_with(nonce="ab0"), "GpuEvidenceUnreadable"),
        (_with(certificate=[1, 2]), "GpuEvidenceUnreadable"),
        (_with(arch="GV100"), "GpuEvidenceUnreadable"),
        (_with(other=base64.b64encode(VENDOR.device().report(NONCE)).decode()), "GpuEvidenceUnreadable"),
        (json.dumps([_renamed(evidence="a") | {"b": VENDOR.device().evidence(NONCE)["evidence"]}]), "GpuEvidenceUnreadable"),
        (json.dumps([_renamed(certificate="a") | {"b": ENTRY["certificate"]}]), "GpuEvidenceUnreadable"),
        (json.dumps([ENTRY, {"arch": "HOPPER"}]), "GpuEvidenceUnreadable"),
        (json.dumps([ENTRY, "lost"]), "GpuEvidenceUnreadable"),
        (json.dumps({"gpu_0": ENTRY, "gpu_1": {"error": "no report"}}), "GpuEvidenceUnreadable"),
        (json.dumps(COLLECTION | {"switch_0": {"__cmwc_t": "tag:x"}}), "GpuEvidenceUnreadable"),
        (json.dumps({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": ENTRY}}}}}}}}}), "GpuEvidenceUnreadable"),
        (json.dumps([ENTRY, {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": ENTRY}}}}}}}}]), "GpuEvidenceUnreadable"),
        (json.dumps({"x": ENTRY, "y": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": ENTRY}}}}}}}}}), "GpuEvidenceUnreadable"),
        (json.dumps([ENTRY | {"gpu_1": ENTRY}]), "GpuEvidenceUnreadable"),
        (json.dumps([ENTRY | {"others": [ENTRY]}]), "GpuEvidenceUnreadable"),
        (f'{{"gpu_0": {json.dumps(ENTRY)}, "gpu_0": {json.dumps(ENTRY)}}}', "GpuEvidenceUnreadable"),
        (json.dumps({"devices": [ENTRY], "more": '{"a": [], "a": []}'}), "GpuEvidenceUnreadable"),
        ("[" + "{}," * 30_000 + "0]", "GpuEvidenceUnreadable"),
        ("[" + "1," * 60_000 + "0]", "GpuEvidenceTooLarge"),
        (json.dumps([ENTRY] * 25), "GpuEvidenceTooLarge"),
        (" " * (evidence.MAX_EVIDENCE_BYTES + 1), "GpuEvidenceTooLarge"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(GpuError) as refused:
        evidence.from_json(text)
    assert refused.value.reason == reason


def test_every_device_of_a_collection_in_its_order() -> None:
    switch = VENDOR.device(LS10).evidence(NONCE)
    found = evidence.from_json(json.dumps(COLLECTION | {"gpu_1": ITEM, "switch_0": switch, "nonce_2": "x"}))
    assert [device.stated.architecture for device in found] == ["Hopper", "Hopper", "LS10"]
    assert {device.stated.nonce for device in found} == {NONCE}


def test_digest() -> None:
    one, two = GpuEvidence(b"ab", b"c"), GpuEvidence(b"a", b"bc")
    golden = hashlib.sha256(b"chrysalis/v1/gpu-evidence\0\0\0\2ab\0\0\0\1c").digest()
    assert evidence.digest([one]) == golden
    assert evidence.digest([]) == b""
    assert len({evidence.digest(listed) for listed in ([one], [two], [one, two], [two, one], [one, one])}) == 5


NAMES = st.sampled_from([*ENTRY, "evidences", "evidence_list", "nvidia", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)


@given(JSON)
def test_any_json(document: Any) -> None:
    with pytest.raises(GpuError):
        evidence.from_json(json.dumps(document))
