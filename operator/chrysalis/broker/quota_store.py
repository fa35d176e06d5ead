"""Quotas of tenants, counted inside the transaction that stores: no two writers overlap, so that what is counted stays true."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select

from chrysalis.broker.name_budget import NameBudget
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tables import key_records, policies, results
from chrysalis.broker.tenants import Quotas, Tenant

MINUTE = 60


@dataclass(frozen=True)
class Allowance:
    """Whose objects count together, and how many there may be."""

    tenant: str
    owners: frozenset[str]
    quotas: Quotas
    names: NameBudget | None = None
    """Room in the broker's anchor, where it has one."""

    @classmethod
    def of(cls, tenant: Tenant, names: NameBudget | None = None) -> Allowance:
        """A tenant's."""
        return cls(tenant.name, tenant.owner_keys, tenant.quotas, names)

    def check_name(self, db: Connection) -> None:
        """Whether there is room for one more name.  Raises BrokerError (QuotaExceeded)."""
        if self.names is not None:
            self.names.check(db, self.owners)


def check_key(db: Connection, allowance: Allowance, owner: str, key_id: str, size: int) -> None:
    """Whether an owner's key record of `size` bytes may be stored, in the place of its older one.  Raises BrokerError (QuotaExceeded)."""
    c = key_records.c
    others = db.execute(select(func.count()).where(c.owner.in_(allowance.owners), _another(owner, key_id))).scalar_one()
    _within(allowance, "keys", others + 1, allowance.quotas.keys)
    _within(allowance, "storedBytes", stored_bytes(db, allowance, without_key=(owner, key_id)) + size, allowance.quotas.stored_bytes)


def check_policy(db: Connection, allowance: Allowance, owner: str, name: str, size: int) -> None:
    """Whether a version of a policy of `size` bytes may be stored.  Raises BrokerError (QuotaExceeded)."""
    c = policies.c
    names = select(c.owner, c.name).where(c.owner.in_(allowance.owners)).distinct().subquery()
    others = select(func.count()).select_from(names).where((names.c.owner != owner) | (names.c.name != name))
    _within(allowance, "policies", db.execute(others).scalar_one() + 1, allowance.quotas.policies)
    _within(allowance, "storedBytes", stored_bytes(db, allowance) + size, allowance.quotas.stored_bytes)


def check_result(db: Connection, allowance: Allowance, now: int) -> int:
    """Whether one more accepted result may be stored; returns the larger of the two counts.  Raises BrokerError (QuotaExceeded)."""
    c = results.c
    accepted = (c.owner.in_(allowance.owners), c.verdict == "Accepted")
    living = db.execute(select(func.count()).where(*accepted, c.expires_at > now)).scalar_one()
    _within(allowance, "results", living + 1, allowance.quotas.results)
    recent = db.execute(select(func.count()).where(*accepted, c.issued_at > now - MINUTE)).scalar_one()
    _within(allowance, "attestationsPerMinute", recent + 1, allowance.quotas.attestations_per_minute)
    return int(max(living, recent))


def _another(owner: str, key_id: str) -> ColumnElement[bool]:
    """Any key record but this one."""
    return (key_records.c.owner != owner) | (key_records.c.key_id != key_id)


def stored_bytes(db: Connection, allowance: Allowance, without_key: tuple[str, str] = ("", "")) -> int:
    """What a tenant's key records (but that one of an owner) and policies take."""
    k, p = key_records.c, policies.c
    of_keys = select(func.coalesce(func.sum(func.length(k.record) + func.length(k.sealed_key)), 0)).where(
        k.owner.in_(allowance.owners), _another(*without_key)
    )
    of_policies = select(func.coalesce(func.sum(func.length(p.payload) + func.length(p.envelope)), 0)).where(p.owner.in_(allowance.owners))
    return int(db.execute(of_keys).scalar_one()) + int(db.execute(of_policies).scalar_one())


def _within(allowance: Allowance, what: str, wanted: int, most: int) -> None:
    if wanted > most:
        raise BrokerError(
            BrokerReason.QUOTA_EXCEEDED,
            f"the tenant {allowance.tenant} has used up its quota of {what}",
            f"remove what is not needed, wait, or let the broker's operator raise quotas.{what} of the tenant",
            f"{wanted} wanted, {most} allowed",
        )
