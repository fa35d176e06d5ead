"""Builds and runs the Vault of `program/`: version 1.13, under the MPL, since OpenBao's module is not on the Go module proxy.

Both speak the same API here; what the broker uses of it is documented by both.  The first build takes three to seven minutes on two
cores, a later one ten seconds; once built, nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e import cache
from e2e.cluster.build import BUILD_FLAGS, STRIPPED

SOURCES = Path(__file__).resolve().parent / "program"
NAME = "vault"


@dataclass(frozen=True)
class Vault:
    """A running server."""

    url: str
    root_token: str


def program() -> Path:
    """The executable; builds it if these sources, flags and Go version were not built before.

    Raises FileNotFoundError without Go, subprocess.CalledProcessError when the build fails.
    """
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("the Go toolchain is not on the PATH")
    version = subprocess.run([go, "version"], check=True, capture_output=True, text=True).stdout.strip()
    key = cache.key(version, " ".join(BUILD_FLAGS), [path for path in SOURCES.iterdir() if path.is_file()])
    return cache.entry(NAME, key, lambda folder: _build(go, folder)) / NAME


@contextmanager
def running() -> Iterator[Vault]:
    """A fresh Vault, unsealed, with nothing mounted but its defaults; ends with the block."""
    process = subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if process.stdout is None or process.stdin is None:
            raise AssertionError("pipes were asked for")
        line = process.stdout.readline()  # empty when it ended instead
        facts = json.loads(line or "{}")
        yield Vault(url=f"http://{facts['address']}", root_token=facts["token"])
    finally:
        if process.stdin is not None:
            process.stdin.close()  # it ends when its input does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _build(go: str, folder: Path) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    arguments = [go, "build", *BUILD_FLAGS, "-ldflags", STRIPPED, "-o", str(folder / NAME), "."]
    subprocess.run(arguments, cwd=SOURCES, env=environment, check=True)
