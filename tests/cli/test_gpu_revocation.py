"""`chrysalis gpu rim` and `gpu verify` with OCSP answers about the RIMs' signers: from files, and of a responder that is asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chrysalis.clock import SystemClock
from e2e.gpu_services.faults import Fault
from e2e.gpu_services.server import OCSP, SimulatedGpuServices
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import ReportShape, RimShape, SimulatedGpus
from tests.cli.documented import told as documented
from tests.cli.outcome import Outcome, outcome

INSTANT = "2026-11-01T12:00:00Z"
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))
VENDOR = SimulatedGpus.create()
DEVICE = VENDOR.device()
RIMS = ("driver.swidtag", "vbios.swidtag")
GOOD = ("--ocsp", "signer.ocsp", "--ocsp", "ca.ocsp")
OF_DEVICE = ("--ocsp", "1.ocsp", "--ocsp", "2.ocsp", "--ocsp", "3.ocsp")
REQUIRED = ("--revocation", "Required")
FILES: dict[str, bytes] = {
    "rim-root.der": VENDOR.rim_root_der,
    "root.der": VENDOR.root_der,
    "driver.swidtag": VENDOR.rim(RimShape()),
    "vbios.swidtag": VENDOR.rim(RimShape(version=simulated.VBIOS, indices=simulated.VBIOS_INDICES)),
    "evidence.json": json.dumps([DEVICE.evidence(NONCE)]).encode(),
    "devtools.json": json.dumps([DEVICE.evidence(NONCE, ReportShape(devtools=True))]).encode(),
    "signer.ocsp": VENDOR.rim_ocsp(AT, 0),
    "ca.ocsp": VENDOR.rim_ocsp(AT, 1),
    "revoked.ocsp": VENDOR.rim_ocsp(AT, 0, revoked=True),
    "stale.ocsp": VENDOR.rim_ocsp(AT - timedelta(days=2), 0),
    "foreign.ocsp": SimulatedGpus.create().rim_ocsp(AT, 0),
    "damaged.ocsp": VENDOR.rim_ocsp(AT, 0)[:-1],
    **{f"{place}.ocsp": DEVICE.ocsp(AT, place) for place in (1, 2, 3)},
    "revoked-device.ocsp": DEVICE.ocsp(AT, 2, revoked=True),
}
Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`chrysalis gpu …` in a folder with all of FILES; at: None judges now."""
    monkeypatch.chdir(tmp_path)
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)

    def command(verb: str, *words: str, at: str | None = INSTANT, output: str = "json") -> Outcome:
        given = [*(["--at", at] if at is not None else []), "-o", output, "--rim-root", "rim-root.der"]
        return outcome(capsys, "gpu", verb, *words, *given, *(["--root", "root.der"] if verb == "verify" else []))

    return command


@pytest.fixture
def responder(tmp_path: Path) -> Iterator[SimulatedGpuServices]:
    """A responder on the loopback that knows the devices' and the RIMs' certificates."""
    with SimulatedGpuServices(SystemClock(), tmp_path) as running:
        running.ocsp.tell(DEVICE)
        running.ocsp.tell_rims(VENDOR)
        yield running


def _asks(responder: SimulatedGpuServices) -> tuple[str, ...]:
    return ("--ocsp-url", responder.url + OCSP, "--gpu-services-ca", str(responder.ca_file))


def _verify(*words: str) -> tuple[str, ...]:
    return ("evidence.json", *(word for name in RIMS for word in ("--rim", name)), *words)


def _revocations(found: Outcome) -> list[str]:
    return [one["revocation"] for one in found.json["rims"]]


# Answers in files


def test_without_answers_a_rim_is_not_checked(run: Run) -> None:
    found = run("rim", *RIMS)
    assert (found.code, _revocations(found)) == (0, ["NotChecked", "NotChecked"])
    assert [one["file"] for one in found.json["rims"]] == list(RIMS)
    assert [one["ids"] for one in found.json["rims"]] == [[value["id"]] for value in found.json["measurements"]]
    assert run("rim", *RIMS, output="text").out.count("    revocation: NotChecked\n") == 2
    assert _revocations(run("verify", *_verify())) == ["NotChecked", "NotChecked"]


def test_good_answers(run: Run) -> None:
    found = run("rim", *RIMS, *GOOD, *REQUIRED)
    assert documented(found.json, "gpu rim")
    assert (found.code, found.json["verdict"], _revocations(found)) == (0, "Accepted", ["Good", "Good"])
    assert found.json["measurements"] == run("rim", *RIMS).json["measurements"]  # no answer limits what is digested
    assert run("rim", *RIMS, *GOOD, output="text").out.count("    revocation: Good\n") == 2


