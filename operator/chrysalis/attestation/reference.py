"""Withdrawn reference values against what a quote and its initdata measure.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chrysalis.api.reference import ReferenceKind, ReferenceValues, Withdrawn


@dataclass(frozen=True)
class Measured:
    """What evidence is made of, in the words of reference values.  registers: lower-case hex by their names in policies."""

    image_digest: str
    template_version: int
    policy_digest: str
    registers: Mapping[str, str]


def withdrawn(documents: Iterable[ReferenceValues], measured: Measured) -> list[Withdrawn]:
    """The withdrawals, of any publisher, that concern this evidence.

    A guest image is withdrawn by its registers: where all that the withdrawal names are the quote's.
    """
    return [entry for document in documents for entry in document.withdrawn if _concerns(entry, measured)]


def _concerns(entry: Withdrawn, measured: Measured) -> bool:
    if entry.registers is not None:
        named = entry.registers.registers()
        return all(measured.registers.get(name, "").lower() == value for name, value in named.items())
    found = {
        ReferenceKind.WORKER_IMAGE: measured.image_digest,
        ReferenceKind.TEMPLATE_VERSION: str(measured.template_version),
        ReferenceKind.POLICY_DIGEST: measured.policy_digest,
    }
    return entry.value.lower() == found[entry.kind].lower()
