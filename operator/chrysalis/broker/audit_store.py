"""The audit log's table: appended to within the transaction that does what it tells of, and never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, insert, select

from chrysalis.broker import audit
from chrysalis.broker.audit import AuditEvent, AuditRecord
from chrysalis.broker.prepared import Prepared
from chrysalis.broker.rooms import Room
from chrysalis.broker.tables import audit as audit_table

PAGE = 1000
_HEAD = Prepared(select(audit_table.c.seq, audit_table.c.hash).order_by(audit_table.c.seq.desc()).limit(1))
_APPEND = Prepared(insert(audit_table).inline(), ("seq", "at", "event", "document", "previous", "hash"))


class AuditRoom(Room):
    """Reading the audit log."""

    def audit_log(self) -> Iterator[AuditRecord]:
        """Every record in order, read in pages: a log of years does not have to fit into memory."""
        last = 0
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
    last = _HEAD.row(db, {})
    return (int(last[0]), str(last[1])) if last is not None else (0, audit.GENESIS)


def append(db: Connection, at: int, kind: AuditEvent, *documents: dict[str, Any]) -> None:
    """Append a record for each document; db must be a writing transaction, so that the chain does not fork."""
    seq, previous = head(db)
    rows: list[dict[str, Any]] = []
    for document in documents:
        seq += 1
        record = audit.link(seq, at, kind.value, document, previous)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        rows.append({"seq": seq, "at": at, "event": record.event, "document": text, "previous": previous, "hash": record.hash})
        previous = record.hash
    _APPEND.each(db, rows)
