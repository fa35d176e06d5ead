"""`chrysalis gpu …`: judge NVIDIA GPU evidence from files, offline, and digest NVIDIA's reference values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from chrysalis.api.policy_gpu import GpuRules
from chrysalis.attestation import armor, policy_yaml
from chrysalis.attestation.gpu import chain, evidence, nras, ocsp
from chrysalis.attestation.gpu.appraisal import RemoteCheck, appraise_gpus
from chrysalis.attestation.gpu.evidence import GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.attestation.gpu.verdict import DeviceFacts, Finding, GpuVerdict, Revocation
from chrysalis.attestation.verdict import EvidenceClass
from chrysalis.cli import failures, gpu_files, gpu_ocsp, gpu_rims, printing
from chrysalis.cli.gpu_ocsp import Ocsp, ocsp_options
from chrysalis.cli.gpu_rims import GivenRim
from chrysalis.cli.hexadecimal import HEX32
from chrysalis.cli.owner_files import EXIT_UNREACHABLE
from chrysalis.cli.times import Rfc3339
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire.gpu_services import Pair, Unavailable

MAX_RULES_BYTES = 1024 * 1024
PEM = b"-----BEGIN CERTIFICATE-----"
NO_GPU = "there is no GPU in this evidence: only NVSwitches were judged"
NOT_COMPARED = "the measurements were NOT compared: no --rim and no --rules were given, so what runs on the GPU is not judged"
NONE_LEFT = "the measurements were NOT compared: every --rim is refused, so what runs on the GPU is not judged"
_R = GpuReason
_PATH = click.Path(path_type=Path)


@click.group("gpu")
def command() -> None:
    """NVIDIA GPUs: judge their evidence, and digest their reference values."""


@command.command("verify")
@click.argument("reports", type=_PATH, nargs=-1, required=True, metavar="REPORT...")
@click.option(
    "--chain",
    "chains",
    type=_PATH,
    multiple=True,
    help="Certificates of a raw report (PEM), one for each, in order; may stand among the reports, too.",
)
@click.option("--nonce", type=HEX32, help="What the reports must answer; without it, freshness is not judged.")
@click.option("--rim", "rims", type=_PATH, multiple=True, help="NVIDIA's reference values (SWID), or digested ones (`gpu rim -o json`).")
@click.option("--policy", "--rules", "rules", type=_PATH, help="What to accept: an AttestationPolicy with `gpu`, or its rules alone.")
@ocsp_options
@click.option("--nras", "nras_answer", type=_PATH, help="NVIDIA's attestation service's answer, for rules with `backend: NRAS`.")
@click.option("--nras-keys", type=_PATH, help="The service's key set (JWKS).")
@click.option("--nras-issuer", default=nras.ISSUER, show_default=True, help="Whose answer it must be.")
@click.option("--at", type=Rfc3339(), help="Judge as of this time; default: now.")
@click.option("--root", type=_PATH, help="Trust this device root instead of NVIDIA's: everything under it is simulated.")
@click.option("--rim-root", type=_PATH, help="Trust this RIM root instead of NVIDIA's.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def verify(
    reports: tuple[Path, ...],
    chains: tuple[Path, ...],
    nonce: bytes | None,
    rims: tuple[Path, ...],
    rules: Path | None,
    nras_answer: Path | None,
    nras_keys: Path | None,
    nras_issuer: str,
    at: datetime | None,
    root: Path | None,
    rim_root: Path | None,
    output: str,
    asking: Ocsp,
) -> int:
    """Judge the GPUs and NVSwitches of one machine.

    REPORT is NVIDIA SDK evidence (JSON), or a raw SPDM report (binary, hexadecimal, base64) whose certificates stand in --chain,
    or in a file of their own beside it.  All devices are judged together.

    OCSP answers are matched by certificate.  --ocsp-url asks once nothing else is missing, about what the given answers leave open.

    Exit code: 0 accepted, 1 refused, 2 unreadable input, 3 the OCSP responder could not be reached.
    """
    if rules is not None and rims:
        raise click.UsageError("give --rim or --policy, not both: rules hold the reference values that they accept")
    if rules is not None and asking.rule is not None:
        raise click.UsageError("give --revocation or --policy, not both: rules say whether revocation must be checked")
    if (nras_answer is None) != (nras_keys is None) or (nras_answer is not None and nonce is None):
        raise click.UsageError("--nras, --nras-keys and --nonce belong together: the answer must be to this nonce")
    moment = at or SystemClock().now()
    anchor = gpu_rims.anchor(rim_root)
    case = _Case(
        devices=_devices(reports, chains),
        rules=_rules(rules) if rules is not None else None,
        nonce=nonce,
        root=gpu_files.root(root) if root is not None else None,
        rims=[gpu_rims.read_any(path, root_sha256=anchor) for path in rims],
        remote=_remote(nras_answer, nras_keys, nras_issuer, nonce, moment),
    )
    answers = [data for _, data in asking.given()]
    verdict, judged = case.judged(answers, moment, required=asking.required and asking.client is None)
    if asking.client is not None and _awaits(verdict):
        try:
            answers += asking.asked(case.unasked(verdict, judged))
        except Unavailable as error:
            return failures.tell([error], EXIT_UNREACHABLE)
        moment = SystemClock().now()
        verdict, judged = case.judged(answers, moment, required=asking.required)
    not_compared = NONE_LEFT if judged else NOT_COMPARED
    notes = [not_compared] if verdict.scope == "Genuineness" else []
    notes += [NO_GPU] if verdict.switches and not verdict.gpus else []
    if output == "json":
        beside = {"rims": [one.to_json() for one in judged], "at": rfc3339(moment), "notes": notes}
        click.echo(json.dumps({"schemaVersion": "chrysalis/v1"} | verdict.to_json_full() | beside, indent=2))
    else:
        printing.lines(_lines(verdict, moment, not_compared))
        for one in judged:
            printing.lines(["", f"  RIM {one.path}", f"    {'revocation':<24} {one.revocation}"])
    for note in notes:
        printing.lines([click.style("WARNING: ", fg="red", bold=True) + note], err=True)
    return 0 if verdict.accepted else 1


@command.command("rim")
@click.argument("paths", type=_PATH, nargs=-1, required=True, metavar="FILE...")
@click.option("--at", type=Rfc3339(), help="Judge the signer's certificates as of this time; default: now.")
@click.option("--rim-root", type=_PATH, help="Trust this RIM root instead of NVIDIA's.")
@ocsp_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def rim_command(paths: tuple[Path, ...], at: datetime | None, rim_root: Path | None, output: str, asking: Ocsp) -> int:
    """Check NVIDIA's RIMs (SWID tags with an XML signature) and print the reference values for a policy's gpu.measurements.

    The values do not say who signed them: whether NVIDIA revoked a signer is asked here (--ocsp, --ocsp-url), and nowhere later.

    Exit code: 0 all hold, 1 one is refused (signature, signer, validity, revocation), 2 unreadable input, 3 the OCSP responder could
    not be reached.
    """
    moment = at or SystemClock().now()
    anchor = gpu_rims.anchor(rim_root)
    rims = [gpu_rims.read(path, at=moment, root_sha256=anchor) for path in paths]
    answers, damaged = gpu_ocsp.read(asking.given())
    if not damaged:
        if asking.client is not None:
            left = gpu_rims.unasked(gpu_rims.judged(rims, answers, at=moment, required=False))
            try:
                answers += ocsp.read(asking.asked(left))
            except Unavailable as error:
                return failures.tell([error], EXIT_UNREACHABLE)
            moment = SystemClock().now()
        rims = gpu_rims.judged(rims, answers, at=moment, required=asking.required)
    findings = damaged + [(one.path, one.finding) for one in rims if one.finding is not None]
    # A damaged answer may be about any of them.
    held = [one for one in rims if one.finding is None and not damaged]
    if output == "json":
        document = {
            "schemaVersion": "chrysalis/v1",
            "verdict": "Refused" if findings else "Accepted",
            "reasons": [{"file": path.name, **finding.to_json_dict()} for path, finding in findings],
            "rims": [one.to_json() for one in rims],
            "measurements": [value.to_json_dict() for one in held for value in one.values],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        printing.lines(_rim_lines(held, findings, moment))
    return 1 if findings else 0


def _rim_lines(rims: Sequence[GivenRim], findings: Sequence[tuple[Path, Finding]], at: datetime) -> list[str]:
    word, tone = ("Refused", "red") if findings else ("Accepted", "green")
    lines = [click.style(word, fg=tone, bold=True) + f"  (as of {rfc3339(at)})", ""]
    for path, finding in findings:
        lines += [f"  {click.style(finding.reason, bold=True)} ({path}): {finding.message}", f"    what to do: {finding.remedy}"]
        if finding.detail:
            lines.append(f"    detail: {finding.detail}")
    for value, revocation in [(value, one.revocation) for one in rims for value in one.values]:
        ends = rfc3339(value.expires) if value.expires else "never"
        what = ", ".join(
            [f"{len(value.values)} measurements", *(f"{one.name} from {one.minimum}" for one in value.security_versions or ())]
        )
        lines.append(f"  {value.kind} {value.version} for {value.architecture}: {what}, until {ends}, {value.id}")
        lines.append(f"    revocation: {revocation}")
    return lines


@dataclass(frozen=True)
class _Case:
    """All that is judged together, OCSP answers and the time apart."""

    devices: Sequence[GpuEvidence]
    rules: GpuRules | None
    nonce: bytes | None
    root: bytes | None
    rims: Sequence[GivenRim]
    remote: RemoteCheck | None

    def judged(self, responses: Sequence[bytes], at: datetime, *, required: bool) -> tuple[GpuVerdict, Sequence[GivenRim]]:
        """The verdict under these OCSP answers, and the RIMs, whose values were compared with where they are not refused."""
        rims = self.rims
        try:
            rims = gpu_rims.judged(rims, ocsp.read(responses), at=at, required=required)
        except GpuError:
            pass  # the appraisal refuses all of it for that
        verdict = appraise_gpus(
            evidence=self.devices,
            rules=self.rules,
            nonce=self.nonce,
            at=at,
            references=[value for one in rims if one.finding is None for value in one.values],
            root=self.root,
            ocsp_responses=responses,
            remote=self.remote,
        )
        refused = [one.finding for one in rims if one.finding is not None]
        if required and (verdict.gpus or verdict.switches) and verdict.revocation is Revocation.NOT_CHECKED:
            refused.append(Finding.of(_R.GPU_REVOCATION_NOT_CHECKED, "not every certificate of the devices has a good OCSP answer"))
        if refused:
            reasons = {"verdict": "Refused", "reasons": [*refused, *verdict.reasons], "expires_at": None, "limited_by": None}
            verdict = verdict.model_copy(update=reasons)
        return verdict, rims

    def unasked(self, verdict: GpuVerdict, rims: Sequence[GivenRim]) -> list[Pair]:
        """The certificates that OCSP is to be asked about, by a verdict in which all devices are genuine."""
        of_devices = [] if verdict.revocation is Revocation.GOOD else [chain.read(device.chain).revocable for device in self.devices]
        return [pair for pairs in of_devices for pair in pairs] + gpu_rims.unasked(rims)


def _awaits(verdict: GpuVerdict) -> bool:
    """Whether OCSP answers are all that may be missing: nobody is asked about what is refused for anything else."""
    return all(reason.reason is _R.GPU_REVOCATION_NOT_CHECKED for reason in verdict.reasons)


def _devices(reports: Sequence[Path], chains: Sequence[Path]) -> list[GpuEvidence]:
    """All devices of all files; the chains, by --chain or among the reports, belong to the raw reports, in order."""
    given_files = [evidence.unwrapped(gpu_files.read(path, evidence.MAX_EVIDENCE_BYTES)) for path in reports]
    is_json = [evidence.is_json(data) for data in given_files]
    waiting = [armor.as_utf8(gpu_files.read(path, 2 * chain.MAX_CHAIN_BYTES)) for path in chains]
    waiting += [data for data, json_ in zip(given_files, is_json, strict=True) if not json_ and PEM in data]
    sent = [(data, json_) for data, json_ in zip(given_files, is_json, strict=True) if json_ or PEM not in data]
    raw = sum(not json_ for _, json_ in sent)
    if waiting and len(waiting) != raw:
        raise click.UsageError(f"there are {raw} raw reports and {len(waiting)} chains; give one for each, in the same order")
    devices: list[GpuEvidence] = []
    for data, json_ in sent:
        given = waiting.pop(0) if not json_ and waiting else None
        if given is not None:
            chain.load(chain.read_pem(given))  # a file without certificates is unreadable input, not a refused device
        devices += evidence.read(data, given)
    return devices


def _remote(answer: Path | None, keys: Path | None, issuer: str, nonce: bytes | None, at: datetime) -> RemoteCheck | None:
    """The check of the remote service's answer, where one was given."""
    if answer is None or keys is None or nonce is None:
        return None
    data, known = nras.read(gpu_files.read(answer, nras.MAX_ANSWER_BYTES)), nras.read_keys(gpu_files.read(keys, nras.MAX_JWKS_BYTES))
    return lambda: nras.check(data, keys=known, at=at, nonce=nonce, issuer=issuer)


