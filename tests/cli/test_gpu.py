"""`chrysalis gpu verify` and `chrysalis gpu rim`: forms, exit codes, and the JSON that scripts read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from chrysalis.attestation.gpu import nras
from chrysalis.cli.main import main
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import ReportShape, RimShape, SimulatedGpus
from tests.cli.documented import told as documented
from tests.cli.outcome import Outcome, outcome

INSTANT = "2026-11-01T12:00:00Z"
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))
VENDOR = SimulatedGpus.create()
DEVICE = VENDOR.device()


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`chrysalis gpu …` in a folder with evidence, chain, roots and RIMs."""
    monkeypatch.chdir(tmp_path)
    report = DEVICE.report(NONCE)
    files = {
        "report.bin": report,
        "report.txt": report.hex().encode(),
        "chain.pem": DEVICE.chain,
        "evidence.json": json.dumps([DEVICE.evidence(NONCE)]).encode(),
        "root.der": VENDOR.root_der,
        "rim-root.der": VENDOR.rim_root_der,
        "driver.swidtag": VENDOR.rim(RimShape()),
        "vbios.swidtag": VENDOR.rim(RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES)),
        "bad.json": json.dumps([DEVICE.evidence(NONCE, ReportShape(devtools=True))]).encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def command(verb: str, *words: str, output: str = "json") -> Outcome:
        roots = ["--rim-root", "rim-root.der", *(["--root", "root.der"] if verb == "verify" else [])]
        return outcome(capsys, "gpu", verb, *words, "--at", INSTANT, "-o", output, *roots)

    return command


RIMS = ("--rim", "driver.swidtag", "--rim", "vbios.swidtag")


def test_accepted_is_zero(run: Run) -> None:
    outcome = run("verify", "evidence.json", *RIMS, "--nonce", NONCE.hex())
    assert outcome.code == 0
    document = outcome.json
    assert documented(document, "gpu verify")
    assert (document["verdict"], document["scope"], document["evidenceClass"]) == ("Accepted", "GenuinenessAndReferences", "Simulated")
    assert (document["revocation"], document["bound"], document["nonceChecked"]) == ("NotChecked", "Unknown", True)
    assert document["gpus"][0]["secureBoot"] is True
    assert outcome.err == ""


@pytest.mark.parametrize("report", ["report.bin", "report.txt"])
def test_raw_reports(run: Run, report: str) -> None:
    assert run("verify", report, "--chain", "chain.pem", *RIMS).code == 0
    assert run("verify", report, "chain.pem", *RIMS).code == 0  # told apart by what it holds
    assert run("verify", report, *RIMS).code == 2
    assert run("verify", report, "chain.pem", "--chain", "chain.pem").code == 2
    assert run("verify", "chain.pem").code == 2


def test_several_files_are_one_machine(run: Run, tmp_path: Path) -> None:
    other = VENDOR.device()
    (tmp_path / "other.bin").write_bytes(other.report(NONCE))
    (tmp_path / "other.pem").write_bytes(other.chain)
    both = run("verify", "report.bin", "other.bin", "--chain", "chain.pem", "--chain", "other.pem", *RIMS)
    assert (both.code, len(both.json["gpus"])) == (0, 2)
    assert run("verify", "report.bin", "other.bin", "--chain", "chain.pem").code == 2
    assert run("verify", "report.bin", "evidence.json", "--chain", "chain.pem").reasons == ["GpuNotUnique"]


def test_without_rims_it_is_said_loudly(run: Run) -> None:
    for output in ("json", "text"):
        outcome = run("verify", "evidence.json", output=output)
        assert outcome.code == 0
        assert "NOT compared" in outcome.err
    told = run("verify", "evidence.json").json
    assert told["scope"] == "Genuineness"
    assert "NOT compared" in told["notes"][0]
    assert run("verify", "evidence.json", *RIMS).json["notes"] == []


