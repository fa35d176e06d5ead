"""One target in one process: `python -m tests.fuzz.process fuzz|replay TARGET …`; the conductor starts it.

The oracle: a call ends well or in a ChrysalisError; it uses at most a second of the processor; the process grows by at most
50 MiB over it.  `replay` judges one file without coverage counters, which cost several times the work, and decides.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from chrysalis.errors import ChrysalisError
from tests.fuzz.target import Call, Target
from tests.fuzz.targets import named

MAX_SECONDS = 1.0
MAX_GROWTH_KIB = 50 * 1024
HANG_SECONDS = 60
"""By the clock on the wall, the only one that libFuzzer has; `replay` says whether it was a hang or a busy machine."""
REPLAY_SECONDS = 60
RSS_LIMIT_MIB = 2048
REFUSED, FAILED = 0, 1
TOO_LONG = 128 + signal.SIGXCPU
"""The exit code of a process that has used up its processor time."""
PR_SET_PDEATHSIG = 1
"""prctl(2): the child ends with its parent, which a time limit may kill."""


class Broken(AssertionError):
    """A bound was exceeded."""


def judged(call: Call) -> Callable[[bytes], None]:
    """The call under the oracle."""

    def under_oracle(data: bytes) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        try:
            call(data)
        except ChrysalisError:
            pass
        spent = time.process_time() - started
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        if spent > MAX_SECONDS:
            raise Broken(f"{len(data)} bytes took {spent:.2f} s of the processor; at most {MAX_SECONDS} s are right")
        if growth > MAX_GROWTH_KIB:
            raise Broken(f"{len(data)} bytes made the process grow by {growth // 1024} MiB; at most {MAX_GROWTH_KIB // 1024} are right")

    return under_oracle


def fuzz(target: Target, seconds: int, corpus: Path, artifacts: Path, seed: int) -> None:
    """Fuzz until the time is over or something breaks; never returns, as libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(target.modules)):
        call, seeds = target.build()
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number:02}").write_bytes(data)
        try:
            call(data)  # what is loaded and cached at the first use belongs to no input
        except ChrysalisError:
            pass
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={target.max_bytes}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={RSS_LIMIT_MIB}",
        f"-artifact_prefix={artifacts}/",
        f"-seed={seed}",
        "-len_control=0",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, judged(call))
    atheris.Fuzz()


def replay(target: Target, file: Path) -> int:
    """Judge one input as it runs in production; prints the traceback of what breaks."""
    call, seeds = target.build()
    for data in seeds:
        try:
            call(data)
        except ChrysalisError:
            pass
    try:
        judged(call)(file.read_bytes())
    except BaseException:
        traceback.print_exc()
        return FAILED
    return REFUSED


def in_a_child(seconds: int) -> None:
    """Go on in a child of this process, which passes on how it ended; the child may use so many seconds of the processor.

    Of the processor, because a machine that is busy with something else is no fault of the target.

    A program that another one started inherits that one's peak of memory (Linux keeps it over execve), and libFuzzer, which
    judges by the peak, would end at once what pytest started.  A forked child begins anew.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.process")
    verbs = parser.add_subparsers(dest="verb", required=True)
    fuzzing = verbs.add_parser("fuzz")
    fuzzing.add_argument("target")
    fuzzing.add_argument("--seconds", type=int, required=True)
    fuzzing.add_argument("--corpus", type=Path, required=True)
    fuzzing.add_argument("--artifacts", type=Path, required=True)
    fuzzing.add_argument("--seed", type=int, required=True)
    replaying = verbs.add_parser("replay")
    replaying.add_argument("target")
    replaying.add_argument("file", type=Path)
    for verb in (fuzzing, replaying):
        verb.add_argument("--processor-seconds", type=int, required=verb is fuzzing, default=REPLAY_SECONDS)
    options = parser.parse_args()
    in_a_child(options.processor_seconds)
    target = named(options.target)
    if options.verb == "replay":
        return replay(target, options.file)
    fuzz(target, options.seconds, options.corpus, options.artifacts, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
