"""JSON (RFC 8259) of which nothing stays hidden: no object has two members of one name, and, where asked, all numbers are whole.

RFC 8259 (section 4) leaves open which of two such members counts, and readers differ: one of them would be hidden from whoever reads
on, or signs.  Imports nothing of the project.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_OF_NAME = 64
"""Characters of a stranger's name, or number, that an error repeats."""


class MemberTwice(ValueError):
    """An object has two members of one name; `name` is the first that comes back, its beginning if it is long."""

    def __init__(self, name: str) -> None:
        self.name = name[:MOST_OF_NAME]
        super().__init__(f"the member {self.name!r} stands twice in one object")


class NotWhole(ValueError):
    """A number is written with a fraction or an exponent, or is NaN or Infinity, where only whole ones are read."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:32]} is not a whole number")


def loads(text: str | bytes, *, whole: bool = False) -> Any:
    """What a JSON text holds: what json.loads gives for it, which also says how bytes are decoded.

    whole: numbers must be whole.  Raises MemberTwice, NotWhole, another ValueError for what is no JSON (json.JSONDecodeError,
    UnicodeDecodeError), and RecursionError for what is nested deeper than the interpreter goes: how deep a message may be is its reader's
    rule, not this module's.
    """
    if whole:
        return json.loads(text, object_pairs_hook=_members, parse_float=_no_float, parse_constant=_no_float)
    return json.loads(text, object_pairs_hook=_members)


def each_once(text: str | bytes) -> None:
    """Raise MemberTwice where an object has two members of one name.  What is no JSON passes: whoever reads it says so in its own words.

    For documents that somebody signs: their owner may have read the other one of the two.
    """
    try:
        loads(text)
    except MemberTwice:
        raise
    except (ValueError, RecursionError):
        return


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MemberTwice(name)
            seen.add(name)
    return found


def _no_float(text: str) -> NoReturn:
    raise NotWhole(text)