def test_refused_is_one(run: Run) -> None:
    assert run("verify", "bad.json", *RIMS).reasons == ["GpuMeasurementMismatch"]
    for words, reason in (
        (("evidence.json", *RIMS, "--nonce", "00" * 32), "GpuNonceMismatch"),
        (("evidence.json", "--rim", "driver.swidtag"), "GpuReferenceMissing"),
    ):
        outcome = run("verify", *words)
        assert (outcome.code, outcome.reasons) == (1, [reason])


def test_under_nvidias_roots_everything_simulated_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gpu", "verify", "evidence.json", *RIMS, "--at", INSTANT, "-o", "json"])
    assert ended.value.code == 1
    found = [reason["reason"] for reason in json.loads(capsys.readouterr().out)["reasons"]]
    assert found == ["RimSignerInvalid", "RimSignerInvalid", "GpuTrustRootMismatch"]


def test_unreadable_is_two(run: Run, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "none").write_bytes(b"[]")
    for words in (
        ("missing",),
        ("junk",),
        ("evidence.json", "--nonce", "00"),
        ("evidence.json", "--rim", "junk"),
        ("evidence.json", "--rim", "none"),  # nothing would be compared, and it looked as if it were
        ("evidence.json", "--rules", "junk"),
        ("evidence.json", "--ocsp", "missing"),
        ("evidence.json", "--rules", "junk", *RIMS),
        (),
    ):
        outcome = run("verify", *words)
        assert outcome.code == 2, words
        assert outcome.err


def test_digested_values_in_which_a_member_stands_twice(run: Run, tmp_path: Path) -> None:
    digested = run("rim", "driver.swidtag", "vbios.swidtag").out
    for text, code in ((digested, 0), (digested.replace('"measurements": [', '"measurements": [], "measurements": [', 1), 2)):
        (tmp_path / "digested.json").write_text(text)
        assert run("verify", "evidence.json", "--rim", "digested.json").code == code


def test_text_names_reason_and_remedy(run: Run) -> None:
    outcome = run("verify", "bad.json", *RIMS, output="text")
    assert "GpuMeasurementMismatch" in outcome.out
    assert "what to do:" in outcome.out
    assert "proves nothing about hardware" in outcome.out
    assert "Unknown: a GPU report does not name one" in outcome.out


def test_rim_prints_what_rules_take(run: Run, tmp_path: Path) -> None:
    outcome = run("rim", "driver.swidtag", "vbios.swidtag")
    assert (outcome.code, outcome.json["verdict"]) == (0, "Accepted")
    rules = {
        "count": 1,
        "architectures": ["Hopper"],
        "driverVersions": [simulated.DRIVER],
        "vbiosVersions": [simulated.VBIOS],
        "ccMode": ["On"],
        "measurements": outcome.json["measurements"],
        "trustRoot": {"der": base64.b64encode(VENDOR.root_der).decode()},
    }
    assert documented(outcome.json, "gpu rim")
    (tmp_path / "digested.json").write_text(outcome.out)
    assert run("verify", "evidence.json", "--rim", "digested.json").code == 0
    for name, document in {"rules.yaml": rules, "spec.yaml": {"gpu": rules}, "policy.yaml": {"spec": {"gpu": rules}}}.items():
        (tmp_path / name).write_text(yaml.safe_dump(document))
        verdict = run("verify", "evidence.json", "--policy", name)
        assert verdict.json["gpus"] == run("verify", "evidence.json", "--rules", name).json["gpus"]  # its older name
        assert (verdict.code, verdict.json["scope"]) == (0, "Policy")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(rules | {"driverVersions": ["1.1"]}))
    assert run("verify", "evidence.json", "--rules", "other.yaml").reasons == ["GpuDriverNotAllowed"]


