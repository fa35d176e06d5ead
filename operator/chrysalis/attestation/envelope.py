"""JSON in which agents and services put evidence: what it holds, also within JSON that is kept as a text in JSON.

Nothing is judged here, and nothing is believed because of its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from chrysalis.attestation import armor

MAX_NESTING = 8
"""Objects, lists and JSON texts around a piece of evidence: one service puts another's answer into its own."""
_ENCODED = ("eyJ", "ewo", "eyA", "W3s")
"""How base64 of JSON begins."""


def nested(text: str) -> Any:
    """The object or list that a text holds as JSON, or as base64 of JSON; None for any other text."""
    start = text[:16].lstrip()
    try:
        if start[:1] in ("{", "["):
            found = json.loads(text)
        elif start.startswith(_ENCODED) and (raw := armor.from_base64(text.strip().encode())) is not None:
            found = json.loads(raw)
        else:
            return None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def items(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object or a list holds, each with its name or its place."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(place), item) for place, item in enumerate(value))


def is_container(value: Any) -> bool:
    """Whether this is an object, or a list that holds more than numbers."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list | str) for item in value))


def leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str | bytes]]:
    """Every text, and every list of bytes, with the way to it; texts that hold JSON are gone through like what is around them."""
    if depth > MAX_NESTING:
        return
    if isinstance(value, list) and value and all(type(item) is int and 0 <= item < 256 for item in value):
        yield path, bytes(value)
        return
    if isinstance(value, str):
        inner = nested(value)
        if inner is None:
            yield path, value
            return
        value = inner
    for name, item in items(value):
        yield from leaves(item, f"{path}.{name}" if path else name, depth + 1)
