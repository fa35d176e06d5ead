"""The audit log: a chain of hashes over every release, refusal and change, so that nothing can be taken out of its middle.

    hash(n) = SHA-256("chrysalis/v1/audit" ‖ 0x00 ‖ hash(n-1) ‖ canonical JSON of {seq, at, event, document})

hash(0) is 32 zero bytes; `blind` in a document is random, so that a hash tells nothing of a record to whoever does not see it.  The
database refuses to change or delete a record; whoever copies the newest hash elsewhere can tell later whether the log before it is
still the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from chrysalis.broker.reasons import BrokerError, BrokerReason

CONTEXT = b"chrysalis/v1/audit\0"
GENESIS = "00" * 32


class AuditEvent(StrEnum):
    """What is recorded."""

    KEY_STORED = "KeyStored"
    POLICY_STORED = "PolicyStored"
    REFERENCE_VALUES_STORED = "ReferenceValuesStored"
    KEY_RELEASED = "KeyReleased"
    RELEASE_REFUSED = "ReleaseRefused"
    RESULT_REVOKED = "ResultRevoked"
    EAR_KEY_ROTATED = "EarKeyRotated"
    EAR_KEY_RECALLED = "EarKeyRecalled"
    ROOT_ROTATED = "RootRotated"
    STATE_RESTORED = "StateRestored"
    ROLLBACK_ACCEPTED = "RollbackAccepted"
    ANCHOR_STARTED = "AnchorStarted"
    ANCHOR_FORGOTTEN = "AnchorForgotten"


@dataclass(frozen=True)
class AuditRecord:
    """One link of the chain; document never holds a secret."""

    seq: int
    at: int
    event: str
    document: dict[str, Any]
    previous: str
    hash: str


def link(seq: int, at: int, event: str, document: dict[str, Any], previous: str) -> AuditRecord:
    """The record that follows the one whose hash is `previous`."""
    return AuditRecord(seq, at, event, document, previous, _hash(seq, at, event, document, previous))


def verify(records: Iterable[AuditRecord]) -> int:
    """Check a whole log in order of seq, in constant memory; returns how many records it has.  Raises BrokerError (AuditBroken)."""
    return follow(records, 0, GENESIS)[0]


def follow(records: Iterable[AuditRecord], seq: int, previous: str) -> tuple[int, str]:
    """Check the records after number `seq`, whose hash is `previous`; returns number and hash of the last one.

    Raises BrokerError (AuditBroken).
    """
    for record in records:
        seq += 1
        expected = _hash(seq, record.at, record.event, record.document, previous)
        if (record.seq, record.previous, record.hash) != (seq, previous, expected):
            raise broken(record.seq)
        previous = record.hash
    return seq, previous


def broken(seq: int) -> BrokerError:
    """The refusal of a log that was changed."""
    return BrokerError(
        BrokerReason.AUDIT_BROKEN,
        f"the audit log was changed at or before record {seq}",
        "compare the database with a backup; find out who could write to it",
    )


def _hash(seq: int, at: int, event: str, document: dict[str, Any], previous: str) -> str:
    body = json.dumps({"seq": seq, "at": at, "event": event, "document": document}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(CONTEXT + bytes.fromhex(previous) + body.encode()).hexdigest()
