"""The audit log's table: appended to within the transaction that does what it tells of, and never changed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from chrysalis.broker import audit
from chrysalis.broker.audit import AuditEvent, AuditRecord
from chrysalis.broker.prepared import Prepared
from chrysalis.broker.rooms import Room
from chrysalis.broker.tables import audit as audit_table

PAGE = 1000
BLIND = "blind"
_HEAD = Prepared(select(audit_table.c.seq, audit_table.c.hash).order_by(audit_table.c.seq.desc()).limit(1))
RECORD = (
    insert(audit_table)
    .inline()
    .values({name: bindparam(f"audit_{name}") for name in ("seq", "at", "event", "document", "previous", "hash")})
)
"""The statement that appends one record; its parameters are `record`'s."""
_APPEND = Prepared(RECORD)
HEAD = (
    select(audit_table.c.seq).order_by(audit_table.c.seq.desc()).limit(1).scalar_subquery(),
    select(audit_table.c.hash).order_by(audit_table.c.seq.desc()).limit(1).scalar_subquery(),
)
"""Number and hash of the newest record, for a statement that asks for other things as well; both None of an empty log."""


class AuditRoom(Room):
    """Reading the audit log."""

    def audit_log(self, after: int = 0) -> Iterator[AuditRecord]:
        """Every record above a number in order, read in pages: a log of years does not have to fit into memory."""
        last = after
        while page := self.audit_page(last, PAGE):
            yield from page
            last = page[-1].seq

    def audit_page(self, after: int, limit: int) -> list[AuditRecord]:
        """The next records whose number is above `after`, in order."""
        c = audit_table.c
        with self.database.reading() as db:
            rows = db.execute(select(audit_table).where(c.seq > after).order_by(c.seq).limit(limit)).all()
        return [AuditRecord(row.seq, row.at, row.event, json.loads(row.document), row.previous, row.hash) for row in rows]

    def audit_head(self) -> tuple[int, str]:
        """Number and hash of the newest record; (0, genesis) of an empty log."""
        with self.database.reading() as db:
            return head(db)


def head(db: Connection) -> tuple[int, str]:
    """Number and hash of the newest record as this transaction sees it."""
    seq, newest = _HEAD.row(db, {}) or (None, None)
    return known_head(seq, newest)


def known_head(seq: int | None, newest: str | None) -> tuple[int, str]:
    """What `HEAD` has found, as `head` tells it."""
    return (0, audit.GENESIS) if seq is None else (int(seq), str(newest))


def record(before: tuple[int, str], at: int, kind: AuditEvent, document: dict[str, Any]) -> dict[str, Any]:
    """The parameters of `RECORD` for the record that follows a head; only in the writing transaction that has seen that head.

    Every tenant sees every hash (GET /v1/audit), so each document gets 16 random bytes: else whoever guesses another tenant's record,
    the name of a key at that second, could tell by its hash that the guess is right.
    """
    seq, previous = before
    document = document | {BLIND: secrets.token_hex(16)}
    made = audit.link(seq + 1, at, kind.value, document, previous)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    members = {"seq": seq + 1, "at": at, "event": made.event, "document": text, "previous": previous, "hash": made.hash}
    return {f"audit_{name}": value for name, value in members.items()}


def hash_of(db: Connection, seq: int) -> str | None:
    """The hash of one record; None where there is none of this number."""
    if seq == 0:
        return audit.GENESIS
    found: str | None = db.execute(select(audit_table.c.hash).where(audit_table.c.seq == seq)).scalar_one_or_none()
    return found


def append(db: Connection, at: int, kind: AuditEvent, *documents: dict[str, Any]) -> None:
    """Append a record for each document; db must be a writing transaction, so that the chain does not fork."""
    before = head(db)
    rows = []
    for document in documents:
        rows.append(record(before, at, kind, document))
        before = (before[0] + 1, rows[-1]["audit_hash"])
    _APPEND.each(db, rows)
