"""What is written to a terminal, and what becomes of the exit code when it cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from chrysalis.cli import failures, printing
from e2e.simtd import eventlog as boot
from tests.cli.test_failures import Run, feed
from tests.cli.test_failures import run as run  # the fixture

PROGRAM = [sys.executable, "-m", "chrysalis.cli.main"]
HOSTILE = {
    "cursor": ("x\x1b[2J\x1b[HAccepted", "\\x1b"),
    "return": ("Refused\rAccepted", "\\r"),
    "C1": ("x\x9b2J", "\\x9b"),
    "bidirectional": ("x‮detpeccA", "\\u202e"),
    "line separator": ("x\u2028Accepted", "\\u2028"),
    "surrogate": ("x\udcff", "\\udcff"),
    "NUL": ("x\0", "\\x00"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_foreign_text_does_not_drive_the_terminal(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown in printing.plain(text)
    assert printing.plain(text).isprintable()
    printing.lines([text])
    assert capsys.readouterr().out == printing.plain(text) + "\n"
    said = failures.CommandError(failures.CommandReason.USAGE_INVALID, text, text, text)
    failures.tell([said], 2)
    assert capsys.readouterr().err.count(shown) >= 3


def test_foreign_lines_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    printing.lines(["Refused", "  detail: x\nAccepted\r\nAccepted"])
    assert capsys.readouterr().out.split("\n") == ["Refused", "  detail: x", "      Accepted", "      Accepted", ""]


def test_usual_text_stays(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("a sentence, 3 °C – “quoted”…", "снег", ""):
        assert printing.plain(text) == text
    printing.lines([click.style("Accepted", fg="green", bold=True)])
    assert capsys.readouterr().out == "Accepted\n"  # no terminal reads


def test_a_document_says_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    printing.outcome({"file": "é\x1b"}, "", "json")
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert list(json.loads(printed).items()) == [("schemaVersion", "chrysalis/v1"), ("outcome", "Done"), ("file", "é\x1b")]


@pytest.mark.parametrize(
    ("variables", "wanted"), [({}, None), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, None), ({"TERM": "dumb"}, False)]
)
def test_colour(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: bool | None) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert printing.colour() is wanted


def started(log: Path, *words: str, **given: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*PROGRAM, "eventlog", "replay", str(log), *words], **({"stderr": subprocess.PIPE} | given))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").write_bytes(boot.EVENT_LOG)
    return tmp_path / "log"


def on_a_terminal(log: Path, **variables: str) -> bytes:
    """What a terminal gets."""
    ours, theirs = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")} | {"TERM": "xterm"} | variables
    process = started(log, stdout=theirs, env=environment)
    assert process.wait(60) == 0
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    return shown


def test_no_color_is_heard_on_a_terminal(log: Path) -> None:
    assert b"\x1b[32m" in on_a_terminal(log)
    assert b"\x1b" not in on_a_terminal(log, NO_COLOR="1")


def test_a_reader_that_goes_away_is_no_verdict(log: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for words in (["-o", "json"], [], ["--help"]):
        process = started(log, *words, stdout=writing)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (141, b"")
    os.close(writing)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
@pytest.mark.parametrize(("words", "code"), [([], 2), (["--nonsense"], 2)], ids=["refused", "usage"])
def test_an_error_that_cannot_be_told_is_no_verdict(tmp_path: Path, words: list[str], code: int) -> None:
    with FULL.open("wb") as full:
        assert started(tmp_path / "missing", *words, stderr=full).wait(60) == code


def test_closed_standard_streams(log: Path) -> None:
    def closed(number: int) -> Callable[[], None]:
        return lambda: os.close(number)

    process = started(Path("-"), preexec_fn=closed(0))
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.split(b":")[0]) == (2, b"FileUnreadable")
    assert b"standard input is closed" in said
    assert started(log, preexec_fn=closed(1)).wait(60) == 0
    assert started(log, preexec_fn=closed(2), stdout=subprocess.DEVNULL).wait(60) == 0


def test_an_encoding_without_the_character(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "iso-8859-1"}
    done = subprocess.run([*PROGRAM, "unseal", "--help"], env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"sha256:\\u2026" in done.stdout, done.stderr) == (0, True, b"")


def test_interrupted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = started(tmp_path / "pipe", stdout=subprocess.PIPE)
    descriptor = os.open(tmp_path / "pipe", os.O_WRONLY)  # returns when the program reads
    process.send_signal(2)
    shown, said = process.communicate(timeout=60)
    os.close(descriptor)
    assert (process.returncode, shown, said.strip()) == (130, b"", b"")


def test_standard_input_is_for_one_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"\x04\x00")
    ended = run("verify", "-", "--collateral", "-")
    assert ended.code == 2
    assert "standard input was read for another file already" in ended.err
