"""What a fuzz target is, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Call = Callable[[bytes], object]
Built = tuple[Call, Sequence[bytes]]


@dataclass(frozen=True)
class Target:
    """One parser; `max_bytes` is a little over what it reads at most, where that is small enough to reach."""

    name: str
    build: Callable[[], Built]
    modules: tuple[str, ...]  # that are instrumented for coverage, with all below them
    max_bytes: int = 16 * 1024


def text(data: bytes) -> str:
    """Any bytes as text."""
    return data.decode("utf-8", "replace")


def split(data: bytes) -> tuple[bytes, bytes]:
    """Two inputs out of one."""
    one, _, other = data.partition(b"\0--\0")
    return one, other
