"""SettlementAccount: the contract that a pool's workers are paid from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from chrysalis.amounts import LIMIT
from chrysalis.api.base import Hex32, Model

NanotonText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$", max_length=19)]
"""A decimal string of nanoton."""
RawAddress = Annotated[str, Field(pattern=r"^0:[0-9a-f]{64}$", max_length=66)]


class Funding(StrEnum):
    """Whose money pays the workers."""

    NONE = "None"
    OWNER_FUNDED = "OwnerFunded"
    CLIENT_FUNDED = "ClientFunded"


class Liteserver(Model):
    """A TON liteserver, pinned by its ADNL key."""

    host: Annotated[str, Field(max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]
    key: Hex32  # raw Ed25519 public key


class AllowedClient(Model):
    """A client whose tickets the pool's owner pays for."""

    key: Hex32  # raw Ed25519 public key
    daily_cap_nanoton: NanotonText


class SettlementAccountSpec(Model):
    """Where and how receipts are settled.  contract and reservationKeys are measured by every worker that refers to it."""

    funding: Funding
    global_id: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
    contract: RawAddress | None = None
    liteservers: Annotated[list[Liteserver], Field(max_length=16)] = []
    reservation_keys: Annotated[list[Hex32], Field(max_length=2)] = []
    fee_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    interval_seconds: Annotated[int, Field(ge=1, le=7 * 86400)] = 10_800
    clients: Annotated[list[AllowedClient], Field(max_length=1000)] = []

    @model_validator(mode="after")
    def _paying_accounts_name_their_contract(self) -> SettlementAccountSpec:
        if self.funding != Funding.NONE and (self.contract is None or not self.reservation_keys or not self.liteservers):
            raise ValueError("set spec.contract, spec.reservationKeys and spec.liteservers: funding other than None settles on chain")
        if any(int(c.daily_cap_nanoton) >= LIMIT for c in self.clients):
            raise ValueError("a dailyCapNanoton must stay below 2^63")
        return self

    @property
    def set_name(self) -> str:
        """The `set` of tickets and receipts: "<global_id>:0:<hex64>", or "none" (settlement.md, wire format)."""
        return "none" if self.contract is None else f"{self.global_id}:{self.contract}"
