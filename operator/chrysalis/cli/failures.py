"""What goes wrong on the command line, told the same way by every verb.

Text on standard error, always: reason, message, what to do, detail.  Under `-o json` also one JSON document on standard
output, so that a script that reads a verdict there finds the reasons in the same place when there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

import click

from chrysalis.cli import printing
from chrysalis.errors import ChrysalisError

_JSON: ContextVar[bool] = ContextVar("json", default=False)


class CommandReason(StrEnum):
    """What is wrong with how the command line was used, or with the program itself."""

    USAGE_INVALID = "UsageInvalid"
    INTERNAL_ERROR = "InternalError"


class CommandError(ChrysalisError):
    """A command line that cannot be carried out."""


def listen(words: Sequence[str]) -> None:
    """Note whether these words ask for JSON; asked before they are parsed, since parsing is what may fail."""
    given = list(words[: words.index("--")]) if "--" in words else list(words)
    separate = any(word in ("-o", "--output") and value == "json" for word, value in pairwise(given))
    _JSON.set(separate or any(word in ("-ojson", "--output=json") for word in given))


def usage(error: click.ClickException) -> CommandError:
    """The reason of a command line that click refuses."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "chrysalis"
    return CommandError(CommandReason.USAGE_INVALID, error.format_message(), f"read `{path} --help`")


class Told(Protocol):
    """What is said of one thing that went wrong: an error of ours, or a reason out of a service's answer."""

    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def detail(self) -> str: ...


def tell(errors: Sequence[Told], code: int, *, text: bool = True) -> int:
    """Say why there is no result, and return the exit code; text=False where it stands on standard error already."""
    with suppress(OSError):  # a standard error that cannot be written to changes no exit code
        for error in errors if text else ():
            said = [f"{error.reason}: {error.message}"]
            said += [f"  {name}: {words}" for name, words in (("what to do", error.remedy), ("detail", error.detail)) if words]
            printing.lines(said, err=True)
    if _JSON.get():
        verdict = "Refused" if code == 1 else None
        reasons = [{name: str(getattr(error, name)) for name in ("reason", "message", "remedy", "detail")} for error in errors]
        printing.document({"verdict": verdict, "reasons": reasons})
    return code
