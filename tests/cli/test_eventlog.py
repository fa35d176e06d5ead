"""`chrysalis eventlog replay` and `chrysalis policy lint -o json`: output and exit codes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrysalis.attestation import eventlog, eventlog_file
from chrysalis.attestation.eventlog import SHA384
from e2e.simtd import eventlog as boot
from e2e.simtd.pki import SimulatedPlatform
from tests.cli.documented import told as documented
from tests.cli.outcome import outcome as run

RTMRS = [value.hex() for value in boot.registers()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "ccel"
    path.write_bytes(boot.EVENT_LOG)
    return path


def test_the_registers_are_printed(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    outcome = run(capsys, "eventlog", "replay", log)
    assert outcome.code == 0
    assert all(value in outcome.out for value in RTMRS)
    assert f"{len(boot.BOOT)} events" in outcome.out
    assert "3 events" in outcome.out  # of rtmr0
    assert outcome.out.startswith("Accepted  (its separators are sound; compared with nothing")
    document = run(capsys, "eventlog", "replay", log, "-o", "json", "--algorithm", "SHA384").json
    assert documented(document, "eventlog replay")
    assert "compared with nothing" in document["notes"][0]
    assert (document["rtmrs"], document["events"], document["algorithm"]) == (RTMRS, len(boot.BOOT), "sha384")
    assert (document["verdict"], document["reasons"], document["matches"]) == ("Accepted", [], [None] * 4)
    assert document["log"][0] == {
        "number": 0,
        "rtmr": 0,
        "type": "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        "digest": boot.BOOT[0].digest.hex(),
        "dataBytes": len(boot.BOOT[0].data),
        "proved": True,
        "text": boot.BOOT[0].data.decode(),
    }


def test_the_verdict_stands_first(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    right, wrong = f"0={RTMRS[0]}", f"1={RTMRS[0]}"
    assert run(capsys, "eventlog", "replay", log, "--rtmr", right).out.startswith("Accepted  (rtmr0 as given)\n")
    assert run(capsys, "eventlog", "replay", log, "--rtmr", right, "-o", "json").json["notes"] == []
    assert run(capsys, "eventlog", "replay", log, "--rtmr", wrong).out.startswith("Refused  (")


def test_every_event_is_printed_on_demand(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    told = run(capsys, "eventlog", "replay", log, "-o", "json").json["log"]
    printed = run(capsys, "eventlog", "replay", log, "--events").out.splitlines()[-len(told) :]
    for event, line in zip(told, printed, strict=True):
        assert line.split()[:4] == [str(event["number"]), f"rtmr{event['rtmr']}", event["type"], event["digest"]]
        assert ("not proved" in line) is not event["proved"]
        assert event.get("text", "")[:100] in line
    assert run(capsys, "eventlog", "replay", log).out.count("EV_") == 0


@pytest.mark.parametrize(
    "form",
    [
        boot.EVENT_LOG.hex().encode(),
        b"0x" + boot.EVENT_LOG.rstrip(b"\xff").hex().upper().encode() + b"\r\n",
        base64.b64encode(boot.EVENT_LOG),
        base64.encodebytes(boot.EVENT_LOG),
    ],
    ids=["hex", "0x", "base64", "base64-lines"],
)
def test_text_of_a_log_is_read(capsys: pytest.CaptureFixture[str], tmp_path: Path, form: bytes) -> None:
    (tmp_path / "text").write_bytes(form)
    assert run(capsys, "eventlog", "replay", tmp_path / "text", "-o", "json").json["rtmrs"] == RTMRS


def test_registers_that_are_as_given(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    words = [f"--rtmr={index}={value}" for index, value in enumerate(RTMRS)]
    assert run(capsys, "eventlog", "replay", log, *words).code == 0
    assert run(capsys, "eventlog", "replay", log, "--rtmr", f"0=0x{RTMRS[0].upper()}").code == 0
    (tmp_path / "quote").write_bytes(SimulatedPlatform.create().quote())
    outcome = run(capsys, "eventlog", "replay", log, "--quote", tmp_path / "quote", "-o", "json")
    assert (outcome.code, outcome.json["matches"]) == (0, [True] * 4)


def test_a_register_that_differs(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    words: list[str | Path] = ["eventlog", "replay", log, "--rtmr", f"0={RTMRS[0]}", "--rtmr", f"2={'ab' * 48}"]
    outcome = run(capsys, *words)
    assert outcome.code == 1
    assert "EventLogMismatch" in outcome.out
    assert "DIFFERS" in outcome.out
    document = run(capsys, *words, "-o", "json").json
    assert (document["verdict"], document["matches"]) == ("Refused", [True, None, False, None])
    assert [reason["reason"] for reason in document["reasons"]] == ["EventLogMismatch"]
    assert document["reasons"][0]["remedy"]


def test_separators_that_mislead(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    separator = next(step for step in boot.BOOT if step.type == boot.EV_SEPARATOR and step.rtmr == 1)
    data = boot.EVENT_LOG.rstrip(b"\xff")
    at = data.index(separator.digest) - 14
    entry = data[at : at + 14 + 48 + 4 + 4]
    log.write_bytes(data + entry)
    outcome = run(capsys, "eventlog", "replay", log, "-o", "json")
    assert outcome.code == 1
    assert [reason["reason"] for reason in outcome.json["reasons"]] == ["EventLogSeparatorInvalid"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, []),
        (b"", []),
        (b"junk", []),
        (b"CCEL8\0\0\0" + bytes(48), []),
        (boot.EVENT_LOG.rstrip(b"\xff")[:-3], []),
        (bytes(600 * 1024), []),
        (boot.EVENT_LOG, ["--rtmr", "4=" + "00" * 48]),
        (boot.EVENT_LOG, ["--rtmr", "0=00"]),
        (boot.EVENT_LOG, ["--rtmr", "nonsense"]),
        (boot.EVENT_LOG, ["--rtmr", "0=" + "00" * 48, "--rtmr", "0=" + "11" * 48]),
        (boot.EVENT_LOG, ["--algorithm", "sha1"]),
        (boot.EVENT_LOG, ["--quote", "missing"]),
    ],
)
def test_unreadable_input(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: bytes | None, words: list[str]) -> None:
    path = tmp_path / "log"
    if data is not None:
        path.write_bytes(data)
    outcome = run(capsys, "eventlog", "replay", path, *words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err


def test_a_file_that_cannot_be_opened(capsys: pytest.CaptureFixture[str], tmp_path: Path, log: Path) -> None:
    assert "FileUnreadable" in run(capsys, "eventlog", "replay", tmp_path / "missing").err
    assert "FileUnreadable" not in run(capsys, "eventlog", "replay", log).err


@pytest.mark.vectors
@pytest.mark.parametrize("name", ["go-tdx-guest/ccel_data.dat", "cctrusted/ccel_data.bin"])
def test_real_logs(capsys: pytest.CaptureFixture[str], vectors: Path, name: str) -> None:
    manifest = json.loads((vectors / "MANIFEST.json").read_text())
    stated = next(item for item in manifest["eventLogs"] if item["eventLog"] == name)
    outcome = run(capsys, "eventlog", "replay", vectors / name, "-o", "json")
    assert outcome.code == 0
    assert (outcome.json["rtmrs"], outcome.json["events"]) == (stated["rtmrs"], stated["events"])
    against = run(capsys, "eventlog", "replay", vectors / name, "--quote", vectors / stated["quote"], "-o", "json")
    assert against.code == (0 if all(stated["matches"]) else 1)
    assert against.json["matches"] == stated["matches"]
    given = [f"--rtmr={index}={value}" for index, value in enumerate(stated["quoteRtmrs"])]
    assert run(capsys, "eventlog", "replay", vectors / name, *given).code == against.code
    whole = [item for item in outcome.json["log"] if item["proved"] and "text" in item]
    assert len(whole) <= stated["events"]


@pytest.mark.vectors
def test_the_acpi_table_beside_a_real_log(capsys: pytest.CaptureFixture[str], vectors: Path) -> None:
    outcome = run(capsys, "eventlog", "replay", vectors / "go-tdx-guest/ccel_table.dat")
    assert outcome.code == 2
    assert "ACPI table" in outcome.err
    assert "tables/data/CCEL" in outcome.err


POLICY: dict[str, Any] = {
    "apiVersion": "chrysalis.dev/v1alpha1",
    "kind": "AttestationPolicy",
    "metadata": {"name": "workers"},
    "spec": {
        "version": 1,
        "trustRoot": "Intel",
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"], "advisories": {"allow": []}, "minEvaluationDataNumber": 17},
            "measurements": [
                {
                    "name": "m",
                    "expires": "2027-01-01T00:00:00Z",
                    **{name: "ab" * 48 for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")},
                    "mrconfigid": "ab" * 48,
                }
            ],
            "tdAttributes": {"value": "0000001000000000", "mask": "ff" * 8},
            "xfam": {"value": "e702060000000000", "mask": "ff" * 8},
            "fmspcs": ["51d000000000"],
            "ppids": ["00" * 16],
        },
        "eventLog": {"required": True, "rules": [{"register": 2, "type": "EV_IPL", "text": "x"}]},
    },
}


@pytest.mark.parametrize(
    ("at", "code", "strict", "codes"),
    [
        ("2026-11-01T00:00:00Z", 0, 0, []),
        ("2026-12-25T00:00:00Z", 0, 1, ["ExpiresSoon"]),
        ("2027-01-01T00:00:00Z", 1, 1, ["AllExpired", "TupleExpired"]),
    ],
)
def test_lint_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path, at: str, code: int, strict: int, codes: list[str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(POLICY))
    outcome = run(capsys, "policy", "lint", "-f", path, "--at", at, "-o", "json")
    assert documented(outcome.json, "policy lint")
    assert outcome.code == code
    assert (outcome.json["policy"], outcome.json["at"], outcome.json["usable"]) == ("workers", at, code == 0)
    assert [finding["code"] for finding in outcome.json["findings"]] == codes
    assert run(capsys, "policy", "lint", "-f", path, "--at", at, "--strict").code == strict
    text = run(capsys, "policy", "lint", "-f", path, "--at", at).out
    assert all(found in text for found in codes)


def test_lint_of_what_is_no_policy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({**POLICY, "spec": {**POLICY["spec"], "eventLog": {"rules": [{"register": 9}]}}}))
    outcome = run(capsys, "policy", "lint", "-f", path, "-o", "json")
    assert outcome.code == 2
    assert "eventLog" in outcome.err


def listed(*, payloads: bool = True) -> list[dict[str, Any]]:
    """The boot as a runtime's list, and two events of the runtime's own behind it."""
    events = [
        {
            "imr": event.register - 1,
            "event_type": event.type,
            "digest": event.digests[SHA384].hex(),
            "event": "",
            "event_payload": event.data.hex() if payloads else "",
        }
        for event in eventlog.parse(boot.EVENT_LOG)
    ]
    for name, payload in (("app-id", b"\1\2"), ("ready", b"")):
        digest = hashlib.sha384(b"\1\0\0\x08:" + name.encode() + b":" + payload).hexdigest()
        events.append({"imr": 3, "event_type": 0x08000001, "digest": digest, "event": name, "event_payload": payload.hex()})
    return events


def extended(*digests: str) -> str:
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + bytes.fromhex(digest)).digest()
    return value.hex()


@pytest.mark.parametrize("payloads", [True, False])
def test_a_runtimes_list_is_replayed(capsys: pytest.CaptureFixture[str], tmp_path: Path, payloads: bool) -> None:
    events = listed(payloads=payloads)
    expected = [*RTMRS[:3], extended(*(event["digest"] for event in events if event["imr"] == 3))]
    words = [word for index, value in enumerate(expected) for word in ("--rtmr", f"{index}={value}")]
    for number, document in enumerate((events, {"quote": "0400", "event_log": json.dumps(events)}, [{"a": {"event_log": events}}])):
        file = tmp_path / str(number)
        file.write_text(json.dumps(document))
        outcome = run(capsys, "eventlog", "replay", file, *words, "-o", "json")
        assert (outcome.code, outcome.json["rtmrs"], outcome.json["matches"]) == (0, expected, [True] * 4)
        named = [(event["event"], event["proved"]) for event in outcome.json["log"] if "event" in event]
        assert named == [("app-id", True), ("ready", True)]
    text = run(capsys, "eventlog", "replay", file, "--events")
    assert "proved: app-id = 0102" in text.out
    assert run(capsys, "eventlog", "replay", file, "--rtmr", f"3={'00' * 48}", "-o", "json").code == 1


def test_a_runtime_event_whose_digest_is_of_something_else_proves_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    events = listed()
    events[-2]["event_payload"] = "ff"
    (tmp_path / "list").write_text(json.dumps(events))
    outcome = run(capsys, "eventlog", "replay", tmp_path / "list", "-o", "json")
    assert outcome.code == 0
    assert [event["proved"] for event in outcome.json["log"][-2:]] == [False, True]


def test_a_separator_whose_digest_is_of_an_error_stays_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    events = [{"imr": 0, "event_type": 4, "digest": hashlib.sha384(b"\1\0\0\0").hexdigest(), "event": "", "event_payload": ""}]
    (tmp_path / "list").write_text(json.dumps(events))
    outcome = run(capsys, "eventlog", "replay", tmp_path / "list", "-o", "json")
    assert (outcome.code, [reason["reason"] for reason in outcome.json["reasons"]]) == (1, ["EventLogSeparatorInvalid"])


@pytest.mark.parametrize(
    "change",
    [
        {"imr": 4},
        {"imr": True},
        {"imr": "0"},
        {"digest": "00" * 32},
        {"digest": "zz"},
        {"digest": None},
        {"event_payload": "0"},
        {"event_type": -1},
        {"event_type": "4"},
        {"event": 7},
    ],
)
def test_a_damaged_list(capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any]) -> None:
    events = listed()
    events[1] |= change
    (tmp_path / "list").write_text(json.dumps(events))
    outcome = run(capsys, "eventlog", "replay", tmp_path / "list")
    assert outcome.code == 2
    assert "EventLogMalformed: " in outcome.err
    assert " event 1 of the list" in outcome.err


@pytest.mark.parametrize(
    "document",
    [
        [listed(), listed()[1:]],
        [*listed(), 7],
        [{"imr": 0, "digest": "00" * 48}] * 5000,
        {"event_log": []},
    ],
)
def test_no_list_or_two(capsys: pytest.CaptureFixture[str], tmp_path: Path, document: Any) -> None:
    (tmp_path / "list").write_text(json.dumps(document))
    outcome = run(capsys, "eventlog", "replay", tmp_path / "list")
    assert outcome.code == 2
    assert "EventLogMalformed" in outcome.err


def test_a_list_beside_the_firmwares_log_is_not_taken_for_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "both").write_text(json.dumps({"list": listed(), "ccel": base64.b64encode(boot.EVENT_LOG).decode()}))
    assert run(capsys, "eventlog", "replay", tmp_path / "both", "-o", "json").json["rtmrs"] == RTMRS


def test_a_policys_log_is_the_firmwares(tmp_path: Path) -> None:
    with pytest.raises(eventlog_file.NoLogError):
        eventlog_file.read(json.dumps(listed()).encode())
