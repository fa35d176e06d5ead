"""The tables of owners' documents: key records and policies, whose versions only grow.

Both are named within their owner: no owner can take a name from another, or learn that it is used.  What names a key record without an
owner (initdata without `keyOwner`) names it by its id and its model; among owners who have both, it is the one who stored them first and
is still a tenant's: who was taken out of the settings, an owner's key that was replaced, stands in nobody's way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from chrysalis.broker import audit_store, quota_store, reappraisal_store
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.prepared import Prepared
from chrysalis.broker.quota_store import Allowance
from chrysalis.broker.reappraisal_store import Cause
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.remembered import Remembered
from chrysalis.broker.rooms import Counter, Room, mark
from chrysalis.broker.tables import key_records, policies

T = TypeVar("T")
_OWNERS = (policies.c.owner == bindparam("owner"), policies.c.name == bindparam("name"))
_K, _P = key_records.c, policies.c
_KEY_MEMBERS = select(
    _K.key_id, _K.owner, _K.model_digest, _K.version, _K.payload_sha256, _K.record, _K.sealed_key, _K.key_since, _K.recovery, _K.number
)
_KEY = Prepared(_KEY_MEMBERS.where(_K.owner == bindparam("owner"), _K.key_id == bindparam("key_id")))
_NAMED = (_K.key_id == bindparam("key_id"), _K.model_digest == bindparam("model_digest"))
_OWNERS_NAMED = select(_K.owner).where(*_NAMED).order_by(_K.number)
_KEY_OF_OWNER_NAMED = Prepared(_KEY_MEMBERS.where(*_NAMED, _K.owner == bindparam("owner")))
_NEWEST_NUMBER = Prepared(select(func.coalesce(func.max(_K.number), 0)))
_POLICY = Prepared(select(_P.owner, _P.name, _P.version, _P.payload, _P.envelope).where(*_OWNERS).order_by(_P.version.desc()).limit(1))
VERSIONS = (
    func.coalesce(select(_K.version).where(_K.owner == bindparam("owner"), _K.key_id == bindparam("key_id")).scalar_subquery(), 0),
    func.coalesce(select(func.max(_P.version)).where(*_OWNERS).scalar_subquery(), 0),
)
"""The newest versions of an owner's key record and policy; 0 where there is none."""


@dataclass(frozen=True)
class StoredKey:
    """A key record: its signed members without the key, and the key as it lies on the disk."""

    key_id: str
    owner: str
    model_digest: str
    version: int
    payload_sha256: str
    record: str
    sealed_key: bytes
    key_since: int
    """The version of the record in which the key itself was last replaced."""
    recovery: bytes
    """age: the record with its key, to its owner's recovery recipients; empty where it names none."""
    number: int = 0
    """In the order in which owners stored this id for this model; put_key gives it."""


@dataclass(frozen=True)
class StoredPolicy:
    """A policy's signed payload, byte for byte."""

    owner: str
    name: str
    version: int
    payload: str
    envelope: str


