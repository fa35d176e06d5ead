"""The members of a JSON object, and the items of a list, as the exact text of their values: a signature over JSON is over its
bytes, and one changed space would break it."""

from __future__ import annotations

import re
from json import JSONDecoder

_SPACE = re.compile(r"[ \t\n\r]*")
_NEXT = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
"""From one member's value to the next one's, where its name has no escapes."""


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, each as the exact text of its value; raises ValueError for anything else."""
    decoder, found = JSONDecoder(), {}
    position = _after(text, 0, "{")
    name: object = None
    while True:
        if name is None:
            name, position = decoder.raw_decode(text, position)
            position = _after(text, position, ":")
        if not isinstance(name, str) or name in found:
            raise ValueError("a member without a name of its own")
        _, end = decoder.raw_decode(text, position)
        found[name] = text[position:end]
        name = None
        if (match := _NEXT.match(text, end)) is not None:
            name, position = match[1], match.end()
            continue
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            if _skip(text, position + 1) != len(text):
                raise ValueError("something follows the object")
            return found
        position = _after(text, position, ",")


def items(text: str) -> list[str]:
    """The items of a JSON list, each as its exact text; raises ValueError for anything else."""
    decoder = JSONDecoder()
    found: list[str] = []
    position = _after(text, 0, "[")
    while text[position : position + 1] != "]":
        if found:
            position = _after(text, position, ",")
        _, end = decoder.raw_decode(text, position)
        found.append(text[position:end])
        position = _skip(text, end)
    if _skip(text, position + 1) != len(text):
        raise ValueError("something follows the list")
    return found


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _after(text: str, position: int, sign: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != sign:
        raise ValueError(f"{sign!r} expected at {position}")
    return _skip(text, position + 1)
