"""The collateral's table: one row for each document, with its marks and its schedule, shared by all replicas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, or_, select, update

from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument
from chrysalis.broker import reappraisal_store
from chrysalis.broker.collateral_reasons import DocumentKey
from chrysalis.broker.nonces import SKEW_SECONDS
from chrysalis.broker.prepared import Prepared
from chrysalis.broker.reappraisal_store import Cause
from chrysalis.broker.rooms import Room, insert_new
from chrysalis.broker.tables import collateral_documents as table
from chrysalis.clock import unix


class Kept(StrEnum):
    """What became of a genuine document."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True)
class Row:
    """A document's row without its bytes.  Times are Unix seconds.

    digest: SignedDocument.digest; empty as long as there is no document, and then number to stored_at mean nothing.
    checked_at: the last time that a source confirmed it.  reason: of the last failure since then, or empty.
    """

    key: DocumentKey
    digest: str
    number: int
    issued_at: int
    ends_at: int
    stored_at: int
    checked_at: int
    next_attempt_at: int
    failures: int
    reason: str
    failed_at: int


_C = table.c
_MARKS = (
    _C.digest,
    _C.number,
    _C.issued_at,
    _C.ends_at,
    _C.stored_at,
    _C.checked_at,
    _C.next_attempt_at,
    _C.failures,
    _C.reason,
    _C.failed_at,
)
_KEY = (_C.root, _C.kind, _C.name, _C.channel)
_EMPTY: dict[str, Any] = {
    "body": None,
    "signature": None,
    "issuers": None,
    "digest": "",
    "number": 0,
    "issued_at": 0,
    "ends_at": 0,
    "stored_at": 0,
    "checked_at": 0,
    "next_attempt_at": 0,
    "failures": 0,
    "reason": "",
    "failed_at": 0,
    "claimed_by": "",
    "claimed_until": 0,
}