class RecordsRoom(Room):
    """Key records and policies."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._keys: Remembered[tuple[str, str], StoredKey] = Remembered()
        self._keys_named: Remembered[tuple[str, str, str], StoredKey] = Remembered()
        self._policies: Remembered[tuple[str, str], StoredPolicy] = Remembered()

    def key(self, owner: str, key_id: str, records: int | None = None) -> StoredKey | None:
        """The owner's key record, or None.

        records: `Inputs.records` as read a moment ago; what was read under it is not read again.
        """
        return self._keys.find((owner, key_id), records, lambda: self._read(_key, owner, key_id))

    def key_named(
        self,
        key_id: str,
        model_digest: str,
        owner: str = "",
        records: int | None = None,
        known: Callable[[str], bool] = lambda _owner: True,
    ) -> StoredKey | None:
        """The record of this id for this model: the owner's where one is given, else that of the known owner who stored it first.

        known: whether an owner is any tenant's; where none is, the first of all is found, for its reader to refuse.  What is known
        does not change while a broker runs.  records: as in `key`.
        """

        def read() -> StoredKey | None:
            with self.database.reading() as db:
                if owner:
                    return _key_of_owner_named(db, key_id, model_digest, owner)
                owners = db.execute(_OWNERS_NAMED, {"key_id": key_id, "model_digest": model_digest}).scalars().all()
                chosen = next((each for each in owners if known(each)), owners[0] if owners else None)
                return None if chosen is None else _key_of_owner_named(db, key_id, model_digest, chosen)

        return self._keys_named.find((key_id, model_digest, owner), records, read)

    def keys_named(self, key_id: str, owners: Collection[str] | None) -> list[StoredKey]:
        """These owners' records of an id (None: of every owner), by owner."""
        found = _KEY_MEMBERS.where(_K.key_id == key_id).order_by(_K.owner)
        if owners is not None:
            found = found.where(_K.owner.in_(owners))
        with self.database.reading() as db:
            return [StoredKey(*tuple(row)) for row in db.execute(found).all()]

    def put_key(self, key: StoredKey, now: int, allowance: Allowance | None = None) -> bool:
        """Store a new or higher version; False when it is the stored one already.

        What was judged under the version before is judged again.
        Raises BrokerError: VersionNotHigher, QuotaExceeded.
        """

        def put(db: Connection) -> bool:
            held = _key(db, key.owner, key.key_id)
            if held is not None:
                if held.payload_sha256 == key.payload_sha256:
                    return False
                if key.version <= held.version:
                    raise _not_higher("key record", key.version, held.version)
            if allowance is not None:
                quota_store.check_key(db, allowance, key.owner, key.key_id, len(key.record) + len(key.sealed_key))
                if held is None:
                    allowance.check_name(db)
            if held is not None:
                db.execute(delete(key_records).where(_K.owner == key.owner, _K.key_id == key.key_id))
                reappraisal_store.request(db, Cause.KEY_RECORD_CHANGED, now, owner=key.owner, key_id=key.key_id)
            if held is not None and held.model_digest == key.model_digest:
                number = held.number
            else:  # an owner who changes the model comes last for the new one
                number = int((_NEWEST_NUMBER.row(db, {}) or (0,))[0]) + 1
            db.execute(insert(key_records).values(**vars(key) | {"number": number}, updated_at=now))
            mark(db, Counter.RECORDS)
            audit_store.append(db, now, AuditEvent.KEY_STORED, {"keyId": key.key_id, "owner": key.owner, "version": key.version})
            return True

        return self.database.transact(put)

    def policy(self, owner: str, name: str, records: int | None = None) -> StoredPolicy | None:
        """The owner's policy of this name in its highest version, or None.  records: as in `key`."""
        return self._policies.find((owner, name), records, lambda: self._read(_policy, owner, name))

    def _read(self, what: Callable[..., T], *names: str) -> T:
        with self.database.reading() as db:
            return what(db, *names)

    def policies_named(self, name: str, owners: Collection[str] | None) -> list[StoredPolicy]:
        """The newest version of each of these owners' policies of a name (None: of every owner), by owner."""
        c = policies.c
        found = select(c.owner).where(c.name == name).distinct().order_by(c.owner)
        if owners is not None:
            found = found.where(c.owner.in_(owners))
        with self.database.reading() as db:
            newest = [_policy(db, owner, name) for owner in db.execute(found).scalars().all()]
        return [policy for policy in newest if policy is not None]

    def stored_bytes(self, allowance: Allowance) -> int:
        """How much of its quota `storedBytes` a tenant uses."""
        with self.database.reading() as db:
            return quota_store.stored_bytes(db, allowance)

    def put_policy(self, policy: StoredPolicy, now: int, allowance: Allowance | None = None) -> bool:
        """Store a first or higher version; False when exactly this one is stored.

        What was judged by the version before is judged again.  Raises BrokerError (VersionNotHigher, QuotaExceeded).
        """

        def put(db: Connection) -> bool:
            held = _policy(db, policy.owner, policy.name)
            if held is not None and held.version == policy.version and held.payload == policy.payload:
                return False
            if held is not None and policy.version <= held.version:
                raise _not_higher("policy", policy.version, held.version)
            if allowance is not None:
                quota_store.check_policy(db, allowance, policy.owner, policy.name, len(policy.payload) + len(policy.envelope))
                if held is None:
                    allowance.check_name(db)
            db.execute(insert(policies).values(**vars(policy), stored_at=now))
            mark(db, Counter.RECORDS)
            audit_store.append(db, now, AuditEvent.POLICY_STORED, {"name": policy.name, "owner": policy.owner, "version": policy.version})
            if held is not None:
                reappraisal_store.request(db, Cause.POLICY_CHANGED, now, owner=policy.owner, policy_name=policy.name)
            return True

        return self.database.transact(put)


def _key(db: Connection, owner: str, key_id: str) -> StoredKey | None:
    row = _KEY.row(db, {"owner": owner, "key_id": key_id})
    return None if row is None else StoredKey(*row)


def _key_of_owner_named(db: Connection, key_id: str, model_digest: str, owner: str) -> StoredKey | None:
    row = _KEY_OF_OWNER_NAMED.row(db, {"key_id": key_id, "model_digest": model_digest, "owner": owner})
    return None if row is None else StoredKey(*row)


def _policy(db: Connection, owner: str, name: str) -> StoredPolicy | None:
    row = _POLICY.row(db, {"owner": owner, "name": name})
    return None if row is None else StoredPolicy(*row)


def _not_higher(what: str, version: int, held: int) -> BrokerError:
    return BrokerError(
        BrokerReason.VERSION_NOT_HIGHER,
        f"the {what} has version {version}; version {held} is stored",
        f"sign it again with a version above {held}: versions only grow, so that an old one cannot be put back",
    )
