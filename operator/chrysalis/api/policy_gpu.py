"""The part of an AttestationPolicy that judges NVIDIA GPUs, and the reference values that it compares with.

Every list is an allow-list: present and empty denies.  Absent means any only where the field says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from chrysalis.api.base import InUtc, Model

MAX_GPUS = 16
MAX_SWITCHES = 8
MAX_INDEX = 254
"""The highest index of a reference value: SPDM numbers its measurement blocks from 1 to 254."""
MAX_FIELD = 0xFFFF
"""The highest id of a field of a report's opaque data, and the highest security version: both have two bytes."""

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][-0-9A-Za-z._]*$", max_length=64)]
GpuDigest = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2}){32,64}$", min_length=64, max_length=128)]
"""32 to 64 bytes in hexadecimal; NVIDIA's measurements are SHA-384, 48 bytes."""


class GpuArchitecture(StrEnum):
    """Generations of devices whose evidence can be judged; LS10 is the NVSwitch of the Hopper generation."""

    HOPPER = "Hopper"
    BLACKWELL = "Blackwell"
    LS10 = "LS10"


class GpuMode(StrEnum):
    """Confidential-computing modes that a policy may allow.  Devtools is none of them: it leaves the GPU's memory open."""

    ON = "On"
    PROTECTED_PCIE = "ProtectedPCIe"


class GpuBackend(StrEnum):
    """Who judges the reports: this program, or NVIDIA's Remote Attestation Service, whose signed tokens are then checked."""

    LOCAL = "Local"
    NRAS = "NRAS"


class GpuRevocation(StrEnum):
    """Whether a good OCSP answer for the certificates must be there; where none was asked for, the verdict says NotChecked."""

    OPTIONAL = "Optional"
    REQUIRED = "Required"


class ReferenceKind(StrEnum):
    """What a set of reference values describes: the driver with the firmware that it loads, or the board's own firmware."""

    DRIVER = "Driver"
    VBIOS = "Vbios"


class GpuReferenceValue(Model):
    """What one measurement may be.  Index 0 is the first measurement block of a report (SPDM's block 1)."""

    index: Annotated[int, Field(ge=0, lt=MAX_INDEX)]
    digests: Annotated[list[GpuDigest], Field(min_length=1, max_length=16)]

    @field_validator("digests")
    @classmethod
    def _in_one_form(cls, digests: list[str]) -> list[str]:
        return sorted({digest.lower() for digest in digests})


class GpuSecurityVersion(Model):
    """The least security version that one field of a report's opaque data may state (NVIDIA's "Opaque Data RIM Attributes")."""

    field: Annotated[int, Field(ge=0, le=MAX_FIELD)]
    name: Annotated[str, Field(pattern=r"^[0-9A-Za-z][-0-9A-Za-z._ ]*$", max_length=64)]
    minimum: Annotated[int, Field(ge=0, le=MAX_FIELD)]


class GpuReferenceValues(Model):
    """The active measurements of one NVIDIA RIM, digested ahead of time (`chrysalis gpu rim`); sorted, so that equal values
    have one JSON form."""

    id: Annotated[str, Field(pattern=r"^[-0-9A-Za-z._:]+$", max_length=128)]  # the SWID's tagId
    kind: ReferenceKind
    architecture: GpuArchitecture
    version: Version  # of the driver or the VBIOS
    expires: Annotated[datetime, InUtc] | None = None  # of the RIM's signing certificates
    values: Annotated[list[GpuReferenceValue], Field(min_length=1, max_length=MAX_INDEX)]
    security_versions: Annotated[list[GpuSecurityVersion], Field(min_length=1, max_length=64)] | None = None  # absent: none is demanded

    @model_validator(mode="after")
    def _each_security_version_once(self) -> GpuReferenceValues:
        fields = [one.field for one in self.security_versions or ()]
        if fields != sorted(set(fields)):
            raise ValueError("give each field of securityVersions once, in ascending order")
        if len({one.name for one in self.security_versions or ()}) != len(fields):
            raise ValueError("give each name of securityVersions once")
        return self

    @model_validator(mode="after")
    def _each_index_once(self) -> GpuReferenceValues:
        indices = [value.index for value in self.values]
        if indices != sorted(set(indices)):
            raise ValueError("give each index once, in ascending order")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError("expires has no offset; end it with Z")
        return self


class NvSwitchRules(Model):
    """Rules for NVSwitch evidence; required wherever the GPUs talk over switches that are inside of the trusted base."""

    count: Annotated[int, Field(ge=1, le=MAX_SWITCHES)]
    bios_versions: Annotated[list[Version], Field(max_length=64)]


