"""The members of a JSON object as the exact text of their values: a signature over JSON is over its bytes, and one changed
space would break it."""

from __future__ import annotations

import re
from json import JSONDecoder

_SPACE = re.compile(r"[ \t\n\r]*")


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, each as the exact text of its value; raises ValueError for anything else."""
    decoder, found = JSONDecoder(), {}
    position = _after(text, 0, "{")
    while True:
        name, position = decoder.raw_decode(text, position)
        if not isinstance(name, str) or name in found:
            raise ValueError("a member without a name of its own")
        position = _after(text, position, ":")
        _, end = decoder.raw_decode(text, position)
        found[name] = text[position:end]
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            if _skip(text, position + 1) != len(text):
                raise ValueError("something follows the object")
            return found
        position = _after(text, position, ",")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _after(text: str, position: int, sign: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != sign:
        raise ValueError(f"{sign!r} expected at {position}")
    return _skip(text, position + 1)
