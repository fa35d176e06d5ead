"""All of the broker's SQL.  SQLite in WAL mode: durable before a call returns, one writer at a time, foreign keys on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, and_, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from chrysalis.broker import audit
from chrysalis.broker.audit import AuditEvent, AuditRecord
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tables import audit as audit_table
from chrysalis.broker.tables import collateral, key_records, policies, results, spent_nonces

MAX_REFUSED_RESULTS = 10_000
"""Refusals beyond these are forgotten, oldest first: whoever can reach the broker can cause them."""
MAX_REFUSED_OF_A_POD = 8
_WRITE = "chrysalis_write"


@dataclass(frozen=True)
class StoredKey:
    """A key record: its signed members without the key, and the key as it lies on the disk."""

    key_id: str
    owner: str
    version: int
    payload_sha256: str
    record: str
    sealed_key: bytes


@dataclass(frozen=True)
class StoredPolicy:
    """A policy's signed payload, byte for byte."""

    owner: str
    name: str
    version: int
    payload: str
    envelope: str


@dataclass(frozen=True)
class StoredResult:
    """An attempt to attest; document is the ResultView as it was issued."""

    result_id: str
    verdict: str
    namespace: str
    worker: str
    pod_uid: str
    key_id: str
    owner: str
    issued_at: int
    expires_at: int | None
    document: str
    released_at: int | None = None
    revoked_at: int | None = None


