"""Where built things are kept: one folder, the same that `.ci/setup` uses, each entry keyed by what went into it.

An entry is made in a folder beside its place and moved there when it is complete, under a lock: what carries a key is whole,
and two runs at once do the work once.  Imports nothing of the project.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEY_DIGITS = 16
KEPT_UNUSED_SECONDS = 7 * 24 * 3600
REPOSITORY = Path(__file__).resolve().parent.parent
"""The checkout that these sources stand in."""


def root() -> Path:
    """The cache's folder: $CACHE, else $XDG_CACHE_HOME/chrysalis, else ~/.cache/chrysalis.  Absolute; made if missing."""
    chosen = os.environ.get("CACHE")
    if not chosen:
        chosen = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "chrysalis")
    folder = Path(chosen).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key(*parts: str | bytes | Path | Iterable[Path]) -> str:
    """A short hash over texts, files and lists of files (names inside the repository and contents).

    A file counts by its bytes and by its path relative to the repository, so that a clone elsewhere has the same key.
    """
    state = hashlib.sha256()

    def add(label: str, data: bytes) -> None:
        state.update(f"{label}:{len(data)}:".encode() + data)

    def add_file(path: Path) -> None:
        inside = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else Path(path.name)
        add(f"file {inside}", path.read_bytes())

    for part in parts:
        if isinstance(part, str):
            add("text", part.encode())
        elif isinstance(part, bytes):
            add("bytes", part)
        elif isinstance(part, Path):
            add_file(part)
        else:
            for path in sorted(part):
                add_file(path)
    return state.hexdigest()[:KEY_DIGITS]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of this name, machine-wide; waits for another run that holds it.  Freed by the kernel if we die."""
    folder = root() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `NAME-KEY`, made by `make(folder)` if it is not there.

    `make` gets an empty folder; when it returns, the folder is complete and moves to its place.  When it raises, nothing stays.
    Entries of the same name that were not used for a week go when a new one comes.
    """
    place = root() / f"{name}-{key}"
    if _used(place):
        return place
    with locked(f"{name}-{key}"):
        if _used(place):
            return place
        unfinished = root() / f".{name}-{key}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            make(unfinished)
            unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    _used(place)
    _forget_old(name, place)
    return place


def _used(place: Path) -> bool:
    """Whether the entry is there; if so, note that it was used now."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


def _forget_old(name: str, newest: Path) -> None:
    """Remove entries of the same name that nobody has used for a long time."""
    limit = newest.stat().st_mtime - KEPT_UNUSED_SECONDS
    for other in root().glob(f"{name}-{'[0-9a-f]' * KEY_DIGITS}"):
        with suppress(FileNotFoundError):  # another run forgets it, too
            if other.stat().st_mtime < limit:
                shutil.rmtree(other, ignore_errors=True)
