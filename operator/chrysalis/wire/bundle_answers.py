"""By whose word the attestation service's answer in a bundle counts."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.attestation.gpu.verdict import GpuVerdict


class KeysOf(StrEnum):
    """Under whose keys the answer was judged."""

    READER = "Reader"  # the key set that the reader gave
    BROKER = "Broker"  # the enclosed one: the broker says that it had it from the service, and its statement is under a pinned key
    BUNDLE = "Bundle"  # the enclosed one; nothing but the bundle itself says where it is from
    NOBODY = "Nobody"  # no answer of the service counts


def whose(verdict: GpuVerdict | None, given: str | None, *, vouched: bool) -> tuple[KeysOf, str]:
    """Whose keys, and the issuer of the answer that held under them; vouched: the statement is under a pinned key."""
    if verdict is None or verdict.service is None:
        return KeysOf.NOBODY, ""
    if given is not None:
        return KeysOf.READER, verdict.service
    return KeysOf.BROKER if vouched else KeysOf.BUNDLE, verdict.service
