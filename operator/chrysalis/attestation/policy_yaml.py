"""YAML (and so JSON) of a policy, read in bounded time: what takes a parser long, or a reader by surprise, is refused."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_EVENTS = 20_000
"""Of a document's keys, values, lists and maps.  256 whole tuples have 7,000."""
MAX_DEPTH = 64
MAX_MERGES = 16
"""Merged maps multiply: a dozen of them, of one another, are more than a computer holds."""
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){32,}(?:\.[0-9_]*)?")
"""YAML 1.1 takes 1:1:1 for a number to the base of 60, in a time that grows with the square of its length."""


class _Loader(yaml.CSafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ValueError(f"{key.value[:64]!r} is there twice in one map; only the last would count")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _WrittenOut:
    """Counts the events of a document in which each alias is replaced by what it stands for: aliases of aliases multiply, and
    whoever goes through the document (a model, an error's message) goes through all of it."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # by anchor
        self._open: list[tuple[str | None, int]] = [(None, 0)]  # anchor and count of each list and map that has not ended

    @property
    def count(self) -> int:
        """Events in what is open."""
        return sum(count for _, count in self._open)

    def add(self, event: yaml.Event) -> None:
        """Take the next event; raises ValueError for an alias within what it stands for."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(*self._open.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._close(event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(str(event.anchor))
            if size is None:
                raise ValueError(f"the alias {str(event.anchor)[:64]!r} stands for nothing, or within itself")
            self._close(None, size)

    def _close(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size
        around, count = self._open.pop()
        self._open.append((around, count + size))


def load(text: bytes) -> Any:
    """The one document in a text; raises yaml.YAMLError, ValueError or RecursionError."""
    merges = depth = 0
    written_out = _WrittenOut()
    for number, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader), start=1):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.ScalarEvent):
            merges += event.value == "<<"
            if not event.style and _SEXAGESIMAL.fullmatch(event.value):
                raise ValueError("a number to the base of 60 has more than 32 digits")
        if number > MAX_EVENTS or merges > MAX_MERGES or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_EVENTS} keys and values, {MAX_MERGES} merged maps, or {MAX_DEPTH} levels")
        written_out.add(event)
        if written_out.count > MAX_EVENTS:
            raise ValueError(f"more than {MAX_EVENTS} keys and values once its aliases are written out")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
