"""Versions that an anchor had noted before a rollback was accepted.

The database lacks what had them.  Until its owner stores that version or a higher one again, what the database has instead is known
to be older than what its owner wanted: it admits nobody (VersionLost), and nothing in between is taken, although its owner signed
it once.  Whoever runs the broker can accept a rollback; only owners and publishers can say what holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import Connection, delete, insert, select

from chrysalis.broker.database import Database
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tables import version_floors


class Kind(StrEnum):
    """Whose version a floor is."""

    POLICY = "Policy"
    KEY_RECORD = "KeyRecord"
    REFERENCE_VALUES = "ReferenceValues"

    @property
    def words(self) -> str:
        """For people."""
        return {Kind.POLICY: "policy", Kind.KEY_RECORD: "key record", Kind.REFERENCE_VALUES: "reference values"}[self]


def read(db: Connection) -> dict[tuple[Kind, str, str], int]:
    """Every floor by kind, owner (or publisher) and name."""
    return {(Kind(row.kind), row.owner, row.name): row.version for row in db.execute(select(version_floors))}


def raise_to(db: Connection, versions: Mapping[tuple[Kind, str, str], int]) -> None:
    """Let floors be at least these."""
    floors = read(db)
    for (kind, owner, name), version in versions.items():
        floors[kind, owner, name] = max(version, floors.get((kind, owner, name), 0))
    db.execute(delete(version_floors))
    if floors:
        rows = [{"kind": kind.value, "owner": owner, "name": name, "version": version} for (kind, owner, name), version in floors.items()]
        db.execute(insert(version_floors), rows)


@dataclass(frozen=True)
class Floors:
    """The floors as they were at the broker's start: only an accepted rollback, which ends it, changes them."""

    versions: Mapping[tuple[Kind, str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, database: Database) -> Floors:
        """Those of a database."""
        with database.reading() as db:
            return cls(read(db))

    def check_use(self, kind: Kind, owner: str, name: str, version: int) -> None:
        """Refuse what is stored in a version below its floor; raises BrokerError (VersionLost)."""
        floor = self.versions.get((kind, owner, name), 0)
        if version < floor:
            raise BrokerError(
                BrokerReason.VERSION_LOST,
                f"the {kind.words} {name or owner[:16]} was there in version {floor}; after a rollback the broker has version {version}",
                f"let its owner store version {floor} again, or a higher one",
            )

    def check_new(self, kind: Kind, owner: str, name: str, version: int) -> None:
        """Refuse to take a version below the floor; raises BrokerError (VersionNotHigher)."""
        floor = self.versions.get((kind, owner, name), 0)
        if version < floor:
            raise BrokerError(
                BrokerReason.VERSION_NOT_HIGHER,
                f"the {kind.words} has version {version}; version {floor} was there before a rollback",
                f"store version {floor} again or sign it with a higher one: versions only grow, so that an old one cannot be put back",
            )