class Store:
    """One broker's database."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        with self._engine.connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # Nonces

    def spend_nonce(self, nonce: str, expires_at: int, now: int) -> bool:
        """Remember a nonce until it expires; False when it was spent before."""
        with self._writing() as db:
            db.execute(delete(spent_nonces).where(spent_nonces.c.expires_at <= now))
            try:
                db.execute(insert(spent_nonces).values(nonce=nonce, expires_at=expires_at))
            except IntegrityError:
                return False
            return True

    # Owners' documents

    def key(self, key_id: str) -> StoredKey | None:
        """The key record, or None."""
        with self._reading() as db:
            return _key(db, key_id)

    def put_key(self, key: StoredKey, now: int) -> bool:
        """Store a new or higher version; False when it is the stored one already.

        Raises BrokerError: OwnerMismatch, VersionNotHigher.
        """
        with self._writing() as db:
            held = _key(db, key.key_id)
            if held is not None:
                if held.owner != key.owner:
                    raise BrokerError(BrokerReason.OWNER_MISMATCH, f"the key {key.key_id} belongs to another owner", "choose another keyId")
                if held.payload_sha256 == key.payload_sha256:
                    return False
                if key.version <= held.version:
                    raise _not_higher("key record", key.version, held.version)
                db.execute(delete(key_records).where(key_records.c.key_id == key.key_id))
            db.execute(insert(key_records).values(**vars(key), updated_at=now))
            _append(db, now, AuditEvent.KEY_STORED, {"keyId": key.key_id, "owner": key.owner, "version": key.version})
            return True

    def policy(self, owner: str, name: str) -> StoredPolicy | None:
        """The owner's policy of this name in its highest version, or None."""
        with self._reading() as db:
            return _policy(db, owner, name)

    def put_policy(self, policy: StoredPolicy, now: int) -> bool:
        """Store a first or higher version; False when exactly this one is stored.  Raises BrokerError (VersionNotHigher)."""
        with self._writing() as db:
            held = _policy(db, policy.owner, policy.name)
            if held is not None and held.version == policy.version and held.payload == policy.payload:
                return False
            if held is not None and policy.version <= held.version:
                raise _not_higher("policy", policy.version, held.version)
            db.execute(insert(policies).values(**vars(policy), stored_at=now))
            _append(db, now, AuditEvent.POLICY_STORED, {"name": policy.name, "owner": policy.owner, "version": policy.version})
            return True

    # Collateral

    def collateral(self, fmspc: str, ca: str, update_channel: str) -> tuple[str, int] | None:
        """The document and when it was stored, or None."""
        c = collateral.c
        query = select(c.document, c.stored_at).where(c.fmspc == fmspc, c.ca == ca, c.update_channel == update_channel)
        with self._reading() as db:
            row = db.execute(query).one_or_none()
        return None if row is None else (row.document, row.stored_at)

    def collateral_keys(self) -> list[tuple[str, str, str]]:
        """Every (fmspc, ca, update channel) that is stored."""
        c = collateral.c
        with self._reading() as db:
            return [(row.fmspc, row.ca, row.update_channel) for row in db.execute(select(c.fmspc, c.ca, c.update_channel))]

    def put_collateral(self, fmspc: str, ca: str, update_channel: str, document: str, now: int) -> None:
        """Replace the document; the caller has checked that it does not go back."""
        c = collateral.c
        with self._writing() as db:
            db.execute(delete(collateral).where(c.fmspc == fmspc, c.ca == ca, c.update_channel == update_channel))
            db.execute(insert(collateral).values(fmspc=fmspc, ca=ca, update_channel=update_channel, document=document, stored_at=now))

    # Results

    def add_result(self, result: StoredResult) -> None:
        """Store an attempt to attest; results are ordered by when this commits.

        Of the refusals that claim one pod, the newest MAX_REFUSED_OF_A_POD are kept: a pod that tries again and again, or a
        stranger in its name, does not fill the table or hide the others.
        """
        c = results.c
        with self._writing() as db:
            if result.verdict == "Refused":
                of_pod = (c.verdict == "Refused", c.namespace == result.namespace, c.pod_uid == result.pod_uid)
                newest = select(c.seq).where(*of_pod).order_by(c.seq.desc()).offset(MAX_REFUSED_OF_A_POD - 1).limit(1)
                last = db.execute(newest).scalar_one_or_none()
                if last is not None:
                    db.execute(delete(results).where(*of_pod, c.seq <= last))
            db.execute(insert(results).values(**vars(result)))

    def result(self, result_id: str) -> StoredResult | None:
        """One result, or None."""
        with self._reading() as db:
            return _result(db, result_id)

    def results(
        self,
        *,
        namespace: str = "",
        worker: str = "",
        pod_uid: str = "",
        verdict: str = "",
        owner: str = "",
        after: str = "",
        limit: int = 100,
    ) -> list[StoredResult]:
        """Results that match every given filter, newest first; with after, the next `limit` younger ones than that.

        Raises BrokerError (ResultUnknown) when `after` is not known (any more).
        """
        c = results.c
        filters = {c.namespace: namespace, c.worker: worker, c.pod_uid: pod_uid, c.verdict: verdict, c.owner: owner}
        query = select(results).where(*(column == value for column, value in filters.items() if value)).limit(limit)
        with self._reading() as db:
            if not after:
                return [_to_result(row) for row in db.execute(query.order_by(c.seq.desc())).mappings()]
            seq = db.execute(select(c.seq).where(c.result_id == after)).scalar_one_or_none()
            if seq is None:
                raise BrokerError(BrokerReason.RESULT_UNKNOWN, "the result named by `after` is not known", "read again without `after`")
            rows = db.execute(query.where(c.seq > seq).order_by(c.seq)).mappings().all()
            return [_to_result(row) for row in reversed(rows)]

    def record_release(self, result_id: str, now: int, document: dict[str, Any]) -> None:
        """Mark a result as having got its key and append the audit record, together, before the key leaves."""
        with self._writing() as db:
            db.execute(update(results).where(results.c.result_id == result_id, results.c.released_at.is_(None)).values(released_at=now))
            _append(db, now, AuditEvent.KEY_RELEASED, document)

    def record_refusal(self, now: int, document: dict[str, Any]) -> None:
        """Append the audit record of a refused release."""
        with self._writing() as db:
            _append(db, now, AuditEvent.RELEASE_REFUSED, document)

    def revoke(self, result_id: str, now: int, document: dict[str, Any]) -> None:
        """Revoke a result, once; releases and renewals under it end here."""
        with self._writing() as db:
            changed = db.execute(
                update(results).where(results.c.result_id == result_id, results.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            if changed.rowcount:
                _append(db, now, AuditEvent.RESULT_REVOKED, document)

    def trim(self, before: int) -> int:
        """Forget results that ended before a time, and refusals beyond the newest MAX_REFUSED_RESULTS; returns how many."""
        c = results.c
        with self._writing() as db:
            ended = db.execute(delete(results).where(func.coalesce(c.expires_at, c.issued_at) < before)).rowcount
            newest = select(c.seq).where(c.verdict == "Refused").order_by(c.seq.desc()).offset(MAX_REFUSED_RESULTS).limit(1)
            last = db.execute(newest).scalar_one_or_none()
            if last is None:
                return ended
            return ended + db.execute(delete(results).where(and_(c.verdict == "Refused", c.seq <= last))).rowcount

    # Audit

    def audit_log(self) -> Iterator[AuditRecord]:
        """Every record in order."""
        with self._reading() as db:
            for row in db.execute(select(audit_table).order_by(audit_table.c.seq)):
                yield AuditRecord(row.seq, row.at, row.event, json.loads(row.document), row.previous, row.hash)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection


def _engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 10, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; `_begin` does
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that will write takes the lock at once; one that upgrades later could fail instead of wait.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")

    return engine


def _key(db: Connection, key_id: str) -> StoredKey | None:
    row = db.execute(select(key_records).where(key_records.c.key_id == key_id)).one_or_none()
    return None if row is None else StoredKey(row.key_id, row.owner, row.version, row.payload_sha256, row.record, row.sealed_key)


def _policy(db: Connection, owner: str, name: str) -> StoredPolicy | None:
    c = policies.c
    query = select(policies).where(c.owner == owner, c.name == name).order_by(c.version.desc()).limit(1)
    row = db.execute(query).one_or_none()
    return None if row is None else StoredPolicy(row.owner, row.name, row.version, row.payload, row.envelope)


def _result(db: Connection, result_id: str) -> StoredResult | None:
    row = db.execute(select(results).where(results.c.result_id == result_id)).mappings().one_or_none()
    return None if row is None else _to_result(row)


def _to_result(row: Any) -> StoredResult:
    return StoredResult(**{name: value for name, value in row.items() if name != "seq"})


def _append(db: Connection, at: int, kind: AuditEvent, document: dict[str, Any]) -> None:
    c = audit_table.c
    last = db.execute(select(c.seq, c.hash).order_by(c.seq.desc()).limit(1)).one_or_none()
    seq, previous = (last.seq + 1, last.hash) if last is not None else (1, audit.GENESIS)
    record = audit.link(seq, at, kind.value, document, previous)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    db.execute(insert(audit_table).values(seq=seq, at=at, event=record.event, document=text, previous=previous, hash=record.hash))


def _not_higher(what: str, version: int, held: int) -> BrokerError:
    return BrokerError(
        BrokerReason.VERSION_NOT_HIGHER,
        f"the {what} has version {version}; version {held} is stored",
        f"sign it again with a version above {held}: versions only grow, so that an old one cannot be put back",
    )
