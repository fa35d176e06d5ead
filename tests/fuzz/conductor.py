"""Starts the targets, two at once on two processors, and says what they found.

A reproducer goes to `tests/fuzz/found/TARGET-…`, which git ignores; `python -m tests.fuzz.process replay TARGET FILE` shows
what it breaks.  Found inputs belong into a named test, in words, not into the repository.
"""

from __future__ import annotations

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
from tests.fuzz.targets import TARGETS, Target

FOUND = Path(__file__).resolve().parent / "found"
START_SECONDS = 90
REPLAY_SECONDS = 60
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


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
    with tempfile.TemporaryDirectory() as scratch:
        corpus, artifacts = Path(scratch, "corpus"), Path(scratch, "artifacts")
        artifacts.mkdir()
        if keep:
            corpus = cache.root() / "fuzz-corpus" / target.name
        corpus.mkdir(parents=True, exist_ok=True)
        arguments = [
            "fuzz",
            target.name,
            "--seconds",
            str(seconds),
            "--corpus",
            str(corpus),
            "--artifacts",
            str(artifacts),
            "--seed",
            str(seed),
        ]
        try:
            done = _process(arguments, seconds + START_SECONDS, scratch)
        except subprocess.TimeoutExpired:
            return Outcome(target.name, 0, f"the process did not end {START_SECONDS} s after its time")
        found = next((_kept(target, path) for path in sorted(artifacts.iterdir())), None)
        if found is None:
            runs = _RUNS.search(done.stderr)
            if done.returncode or runs is None:
                return Outcome(target.name, 0, f"the process ended with {done.returncode}:\n{done.stderr[-3000:]}")
            return Outcome(target.name, int(runs[1]))
        try:
            again = _process(["replay", target.name, str(found)], REPLAY_SECONDS, scratch)
        except subprocess.TimeoutExpired:
            return Outcome(target.name, 0, f"hangs for over {REPLAY_SECONDS} s", found)
        if again.returncode:
            return Outcome(target.name, 0, again.stderr[-3000:].strip(), found)
        if "Broken:" in done.stderr or "ALARM" in done.stderr:  # slow or large only under the coverage counters
            found.unlink()
            return Outcome(target.name, 1)
        return Outcome(target.name, 0, f"broke once, and not when it was replayed:\n{done.stdout[-2000:]}{done.stderr[-1500:]}", found)


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
