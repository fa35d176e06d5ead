"""AttestationPolicy: what evidence a data owner accepts.  Absent means any only where the field says so; empty denies."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from chrysalis import strict_json
from chrysalis.api.base import DnsLabel, Hex32, Hex48, InUtc, Model, Sha256Digest
from chrysalis.api.policy_events import EventRule
from chrysalis.api.policy_gpu import GpuRules
from chrysalis.api.worker import Isolation

Any_ = Literal["Any"]


class TcbStatus(StrEnum):
    """Intel's TCB statuses that a policy may allow; Revoked is never allowed."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"


class Placement(StrEnum):
    """Where the broker runs; Development is the chart's plain broker, inside the cluster that it judges."""

    EXTERNAL = "External"
    IN_TD = "InTD"
    DEVELOPMENT = "Development"


INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""Of the DER of "Intel SGX Root CA"."""


class DerRoot(Model):
    """A trust anchor that is not Intel's; everything under it is evidence class Simulated."""

    der: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=4096)]  # base64

    @model_validator(mode="after")
    def _not_intels(self) -> DerRoot:
        try:
            der = base64.b64decode(self.der + "=" * (-len(self.der) % 4))
        except binascii.Error:
            return self  # no root at all: the appraisal and lint say so
        if hashlib.sha256(der).hexdigest() == INTEL_ROOT_SHA256:
            raise ValueError("this is Intel's own root: write `trustRoot: Intel`, under which Development and simulated GPUs are refused")
        return self


class Advisories(Model):
    """Which Intel security advisories may (allow) or may not (deny) apply to the platform; absent = not constrained."""

    allow: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=256)] | None = None
    deny: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=256)] | None = None


class Tcb(Model):
    """Rules for the platform's TCB level.

    graceSeconds: for so long after its TCB date, OutOfDate passes, too; not under an empty allowedStatuses, which denies.
    """

    allowed_statuses: Annotated[list[TcbStatus], Field(max_length=16)]
    advisories: Advisories = Advisories()
    grace_seconds: Annotated[int, Field(ge=0, le=365 * 86400)] = 0
    min_evaluation_data_number: Annotated[int, Field(ge=0, le=1 << 31)] | None = None
    allow_smt: bool = True
    allow_cached_keys: bool = True
    allow_dynamic_platform: bool = True


class InitdataRule(Model):
    """Rules for initdata that differs from owner to owner; the evidence carries its bytes, whose hash is MRCONFIGID."""

    policy_digests: Annotated[list[Sha256Digest], Field(max_length=64)]  # of the container policy ("allow.json"), byte for byte
    template_versions: Annotated[list[int], Field(max_length=16)]
    image_digests: Annotated[list[Sha256Digest], Field(max_length=64)]
    wallets: Any_ | Annotated[list[Annotated[str, Field(max_length=66)]], Field(max_length=1024)]


class Measurement(Model):
    """One whole tuple of reference values: all of it must match, and "Any" must be written out."""

    name: DnsLabel
    expires: Annotated[datetime, InUtc] | None = None
    mrtd: Hex48 | Any_
    rtmr0: Hex48 | Any_
    rtmr1: Hex48 | Any_
    rtmr2: Hex48 | Any_
    rtmr3: Hex48 | Any_
    mrseam: Hex48 | Any_
    mrconfigid: Hex48 | Any_ | None = None
    mrowner: Hex48 | Any_
    mrownerconfig: Hex48 | Any_
    initdata: InitdataRule | None = None

    @model_validator(mode="after")
    def _configuration_is_judged_once(self) -> Measurement:
        if (self.mrconfigid is None) == (self.initdata is None):
            raise ValueError("give exactly one of mrconfigid and initdata: an exact value, or a rule for what it is the hash of")
        return self


class Masked(Model):
    """Bits that must have these values: quote & mask == value & mask.  64 bits, hexadecimal, as in the TDX module's order."""

    value: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{16}$", max_length=16)]  # the 8 bytes as they stand in the quote
    mask: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{16}$", max_length=16)]


