"""Reference values that a command line names: RIMs, judged with their signers' OCSP answers, and digested ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from pydantic import ValidationError

from chrysalis import strict_json
from chrysalis.api.policy_gpu import GpuReferenceValues, GpuRevocation
from chrysalis.attestation.gpu import rim, rim_signers
from chrysalis.attestation.gpu.ocsp import Answer
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import Finding, Revocation
from chrysalis.cli import gpu_files
from chrysalis.wire.gpu_services import Pair

DIGESTED = "digested reference values do not say who signed them, so that nobody can be asked about that"
_R = GpuReason


@dataclass(frozen=True)
class GivenRim:
    """One file of reference values, and what became of it: its values count where there is no finding."""

    path: Path
    values: tuple[GpuReferenceValues, ...] = ()
    signers: tuple[x509.Certificate, ...] = ()  # none of digested values
    revocation: Revocation = Revocation.NOT_CHECKED
    finding: Finding | None = None

    def to_json(self) -> dict[str, Any]:
        """The file, which reference values are in it, and what is known of its signers' revocation."""
        return {"file": self.path.name, "ids": [value.id for value in self.values], "revocation": self.revocation.value}


def anchor(root: Path | None) -> str:
    """What names the trusted RIM root, NVIDIA's unless another is given; raises GpuError."""
    return rim.NVIDIA_RIM_ROOT_SHA256 if root is None else rim.root_digest(gpu_files.root(root))


def read(path: Path, *, at: datetime | None, root_sha256: str) -> GivenRim:
    """A RIM, with a finding where it is refused; raises GpuError (GpuFileUnreadable, RimMalformed).

    at: when its signers must be valid; None leaves that to the appraisal, which judges `expires` at its own time.
    """
    return _signed(path, gpu_files.read(path, 2 * rim.MAX_RIM_BYTES), at, root_sha256)


def read_any(path: Path, *, root_sha256: str) -> GivenRim:
    """A RIM, or what `chrysalis gpu rim -o json` printed; raises GpuError as `read`."""
    data = gpu_files.read(path, 2 * rim.MAX_RIM_BYTES)
    if data.lstrip()[:1] in (b"[", b"{") and b'"rim"' not in data:
        return GivenRim(path, tuple(_digested(path, data)))
    return _signed(path, data, None, root_sha256)


def unasked(rims: Iterable[GivenRim]) -> list[Pair]:
    """The certificates that an OCSP responder is asked about: of the RIMs that are neither refused nor good already."""
    left = [one for one in rims if one.finding is None and one.revocation is not Revocation.GOOD]
    return [pair for one in left for pair in rim_signers.revocable(one.signers)]


def judged(rims: Sequence[GivenRim], answers: Sequence[Answer], *, at: datetime, required: bool) -> list[GivenRim]:
    """Each with what these answers say of its signers' revocation; what is refused already stays as it is."""
    rule = GpuRevocation.REQUIRED if required else GpuRevocation.OPTIONAL
    return [one if one.finding is not None else _judged(one, answers, at, rule) for one in rims]


def _judged(given: GivenRim, answers: Sequence[Answer], at: datetime, rule: GpuRevocation) -> GivenRim:
    try:
        if given.signers:
            return replace(given, revocation=rim_signers.revocation(given.signers, answers, at=at, rule=rule))
        if rule is GpuRevocation.REQUIRED:
            raise GpuError(_R.RIM_REVOCATION_NOT_CHECKED, DIGESTED)
        return given
    except GpuError as error:
        known = Revocation.REVOKED if error.reason is _R.RIM_SIGNER_REVOKED else Revocation.NOT_CHECKED
        return replace(given, revocation=known, finding=Finding.from_error(error))


def _signed(path: Path, data: bytes, at: datetime | None, root_sha256: str) -> GivenRim:
    try:
        found = rim.read(data, at=at, root_sha256=root_sha256)
    except GpuError as error:
        if error.reason == _R.RIM_MALFORMED:
            raise
        return GivenRim(path, finding=Finding.from_error(error))
    return GivenRim(path, (found.values,), found.signers)


def _digested(path: Path, data: bytes) -> list[GpuReferenceValues]:
    """What `chrysalis gpu rim -o json` printed."""
    try:
        document = strict_json.loads(data)
        listed = document["measurements"] if isinstance(document, dict) and "measurements" in document else document
        values = [GpuReferenceValues.model_validate(item) for item in (listed if isinstance(listed, list) else [listed])]
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)[:6]]
        raise GpuError(_R.RIM_MALFORMED, f"{path} holds no digested reference values", "; ".join(problems)[:600]) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise GpuError(_R.RIM_MALFORMED, f"{path} holds no digested reference values", str(error)[:300]) from error
    if not values:  # given, and nothing would be compared
        raise GpuError(_R.RIM_MALFORMED, f"{path} holds an empty list of reference values")
    return values
