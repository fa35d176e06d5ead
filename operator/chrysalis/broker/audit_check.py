"""Verifying the audit log without reading all of it at each start.

A checkpoint says how far the log was verified: number and hash of a record, signed by the broker's anchor key (a compact JWS of typ
`chrysalis-audit-checkpoint+jwt`), so that nobody who merely writes to the database can make one.  What comes after it is verified
at a start and then every half minute.  Where an anchor outside of the database has noted less than the checkpoint says, verification
begins at what it has noted; where it has noted more, that record lies in the part that is verified and its hash must be the noted
one (chrysalis.broker.anchors): so the checkpoint is never of another history than the anchor's.
A change before the checkpoint is found by a whole verification only (`chrysalis broker audit-verify`, and each backup).
"""

from __future__ import annotations

import threading
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError
from sqlalchemy import Connection, delete, insert, select

from chrysalis.api.base import Hex32, Model
from chrysalis.broker import audit, audit_store
from chrysalis.broker.audit_store import AuditRoom
from chrysalis.broker.database import Database
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tables import audit_checkpoints
from chrysalis.receipts import jws
from chrysalis.receipts.reasons import ReceiptError

TYP = "chrysalis-audit-checkpoint+jwt"
NAME = "audit"
STEP = 50_000
"""Records after which a long verification notes how far it has come."""


class Checkpoint(Model):
    """The log was verified up to this record."""

    seq: Annotated[int, Field(ge=0)]
    hash: Hex32


START = Checkpoint(seq=0, hash=audit.GENESIS)


class AuditCheck:
    """Verifies one broker's log.  Thread-safe."""

    def __init__(self, database: Database, key: Ed25519PrivateKey) -> None:
        self._database = database
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._room = AuditRoom(database)
        self._lock = threading.Lock()
        self.failure: BrokerError | None = None
        """That the log was found changed; stays until the process ends."""

    def verify(self, noted: tuple[int, str] | None = None) -> Checkpoint:
        """Verify what came after the checkpoint, and note how far the log is verified by now.

        noted: number and hash of the record that the anchor has noted, where there is an anchor.  A checkpoint that this broker
        did not sign is no checkpoint: then the whole log is verified.  Raises BrokerError (AuditBroken).
        """
        try:
            with self._lock:
                begin = self._held()
                if noted is not None and noted[0] < begin.seq:
                    begin = Checkpoint(seq=noted[0], hash=noted[1])
                return self._from(begin)
        except BrokerError as error:
            if error.reason == BrokerReason.AUDIT_BROKEN:
                self.failure = error
            raise

    def verify_whole(self) -> Checkpoint:
        """Verify every record there is, whatever was verified before.  Raises BrokerError (AuditBroken)."""
        with self._lock:
            return self._from(START)

    def _from(self, begin: Checkpoint) -> Checkpoint:
        with self._database.reading() as db:
            if audit_store.hash_of(db, begin.seq) != begin.hash.lower():
                raise audit.broken(begin.seq)
        reached = begin
        while True:
            page = self._room.audit_page(reached.seq, audit_store.PAGE)
            if not page:
                break
            seq, digest = audit.follow(page, reached.seq, reached.hash.lower())
            before, reached = reached, Checkpoint(seq=seq, hash=digest)
            if before.seq // STEP != seq // STEP:
                self._note(reached)
        if reached.seq:
            self._note(reached)
        return reached

    def _held(self) -> Checkpoint:
        with self._database.reading() as db:
            token = db.execute(select(audit_checkpoints.c.token).where(audit_checkpoints.c.name == NAME)).scalar_one_or_none()
        if token is None:
            return START
        try:
            return Checkpoint.model_validate(jws.verify(token, TYP, self._public))
        except (ReceiptError, ValidationError):
            return START

    def _note(self, reached: Checkpoint) -> None:
        token = jws.sign(TYP, reached.to_json_dict(), self._key)
        c = audit_checkpoints.c

        def put(db: Connection) -> None:
            held = db.execute(select(c.seq, c.token).where(c.name == NAME)).one_or_none()
            if held is not None and held.token == token:
                return
            db.execute(delete(audit_checkpoints).where(c.name == NAME))
            db.execute(insert(audit_checkpoints).values(name=NAME, seq=reached.seq, token=token))

        with self._database.reading() as db:  # the usual case of a quiet broker, without the writers' lock
            if db.execute(select(c.token).where(c.name == NAME)).scalar_one_or_none() == token:
                return
        self._database.transact(put)
