"""Measurements: each against a reference in the same run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the results: what was measured, and what it is compared with."""

    id: str  # dotted and stable
    value: float
    unit: str
    reference: str  # what it is compared with, and that one's figure
    ratio: float | None  # of the value to the reference that ran in the same invocation
    reach: str | None  # the bound of the ratio; None where no issue set one
    ok: bool | None  # whether it was met