class TdxRules(Model):
    """Rules for Intel TDX evidence."""

    tcb: Tcb
    measurements: Annotated[list[Measurement], Field(max_length=256)]
    td_attributes: Masked
    xfam: Masked
    fmspcs: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-fA-F]{12}$", max_length=12)]], Field(max_length=256)] | None = None
    ppids: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$", max_length=32)]], Field(max_length=4096)] | None = None


class EventLogRules(Model):
    """Whether the boot event log must be there and replay to the quote's RTMRs, and what its events must be.

    rules: absent = not constrained; any rule makes the log required; an empty list denies.
    """

    required: bool = False
    rules: Annotated[list[EventRule], Field(max_length=64)] | None = None


class Freshness(Model):
    """How long a result may live at most."""

    max_result_age_seconds: Annotated[int, Field(ge=10, le=7 * 86400)] = 3600


class AttestationPolicySpec(Model):
    """What a data owner accepts as evidence.  The signed bytes are this document; the broker reads only those."""

    version: Annotated[int, Field(ge=1, le=1 << 53)]
    trust_root: Literal["Intel"] | DerRoot
    isolation: Annotated[list[Isolation], Field(max_length=4)] = [Isolation.POD_TD]
    broker_placement: Annotated[list[Placement], Field(max_length=4)] = [Placement.EXTERNAL, Placement.IN_TD]
    tdx: TdxRules
    event_log: EventLogRules = EventLogRules()
    gpu: GpuRules | None = None  # absent: GPUs are not judged
    freshness: Freshness = Freshness()

    @model_validator(mode="after")
    def _development_is_for_simulated_evidence(self) -> AttestationPolicySpec:
        if self.trust_root == "Intel" and Placement.DEVELOPMENT in self.broker_placement:
            raise ValueError("brokerPlacement: Development is for simulated evidence only; remove it, or name a simulated trustRoot")
        return self

    @model_validator(mode="after")
    def _one_kind_of_hardware(self) -> AttestationPolicySpec:
        if self.trust_root == "Intel" and self.gpu is not None and self.gpu.trust_root != "Nvidia":
            raise ValueError(
                "gpu.trustRoot must be Nvidia where trustRoot is Intel: simulated GPUs beside real domains would pass for real"
            )
        return self


class Envelope(Model):
    """A DSSE envelope (github.com/secure-systems-lab/dsse, v1.0): the exact bytes that the owner signed, in base64."""

    payload_type: Annotated[str, Field(max_length=128)]
    payload: Annotated[str, Field(max_length=512 * 1024)]
    signatures: Annotated[list[EnvelopeSignature], Field(min_length=1, max_length=4)]


class EnvelopeSignature(Model):
    """One signature of an envelope."""

    keyid: Annotated[str, Field(max_length=64)]  # lower-case hex of the raw Ed25519 public key
    sig: Annotated[str, Field(max_length=128)]  # base64


class AttestationPolicyCarrierSpec(AttestationPolicySpec):
    """The spec as a cluster carries it: the readable copy and, for the broker, the signed envelope."""

    envelope: Envelope | None = None
    owner_public_key: Hex32 | None = None


class SignedPolicy(Model):
    """What an owner signs: the payload of the envelope that an AttestationPolicy carries and the broker stores.

    The name stands inside the signed bytes: otherwise one policy of an owner could be put in the place of another.
    """

    schema_version: Literal["chrysalis/v1"] = "chrysalis/v1"
    name: DnsLabel
    spec: AttestationPolicySpec

    @classmethod
    def of_payload(cls, payload: bytes) -> SignedPolicy:
        """Read signed bytes; raises ValueError (pydantic's ValidationError is one) for anything else.

        Also where a member stands twice: readers of JSON differ in which one they take, and the owner may have read the other.
        """
        try:
            return cls.model_validate(strict_json.loads(payload))
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
