"""Programs built from Go modules: static, the same bytes from the same sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly")
STRIPPED = "-s -w"
ATTEMPTS = 3
PAUSE_SECONDS = 5.0


class GoMissing(FileNotFoundError):
    """The toolchain is not on the PATH."""


class BuildFailed(RuntimeError):
    """What the last attempt said."""


def version() -> str:
    """What the toolchain says of itself, for the key of what it builds; raises GoMissing."""
    return subprocess.run([_go(), "version"], check=True, capture_output=True, text=True).stdout.strip()


def build(module: Path, output: Path, *, package: str = ".", linker_flags: str = STRIPPED, seconds: float | None = None) -> None:
    """Build a package of the module in this folder; seconds: for an attempt.  Raises GoMissing, BuildFailed.

    Go gives up at the first download that fails, so a build is tried again: what was downloaded and built stays in Go's cache.
    """
    arguments = [_go(), "build", *FLAGS, "-ldflags", linker_flags, "-o", str(output), package]
    # CGO off: static programs, which run in an image from scratch.  GOFLAGS cleared: the flags above are what the key names.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(arguments, cwd=module, env=environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode == 0:
            return
        if attempt < ATTEMPTS:
            time.sleep(PAUSE_SECONDS)
    raise BuildFailed(f"go build ended with {done.returncode}:\n{done.stderr[-4000:]}")


def _go() -> str:
    found = shutil.which("go")
    if found is None:
        raise GoMissing("the Go toolchain is not on the PATH")
    return found
