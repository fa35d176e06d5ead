"""Starts the targets, two at once on two processors, and says what they found.

A reproducer goes to `tests/fuzz/found/TARGET-…`, which git ignores; `python -m tests.fuzz.process replay TARGET FILE` shows
what it breaks.  Found inputs belong into a named test, in words, not into the repository.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from e2e import cache
from tests.fuzz.process import REPLAY_SECONDS, TOO_LONG
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).resolve().parent / "found"
START_SECONDS = 90
"""Of the processor: to load the target's modules with their coverage counters."""
BUSY_FACTOR = 12
"""How much longer than its processor time a process may take before it is given up: others use the machine, too."""
LEAST_RUNS = 50
"""Fewer fuzz nothing."""
ROUNDS = 5
"""How often one target is begun again where a round ended early or gave too few runs, which says nothing about the target."""
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)\b", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What fuzzing one target gave."""

    target: str
    runs: int
    problem: str = ""  # empty where nothing broke
    reproducer: Path | None = None

    def __str__(self) -> str:
        if not self.problem:
            return f"{self.target}: {self.runs:,} inputs, nothing broke"
        at = f"\nreproducer: {self.reproducer}\nshow it: .ci/python -m tests.fuzz.process replay {self.target} {self.reproducer}"
        return f"{self.target}: {self.problem}{at if self.reproducer else ''}"


def picked(only: str) -> list[Target]:
    """The targets whose name begins so."""
    return [target for target in TARGETS if target.name.startswith(only)]


def fuzz_all(
    targets: Sequence[Target], seconds: int, seed: int, *, keep: bool, told: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Fuzz each target for so many seconds; keep: go on from the corpus of the last time, and keep what is new."""
    with ThreadPoolExecutor(max(1, min(len(targets), os.cpu_count() or 1))) as pool:
        outcomes = []
        for outcome in pool.map(lambda target: _fuzz(target, seconds, seed, keep), targets):
            told(outcome)
            outcomes.append(outcome)
        return outcomes


def _fuzz(target: Target, seconds: int, seed: int, keep: bool) -> Outcome:
    """Fuzz in rounds until one ends by itself and the runs are enough, or something breaks that breaks again without counters."""
    runs = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(ROUNDS):
            outcome, whole = _round(target, seconds, seed + number, keep, scratch)
            runs += outcome.runs
            if outcome.problem or (whole and runs >= LEAST_RUNS):
                break
    return dataclasses.replace(outcome, runs=runs)


def _round(target: Target, seconds: int, seed: int, keep: bool, scratch: str) -> tuple[Outcome, bool]:
    """One process; False where it ended early over an input that is slow or large under the coverage counters alone."""
    corpus, artifacts = Path(scratch, "corpus"), Path(scratch, "artifacts")
    if keep:
        corpus = cache.root() / "fuzz-corpus" / target.name
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    limit = seconds + START_SECONDS
    words = {"--seconds": seconds, "--corpus": corpus, "--artifacts": artifacts, "--seed": seed, "--processor-seconds": limit}
    try:
        done = _process(["fuzz", target.name, *(str(word) for pair in words.items() for word in pair)], BUSY_FACTOR * limit, scratch)
    except subprocess.TimeoutExpired:
        return Outcome(target.name, 0, f"the process did not end in {BUSY_FACTOR * limit} s"), True
    found = next((_kept(target, path) for path in sorted(artifacts.iterdir())), None)
    runs = max((int(total or so_far) for total, so_far in _RUNS.findall(done.stderr)), default=None)
    if found is None:
        if done.returncode == TOO_LONG:
            return Outcome(target.name, 0, f"the process used over {limit} s of the processor for {seconds} s of fuzzing"), True
        if done.returncode or runs is None:
            return Outcome(target.name, 0, f"the process ended with {done.returncode}:\n{done.stderr[-3000:]}"), True
        return Outcome(target.name, runs), True
    try:
        again = _process(["replay", target.name, str(found)], BUSY_FACTOR * REPLAY_SECONDS, scratch)
    except subprocess.TimeoutExpired:
        return Outcome(target.name, 0, f"hangs for over {BUSY_FACTOR * REPLAY_SECONDS} s", found), True
    if again.returncode == TOO_LONG:
        return Outcome(target.name, 0, f"hangs: it used over {REPLAY_SECONDS} s of the processor", found), True
    if again.returncode:
        return Outcome(target.name, 0, again.stderr[-3000:].strip(), found), True
    if "Broken:" in done.stderr or "ALARM" in done.stderr:
        found.unlink()
        for path in artifacts.iterdir():
            path.unlink()
        return Outcome(target.name, runs or 0), False
    return Outcome(target.name, 0, f"broke once, and not when it was replayed:\n{done.stdout[-2000:]}{done.stderr[-1500:]}", found), True


def _process(arguments: Sequence[str], seconds: float, scratch: str) -> subprocess.CompletedProcess[str]:
    # The target's own temporary files go where they are removed even when libFuzzer ends the process at once.
    environment = {**os.environ, "TMPDIR": scratch, "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-m", "tests.fuzz.process", *arguments]
    return subprocess.run(command, cwd=cache.REPOSITORY, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds)


def _kept(target: Target, path: Path) -> Path:
    FOUND.mkdir(exist_ok=True)
    place = FOUND / f"{target.name}-{path.name}"
    place.write_bytes(path.read_bytes())
    return place


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What broke, for people."""
    return (str(outcome) for outcome in outcomes if outcome.problem)
