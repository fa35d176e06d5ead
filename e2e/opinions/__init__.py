"""Second opinions: what independent verifiers say about the same quote, collateral, time and trust anchor.

Ours stands on dcap-qvl (Rust); the others are `tinfoil` (Python) and google/go-tdx-guest (Go), which share no code with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Case:
    """Material to judge.  Collateral is QuoteCollateralV3 JSON; the root is the trust anchor, DER."""

    vector: str
    mutation: str  # what was changed in the vector; "none" for the vector itself
    quote: bytes
    collateral: str
    at: datetime
    root: bytes


@dataclass(frozen=True)
class Opinion:
    """What one verifier says; `accepted` is None where it does not support this kind of quote."""

    accepted: bool | None
    words: str = ""  # its own explanation, for people

    @property
    def verdict(self) -> str:
        """As it stands in the table."""
        return {True: "Accepted", False: "Refused", None: "Unsupported"}[self.accepted]