def test_the_same_answers_for_devices_and_rims(run: Run) -> None:
    found = run("verify", *_verify(*GOOD, *OF_DEVICE, *REQUIRED))
    assert documented(found.json, "gpu verify")
    assert (found.code, found.json["revocation"], _revocations(found)) == (0, "Good", ["Good", "Good"])
    assert found.json["limitedBy"] == "gpuOcsp.nextUpdate"  # of the device's answers
    text = run("verify", *_verify(*GOOD), output="text").out
    assert "  RIM driver.swidtag\n    revocation               Good\n" in text
    assert "  revocation               NotChecked\n" in text  # the device's


@pytest.mark.parametrize(
    ("words", "reason", "revocation"),
    [
        (("--ocsp", "revoked.ocsp", "--ocsp", "ca.ocsp"), "RimSignerRevoked", "Revoked"),
        ((*GOOD, "--ocsp", "revoked.ocsp"), "RimSignerRevoked", "Revoked"),
        (("--ocsp", "stale.ocsp", "--ocsp", "ca.ocsp"), "GpuOcspExpired", "NotChecked"),
        ((*GOOD, "--ocsp", "damaged.ocsp"), "GpuOcspInvalid", "NotChecked"),
        (REQUIRED, "RimRevocationNotChecked", "NotChecked"),
        (("--ocsp", "signer.ocsp", *REQUIRED), "RimRevocationNotChecked", "NotChecked"),
        (("--ocsp", "foreign.ocsp", "--ocsp", "ca.ocsp", "--revocation", "required"), "RimRevocationNotChecked", "NotChecked"),
        ((*OF_DEVICE, *REQUIRED), "RimRevocationNotChecked", "NotChecked"),
    ],
)
def test_refused(run: Run, words: tuple[str, ...], reason: str, revocation: str) -> None:
    found = run("rim", "driver.swidtag", *words)
    assert (found.code, found.json["verdict"], found.reasons) == (1, "Refused", [reason])
    assert (_revocations(found), found.json["measurements"]) == ([revocation], [])
    text = run("rim", "driver.swidtag", *words, output="text").out
    assert f"  {reason} (" in text
    assert "what to do:" in text
    verified = run("verify", "evidence.json", "--rim", "driver.swidtag", *words)
    assert (verified.code, _revocations(verified)) == (1, [revocation])
    assert reason in verified.reasons
    assert verified.json["gpus"] == [] or verified.json["gpus"][0]["comparison"] == "NotCompared"


def test_a_damaged_answer_is_named(run: Run) -> None:
    found = run("rim", *RIMS, *GOOD, "--ocsp", "damaged.ocsp")
    assert [reason["file"] for reason in found.json["reasons"]] == ["damaged.ocsp"]


def test_where_every_rim_is_refused_it_is_said_that_nothing_was_compared(run: Run) -> None:
    found = run("verify", *_verify("--ocsp", "revoked.ocsp"))
    assert found.reasons == ["RimSignerRevoked", "RimSignerRevoked"]
    assert (found.json["scope"], found.json["gpus"][0]["secureBoot"]) == ("Genuineness", None)
    assert "every --rim is refused" in found.json["notes"][0]


def test_a_revoked_device_does_not_concern_a_rim(run: Run) -> None:
    assert run("rim", *RIMS, *GOOD, "--ocsp", "revoked-device.ocsp").code == 0
    found = run("verify", *_verify(*GOOD, "--ocsp", "revoked-device.ocsp"))
    assert (found.code, found.reasons, _revocations(found)) == (1, ["GpuCertificateRevoked"], ["Good", "Good"])


def test_required_goes_for_devices_too(run: Run) -> None:
    assert run("verify", *_verify(*GOOD, *REQUIRED)).reasons == ["GpuRevocationNotChecked"]
    assert run("verify", *_verify(*GOOD, "--revocation", "Optional")).code == 0
    assert run("verify", *_verify(*GOOD)).code == 0


def test_digested_values_do_not_say_who_signed_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "digested.json").write_text(run("rim", *RIMS, *GOOD).out)
    words = ("evidence.json", "--rim", "digested.json", *GOOD, *OF_DEVICE)
    found = run("verify", *words)
    assert (found.code, _revocations(found), len(found.json["rims"][0]["ids"])) == (0, ["NotChecked"], 2)
    assert run("verify", *words, *REQUIRED).reasons == ["RimRevocationNotChecked"]


def test_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text("{}")
    url = ("--ocsp-url", "http://127.0.0.1:1")
    for verb, words, at, said in (
        ("rim", ("driver.swidtag", *url), INSTANT, "--at judges at another time"),
        ("verify", _verify(*url), INSTANT, "--at judges at another time"),
        ("rim", ("driver.swidtag", "--ocsp-url", "ftp://ocsp.example"), None, "--ocsp-url: "),
        ("rim", ("driver.swidtag", *url, "--gpu-services-ca", "driver.swidtag"), None, "--gpu-services-ca cannot be used"),
        ("rim", ("driver.swidtag", "--gpu-services-ca", "driver.swidtag"), None, "belongs to --ocsp-url"),
        ("rim", ("driver.swidtag", "--revocation", "Sometimes"), None, "Sometimes"),
        ("rim", ("driver.swidtag", *("--ocsp", "ca.ocsp") * 257), None, "at most 256"),
        ("rim", ("driver.swidtag", "--ocsp", "missing"), None, "GpuFileUnreadable"),
        ("verify", ("evidence.json", "--rules", "rules.json", *REQUIRED), None, "--revocation or --policy"),
    ):
        found = run(verb, *words, at=at)
        assert (found.code, said in found.err) == (2, True), (words, found.err)


