"""The opinion of google/go-tdx-guest: a small program around its Go module, built once and kept in the cache.

`python -m e2e.opinions.gotdx` builds it (seconds, after the module's download) and prints where it is.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chrysalis.clock import unix
from e2e import cache, golang
from e2e.opinions import Case, Opinion

SOURCES = cache.REPOSITORY / "tests" / "differential" / "gotdx"
PROGRAM = "gotdx"
BUILD_SECONDS = 540
JUDGE_SECONDS = 600


class ProgramMissing(RuntimeError):
    """The program could not be built; the message says what to do."""


def program() -> Path:
    """The program; builds it if these sources were not built with this Go before.  Raises ProgramMissing."""
    try:
        version = golang.version()
    except golang.GoMissing as error:
        raise ProgramMissing(f"{error}; install Go 1.26 or newer: go-tdx-guest is built with it") from error
    sources = [path for path in SOURCES.iterdir() if path.is_file()]

    def build(folder: Path) -> None:
        print("building the verifier of go-tdx-guest from its Go module …", flush=True)
        try:
            golang.build(SOURCES, folder / PROGRAM, seconds=BUILD_SECONDS)
        except golang.BuildFailed as error:
            raise ProgramMissing(f"a download that failed can be run again: {error}") from error

    return cache.entry(PROGRAM, cache.key(version, " ".join([*golang.FLAGS, "-ldflags", golang.STRIPPED]), sources), build) / PROGRAM


def opinions(cases: Sequence[Case]) -> list[Opinion]:
    """The verdicts on these cases, in their order, by one process."""
    return [Opinion(answer["accepted"], answer["error"]) for answer in _ask([_evidence(case) for case in cases])]


def measure(case: Case, rounds: int, calls: int) -> list[float]:
    """Microseconds of processor time of a verification, in each of these rounds; raises RuntimeError if it refuses the case."""
    (answer,) = _ask([_evidence(case) | {"rounds": rounds, "calls": calls}])
    if not answer["accepted"]:
        raise RuntimeError(f"go-tdx-guest refuses what is to be measured: {answer['error']}")
    return [nanoseconds / 1e3 for nanoseconds in answer["cpu"]]


def _evidence(case: Case) -> dict[str, object]:
    return {"quote": case.quote.hex(), "collateral": json.loads(case.collateral), "at": unix(case.at), "root": case.root.hex()}


def _ask(evidence: list[dict[str, object]]) -> list[dict[str, Any]]:
    done = subprocess.run([program()], input=json.dumps(evidence), capture_output=True, text=True, timeout=JUDGE_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{PROGRAM} ended with {done.returncode}: {done.stderr.strip()}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


if __name__ == "__main__":
    print(program())
