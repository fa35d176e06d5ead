"""NVIDIA's services' answers in a bundle: who had them, and by whose word the attestation service's counts."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.attestation.gpu.verdict import GpuVerdict
from chrysalis.attestation.verdict import Verdict
from chrysalis.wire.gpu import GpuAnswers, awaits


class AnswersOf(StrEnum):
    """Whose answers a client's bundle holds."""

    NOT_WANTED = "NotWanted"  # the policy asks for none
    CLIENT = "Client"  # it asked the services itself
    BROKER = "Broker"  # they are out of the broker's bundle
    ABSENT = "Absent"  # the policy asks for them, and the client took its broker's word: judged again, that is lacking


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


def recorded(said: AnswersOf | None, answers: GpuAnswers | None) -> tuple[str, str]:
    """What a client's record says of the answers, and what is there; equal where they fit, and for records without a word."""
    if said is None or (said in (AnswersOf.CLIENT, AnswersOf.BROKER)) == (answers is not None):
        return "", ""
    return said.value, "answers" if answers is not None else AnswersOf.ABSENT.value


def only_lacks(said: AnswersOf | None, verdict: Verdict, gpu: GpuVerdict | None) -> bool:
    """Whether answers that the record says are absent are all that keeps the evidence from being accepted."""
    return said is AnswersOf.ABSENT and verdict.accepted and gpu is not None and awaits(gpu)
