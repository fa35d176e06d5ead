"""What the shell sees when there is no result: exit 2 with a reason and what to do, as text and as one JSON document."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chrysalis.cli import eventlog as eventlog_verb
from chrysalis.cli import failures
from e2e.simtd import eventlog as boot
from e2e.simtd.gpu import SimulatedGpus
from e2e.simtd.pki import SimulatedPlatform
from tests.cli.outcome import Outcome, outcome

VENDOR = SimulatedGpus.create()
DEVICE = VENDOR.device()


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str | Path) -> Outcome:
        return outcome(capsys, *words)

    return command


VERBS: dict[str, tuple[list[str], str]] = {
    "verify": (["verify", "FILE", "--collateral", "FILE"], "FileUnreadable"),
    "verify --bundle": (["verify", "--bundle", "FILE"], "FileUnreadable"),
    "eventlog replay": (["eventlog", "replay", "FILE"], "FileUnreadable"),
    "gpu verify": (["gpu", "verify", "FILE"], "GpuFileUnreadable"),
    "gpu rim": (["gpu", "rim", "FILE"], "GpuFileUnreadable"),
    "bundle inspect": (["bundle", "inspect", "FILE"], "FileUnreadable"),
    "policy lint": (["policy", "lint", "-f", "FILE"], "FileUnusable"),
    "policy sign": (["policy", "sign", "-f", "FILE", "--owner-key", "FILE"], "FileUnusable"),
    "measure": (["measure", "-f", "FILE"], "ManifestUnreadable"),
}


def missing(folder: Path) -> Path:
    return folder / "missing"


def directory(folder: Path) -> Path:
    return folder


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def below_a_file(folder: Path) -> Path:
    (folder / "plain").write_bytes(b"")
    return folder / "plain" / "more"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("place", [missing, directory, loop, below_a_file])
@pytest.mark.parametrize(("words", "reason"), VERBS.values(), ids=VERBS)
def test_a_file_that_cannot_be_read(
    run: Run, tmp_path: Path, words: list[str], reason: str, place: Callable[[Path], Path], form: str
) -> None:
    file = str(place(tmp_path))
    ended = run(*[file if word == "FILE" else word for word in words], "-o", form)
    assert ended.code == 2
    assert ended.err.startswith(f"{reason}: {file} cannot be read")
    assert "what to do: " in ended.err
    assert "Traceback" not in ended.err
    if form == "text":
        assert ended.out == ""
    else:
        assert (ended.json["verdict"], ended.json["schemaVersion"]) == (None, "chrysalis/v1")
        (told,) = ended.json["reasons"]
        assert (told["reason"], set(told)) == (reason, {"reason", "message", "remedy", "detail"})
        assert told["remedy"]


@pytest.mark.parametrize("words", [["-o", "json"], ["--output", "json"], ["--output=json"], ["-ojson"]])
def test_every_way_to_ask_for_json(run: Run, words: list[str]) -> None:
    assert run("eventlog", "replay", "missing", *words).json["reasons"][0]["reason"] == "FileUnreadable"
    assert run("eventlog", "replay", *words, "missing").json["reasons"][0]["reason"] == "FileUnreadable"


@pytest.mark.parametrize(
    "words",
    [
        ["verify"],
        ["gpu", "verify"],
        ["gpu", "verify", "x", "--nonce", "00"],
        ["gpu", "verify", "x", "--at", "yesterday"],
        ["eventlog", "replay", "x", "--algorithm", "sha256"],
        ["eventlog", "replay", "x", "--rtmr", "7=00"],
        ["policy", "simulate"],
        ["bundle", "make"],
        ["nonsense"],
        [],
    ],
)
def test_usage_is_told_in_json_too(run: Run, words: list[str]) -> None:
    ended = run(*words, "-o", "json")
    assert ended.code == 2
    assert "Usage: " in ended.err
    (told,) = ended.json["reasons"]
    assert told["reason"] == "UsageInvalid"
    assert told["message"]
    assert "--help`" in told["remedy"]
    assert run(*words).out == ""


ASKING: dict[str, list[str]] = {
    "bundle get": ["bundle", "get", "r", "--out", "o", "--owner-key", "k", "--pin", "00" * 32, "--broker"],
    "policy simulate": ["policy", "simulate", "-f", "p", "--owner-key", "k", "--pin", "00" * 32, "--broker"],
    "policy sign": ["policy", "sign", "-f", "p", "--owner-key", "k", "--pin", "00" * 32, "--put"],
    "keys pin": ["keys", "pin"],
    "keys pin --connect": ["keys", "pin", "https://broker.example"],
    "keys recalls": ["keys", "recalls", "--pin", "00" * 32, "--ear-key", "00" * 32, "--broker"],
    "broker rekey-model": [
        "broker",
        "rekey-model",
        "k",
        "--record",
        "r",
        "--owner-key",
        "k",
        "--identity",
        "i",
        "--pin",
        "00" * 32,
        "--broker",
    ],
    "reference get": ["reference", "get", "--pin", "00" * 32, "--publisher", "00" * 32, "--broker"],
    "infer": ["infer", "x", "--policy", "p", "--endpoint"],
}


@pytest.mark.parametrize("words", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize(
    "url", ["http://broker.example", "broker.example:8443", "", "https://", "https://b:99999", "https://b\x1b", "https://[b"]
)
def test_what_is_no_address_is_usage(run: Run, words: list[str], url: str) -> None:
    if words[:2] == ["keys", "pin"] and len(words) == 3:
        url = {"http://broker.example": "b:x", "broker.example:8443": "b:99999"}.get(url, ":" + url)
        words = [*words, "--connect"]
    ended = run(*words, url, "-o", "json")
    assert ended.code == 2
    (told,) = ended.json["reasons"]
    assert (told["reason"], "is no https URL" in told["message"]) == ("UsageInvalid", True)


def test_what_is_no_owners_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(boot.EVENT_LOG.hex().encode())
    assert run("keys", "show-owner", tmp_path / "key").err.startswith("OwnerKeyMalformed: ")
    assert run("policy", "sign", "-f", tmp_path / "key", "--owner-key", tmp_path / "key").code == 2


def test_what_stands_behind_two_hyphens_asks_for_nothing(run: Run) -> None:
    assert run("eventlog", "replay", "--", "-o", "json").out == ""


def test_a_result_is_one_document(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(boot.EVENT_LOG)
    ended = run("eventlog", "replay", tmp_path / "log", "-o", "json")
    assert (ended.code, ended.err, ended.json["verdict"]) == (0, "", "Accepted")


def test_a_failure_of_the_program_is_no_verdict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("nobody foresaw it")

    monkeypatch.setattr(eventlog_verb.files, "read", broken)
    ended = run("eventlog", "replay", "x", "-o", "json")
    assert ended.code == 2
    assert ended.err.startswith("InternalError: ")
    assert ended.json["reasons"][0]["detail"] == "nobody foresaw it"
    assert "Traceback" not in ended.err


def test_a_refusal_by_a_service_is_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    failures.listen(["-o", "json"])
    said = failures.CommandError(failures.CommandReason.USAGE_INVALID, "no", "do otherwise")
    for code, verdict in ((1, "Refused"), (3, None)):
        assert failures.tell([said], code) == code
        captured = capsys.readouterr()
        assert json.loads(captured.out)["verdict"] == verdict
        assert "what to do: do otherwise" in captured.err
    failures.listen([])
    assert failures.tell([said], 1, text=False) == 1
    assert capsys.readouterr() == ("", "")
    assert failures.usage(click.UsageError("x")).remedy == "read `chrysalis --help`"


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    feed(monkeypatch, boot.EVENT_LOG)
    assert run("eventlog", "replay", "-").code == 0
    feed(monkeypatch, b"")
    assert run("eventlog", "replay", "-").code == 2
    for words in (["policy", "lint", "-f", "-"], ["measure", "-f", "-"]):
        feed(monkeypatch, b"kind: Nothing\n")
        assert "cannot be read" not in run(*words).err
        feed(monkeypatch, b"\xff")
        assert "'utf-8' codec" in run(*words).err
    platform = SimulatedPlatform.create()
    (tmp_path / "root").write_bytes(platform.root_der)
    (tmp_path / "chain").write_bytes(DEVICE.chain)
    (tmp_path / "device-root").write_bytes(VENDOR.root_der)
    feed(monkeypatch, platform.quote().hex().encode())
    assert run("verify", "-", "--collateral", tmp_path / "chain").err.startswith("CollateralMalformed")
    feed(monkeypatch, DEVICE.report(bytes(32)))
    given: list[str | Path] = ["--chain", tmp_path / "chain", "--root", tmp_path / "device-root", "--at", "2026-11-01T12:00:00Z"]
    assert run("gpu", "verify", "-", *given).code == 0


def test_a_pipe(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    if os.fork() == 0:
        with open(tmp_path / "pipe", "wb") as pipe:
            pipe.write(boot.EVENT_LOG)
        os._exit(0)
    assert run("eventlog", "replay", tmp_path / "pipe").code == 0
    os.wait()


ENDLESS = Path("/dev/zero")


@pytest.mark.skipif(not ENDLESS.exists(), reason="no device without end")
@pytest.mark.parametrize(("words", "reason"), [*VERBS.values()][:7], ids=[*VERBS][:7])
def test_a_file_without_end(run: Run, words: list[str], reason: str) -> None:
    ended = run(*[str(ENDLESS) if word == "FILE" else word for word in words])
    assert ended.code == 2
    assert "has more than" in ended.err or "at most" in ended.err


TIMES = ["2026-11-01T12:00:00Z", "2026-11-01T12:00:00+00:00", "2026-11-01t14:00:00.5+02:00", "1793534400", " 1793534400 ", "NOW"]
NO_TIMES = [
    "2026-11-01",
    "2026-11-01T12:00:00",
    "yesterday",
    "",
    "-1",
    "179353440000",
    "1e9",
    "2026-13-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
]


@pytest.mark.parametrize("at", TIMES)
def test_times_that_are_understood(run: Run, tmp_path: Path, at: str) -> None:
    (tmp_path / "gpu").write_text(json.dumps([DEVICE.evidence(bytes(32))]))
    (tmp_path / "root").write_bytes(VENDOR.root_der)
    ended = run("gpu", "verify", tmp_path / "gpu", "--root", tmp_path / "root", f"--at={at}")
    assert ended.code == 0
    assert at == "NOW" or "(as of 2026-11-01T12:00:00Z)" in ended.out


@pytest.mark.parametrize("at", NO_TIMES)
def test_times_that_are_not(run: Run, at: str) -> None:
    ended = run("gpu", "verify", "x", f"--at={at}")
    assert ended.code == 2
    assert "2026-08-28T05:21:24Z" in ended.err