# A responder that is asked


def test_the_responder_is_asked_once_about_each(run: Run, responder: SimulatedGpuServices) -> None:
    found = run("rim", *RIMS, *_asks(responder), *REQUIRED, at=None)
    assert (found.code, _revocations(found)) == (0, ["Good", "Good"])
    assert responder.asked[OCSP] == 2  # both RIMs have the same signers
    found = run("verify", *_verify(*_asks(responder), *REQUIRED), at=None)
    assert (found.code, found.json["revocation"], _revocations(found)) == (0, "Good", ["Good", "Good"])
    assert responder.asked[OCSP] == 2 + 2 + 3


def test_the_rules_of_a_policy_say_whether_it_is_required(run: Run, responder: SimulatedGpuServices, tmp_path: Path) -> None:
    rules = {
        "count": 1,
        "architectures": ["Hopper"],
        "driverVersions": [simulated.DRIVER],
        "vbiosVersions": [simulated.VBIOS],
        "ccMode": ["On"],
        "measurements": run("rim", *RIMS).json["measurements"],
        "trustRoot": {"der": base64.b64encode(VENDOR.root_der).decode()},
        "revocation": "Required",
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    words = ("evidence.json", "--rules", "rules.json")
    assert run("verify", *words, at=None).reasons == ["GpuRevocationNotChecked"]
    found = run("verify", *words, *_asks(responder), at=None)
    assert (found.code, found.json["revocation"], found.json["rims"]) == (0, "Good", [])


@pytest.mark.parametrize("revoked", [0, 1])
def test_the_responder_says_revoked(run: Run, responder: SimulatedGpuServices, revoked: int) -> None:
    responder.ocsp.revoked.add(VENDOR.rim_signers[revoked].serial_number)
    assert run("rim", "driver.swidtag", *_asks(responder), at=None).reasons == ["RimSignerRevoked"]
    assert run("verify", *_verify(*_asks(responder)), at=None).reasons == ["RimSignerRevoked"] * 2


def test_the_responder_says_that_the_device_is_revoked(run: Run, responder: SimulatedGpuServices) -> None:
    responder.ocsp.revoked.add(DEVICE.certificates[2].serial_number)
    assert run("verify", *_verify(*_asks(responder)), at=None).reasons == ["GpuCertificateRevoked"]


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.DROP, Fault.GARBAGE, Fault.FORGED, Fault.STALE, Fault.UNKNOWN, Fault.NO_NONCE])
def test_a_responder_without_a_usable_answer_is_no_good_answer(run: Run, responder: SimulatedGpuServices, fault: Fault) -> None:
    responder.behave(fault, OCSP)
    for verb, words in (("rim", RIMS), ("verify", _verify())):
        found = run(verb, *words, *_asks(responder), at=None)
        assert (found.code, found.json["verdict"], found.reasons) == (3, None, ["GpuServiceUnavailable"])


def test_nobody_is_asked_about_what_is_refused_for_anything_else(run: Run, responder: SimulatedGpuServices, tmp_path: Path) -> None:
    data = FILES["driver.swidtag"].replace(simulated.measured(7).hex().encode(), b"11" * 48)
    (tmp_path / "changed.swidtag").write_bytes(data)
    assert run("rim", "changed.swidtag", *_asks(responder), at=None).reasons == ["RimSignatureInvalid"]
    assert run("rim", "driver.swidtag", "--ocsp", "damaged.ocsp", *_asks(responder), at=None).reasons == ["GpuOcspInvalid"]
    words = ("devtools.json", *_verify()[1:], *_asks(responder), *REQUIRED)
    assert run("verify", *words, at=None).reasons == ["GpuMeasurementMismatch"]
    assert responder.asked[OCSP] == 0


def test_what_a_file_answers_is_not_asked(run: Run, responder: SimulatedGpuServices, tmp_path: Path) -> None:
    now = SystemClock().now()
    for place in (0, 1):
        (tmp_path / f"now-{place}.ocsp").write_bytes(VENDOR.rim_ocsp(now, place))
    given = ("--ocsp", "now-0.ocsp", "--ocsp", "now-1.ocsp", *_asks(responder), *REQUIRED)
    assert _revocations(run("rim", *RIMS, *given, at=None)) == ["Good", "Good"]
    assert responder.asked[OCSP] == 0
    assert run("verify", *_verify(*given), at=None).code == 0
    assert responder.asked[OCSP] == 3  # about the device
