"""The table of OCSP answers: one row for each certificate of a device's chain, shared by the replicas and by all tenants."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select, update

from chrysalis.broker import reappraisal_store
from chrysalis.broker.reappraisal_store import Cause
from chrysalis.broker.rooms import Room, insert_new
from chrysalis.broker.tables import ocsp_answers as table

MAX_MISSING = 4096
"""Certificates without any answer beyond these are forgotten: a tenant's own root certifies as many as it likes."""


class OcspState(StrEnum):
    """What the kept answer says; Missing as long as there is none."""

    MISSING = "Missing"
    GOOD = "Good"
    REVOKED = "Revoked"


class OcspKept(StrEnum):
    """What became of a proved answer."""

    STORED = "stored"
    ROLLED_BACK = "rolled-back"  # older than the kept one, or no newer than a revocation, which stays


@dataclass(frozen=True)
class OcspRow:
    """One certificate and the last good answer about it.  Times are Unix seconds, 0 where there is none.

    digest: SHA-256 of the certificate's DER, hex.  used_at: when an attestation needed it last.
    """

    digest: str
    certificate: bytes
    issuer: bytes
    body: bytes | None
    state: OcspState
    this_update: int
    ends_at: int
    next_attempt_at: int
    failures: int
    used_at: int


@dataclass(frozen=True)
class NewAnswer:
    """A proved answer about the certificate of this digest, and when to ask again."""

    digest: str
    body: bytes
    state: OcspState
    this_update: int
    ends_at: int
    next_attempt_at: int


_C = table.c
_COLUMNS = (
    _C.digest,
    _C.certificate,
    _C.issuer,
    _C.body,
    _C.state,
    _C.this_update,
    _C.ends_at,
    _C.next_attempt_at,
    _C.failures,
    _C.used_at,
)
_EMPTY: dict[str, Any] = {
    "body": None,
    "state": OcspState.MISSING.value,
    "this_update": 0,
    "ends_at": 0,
    "next_attempt_at": 0,
    "failures": 0,
    "used_at": 0,
}


class OcspRoom(Room):
    """OCSP answers by certificate."""

    def ocsp_rows(self, digests: Collection[str]) -> dict[str, OcspRow]:
        """The rows of these certificates that are there."""
        if not digests:
            return {}
        with self.database.reading() as db:
            return {row.digest: row for found in db.execute(select(*_COLUMNS).where(_C.digest.in_(list(digests)))) if (row := _row(found))}

    def ocsp_due(self, now: int, limit: int) -> list[OcspRow]:
        """Answers that are past half of their life, the most urgent first.

        Where there never was one, the attestations that need it ask: any tenant can need what no responder answers.
        """
        query = select(*_COLUMNS).where(_C.body.is_not(None), _C.next_attempt_at <= now).order_by(_C.ends_at).limit(limit)
        with self.database.reading() as db:
            return [_row(found) for found in db.execute(query)]

    def note_ocsp(self, certificates: Sequence[tuple[str, bytes, bytes]], now: int) -> None:
        """That an attestation needs the answers about these (digest, certificate, issuer)."""

        def note(db: Any) -> None:
            for digest, certificate, issuer in certificates:
                insert_new(db, table, _EMPTY | {"digest": digest, "certificate": certificate, "issuer": issuer})
                db.execute(update(table).where(_C.digest == digest).values(used_at=now))

        self.database.transact(note)

    def keep_ocsp(self, answers: Sequence[NewAnswer], now: int) -> dict[str, OcspKept]:
        """Store proved answers, unless they are older than what is stored: a revocation cannot be replayed away, nor by a good answer of
        the same thisUpdate, which some responders set for a whole batch.

        Where one revokes what was not known to be revoked, all living results are judged again, in the same transaction.
        """

        def keep(db: Any) -> dict[str, OcspKept]:
            kept, revoked = {}, False
            for answer in answers:
                held = db.execute(select(_C.state, _C.this_update).where(_C.digest == answer.digest)).one_or_none()
                if held is None:  # forgotten meanwhile
                    continue
                confirmed = {"next_attempt_at": answer.next_attempt_at, "failures": 0}
                same_time = answer.this_update == held.this_update
                unsaid = same_time and held.state == OcspState.REVOKED.value and answer.state is OcspState.GOOD
                if answer.this_update < held.this_update or unsaid:
                    kept[answer.digest] = OcspKept.ROLLED_BACK
                    continue
                content = {"body": answer.body, "state": answer.state.value, "this_update": answer.this_update, "ends_at": answer.ends_at}
                db.execute(update(table).where(_C.digest == answer.digest).values(**content, **confirmed))
                kept[answer.digest] = OcspKept.STORED
                revoked = revoked or (answer.state is OcspState.REVOKED and held.state != OcspState.REVOKED.value)
            if revoked:
                reappraisal_store.request(db, Cause.GPU_CERTIFICATE_REVOKED, now)
            return kept

        return self.database.transact(keep)

    def ocsp_failed(self, digest: str, next_attempt_at: int) -> None:
        """Note that there was no usable answer, and when to ask again."""
        changes = {"failures": _C.failures + 1, "next_attempt_at": next_attempt_at}
        self.database.transact(lambda db: db.execute(update(table).where(_C.digest == digest).values(**changes)))

    def forget_ocsp(self, unused_since: int) -> int:
        """Forget certificates that no attestation needed since then, and those without any answer beyond the MAX_MISSING that were
        needed last; returns how many."""
        missing = select(_C.used_at).where(_C.body.is_(None)).order_by(_C.used_at.desc()).offset(MAX_MISSING).limit(1)
        with self.database.reading() as db:  # mostly there are none: then the writers' lock is not needed
            last = db.execute(missing).scalar_one_or_none()
            if last is None and db.execute(select(_C.digest).where(_C.used_at < unused_since).limit(1)).one_or_none() is None:
                return 0
        old: ColumnElement[bool] = _C.used_at < unused_since
        if last is not None:
            old = or_(old, and_(_C.body.is_(None), _C.used_at <= last))
        return int(self.database.transact(lambda db: db.execute(delete(table).where(old)).rowcount))


def _row(found: Any) -> OcspRow:
    digest, certificate, issuer, body, state, *times = found
    return OcspRow(digest, certificate, issuer, body, OcspState(state), *times)
