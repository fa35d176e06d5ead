"""The table of publishers' reference values: signed documents whose versions, and whose withdrawals, only grow."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from chrysalis.api.reference import ReferenceValues
from chrysalis.broker import audit_store, reappraisal_store
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.reappraisal_store import Cause
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.rooms import Room
from chrysalis.broker.tables import reference_values


@dataclass(frozen=True)
class StoredReference:
    """A publisher's document in one version: the signed bytes, and the envelope that they came in."""

    publisher: str
    version: int
    payload: str
    envelope: str


class ReferenceRoom(Room):
    """Publishers' newest documents."""

    def put_reference(self, new: StoredReference, now: int) -> bool:
        """Store a first or higher version; False when exactly this one is stored.

        Where something is withdrawn that was not before, every living result is judged again.
        Raises BrokerError: VersionNotHigher, WithdrawalMissing.
        """
        values = ReferenceValues.model_validate_json(new.payload)

        def put(db: Connection) -> bool:
            held = _newest(db, new.publisher)
            before: set[object] = set()
            if held is not None:
                if held.version == new.version and held.payload == new.payload:
                    return False
                _check_growth(held, new.version, values)
                before = {entry.key for entry in ReferenceValues.model_validate_json(held.payload).withdrawn}
            db.execute(insert(reference_values).values(**vars(new), stored_at=now))
            document = {"publisher": new.publisher, "version": new.version, "withdrawn": len(values.withdrawn)}
            audit_store.append(db, now, AuditEvent.REFERENCE_VALUES_STORED, document)
            if {entry.key for entry in values.withdrawn} - before:
                reappraisal_store.request(db, Cause.REFERENCE_VALUE_WITHDRAWN, now)
            return True

        return self.database.transact(put)

    def reference_versions(self) -> dict[str, int]:
        """Each publisher's newest version."""
        c = reference_values.c
        with self.database.reading() as db:
            rows = db.execute(select(c.publisher, func.max(c.version)).group_by(c.publisher)).all()
        return {row[0]: row[1] for row in rows}

    def reference(self, publisher: str) -> StoredReference | None:
        """The publisher's newest document, or None."""
        with self.database.reading() as db:
            return _newest(db, publisher)


def _check_growth(held: StoredReference, version: int, values: ReferenceValues) -> None:
    if version <= held.version:
        raise BrokerError(
            BrokerReason.VERSION_NOT_HIGHER,
            f"the reference values have version {version}; version {held.version} is stored",
            f"sign them again with a version above {held.version}: versions only grow, so that an old one cannot be put back",
        )
    still = {entry.key for entry in values.withdrawn}
    missing = [entry for entry in ReferenceValues.model_validate_json(held.payload).withdrawn if entry.key not in still]
    if missing:
        raise BrokerError(
            BrokerReason.WITHDRAWAL_MISSING,
            f"version {held.version} withdraws {missing[0].kind.value} {missing[0].value}; version {version} does not say so any more",
            "repeat every withdrawal: what was withdrawn once stays withdrawn; publish a new value in its place",
            f"{len(missing)} withdrawals are missing",
        )


def _newest(db: Connection, publisher: str) -> StoredReference | None:
    c = reference_values.c
    query = select(reference_values).where(c.publisher == publisher).order_by(c.version.desc()).limit(1)
    row = db.execute(query).one_or_none()
    return None if row is None else StoredReference(row.publisher, row.version, row.payload, row.envelope)
