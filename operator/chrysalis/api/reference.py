"""Reference values: what a release of Chrysalis consists of, as its publisher signs it, and what was withdrawn since."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from chrysalis.api.base import DnsLabel, Hex48, Model, Sha256Digest

MAX_VALUES = 256


class ReferenceKind(StrEnum):
    """What a reference value describes.  Stable words."""

    WORKER_IMAGE = "WorkerImage"  # sha256:<hex> of the image's manifest
    TEMPLATE_VERSION = "TemplateVersion"  # the number of the pod's template
    POLICY_DIGEST = "PolicyDigest"  # sha256:<hex> of allow.json
    GUEST_IMAGE = "GuestImage"  # a guest's name; withdrawn, none of its registers may appear together


class WorkerImage(Model):
    """One worker image, and its layers in order, so that a rebuild can say what differs."""

    digest: Sha256Digest
    layers: Annotated[list[Sha256Digest], Field(max_length=64)] = []


class GuestImage(Model):
    """One guest (firmware, kernel, file system) by the registers that it fills; absent = the publisher says nothing of it."""

    name: DnsLabel
    mrtd: Hex48
    rtmr0: Hex48 | None = None
    rtmr1: Hex48 | None = None
    rtmr2: Hex48 | None = None
    rtmr3: Hex48 | None = None
    mrseam: Hex48 | None = None

    def registers(self) -> dict[str, str]:
        """The registers that are given, lower-case hex, by their names in policies."""
        found = self.model_dump(exclude_none=True)
        return {name: str(value).lower() for name, value in found.items() if name != "name"}


class Withdrawn(Model):
    """A value that must not be relied on any more, whoever listed it.  A withdrawal is final: a later document repeats it.

    registers: of a withdrawn guest image, so that it is known without the document that published it.
    """

    kind: ReferenceKind
    value: Annotated[str, Field(min_length=1, max_length=128)]
    why: Annotated[str, Field(min_length=1, max_length=512)]
    since: AwareDatetime
    registers: GuestImage | None = None

    @model_validator(mode="after")
    def _guests_carry_their_registers(self) -> Withdrawn:
        if (self.kind == ReferenceKind.GUEST_IMAGE) != (self.registers is not None):
            raise ValueError("registers belong to a GuestImage, and it needs them")
        if self.registers is not None and self.registers.name != self.value:
            raise ValueError("value must be the name of the guest image in registers")
        return self

    @property
    def key(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """What is withdrawn, apart from why and since when."""
        registers = tuple(sorted(self.registers.registers().items())) if self.registers else ()
        return (self.kind.value, self.value.lower(), registers)


class ReferenceValues(Model):
    """The payload that a publisher signs; its version only grows.  Empty lists publish nothing of that kind."""

    schema_version: Literal["chrysalis/reference-values/v1"] = "chrysalis/reference-values/v1"
    version: Annotated[int, Field(ge=1, le=1 << 53)]
    release: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]*$", max_length=64)]
    issued: AwareDatetime
    expires: AwareDatetime
    worker_images: Annotated[list[WorkerImage], Field(max_length=MAX_VALUES)] = []
    template_versions: Annotated[list[Annotated[int, Field(ge=1, le=1 << 31)]], Field(max_length=MAX_VALUES)] = []
    policy_digests: Annotated[list[Sha256Digest], Field(max_length=MAX_VALUES)] = []
    guest_images: Annotated[list[GuestImage], Field(max_length=MAX_VALUES)] = []
    withdrawn: Annotated[list[Withdrawn], Field(max_length=4 * MAX_VALUES)] = []

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> ReferenceValues:
        if self.expires <= self.issued:
            raise ValueError("expires must be after issued")
        gone = {entry.key[:2] for entry in self.withdrawn}
        if len({entry.key for entry in self.withdrawn}) != len(self.withdrawn):
            raise ValueError("a value is withdrawn twice")
        published = [(ReferenceKind.WORKER_IMAGE, image.digest) for image in self.worker_images]
        published += [(ReferenceKind.TEMPLATE_VERSION, str(version)) for version in self.template_versions]
        published += [(ReferenceKind.POLICY_DIGEST, digest) for digest in self.policy_digests]
        published += [(ReferenceKind.GUEST_IMAGE, guest.name) for guest in self.guest_images]
        if both := [f"{kind.value} {value}" for kind, value in published if (kind.value, value.lower()) in gone]:
            raise ValueError(f"published and withdrawn at once: {', '.join(both)[:256]}")
        return self

    def current(self, at: datetime) -> bool:
        """Whether the values may be relied on at a time; withdrawals count for ever."""
        return self.issued <= at < self.expires
