"""Every parser of foreign bytes, ten seconds each, some at once; `make fuzz` does the same for longer."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest

from chrysalis.sealing.reasons import SealingError, SealingReason
from tests.fuzz import conductor, process
from tests.fuzz.conductor import Outcome, fuzz_all, picked
from tests.fuzz.targets import TARGETS, Call

SECONDS_EACH = 10
LEAST_RUNS = 50


@pytest.fixture(scope="session")
def outcomes() -> dict[str, Outcome]:
    """Two minutes and a half on two processors."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(1 << 31))
    print(f"SEED={seed}")
    return {outcome.target: outcome for outcome in fuzz_all(TARGETS, SECONDS_EACH, seed, keep=False)}


@pytest.mark.fuzz
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", [target.name for target in TARGETS])
def test_nothing_but_a_refusal(outcomes: dict[str, Outcome], target: str) -> None:
    outcome = outcomes[target]
    assert not outcome.problem, str(outcome)
    assert outcome.runs >= LEAST_RUNS, f"only {outcome.runs} inputs: this fuzzes nothing"


def test_names_are_unique_and_only_picks_by_their_beginning() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    assert [target.name for target in picked("gpu-d")] == ["gpu-der"]
    assert picked("nothing") == []


def _slow(data: bytes) -> None:
    for _ in range(len(data)):
        sum(range(10_000_000))


def _large(data: bytes) -> None:
    bytearray(len(data)).extend(b"x")


def _refuses(data: bytes) -> None:
    raise SealingError(SealingReason.PACKAGE_MALFORMED, "no")


def _fails(data: bytes) -> None:
    raise KeyError("chrysalis")


@pytest.mark.parametrize(
    ("call", "data", "breaks"),
    [
        (_refuses, b"", None),
        (_fails, b"", KeyError),
        (len, b"x", None),
        (_slow, b"", None),
        (_slow, bytes(12), process.Broken),
        (_large, bytes(1000), None),
        (_large, bytes(300 * 1024 * 1024), process.Broken),
    ],
)
def test_the_oracle(call: Call, data: bytes, breaks: type[BaseException] | None) -> None:
    judged = process.judged(call)
    if breaks is None:
        judged(data)
    else:
        with pytest.raises(breaks):
            judged(data)


@pytest.mark.parametrize(("again", "kept"), [("ZeroDivisionError: division by zero", True), ("", False)])
def test_what_breaks_is_kept_with_its_traceback_if_it_breaks_without_coverage_counters_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, again: str, kept: bool
) -> None:
    def process_of(arguments: list[str], seconds: float, scratch: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "replay":
            return subprocess.CompletedProcess(arguments, 1 if again else 0, "", again)
        Path(arguments[arguments.index("--artifacts") + 1], "crash-1").write_bytes(b"bad")
        return subprocess.CompletedProcess(arguments, 77, "", "Broken: 3 bytes took 2 s")

    monkeypatch.setattr(conductor, "FOUND", tmp_path / "found")
    monkeypatch.setattr(conductor, "_process", process_of)
    outcome = conductor._fuzz(TARGETS[0], 5, 1, keep=False)
    assert bool(outcome.problem) == kept
    assert [path.read_bytes() for path in (tmp_path / "found").iterdir()] == ([b"bad"] if kept else [])
    if kept:
        assert again in str(outcome)
        assert f"replay {TARGETS[0].name} {tmp_path}/found/{TARGETS[0].name}-crash-1" in str(outcome)
