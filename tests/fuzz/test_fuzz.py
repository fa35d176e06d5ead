"""Every parser of foreign bytes, ten seconds each, some at once; `make fuzz` does the same for longer."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from chrysalis.sealing.reasons import SealingError, SealingReason
from e2e import cache
from tests.fuzz import conductor, process
from tests.fuzz.conductor import LEAST_RUNS, ROUNDS, Outcome, fuzz_all, picked
from tests.fuzz.target import Call
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.slow

SECONDS_EACH = 10


@pytest.fixture(scope="session")
def outcomes() -> dict[str, Outcome]:
    """Two minutes and a half on two processors."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(1 << 31))
    print(f"SEED={seed}")
    return {outcome.target: outcome for outcome in fuzz_all(TARGETS, SECONDS_EACH, seed, keep=False)}


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
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
        (_large, None, process.Broken),
    ],
)
def test_the_oracle(call: Call, data: bytes | None, breaks: type[BaseException] | None) -> None:
    judged = process.judged(call)
    if data is None:
        data = bytes(_below_the_peak() + 100 * 1024 * 1024)
    if breaks is None:
        judged(data)
    else:
        with pytest.raises(breaks):
            judged(data)


def _below_the_peak() -> int:
    """How many bytes this process holds less than it once did: the tests before this one decide."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, now = (int(lines[name].split()[0]) for name in ("VmHWM", "VmRSS"))
    return (peak - now) * 1024


class Rounds:
    """In place of the processes: what each round of fuzzing leaves, then what replaying says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, rounds: list[tuple[int, str, bool]], again: tuple[int, str]) -> None:
        self.rounds, self.again, self.seeds, self.found = rounds, again, list[str](), folder / "found"
        monkeypatch.setattr(conductor, "FOUND", self.found)
        monkeypatch.setattr(conductor, "_process", self)

    def __call__(self, arguments: list[str], seconds: float, scratch: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "replay":
            return subprocess.CompletedProcess(arguments, self.again[0], "", self.again[1])
        code, words, broke = self.rounds[min(len(self.seeds), len(self.rounds) - 1)]
        self.seeds.append(arguments[arguments.index("--seed") + 1])
        if broke:
            Path(arguments[arguments.index("--artifacts") + 1], "crash-1").write_bytes(b"bad")
        return subprocess.CompletedProcess(arguments, code, "", words)

    def kept(self) -> list[bytes]:
        return [path.read_bytes() for path in self.found.iterdir()] if self.found.exists() else []


WHOLE = (0, "stat::number_of_executed_units: 60\n", False)
SHORT = (0, "stat::number_of_executed_units: 20\n", False)
SLOW = (77, "#16\tNEW\n#40\tpulse\nBroken: 3 bytes took 2 s\n", True)
ALARM = (70, "ALARM: working on the last Unit for 61 seconds\n", True)
CRASH = (77, "ZeroDivisionError: division by zero\n", True)
SOUND, BROKEN, HANGS = (0, ""), (1, "ZeroDivisionError: division by zero"), (process.TOO_LONG, "")


def test_what_breaks_is_kept_with_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for once, again in ((SLOW, BROKEN), (CRASH, BROKEN), (ALARM, BROKEN)):
        rounds = Rounds(monkeypatch, tmp_path, [once], again)
        outcome = conductor._fuzz(TARGETS[0], 5, 1, keep=False)
        assert again[1] in str(outcome)
        assert f"replay {TARGETS[0].name} {tmp_path}/found/{TARGETS[0].name}-crash-1" in str(outcome)
        assert (len(rounds.seeds), rounds.kept()) == (1, [b"bad"])


@pytest.mark.parametrize(("once", "runs"), [(SLOW, 100), (ALARM, 60)])
def test_what_is_slow_only_under_coverage_counters_or_on_a_busy_machine_ends_a_round_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, once: tuple[int, str, bool], runs: int
) -> None:
    rounds = Rounds(monkeypatch, tmp_path, [once, WHOLE], SOUND)
    outcome = conductor._fuzz(TARGETS[0], 5, 1, keep=False)
    assert (outcome.problem, outcome.runs, rounds.seeds, rounds.kept()) == ("", runs, ["1", "2"], [])


def test_a_busy_machine_takes_more_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rounds = Rounds(monkeypatch, tmp_path, [SHORT], SOUND)
    assert (conductor._fuzz(TARGETS[0], 5, 1, keep=False).runs, len(rounds.seeds)) == (60, 3)
    rounds = Rounds(monkeypatch, tmp_path, [(0, "stat::number_of_executed_units: 3\n", False)], SOUND)
    assert conductor._fuzz(TARGETS[0], 5, 1, keep=False).runs == 3 * ROUNDS
    assert len(rounds.seeds) == ROUNDS  # the test above then says that this fuzzes nothing


@pytest.mark.parametrize(
    ("once", "again", "word"),
    [
        (CRASH, SOUND, "broke once, and not when it was replayed"),
        (ALARM, HANGS, "hangs: it used over 60 s of the processor"),
        ((process.TOO_LONG, "", False), SOUND, "used over 95 s of the processor"),
        ((1, "ImportError\n", False), SOUND, "ended with 1"),
        ((0, "", False), SOUND, "ended with 0"),
    ],
)
def test_what_is_a_problem_although_nothing_breaks_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, once: tuple[int, str, bool], again: tuple[int, str], word: str
) -> None:
    Rounds(monkeypatch, tmp_path, [once], again)
    assert word in conductor._fuzz(TARGETS[0], 5, 1, keep=False).problem


def test_a_process_that_uses_up_its_processor_time_is_told_by_its_end() -> None:
    script = "from tests.fuzz import process; process.in_a_child(1)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", script], cwd=cache.REPOSITORY, check=False).returncode == process.TOO_LONG
