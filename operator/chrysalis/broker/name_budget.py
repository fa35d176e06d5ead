"""How many names of policies and keys the broker's anchor has room for, and whose they are.

An anchor that cannot hold every name cannot follow the database, and a broker whose anchor does not follow is not ready.  So a new name
that has no room is refused when it is stored, and no tenant, nor several together, take the others' room: half of it is shared out
evenly, the rest is for whoever comes first.  New versions of what is there need no room: a policy can always be tightened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, literal, select, union

from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tables import key_records, policies, version_floors
from chrysalis.broker.tenants import Tenants
from chrysalis.broker.version_floors import Kind

_OF_OWNERS = (Kind.KEY_RECORD.value, Kind.POLICY.value)
_NAMES = union(
    select(key_records.c.owner, literal(Kind.KEY_RECORD.value).label("kind"), key_records.c.key_id.label("name")),
    select(policies.c.owner, literal(Kind.POLICY.value), policies.c.name),
    select(version_floors.c.owner, version_floors.c.kind, version_floors.c.name).where(version_floors.c.kind.in_(_OF_OWNERS)),
).subquery()
_NAMES_BY_OWNER = select(_NAMES.c.owner, func.count()).group_by(_NAMES.c.owner)


@dataclass(frozen=True)
class NameBudget:
    """most: names that the anchor has room for, however they are chosen.  tenants: the owners (hex) of each that has any."""

    most: int
    tenants: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, most: int, tenants: Tenants) -> NameBudget:
        """Of the tenants in the settings."""
        return cls(most, tuple(tenant.owner_keys for tenant in tenants.all if tenant.owner_keys))

    @property
    def share(self) -> int:
        """What each tenant finds room for, whatever the others have stored."""
        return self.most // 2 // max(1, len(self.tenants))

    def has_room(self, names: Mapping[str, int], owners: Collection[str]) -> bool:
        """Whether the tenant of these owners may store one more; names: how many there are, by owner (hex)."""
        total = sum(names.values())
        kept = sum(min(self.share, sum(names.get(owner, 0) for owner in tenant)) for tenant in self.tenants)
        free = self.most - self.share * len(self.tenants) - (total - kept)
        return total < self.most and (free > 0 or sum(names.get(owner, 0) for owner in owners) < self.share)

    def check(self, db: Connection, owners: Collection[str]) -> None:
        """`has_room` in the transaction that stores the name.

        Names of owners that are no tenant's any more count as well: they stand in the anchor.  Raises BrokerError (QuotaExceeded).
        """
        names = {str(owner): int(number) for owner, number in db.execute(_NAMES_BY_OWNER)}
        if self.has_room(names, owners):
            return
        own, total = sum(names.get(owner, 0) for owner in owners), sum(names.values())
        raise BrokerError(
            BrokerReason.QUOTA_EXCEEDED,
            "the broker's anchor has no room for another name of this tenant",
            "store a new version under a name that is there; or let the broker's operator keep the anchor in a file (anchor.file)",
            f"{own} names of the tenant, {self.share} are its share; {total} of all tenants, {self.most} fit",
        )
