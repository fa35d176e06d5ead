"""Builds and runs the Vault of `program/`: version 1.13, under the MPL, since OpenBao's module is not on the Go module proxy.

Both speak the same API here; what the broker uses of it is documented by both.  The first build takes three to seven minutes on two
cores, a later one ten seconds; once built, nothing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e import cache, golang

SOURCES = Path(__file__).resolve().parent / "program"
NAME = "vault"


@dataclass(frozen=True)
class Vault:
    """A running server."""

    url: str
    root_token: str


def program() -> Path:
    """The executable; builds it if these sources, flags and Go version were not built before.

    Raises FileNotFoundError without Go, golang.BuildFailed when the build fails.
    """
    key = cache.key(golang.version(), " ".join(golang.FLAGS), [path for path in SOURCES.iterdir() if path.is_file()])
    return cache.entry(NAME, key, lambda folder: golang.build(SOURCES, folder / NAME)) / NAME


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
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
