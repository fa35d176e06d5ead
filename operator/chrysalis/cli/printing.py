"""What verbs print: lines for people, in which nothing foreign drives the terminal, and JSON documents for programs.

Much of what is shown comes from strangers: a worker that is not verified yet, a bundle, a policy.  So a line stays one line and
holds no control character, whatever stands in it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from io import TextIOWrapper
from typing import Any

import click

SCHEMA_VERSION = "chrysalis/v1"
_CONTINUED = "\n      "
_STYLE = re.compile("(\x1b\\[(?:0|1|3[0-7])m)")
"""What `click.style` writes for the colours and the weight that verbs use; click drops it where no terminal reads."""


def plain(text: str) -> str:
    """The text without characters that move a cursor, hide or reorder (C0, C1, bidirectional and other format characters).

    Each stands as its escape; a line break starts an indented line, which cannot be taken for one of ours.
    """
    if text.isprintable():
        return text
    shown = (part if part.isprintable() else part.encode("unicode_escape").decode("ascii") for part in text.replace("\r\n", "\n"))
    return "".join(_CONTINUED if part == "\\n" else part for part in shown)


def lines(written: Iterable[str], *, err: bool = False) -> None:
    """Write lines, each made plain; the styles of `click.style` stay."""
    shown = ("".join(part if index % 2 else plain(part) for index, part in enumerate(_STYLE.split(line))) for line in written)
    click.echo("\n".join(shown), err=err)


def document(members: Mapping[str, Any]) -> None:
    """Write one JSON document, in ASCII, with its schemaVersion in front."""
    click.echo(json.dumps({"schemaVersion": SCHEMA_VERSION, **members}, indent=2))


def outcome(facts: Mapping[str, Any], words: str, form: str) -> None:
    """Write that something was done: as a document with `outcome`, or in words (the lines of a text of ours)."""
    if form == "json":
        document({"outcome": "Done", **facts})
    else:
        lines(words.split("\n"))


def colour() -> bool | None:
    """False where the user wants none (https://no-color.org, a dumb terminal); None leaves it to click, which asks for a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def tolerate_any_encoding() -> None:
    """Let no character end the program: what standard output cannot encode is written as its escape."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
