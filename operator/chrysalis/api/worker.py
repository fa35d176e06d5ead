"""ConfidentialWorker: one model served by Triton in trust domains that must prove themselves first."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from chrysalis.amounts import PRICE_LIMIT
from chrysalis.api.base import EXPLANATION, DnsLabel, Hex32, HttpUrl, ImageByDigest, Model, Sha256Digest

Price = Annotated[
    int,
    Field(
        ge=0,
        lt=PRICE_LIMIT,
        json_schema_extra={EXPLANATION: "set a whole number of nanoton for a million units, from 0 (free) to 2^53 - 1"},
    ),
]
"""Nanoton for one million units (tokens), or for one million jobs."""
Wallet = Annotated[
    str,
    Field(
        pattern=r"^(0:[0-9a-fA-F]{64}|[EUk0]Q[A-D][A-Za-z0-9_-]{45})$",
        max_length=66,
        json_schema_extra={
            EXPLANATION: "give the address of a TON wallet of workchain 0: 0:<64 hex digits>, or the 48 characters that begin with UQ or EQ"
        },
    ),
]
"""A TON wallet of workchain 0: raw (0:hex64) or user-friendly (48 characters); the API server cannot check its checksum."""


class Isolation(StrEnum):
    """How the workload is isolated: a trust domain for each pod, or the whole node as one."""

    POD_TD = "PodTD"
    NODE_TD = "NodeTD"


class ModelPackage(Model):
    """Where the sealed package is and what it must be."""

    url: HttpUrl
    digest: Sha256Digest  # of the sealed file
    size_bytes: Annotated[int, Field(gt=0, le=1 << 40)]


class ModelSpec(Model):
    """The model that the worker serves."""

    name: DnsLabel  # the Triton model's name, and the name that clients ask for
    package: ModelPackage
    digest: Sha256Digest  # of the plain archive; in the key record, initdata and offers
    key_id: DnsLabel
    key_owner: Hex32 | None = None  # raw Ed25519 key of the key record's owner; absent: the first who stored this id for this model


class BrokerPin(Model):
    """Which broker the worker trusts; all of it is measured."""

    url: HttpUrl
    spki_sha256: Hex32  # of the broker's TLS key
    ear_key: Hex32  # raw Ed25519 public key that signs results and receipt-key certificates


class Prices(Model):
    """What a job costs, in nanoton per million units."""

    prompt: Price = 0
    cached: Price = 0
    completion: Price = 0
    reasoning: Price = 0
    job: Price = 0


class Payout(Model):
    """Who is paid."""

    wallet: Wallet


class Ref(Model):
    """A reference to an object in the same namespace."""

    name: DnsLabel


class Resources(Model):
    """What Triton's container asks for, in Kubernetes quantities; limits equal requests (a trust domain's size is fixed)."""

    cpu: Annotated[
        str,
        Field(pattern=r"^[1-9][0-9]*m?$", max_length=16, json_schema_extra={EXPLANATION: "write cores or millicores, such as 2 or 500m"}),
    ] = "500m"
    memory: Annotated[
        str,
        Field(
            pattern=r"^[1-9][0-9]*(Ki|Mi|Gi)$",
            max_length=16,
            json_schema_extra={EXPLANATION: "write memory in Ki, Mi or Gi, such as 768Mi"},
        ),
    ] = "768Mi"


class ConfidentialWorkerSpec(Model):
    """What the owner of a GPU asks for."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    isolation: Isolation = Isolation.POD_TD
    runtime_class_name: DnsLabel
    template_version: Annotated[int, Field(ge=1, le=1)] = 1
    image: ImageByDigest  # chrysalis-worker, for both containers
    model: ModelSpec
    policy_ref: Ref
    broker: BrokerPin
    settlement_account_ref: Ref | None = None
    payout: Payout | None = None
    prices: Prices = Prices()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _paid_workers_name_a_wallet(self) -> ConfidentialWorkerSpec:
        if self.settlement_account_ref is not None and self.payout is None:
            raise ValueError("set spec.payout.wallet: a worker with a settlementAccountRef must say who is paid")
        return self
