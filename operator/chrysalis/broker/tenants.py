"""Tenants: which owners belong together, who administers them, how much they may store.

A tenant is known by its owners' keys.  Everything stored bears the key of the owner who signed it, or whose key record it
was judged under; so membership is decided by signatures, never by a name that somebody claims.  Namespaces are claimed by
the host and authorise nothing: they only narrow what the tenant's ServiceAccounts are shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from chrysalis.api.base import DnsLabel, Hex32, HttpUrl, Model

MAX_TENANTS = 256
MAX_OWNERS = 256

ServiceAccount = Annotated[str, Field(pattern=r"^[a-z0-9.-]+:[a-z0-9.-]+$", max_length=320)]
"""NAMESPACE:NAME."""
Claim = Annotated[str, Field(min_length=1, max_length=512)]


class Role(StrEnum):
    """What an administrator may do with its tenant's objects.  No role ever reads a model key."""

    READER = "Reader"  # results, records, policies
    OWNER_ADMIN = "OwnerAdmin"  # besides: revoke, carry signed envelopes, read the audit log


class OidcAdministrator(Model):
    """A bearer of an OpenID Connect token: of this issuer (one of `oidc`), with every one of these claims.

    A claim that is a list of strings in the token (groups) matches when it holds the value.
    """

    issuer: HttpUrl
    claims: Annotated[dict[Claim, Claim], Field(min_length=1, max_length=16)]
    role: Role = Role.READER


class ServiceAccountAdministrator(Model):
    """A ServiceAccount of the broker's cluster; it is shown only results that claim one of the tenant's namespaces."""

    name: ServiceAccount
    role: Role = Role.READER


class CertificateAdministrator(Model):
    """A TLS client certificate that was issued directly by an authority in caFile (PEM), for this subject common name.

    commonName: absent, every certificate of that authority.
    """

    ca_file: Path
    common_name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    role: Role = Role.READER


class Administrators(Model):
    """Who administers a tenant; empty lists: nobody but its owners."""

    oidc: Annotated[list[OidcAdministrator], Field(max_length=64)] = []
    service_accounts: Annotated[list[ServiceAccountAdministrator], Field(max_length=64)] = []
    certificates: Annotated[list[CertificateAdministrator], Field(max_length=16)] = []


class Quotas(Model):
    """What a tenant may use; checked in the transaction that stores (QuotaExceeded).

    keys, policies: names.  results: accepted ones that have not ended.  attestationsPerMinute: accepted ones, because anyone
    may send evidence that names a tenant's key, and refused evidence must cost that tenant nothing.
    storedBytes: of key records and all versions of policies.
    """

    keys: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    policies: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    results: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    attestations_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 60_000
    stored_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 256 * 1024 * 1024


class Tenant(Model):
    """One tenant.

    owners: raw Ed25519 public keys (hex) of its data owners, who may store keys and policies; empty: nobody.
    namespaces: where its workers run, as they claim it.
    """

    name: DnsLabel
    owners: Annotated[list[Hex32], Field(max_length=MAX_OWNERS)] = []
    namespaces: Annotated[list[DnsLabel], Field(max_length=256)] = []
    administrators: Administrators = Administrators()
    quotas: Quotas = Quotas()

    @property
    def owner_keys(self) -> frozenset[str]:
        """Its owners' keys in lower-case hex."""
        return frozenset(owner.lower() for owner in self.owners)


def _disjoint(tenants: list[Tenant]) -> list[Tenant]:
    """No name, owner or namespace stands twice, so that nothing belongs to two tenants."""
    _once("tenant", (tenant.name for tenant in tenants))
    _once("owner", (owner.lower() for tenant in tenants for owner in tenant.owners))
    _once("namespace", (namespace for tenant in tenants for namespace in tenant.namespaces))
    return tenants


TenantList = Annotated[list[Tenant], Field(max_length=MAX_TENANTS), AfterValidator(_disjoint)]


class Tenants:
    """Finds a tenant by one of its owners."""

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        self.all = tuple(tenants)
        self._by_owner = {owner: tenant for tenant in self.all for owner in tenant.owner_keys}

    def of(self, owner: str) -> Tenant | None:
        """The tenant of an owner's key (hex); None where the settings name none (any more)."""
        return self._by_owner.get(owner.lower())

    @property
    def owner_keys(self) -> frozenset[bytes]:
        """Every owner's raw public key."""
        return frozenset(bytes.fromhex(owner) for owner in self._by_owner)


def _once(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value} stands twice; it may belong to one tenant only")
        seen.add(value)
