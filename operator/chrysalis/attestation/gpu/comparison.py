"""A report's measurements against reference values: one set for the driver, one for the board's firmware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product

from chrysalis.api.policy_gpu import GpuArchitecture, GpuReferenceValues, ReferenceKind
from chrysalis.attestation.gpu.reasons import GpuReason
from chrysalis.attestation.gpu.spdm import Field, Report
from chrysalis.attestation.gpu.verdict import Finding
from chrysalis.clock import rfc3339

NVDEC0_INDEX = 35
"""The measurement of the first video decoder's firmware: it is not loaded where the report says that NVDEC0 is disabled."""
MAX_CANDIDATES = 16
"""How many sets of one kind, version and architecture are tried; boards of several designs share a version."""
_R = GpuReason


@dataclass(frozen=True)
class Compared:
    """What comparing gave."""

    references: tuple[GpuReferenceValues, ...]
    count: int  # measurements that reference values exist for
    mismatches: tuple[int, ...]
    findings: tuple[Finding, ...]
    security_versions: tuple[tuple[str, int | None], ...] = ()  # of the report: those that the reference values state a least one of


def compare(
    report: Report,
    references: Sequence[GpuReferenceValues],
    *,
    architecture: GpuArchitecture,
    driver_version: str | None,
    vbios_version: str | None,
    at: datetime,
    device: int,
    exact_version: bool = True,
) -> Compared:
    """Compare every active reference value; whatever is missing, ambiguous or different is a finding.

    exact_version: only sets of the report's own versions count.  Without it (a person gave the sets by hand) a set of another
    version is a finding and is compared all the same, so that the person sees how the two differ.
    """
    versions = {ReferenceKind.DRIVER: driver_version, ReferenceKind.VBIOS: vbios_version}
    if architecture == GpuArchitecture.LS10:  # a switch has no driver of its own
        del versions[ReferenceKind.DRIVER]
    findings: list[Finding] = []
    sides: list[list[GpuReferenceValues]] = []
    for kind, version in versions.items():
        of_kind = [one for one in references if one.kind == kind and one.architecture == architecture]
        found = [one for one in of_kind if one.version.upper() == (version or "").upper()]
        if not found and of_kind and not exact_version:
            known = ", ".join(sorted({one.version for one in of_kind}))
            message = f"the {kind} reference values are of version {known}, the device has {version}"
            findings.append(Finding.of(_R.GPU_REFERENCE_VERSION_MISMATCH, message, device=device))
            found = of_kind
        if not found:
            message = f"there are no {kind} reference values of version {version} for {architecture}"
            findings.append(Finding.of(_R.GPU_REFERENCE_MISSING, message, device=device))
        sides.append(found[:MAX_CANDIDATES])
    if not any(sides):
        return Compared((), 0, (), tuple(findings))
    attempts = (_attempt(report, chosen, at, device) for chosen in product(*(side for side in sides if side)))
    best = _best(attempts)
    return replace(best, findings=(*findings, *best.findings))


def _best(attempts: Iterable[Compared]) -> Compared:
    """The first without a finding, otherwise the one with the fewest differences."""
    best: Compared | None = None
    for attempt in attempts:
        if not attempt.findings:
            return attempt
        if best is None or (len(attempt.mismatches), len(attempt.findings)) < (len(best.mismatches), len(best.findings)):
            best = attempt
    if best is None:
        raise ValueError("nothing to compare with")
    return best


def _attempt(report: Report, chosen: Sequence[GpuReferenceValues], at: datetime, device: int) -> Compared:
    findings: list[Finding] = []
    golden: dict[int, list[str]] = {}
    conflicts: list[int] = []
    for reference in chosen:
        if reference.expires is not None and reference.expires <= at:
            message = f"the {reference.kind} reference values {reference.version} have expired"
            findings.append(Finding.of(_R.GPU_REFERENCE_EXPIRED, message, rfc3339(reference.expires), device))
        for value in reference.values:
            if value.index in golden:
                conflicts.append(value.index)
            golden[value.index] = value.digests
    if conflicts:
        message = f"driver and VBIOS reference values both state measurement {_listed(conflicts)}"
        findings.append(Finding.of(_R.GPU_REFERENCE_CONFLICT, message, device=device))
    missing: list[int] = []
    different: list[int] = []
    for index, digests in sorted(golden.items()):
        measured = report.measurement(index)
        if measured is not None and measured.hex() in digests:
            continue
        if index == NVDEC0_INDEX and report.flag(Field.NVDEC0_STATUS) is False:
            continue
        (missing if measured is None else different).append(index)
    if missing:
        findings.append(Finding.of(_R.GPU_MEASUREMENT_MISSING, f"the report has no measurement {_listed(missing)}", device=device))
    if different:
        message = f"{len(different)} of {len(golden)} measurements differ from their reference values: {_listed(different)}"
        first = report.measurement(different[0])
        detail = f"measurement {different[0]} is {first.hex() if first else ''}"
        findings.append(Finding.of(_R.GPU_MEASUREMENT_MISMATCH, message, detail, device))
    stated = _security_versions(report, chosen, findings, device)
    return Compared(tuple(chosen), len(golden), tuple(sorted(missing + different)), tuple(findings), stated)


def _security_versions(
    report: Report, chosen: Sequence[GpuReferenceValues], findings: list[Finding], device: int
) -> tuple[tuple[str, int | None], ...]:
    """What the report states where the reference values state a least one; what is absent is below every one, even 0."""
    least = [one for reference in chosen for one in reference.security_versions or ()]
    fields, names = Counter(one.field for one in least), Counter(one.name for one in least)
    twice = [f"{one.name} (field {one.field})" for one in least if fields[one.field] > 1 or names[one.name] > 1]
    if twice:
        message = f"driver and VBIOS reference values both state a least security version of one field or name: {', '.join(twice)}"
        findings.append(Finding.of(_R.GPU_REFERENCE_CONFLICT, message, device=device))
    stated = tuple((one.name, report.security_version(one.field)) for one in least)
    low = [
        f"{one.name} is {'absent' if found is None else found}, {one.minimum} is the least"
        for one, (_, found) in zip(least, stated, strict=True)
        if found is None or found < one.minimum
    ]
    if low:
        message = f"{len(low)} of {len(least)} security versions are below the least one of the reference values"
        findings.append(Finding.of(_R.GPU_SECURITY_VERSION_TOO_LOW, message, "; ".join(low)[:500], device))
    return stated


def _listed(indices: Iterable[int]) -> str:
    return ", ".join(map(str, indices))