class CollateralRoom(Room):
    """Intel's documents by (trust root, kind, FMSPC or authority, update channel)."""

    def collateral_rows(self, keys: Sequence[DocumentKey] = ()) -> dict[DocumentKey, Row]:
        """The rows of these keys that are there; of all without keys."""
        if not keys:
            with self.database.reading() as db:
                rows = [_row(found) for found in db.execute(select(*_KEY, *_MARKS))]
            return {row.key: row for row in rows}
        wanted = {f"{name}{index}": value for index, key in enumerate(keys) for name, value in _named(key).items()}
        with self.database.reading() as db:
            rows = [_row(found) for found in _rows_of(len(keys)).rows(db, wanted)]
        return {row.key: row for row in rows}

    def collateral_keys(self) -> list[DocumentKey]:
        """Which documents there are."""
        return [row.key for row in self.collateral_rows().values() if row.digest]

    def collateral_document(self, key: DocumentKey) -> SignedDocument | None:
        """The document, or None."""
        with self.database.reading() as db:
            row = db.execute(select(_C.body, _C.signature, _C.issuers).where(_is(key))).one_or_none()
        return None if row is None or row.body is None else SignedDocument(key.kind, row.body, row.signature, row.issuers)

    def claim_collateral(self, keys: Iterable[DocumentKey], holder: str, now: int, seconds: int) -> list[DocumentKey]:
        """Those of the keys that this replica may ask for in the next seconds; the others are being asked for elsewhere.

        A claim that ends later than any could is of before the clock was set back.
        """

        def claim(db: Connection) -> list[DocumentKey]:
            claimed = []
            for key in keys:
                insert_new(db, table, _EMPTY | _named(key))
                free = or_(_C.claimed_until <= now, _C.claimed_until > now + seconds + SKEW_SECONDS, _C.claimed_by == holder)
                taken = update(table).where(_is(key), free).values(claimed_by=holder, claimed_until=now + seconds)
                if db.execute(taken).rowcount == 1:
                    claimed.append(key)
            return claimed

        return self.database.transact(claim)

    def keep_collateral(self, documents: Sequence[tuple[DocumentKey, SignedDocument, int]], now: int) -> dict[DocumentKey, Kept]:
        """Store genuine documents, each with the time of its next refresh, unless they go back behind what is stored.

        A document that replaces another one has all living results judged again, in the same transaction: it may revoke
        what they rest on.  One that goes back changes nothing; the caller reports it (`collateral_failed`).
        """

        def keep(db: Connection) -> dict[DocumentKey, Kept]:
            kept, replaced = {}, False
            for key, document, next_attempt_at in documents:
                insert_new(db, table, _EMPTY | _named(key))
                held = db.execute(select(_C.digest, _C.number, _C.issued_at).where(_is(key))).one()
                number, issued_at = document.number, unix(document.issued)
                confirmed = {"checked_at": now, "next_attempt_at": next_attempt_at, "failures": 0, "reason": "", "claimed_until": 0}
                if held.digest and (number < held.number or issued_at < held.issued_at):
                    kept[key] = Kept.ROLLED_BACK
                    continue
                if held.digest == document.digest:
                    kept[key] = Kept.UNCHANGED
                    db.execute(update(table).where(_is(key)).values(**confirmed))
                    continue
                kept[key], replaced = Kept.STORED, replaced or bool(held.digest)
                content = {
                    "body": document.body,
                    "signature": document.signature,
                    "issuers": document.issuers,
                    "digest": document.digest,
                    "number": number,
                    "issued_at": issued_at,
                    "ends_at": unix(document.ends),
                    "stored_at": now,
                }
                db.execute(update(table).where(_is(key)).values(**content, **confirmed))
                if key.kind is DocumentKind.ROOT_CRL:  # it may revoke who signed the others: ask for those anew
                    others = and_(_C.root == key.root, _C.kind != key.kind.value, _C.digest != "", _C.stored_at < now)
                    db.execute(update(table).where(others).values(next_attempt_at=now))
            if replaced:
                reappraisal_store.request(db, Cause.COLLATERAL_CHANGED, now)
            return kept

        return self.database.transact(keep)

    def collateral_failed(self, key: DocumentKey, reason: str, now: int, next_attempt_at: int) -> None:
        """Note that a document could not be had, or was not taken, and when to ask again."""

        def note(db: Connection) -> None:
            insert_new(db, table, _EMPTY | _named(key))
            changes = {"reason": reason, "failed_at": now, "next_attempt_at": next_attempt_at, "claimed_until": 0}
            db.execute(update(table).where(_is(key)).values(failures=_C.failures + 1, **changes))

        self.database.transact(note)

    def forget_missing_collateral(self, before: int) -> int:
        """Forget documents that never came and were asked for last before a time; returns how many."""
        stale = and_(_C.digest == "", _C.failed_at < before, _C.next_attempt_at < before, _C.claimed_until < before)
        with self.database.reading() as db:  # mostly there are none: then the writers' lock is not needed
            if db.execute(select(_C.kind).where(stale).limit(1)).one_or_none() is None:
                return 0
        return int(self.database.transact(lambda db: db.execute(delete(table).where(stale)).rowcount))


@lru_cache
def _rows_of(number: int) -> Prepared:
    """The rows of some keys; built once for each number of them, because every attestation asks."""
    matches = [and_(*(column == bindparam(f"{column.name}{index}") for column in _KEY)) for index in range(number)]
    return Prepared(select(*_KEY, *_MARKS).where(or_(*matches)))


def _named(key: DocumentKey) -> dict[str, str]:
    return {"root": key.root, "kind": key.kind.value, "name": key.name, "channel": key.update}


def _is(key: DocumentKey) -> ColumnElement[bool]:
    return and_(_C.root == key.root, _C.kind == key.kind.value, _C.name == key.name, _C.channel == key.update)


def _row(found: Any) -> Row:
    root, kind, name, channel, *marks = found
    return Row(DocumentKey(root, DocumentKind(kind), name, channel), *marks)
