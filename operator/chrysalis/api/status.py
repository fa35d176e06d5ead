"""The status of the custom resources: what the operator and the settler write.  Nobody takes it for evidence."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from chrysalis.api.account import NanotonText, RawAddress
from chrysalis.api.base import DnsLabel, Hex32, Hex48, Model
from chrysalis.api.conditions import Condition

Conditions = Annotated[list[Condition], Field(max_length=16)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]


class WorkerStatus(Model):
    """Status of a ConfidentialWorker, written by the operator."""

    observed_generation: Count = 0
    conditions: Conditions = []
    replicas: Count = 0
    ready_replicas: Count = 0
    selector: Annotated[str, Field(max_length=253)] = ""
    mrconfigid: Hex48 | None = None
    tcb_status: Annotated[str, Field(max_length=64)] = ""
    evidence_class: Annotated[str, Field(max_length=16)] = ""
    expires_at: datetime | None = None
    limited_by: Annotated[str, Field(max_length=128)] = ""
    wallet: RawAddress | None = None
    earned: Annotated[str, Field(max_length=64)] = ""  # for people, in TON
    earned_nanoton: NanotonText | None = None


class PolicyStatus(Model):
    """Status of an AttestationPolicy, written by the operator."""

    observed_generation: Count = 0
    conditions: Conditions = []
    version: Count = 0
    signed: bool = False


class WorkerEarning(Model):
    """What the workers of one ConfidentialWorker earned, net, over the life of the contract."""

    name: DnsLabel
    earned_nanoton: NanotonText
    receipts: Count = 0


class AccountStatus(Model):
    """Status of a SettlementAccount, written by the settler."""

    observed_generation: Count = 0
    conditions: Conditions = []
    epoch: Count = 0
    root: Hex32 | None = None
    last_hash: Hex32 | None = None
    earned_nanoton: NanotonText = "0"
    fees_nanoton: NanotonText = "0"
    balance_nanoton: NanotonText = "0"
    committed_at: datetime | None = None
    workers: Annotated[list[WorkerEarning], Field(max_length=1000)] = []