class NvidiaDerRoot(Model):
    """A device root that is not NVIDIA's; everything under it is evidence class Simulated."""

    der: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=4096)]  # base64


class GpuRules(Model):
    """Rules for the GPUs that a trust domain sees: all of them are judged, and their number must be `count`."""

    required: bool = True
    count: Annotated[int, Field(ge=1, le=MAX_GPUS)]
    architectures: Annotated[list[Literal["Hopper", "Blackwell"]], Field(max_length=8)]
    driver_versions: Annotated[list[Version], Field(max_length=64)]
    vbios_versions: Annotated[list[Version], Field(max_length=64)]
    cc_mode: Annotated[list[GpuMode], Field(max_length=4)]
    nvswitch: NvSwitchRules | None = None  # absent: none is demanded; what is sent must still be genuine
    measurements: Annotated[list[GpuReferenceValues], Field(max_length=32)]
    backend: GpuBackend = GpuBackend.LOCAL
    revocation: GpuRevocation = GpuRevocation.OPTIONAL
    trust_root: Literal["Nvidia"] | NvidiaDerRoot = "Nvidia"


def gpu_denials(rules: GpuRules, at: datetime) -> Iterator[str]:
    """Why the rules can accept nothing at this time."""
    lists: dict[str, list[Any]] = {
        "architectures": list(rules.architectures),
        "driverVersions": list(rules.driver_versions),
        "vbiosVersions": list(rules.vbios_versions),
        "ccMode": list(rules.cc_mode),
    }
    if rules.nvswitch is not None:
        lists["nvswitch.biosVersions"] = list(rules.nvswitch.bios_versions)
    if rules.backend == GpuBackend.LOCAL:
        lists["measurements"] = list(rules.measurements)
    for name, found in lists.items():
        if not found:
            yield f"spec.gpu.{name} is empty: no GPU is accepted"
    current = [reference for reference in rules.measurements if reference.expires is None or reference.expires > at]
    if rules.backend == GpuBackend.LOCAL and rules.measurements:
        yield from _uncovered(rules, current)
    if rules.nvswitch is not None and not any(reference.architecture == GpuArchitecture.LS10 for reference in current):
        yield "spec.gpu.measurements holds no reference values of NVSwitches that are current: no switch is accepted, whatever the backend"


def gpu_concerns(rules: GpuRules) -> Iterator[str]:
    """What the rules leave open, in words for their owner."""
    if not rules.required:
        yield "spec.gpu.required is false: a worker without GPU evidence is accepted, whatever it computes on"
    if rules.trust_root != "Nvidia":
        yield "spec.gpu.trustRoot is not NVIDIA's: all GPU evidence under it is simulated and protects nothing"
    if rules.revocation == GpuRevocation.OPTIONAL:
        yield "spec.gpu.revocation is Optional: nobody asks for OCSP answers, so a certificate that NVIDIA revoked is not noticed"
    if GpuMode.PROTECTED_PCIE in rules.cc_mode and rules.nvswitch is None:
        yield "spec.gpu.ccMode lists ProtectedPCIe without spec.gpu.nvswitch: the switches see plain text and are not judged"
    if rules.backend == GpuBackend.NRAS:
        yield (
            "spec.gpu.backend is NRAS: the service that the broker's settings name judges the GPUs' measurements, the policy's own are not"
            " compared"
        )
    for reference in rules.measurements:
        if reference.expires is None:
            yield f"spec.gpu.measurements[{reference.id}].expires is absent: these reference values are accepted for ever"


def _uncovered(rules: GpuRules, current: Sequence[GpuReferenceValues]) -> Iterator[str]:
    """Contradictions: no architecture that is allowed has current reference values of a driver and of a VBIOS that are allowed."""
    sides = ((ReferenceKind.DRIVER, "driverVersions", rules.driver_versions), (ReferenceKind.VBIOS, "vbiosVersions", rules.vbios_versions))
    if not rules.architectures or not all(versions for _, _, versions in sides):
        return  # said already
    known = {(reference.architecture.value, reference.kind, reference.version.upper()) for reference in current}
    covered = {
        (architecture, kind)
        for architecture in rules.architectures
        for kind, _, versions in sides
        if any((architecture, kind, version.upper()) in known for version in versions)
    }
    if any(all((architecture, kind) in covered for kind, _, _ in sides) for architecture in rules.architectures):
        return
    found = [(kind, name) for kind, name, _ in sides if not any((architecture, kind) in covered for architecture in rules.architectures)]
    for kind, name in found:
        yield f"spec.gpu.measurements holds no {kind} reference values that are current for any of {name}: no GPU is accepted"
    if not found:
        yield "spec.gpu.measurements holds driver and VBIOS reference values for no architecture together: no GPU is accepted"
