"""JSON in which agents and services put evidence: what it holds, also within JSON that is kept as a text in JSON.

Nothing is judged here, and nothing is believed because of its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chrysalis import strict_json
from chrysalis.attestation import armor

MAX_NESTING = 8
"""Objects, lists and JSON texts around a piece of evidence: one service puts another's answer into its own."""
MAX_CONTAINERS = 20_000
"""Objects and lists in one JSON text: each takes a hundred times the room of its two brackets.  Reports have some hundreds."""
_MOST_OF_NAME = strict_json.MOST_OF_NAME
"""Characters of a name in a way; a long name is not written out again for each thing under it."""
_ENCODED = ("eyJ", "ewo", "eyA", "W3s")
"""How base64 of JSON begins."""


class Ambiguous(ValueError):
    """JSON of which something would stay hidden: a name stands twice in one object."""


class TooMuch(Ambiguous):
    """JSON of more objects and lists than are gone through."""


def parsed(text: bytes | str) -> Any:
    """What JSON holds; raises Ambiguous, TooMuch, another ValueError for what is no JSON, or RecursionError."""
    brackets: int = text.count(b"{") + text.count(b"[") if isinstance(text, bytes) else text.count("{") + text.count("[")
    if brackets > MAX_CONTAINERS:
        raise TooMuch(f"it has more than {MAX_CONTAINERS} objects and lists")
    try:
        return strict_json.loads(text)
    except strict_json.MemberTwice as error:
        raise Ambiguous(f"it names {error.name!r} twice") from None


def nested(text: str) -> Any:
    """The object or list that a text holds as JSON, or as base64 of JSON; None for any other text; raises Ambiguous."""
    start = text[:16].lstrip()
    try:
        if start[:1] in ("{", "["):
            found = parsed(text)
        elif start.startswith(_ENCODED) and (raw := armor.from_base64(text.strip().encode())) is not None:
            found = parsed(raw)
        else:
            return None
    except Ambiguous:
        raise
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


def as_bytes(value: Any) -> bytes | None:
    """The bytes that are kept as numbers: a list of them, or an object as JavaScript writes a Uint8Array ({"0": 4, "1": 0, …}) or a
    Buffer ({"type": "Buffer", "data": […]}); None for anything else, and for none at all."""
    if isinstance(value, dict):
        if value.keys() == {"type", "data"} and value["type"] == "Buffer":
            value = value["data"]
        elif "0" in value and all(name == str(place) for place, name in enumerate(value)):
            value = list(value.values())
    if isinstance(value, list) and value and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value)
    return None


def leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str | bytes]]:
    """Every text, and all bytes that are kept as numbers, with the way to it; texts that hold JSON are gone through like what is
    around them."""
    if depth > MAX_NESTING:
        return
    if (raw := as_bytes(value)) is not None:
        yield path, raw
        return
    if isinstance(value, str):
        inner = nested(value)
        if inner is None:
            yield path, value
            return
        value = inner
    for name, item in items(value):
        if isinstance(item, dict | list | str):
            yield from leaves(item, below(path, name), depth + 1)


def below(path: str, name: str) -> str:
    """The way to a member, for people: two members may have the same."""
    return f"{path}.{name[:_MOST_OF_NAME]}" if path else name[:_MOST_OF_NAME]
