"""The ways in which the PCCS can be told to answer badly."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from e2e.pccs.answers import DOCUMENTS


class Fault(StrEnum):
    """One way each; the words are those of the control path."""

    NONE = "none"
    FAIL = "fail"  # 500
    MISSING = "missing"  # 404
    THROTTLE = "throttle"  # 429
    HANG = "hang"  # takes the request and says nothing
    DROP = "drop"  # closes the connection without an answer
    GARBAGE = "garbage"  # 200 with random bytes
    NO_HTTP = "no-http"  # random bytes instead of a status line
    REDIRECT = "redirect"
    HUGE = "huge"  # one gigabyte, without a length
    HUGE_STATED = "huge-stated"  # says so in content-length
    BOMB = "bomb"  # a small compressed body that unpacks to a gigabyte
    TRUNCATE = "truncate"  # half of what content-length says
    DRIP = "drip"  # the body byte by byte
    DRIP_HEAD = "drip-head"  # the headers byte by byte
    PAGE = "page"  # text/html
    NO_CHAIN = "no-chain"  # without the issuer chain's header
    ROLL_BACK = "roll-back"  # documents of some days ago
    FORGE = "forge"  # documents of another root, with higher numbers
    SPACE = "space"  # one space more inside of the signed document
    OTHER = "other-platform"


@dataclass(frozen=True)
class Misbehaviour:
    """What to do wrong, and with which documents (their names in `answers.DOCUMENTS`; empty: all)."""

    fault: Fault = Fault.NONE
    documents: frozenset[str] = frozenset()
    back: timedelta = timedelta(days=1)

    @classmethod
    def from_dict(cls, document: Any) -> Misbehaviour:
        """Read {"fault": …, "documents": […], "days": …}; raises ValueError, KeyError, TypeError."""
        if not isinstance(document, dict):
            raise ValueError("an object is needed")
        documents = frozenset(document.get("documents", ()))
        if unknown := documents - DOCUMENTS.keys():
            raise ValueError(f"unknown documents: {sorted(unknown)}")
        return cls(Fault(document["fault"]), documents, timedelta(days=int(document.get("days", 1))))

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"fault": self.fault.value, "documents": sorted(self.documents), "days": self.back.days}

    def concerns(self, path: str) -> bool:
        """Whether requests for this path are answered badly."""
        if self.fault is Fault.NONE or path not in DOCUMENTS.values():
            return False
        return not self.documents or path in {DOCUMENTS[name] for name in self.documents}