def test_least_security_versions(run: Run, tmp_path: Path) -> None:
    (tmp_path / "least.swidtag").write_bytes(VENDOR.rim(RimShape(security_versions={37: 5})))
    told = run("rim", "least.swidtag", output="text")
    assert "21 measurements, FIELD_37_MIN_SVN from 5, until" in told.out
    for stated, code, reasons in ((5, 0, []), (4, 1, ["GpuSecurityVersionTooLow"])):
        shape = ReportShape(versioned=True, security_versions={37: bytes([stated, 0])})
        (tmp_path / "stated.json").write_text(json.dumps([DEVICE.evidence(NONCE, shape)]))
        found = run("verify", "stated.json", "--rim", "least.swidtag", "--rim", "vbios.swidtag")
        assert (found.code, found.reasons) == (code, reasons)
        assert found.json["gpus"][0]["securityVersions"] == {"FIELD_37_MIN_SVN": stated}
        text = run("verify", "stated.json", "--rim", "least.swidtag", "--rim", "vbios.swidtag", output="text").out
        assert f"FIELD_37_MIN_SVN {stated}" in text


def test_rim_refused_and_unreadable(run: Run, tmp_path: Path) -> None:
    data = (tmp_path / "driver.swidtag").read_bytes()
    (tmp_path / "changed.swidtag").write_bytes(data.replace(simulated.measured(7).hex().encode(), b"11" * 48))
    outcome = run("rim", "driver.swidtag", "changed.swidtag")
    assert (outcome.code, outcome.reasons) == (1, ["RimSignatureInvalid"])
    assert len(outcome.json["measurements"]) == 1
    assert run("rim", "chain.pem").code == 2
    shown = run("rim", "changed.swidtag", output="text").out
    assert shown.startswith("Refused  (as of ")
    assert "RimSignatureInvalid (changed.swidtag): " in shown
    assert run("rim", "driver.swidtag", output="text").out.startswith("Accepted  (as of ")


def test_ocsp(run: Run, tmp_path: Path) -> None:
    words = []
    for place in (1, 2, 3):
        (tmp_path / f"{place}.ocsp").write_bytes(DEVICE.ocsp(AT, place))
        words += ["--ocsp", f"{place}.ocsp"]
    assert run("verify", "evidence.json", *RIMS, *words).json["revocation"] == "Good"


def test_the_remote_services_answer(run: Run, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    serial = str(DEVICE.certificates[0].serial_number)
    versions = {"x-nvidia-gpu-driver-version": simulated.DRIVER, "x-nvidia-gpu-vbios-version": simulated.VBIOS}
    common = {"iss": nras.ISSUER, "exp": int(AT.timestamp()) + 60, "eat_nonce": NONCE.hex()}
    device = {**common, **versions, "measres": "success", "secboot": True, "dbgstat": "disabled", "ueid": serial}
    token = jwt.encode(device, key, algorithm="ES384", headers={"kid": "k"})
    submods = {"GPU-0": ["DIGEST", ["SHA-256", hashlib.sha256(token.encode()).hexdigest()]]}
    overall = jwt.encode({**common, "x-nvidia-overall-att-result": True, "submods": submods}, key, algorithm="ES384", headers={"kid": "k"})
    numbers = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(part.to_bytes(48, "big")).rstrip(b"=").decode() for part in (numbers.x, numbers.y))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{"kty": "EC", "crv": "P-384", "kid": "k", "x": x, "y": y}]}))
    (tmp_path / "answer.json").write_text(json.dumps([["JWT", overall], {"GPU-0": token}]))
    rules = {
        "count": 1,
        "architectures": ["Hopper"],
        "driverVersions": [simulated.DRIVER],
        "vbiosVersions": [simulated.VBIOS],
        "ccMode": ["On"],
        "measurements": [],
        "backend": "NRAS",
        "trustRoot": {"der": base64.b64encode(VENDOR.root_der).decode()},
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    words = ["evidence.json", "--rules", "rules.json", "--nonce", NONCE.hex()]
    answer = ["--nras", "answer.json", "--nras-keys", "jwks.json"]
    accepted = run("verify", *words, *answer)
    assert (accepted.code, accepted.json["backend"], accepted.json["limitedBy"]) == (0, "NRAS", "nras.exp")
    assert run("verify", *words).reasons == ["NrasAnswerMissing"]
    assert run("verify", *words, *answer, "--nras-issuer", "https://other").reasons == ["NrasIssuerMismatch"]
    assert run("verify", *words[:3], *answer).code == 2
    assert run("verify", *words, "--nras", "answer.json").code == 2
