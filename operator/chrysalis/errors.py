"""The one base class of everything that Chrysalis refuses or fails at.  Imports nothing of the project."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class ChrysalisError(Exception):
    """A refusal or failure that a person can act on.

    reason: a stable CamelCase word; the same in conditions, metric labels, JSON and exit text.
    message: one sentence that says what is wrong with this input.
    remedy: one sentence that says what to do about it.
    detail: free text for experts (a library's own words, positions, values); never an interface.
    """

    def __init__(self, reason: StrEnum, message: str, remedy: str = "", detail: str = "") -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.detail = detail

    def as_dict(self) -> dict[str, Any]:
        """The four members as they appear in JSON output and in problem documents."""
        return {"reason": str(self.reason), "message": self.message, "remedy": self.remedy, "detail": self.detail}
