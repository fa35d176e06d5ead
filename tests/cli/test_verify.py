"""`chrysalis verify`: forms, exit codes, and the JSON that scripts read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote as quoted

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from e2e.simtd.pki import CollateralShape, SimulatedPlatform
from tests.cli.documented import told as documented
from tests.cli.outcome import Outcome, outcome

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
INSTANT = "2026-11-01T12:00:00Z"
PLATFORM = SimulatedPlatform.create()


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in a folder with quote, collateral and root; `words` replace the usual ones."""
    (tmp_path / "quote").write_bytes(PLATFORM.quote())
    (tmp_path / "collateral").write_text(PLATFORM.collateral(AT))
    (tmp_path / "root.der").write_bytes(PLATFORM.root_der)
    (tmp_path / "root.pem").write_bytes(PLATFORM.certificates["root"].public_bytes(Encoding.PEM))

    def command(*words: str, quote: str = "quote", collateral: str = "collateral", root: str = "root.der", at: str = INSTANT) -> Outcome:
        argv = ["verify", str(tmp_path / quote), "--at", at, "-o", "json"]
        argv += ["--collateral", str(tmp_path / collateral)] if collateral else []
        argv += ["--root", str(tmp_path / root)] if root else []
        return outcome(capsys, *argv, *words)

    return command


@pytest.mark.parametrize(
    "data",
    [
        b"\xa3\x42\1" + bytes(9000),  # CBOR, as DICE quotes are
        b"\3\0\2\0" + bytes(4500),  # of an enclave
        json.dumps({"quote": (b"\3\0\2\0" + bytes(4500)).hex()}).encode(),
    ],
)
def test_a_quote_of_something_else_is_refused_without_collateral(run: Run, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other").write_bytes(data)
    outcome = run(quote="other", collateral="")
    assert (outcome.code, [told["reason"] for told in outcome.json["reasons"]]) == (1, ["QuoteTypeUnsupported"])


def test_report_data(run: Run, tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(PLATFORM.quote(report_data=b"\xab" * 64))
    right = run("--report-data", "AB" * 64)
    assert (right.code, right.json["reportDataChecked"]) == (0, True)
    wrong = run("--report-data", "ab" * 63 + "ac")
    assert (wrong.code, wrong.reasons) == (1, ["ReportDataMismatch"])
    assert run().json["reportDataChecked"] is False
    assert run("--report-data", "ab" * 32).code == 2
    assert "compared with --report-data" in run("--report-data", "ab" * 64, "-o", "text").out


def test_answers_that_were_saved_one_by_one(run: Run, tmp_path: Path) -> None:
    known = json.loads(PLATFORM.collateral(AT))
    saved = {
        "tcb.json": f'{{"tcbInfo":{known["tcb_info"]},"signature":"{known["tcb_info_signature"]}"}}'.encode(),
        "qe.json": b"\xef\xbb\xbf"
        + f'{{"enclaveIdentity":{known["qe_identity"]},"signature":"{known["qe_identity_signature"]}"}}'.encode(),
        "tcb.headers": b"HTTP/1.1 200 OK\r\nTCB-Info-Issuer-Chain: " + quoted(known["tcb_info_issuer_chain"]).encode() + b"\r\n",
        "pck.pem": known["pck_crl_issuer_chain"].encode(),
        "pck.crl": bytes.fromhex(known["pck_crl"]),
        "root.hex": known["root_ca_crl"].encode(),
    }
    words = []
    for name, data in saved.items():
        (tmp_path / name).write_bytes(data)
        words += ["--collateral", str(tmp_path / name)]
    assert run(*words, collateral="").json["verdict"] == "Accepted"
    outcome = run(*words[:-2], collateral="")
    assert (outcome.code, outcome.err.partition(":")[0]) == (2, "CollateralMalformed")
    assert "root_ca_crl" in outcome.err


def test_accepted_is_zero(run: Run) -> None:
    outcome = run()
    assert outcome.code == 0
    document = outcome.json
    assert documented(document, "verify")
    assert document["verdict"] == "Accepted"
    assert (document["reasons"], document["advisoryIDs"]) == ([], [])
    assert (document["evidenceClass"], document["tcbStatus"], document["fmspc"]) == ("Simulated", "UpToDate", "51D000000000")
    assert (document["expiresAt"], document["limitedBy"]) == ("2026-12-01T00:00:00Z", "tcbInfo.nextUpdate")
    assert document["measurements"]["mrtd"] == PLATFORM.reference_values()["mrtd"]
    assert document["scope"] == "GenuinenessAndTcb"
    assert (document["mode"], document["freshness"], document["revocation"]) == ("offline", "NotChecked", "NotChecked")
    assert run(root="root.pem").code == 0


def test_without_a_policy_only_up_to_date_is_zero(run: Run, tmp_path: Path) -> None:
    for status, reason in {
        "OutOfDate": "TcbOutOfDate",
        "ConfigurationNeeded": "TcbConfigurationNeeded",
        "SWHardeningNeeded": "TcbSwHardeningNeeded",
        "Revoked": "TcbRevoked",
    }.items():
        (tmp_path / "collateral").write_text(PLATFORM.collateral(AT, CollateralShape(status=status)))
        outcome = run()
        assert (outcome.code, outcome.reasons, outcome.json["tcbStatus"]) == (1, [reason], status)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PLATFORM.quote()[:1000], "QuoteMalformed"),
        (PLATFORM.quote()[:2], "QuoteMalformed"),
        (PLATFORM.quote().hex().encode()[:2001], "QuoteMalformed"),
        (b'{"quote": 5}', "QuoteMalformed"),
        (b"\x03" + PLATFORM.quote()[1:], "QuoteTypeUnsupported"),
        (PLATFORM.quote(td_attributes=bytes.fromhex("0100001000000000")), "TdDebugEnabled"),
        (PLATFORM.quote(td_attributes=bytes(8)), "SeptVeDisableOff"),
        (PLATFORM.quote()[:600] + b"\xff" + PLATFORM.quote()[601:], "SignatureInvalid"),
        (PLATFORM.quote() + b"junk", "QuoteTrailingData"),
    ],
)
def test_a_flaw_of_the_quote_is_a_verdict(run: Run, tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "quote").write_bytes(data)
    outcome = run()
    assert (outcome.code, outcome.reasons) == (1, [reason])
    assert outcome.json["verdict"] == "Refused"
    assert outcome.json["reasons"][0]["remedy"]


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", bytes(5000), b"\x7fELF" + bytes(range(200)), b"hello", b"{}", b'{"quote": "0', b"x" * (64 * 1024 + 1), bytes(1 << 20)],
)
def test_a_file_that_is_no_quote_is_exit_2(run: Run, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "quote").write_bytes(data)
    outcome = run()
    assert (outcome.code, outcome.json["verdict"]) == (2, None)
    assert outcome.reasons[0] in ("QuoteUnreadable", "QuoteTooLarge")
    assert "what to do" in outcome.err