def _rules(path: Path) -> GpuRules:
    """The GPU rules of a policy, of its bare spec, or alone; raises GpuError."""
    try:
        document: Any = policy_yaml.load(gpu_files.read(path, MAX_RULES_BYTES))
        for member in ("spec", "gpu"):
            if isinstance(document, dict) and isinstance(document.get(member), dict):
                document = document[member]
        return GpuRules.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)[:6]]
        raise GpuError(_R.GPU_RULES_UNREADABLE, f"{path} holds no GPU rules", "; ".join(problems)[:600]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise GpuError(_R.GPU_RULES_UNREADABLE, f"{path} is neither YAML nor JSON", str(error)[:300]) from error


def _lines(verdict: GpuVerdict, at: datetime, not_compared: str) -> list[str]:
    """The verdict for people: the answer, why, what to do, and each device."""
    colour = "green" if verdict.accepted else "red"
    lines = [click.style(verdict.verdict, fg=colour, bold=True) + f"  (as of {rfc3339(at)})", ""]
    for reason in verdict.reasons:
        where = "" if reason.device is None else f" (device {reason.device})"
        lines += [f"  {click.style(reason.reason, bold=True)}{where}: {reason.message}", f"    what to do: {reason.remedy}"]
        if reason.detail:
            lines.append(f"    detail: {reason.detail}")
    if verdict.reasons:
        lines.append("")
    facts: list[tuple[str, str | None]] = [
        ("judged", _judged(verdict, not_compared)),
        ("evidence class", _class(verdict.evidence_class)),
        ("freshness", "the nonce is the one that was given" if verdict.nonce_checked else "NotChecked: no --nonce was given"),
        ("revocation", verdict.revocation),
        ("bound to a trust domain", f"{verdict.bound}: a GPU report does not name one"),
        ("expires", f"{rfc3339(verdict.expires_at)}, limited by {verdict.limited_by}" if verdict.expires_at else None),
    ]
    lines += [f"  {name:<24} {value}" for name, value in facts if value]
    for what, devices in (("GPU", verdict.gpus), ("NVSwitch", verdict.switches)):
        for device in devices:
            lines += ["", f"  {what} {device.index}", *_device(device)]
    return lines


def _device(device: DeviceFacts) -> list[str]:
    compared = f"{device.comparison}, {device.compared} of {device.measurements} have reference values"
    versions = [f"{name} {'absent' if stated is None else stated}" for name, stated in device.security_versions.items()]
    facts: list[tuple[str, Any]] = [
        ("signature", device.signature),
        ("model", device.hardware_model),
        ("architecture", device.architecture),
        ("device id", device.device_id),
        ("driver", device.driver_version),
        ("firmware", device.vbios_version),
        ("mode", device.mode),
        ("nonce", device.nonce),
        ("measurements", compared),
        ("security versions", ", ".join(versions)),
        ("secure boot, debug off", "proved by the measurements" if device.secure_boot else "not proved"),
    ]
    return [f"    {name:<24} {value}" for name, value in facts if value]


def _judged(verdict: GpuVerdict, not_compared: str) -> str:
    if verdict.scope == "Policy":
        return "against the rules"
    if verdict.scope == "GenuinenessAndReferences":
        return "genuineness, and the measurements against the given reference values"
    return f"genuineness only: {not_compared}"


def _class(found: EvidenceClass | None) -> str | None:
    if found == EvidenceClass.SIMULATED:
        return "Simulated: the root is not NVIDIA's, so this proves nothing about hardware"
    return found.value if found else None
