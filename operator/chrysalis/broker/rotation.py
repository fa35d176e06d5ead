"""Sealing everything stored again under the current key: `chrysalis broker rotate-root`.

Each value is opened and sealed before the transaction that exchanges it, and exchanged only if it is still the same one.  Whoever is
stopped in the middle starts again: what is done already says so in its header.  Brokers may run meanwhile, if they are configured
with both keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Table, select, update

from chrysalis.broker import audit_store, ear_keys, state_keys, tables
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.encryption import Keyring, read
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records import key_context
from chrysalis.broker.rooms import Counter, mark

BATCH = 64


@dataclass(frozen=True)
class Kept:
    """One sealed value: where it stands, and what its encryption is bound to."""

    table: Table
    key: tuple[str, ...]  # of its primary key's columns
    value: bytes
    context: bytes


@dataclass(frozen=True)
class Outcome:
    """What a rotation did; left: values that another process stored under an older key meanwhile."""

    sealed_again: int
    already_current: int
    left: int
    current: str


def values(database: Database) -> Iterator[Kept]:
    """Every sealed value of the database."""
    with database.reading() as db:
        k = tables.key_records.c
        keys = db.execute(select(k.key_id, k.owner, k.record, k.sealed_key)).all()
        signing = db.execute(select(tables.ear_keys.c.kid, tables.ear_keys.c.sealed_key)).all()
        own = db.execute(select(tables.state_keys.c.name, tables.state_keys.c.sealed)).all()
    for key_id, owner, record, sealed in keys:
        yield Kept(tables.key_records, (owner, key_id), sealed, key_context(key_id, owner, record))
    for kid, sealed in signing:
        yield Kept(tables.ear_keys, (kid,), sealed, ear_keys.context(kid))
    for name, sealed in own:
        yield Kept(tables.state_keys, (name,), sealed, state_keys.context(name))


def rotate(database: Database, keyring: Keyring, now: int, pace: int = BATCH) -> Outcome:
    """Seal again what is not under the current key in its newest version, `pace` values in each transaction.

    Every value is opened first: one that does not open ends the rotation before anything is changed.  Raises BrokerError
    (StateUnusable, KeyServiceUnavailable).
    """
    every = list(values(database))
    old = [kept for kept in every if not keyring.is_current(kept.value)]
    for kept in old:
        keyring.decrypt(kept.value, kept.context)
    before = sorted({f"{value.scheme} {value.key_id}" for value in (read(kept.value) for kept in old)})
    current = f"{keyring.current.scheme} {keyring.current.key_id}"
    changed = 0
    for start in range(0, len(old), pace):
        batch = old[start : start + pace]
        again = [(kept, keyring.encrypt(keyring.decrypt(kept.value, kept.context), kept.context)) for kept in batch]

        def exchange(db: Connection, again: list[tuple[Kept, bytes]] = again) -> int:
            done = sum(_exchange(db, kept, sealed) for kept, sealed in again)
            if done:
                mark(db, Counter.RECORDS)
                audit_store.append(db, now, AuditEvent.ROOT_ROTATED, {"values": done, "from": before, "to": current})
            return done

        changed += database.transact(exchange)
    left = sum(not keyring.is_current(kept.value) for kept in values(database))
    return Outcome(sealed_again=changed, already_current=len(every) - len(old), left=left, current=current)


def require_complete(outcome: Outcome) -> None:
    """Raise BrokerError (StateUnusable) when values under an older key are left."""
    if outcome.left:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            f"{outcome.left} values are still sealed under an older key",
            "restart every broker with the new settings, then run rotate-root again; keep the old key until then",
        )


def _exchange(db: Connection, kept: Kept, sealed: bytes) -> int:
    primary = (column == value for column, value in zip(kept.table.primary_key.columns, kept.key, strict=True))
    column: Column[bytes] = kept.table.c.sealed if kept.table is tables.state_keys else kept.table.c.sealed_key
    statement = update(kept.table).where(*primary, column == kept.value).values({column.name: sealed})
    return db.execute(statement).rowcount