def test_the_largest_file_that_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(PLATFORM.quote().ljust(64 * 1024, b"\0"))
    assert run().code == 0


def test_without_collateral_nothing_is_judged(run: Run, tmp_path: Path) -> None:
    for data in (PLATFORM.quote(), PLATFORM.quote()[:1000], b"040"):
        (tmp_path / "quote").write_bytes(data)
        outcome = run(collateral="")
        assert outcome.code == 2
        assert outcome.err.startswith("CollateralMissing")


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"tcb_info": "x"}'])
def test_collateral_that_is_none_is_exit_2(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "collateral").write_text(text)
    outcome = run()
    assert outcome.code == 2
    assert "CollateralMalformed" in outcome.err


def test_collateral_of_another_platform_and_another_time(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(PLATFORM.collateral(AT, CollateralShape(fmspc=bytes.fromhex("00906ED50000"))))
    assert run(collateral="other").reasons == ["CollateralMismatch"]
    late = run(at="2027-01-01T00:00:00Z")
    assert (late.code, late.reasons) == (1, ["CollateralExpired"])
    assert run(at="2026-11-01T14:00:00+02:00").code == 0


def test_roots(run: Run, tmp_path: Path) -> None:
    outcome = run(root="")
    assert (outcome.code, outcome.reasons) == (1, ["TrustRootMismatch"])
    (tmp_path / "other.der").write_bytes(SimulatedPlatform.create().root_der)
    assert run("--root", str(tmp_path / "other.der")).code == 0
    assert run(root="other.der").reasons == ["TrustRootMismatch"]
    assert run(root="quote").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--at", "yesterday"],
        ["--at", "2026-11-01T12:00:00"],
        ["--policy", "/nowhere/policy.yaml"],
        ["--collateral", "/nowhere"],
        ["--root", "/nowhere"],
        ["--unknown"],
        ["-o", "xml"],
    ],
)
def test_usage_is_exit_2(run: Run, words: list[str]) -> None:
    outcome = run(*words)
    assert (outcome.code, outcome.json["verdict"]) == (2, None)
    assert outcome.err


def test_files_that_cannot_be_opened_are_exit_2(run: Run, tmp_path: Path) -> None:
    assert run(quote="absent").code == 2
    (tmp_path / "folder").mkdir()
    assert run(quote="folder").code == 2


def write_policy(path: Path, **register: str) -> None:
    values = PLATFORM.reference_values()
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
    measurement = {"name": "simulated", "mrconfigid": "00" * 48} | {name: values[name] for name in names} | register
    spec = {
        "version": 1,
        "trustRoot": {"der": base64.b64encode(PLATFORM.root_der).decode()},
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"]},
            "measurements": [measurement],
            "tdAttributes": values["tdAttributes"],
            "xfam": values["xfam"],
        },
    }
    document = {"apiVersion": "chrysalis.dev/v1alpha1", "kind": "AttestationPolicy", "metadata": {"name": "p"}, "spec": spec}
    path.write_text(yaml.safe_dump(document))


def test_a_policy_is_judged(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write_policy(path)
    outcome = run("--policy", str(path), root="")
    assert outcome.code == 0
    assert (outcome.json["scope"], outcome.json["measurementName"]) == ("Policy", "simulated")
    assert outcome.json["isolation"] == "NotChecked"
    assert "NotChecked: give --initdata" in run("--policy", str(path), "-o", "text", root="").out
    write_policy(path, rtmr1="ab" * 48)
    outcome = run("--policy", str(path), root="")
    assert (outcome.code, outcome.reasons) == (1, ["MeasurementNotAllowed"])
    path.write_text("version: 1")
    outcome = run("--policy", str(path))
    assert outcome.code == 2
    assert "PolicyUnreadable" in outcome.err


def test_initdata_and_event_log_from_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(PLATFORM.event_log)
    assert run("--event-log", str(tmp_path / "log")).code == 0
    assert run("--event-log", str(tmp_path / "quote")).reasons == ["EventLogMalformed"]
    assert run("--initdata", str(tmp_path / "quote")).reasons == ["InitdataMismatch"]


def test_text_for_people(run: Run) -> None:
    outcome = run("-o", "text")
    assert outcome.code == 0
    assert "Accepted" in outcome.out
    assert "no policy was given" in outcome.out
    assert "Simulated: the root is not Intel's" in outcome.out
    outcome = run("-o", "text", at="2027-01-01T00:00:00Z")
    assert outcome.code == 1
    assert "CollateralExpired: " in outcome.out
    assert "what to do: fetch fresh collateral" in outcome.out
