"""`chrysalis verify --bundle FILE`: judge an evidence bundle again, offline, at its own time or at any other."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from chrysalis.attestation.freshness import FreshnessMode, Revocation
from chrysalis.attestation.gpu.nras import MAX_JWKS_BYTES, read_keys
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.attestation.verdict import EvidenceClass
from chrysalis.cli import files, printing
from chrysalis.cli.hexadecimal import HEX32
from chrysalis.clock import rfc3339
from chrysalis.wire.bundle import MAX_BUNDLE_BYTES, BundleFile
from chrysalis.wire.bundle_answers import AnswersOf, KeysOf
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations, Judgement, Signature
from chrysalis.wire.gpu import awaits
from chrysalis.wire.recalls import MAX_LIST_BYTES

Callback = Callable[..., int]


OPTIONS = (
    click.option(
        "--bundle", type=click.Path(path_type=Path), help="Judge this evidence bundle instead of QUOTE, at its own time unless --at."
    ),
    click.option("--owner", type=HEX32, help="With --bundle: the key (hex) whose policy it must be."),
    click.option("--ear-key", type=HEX32, help="With --bundle: the broker's key (hex) whose result is believed."),
    click.option(
        "--recalls",
        type=click.Path(path_type=Path),
        help="With --bundle: the broker's newest list of recalled keys (`chrysalis keys recalls --out`).",
    ),
    click.option("--nonce", type=HEX32, help="With --bundle: the nonce (hex) that you chose for this evidence."),
    click.option(
        "--nras-keys", type=click.Path(path_type=Path), help="With --bundle: NVIDIA's service's key set (JWKS) instead of the enclosed one."
    ),
)
OF_A_QUOTE = ("collateral", "initdata", "event_log", "report_data")
OF_A_BUNDLE = ("owner", "ear_key", "recalls", "nonce", "nras_keys")


def bundle_options(callback: Callback) -> Callback:
    """Give `verify` the options of bundles; with --bundle, the command is answered here."""

    @functools.wraps(callback)
    def either(**given: Any) -> int:
        own = {name: given.pop(name) for name in ("bundle", *OF_A_BUNDLE)}
        if own["bundle"] is None:
            if given["quote"] is None:
                raise click.UsageError("give a QUOTE, or --bundle FILE")
            if unused := [name for name in OF_A_BUNDLE if own[name] is not None]:
                raise click.UsageError(f"--{unused[0].replace('_', '-')} belongs to --bundle")
            return callback(**given)
        if given["quote"] is not None:
            raise click.UsageError("give a QUOTE or --bundle, not both")
        if unused := [name for name in OF_A_QUOTE if given.get(name)]:
            raise click.UsageError(f"--{unused[0].replace('_', '-')} stands in the bundle; it belongs to a QUOTE")
        return verify(given["policy"], given["at"], given["roots"], given["output"], **own)

    for option in reversed(OPTIONS):
        either = option(either)
    return either


def verify(
    policy: Path | None,
    at: datetime | None,
    roots: tuple[Path, ...],
    output: str,
    *,
    bundle: Path,
    owner: bytes | None,
    ear_key: bytes | None,
    recalls: Path | None,
    nonce: bytes | None,
    nras_keys: Path | None = None,
) -> int:
    """Judge and print; the exit code.  Raises WireError and AttestationError for what cannot be read (exit 2)."""
    judgement = judge(
        BundleFile.read(files.read(bundle, MAX_BUNDLE_BYTES)),
        Expectations(
            at=at,
            policy=read_policy(files.read(policy, MAX_POLICY_BYTES)) if policy else None,
            owner=owner,
            ear_key=ear_key,
            recalls=files.read(recalls, MAX_LIST_BYTES).decode("ascii", "replace").strip() if recalls else "",
            nonce=nonce,
            nras_keys=_key_set(nras_keys) if nras_keys else None,
            roots=[files.root(path) for path in roots],
        ),
    )
    if output == "json":
        click.echo(json.dumps(judgement.to_json(), indent=2))
    else:
        printing.lines(lines(judgement))
    return 0 if judgement.accepted else 1


def _key_set(path: Path) -> str:
    """A readable key set; raises AttestationError (FileUnreadable), GpuError (NrasKeyUnknown)."""
    text = files.read(path, MAX_JWKS_BYTES).decode(errors="replace")
    read_keys(text)
    return text


def lines(judgement: Judgement) -> list[str]:
    """The judgement for people: the answer, what it does not say, why, what to do, and the facts."""
    told = judgement.to_json()
    verdict = judgement.verdict
    colour = "green" if judgement.accepted else "red"
    shown = [click.style(told["verdict"], fg=colour, bold=True) + f"  (as of {told['at']}; recorded {told['recordedVerdict']})", ""]
    for caution in cautions(judgement):
        shown.append(click.style("  note: ", fg="yellow", bold=True) + caution)
    shown.append("")
    for reason in told["reasons"]:
        shown.append(f"  {click.style(reason['reason'], bold=True)}: {reason['message']}")
        shown += [
            f"    {name}: {reason[member]}" for name, member in (("what to do", "remedy"), ("detail", "detail")) if reason.get(member)
        ]
    if told["reasons"]:
        shown.append("")
    policy = f"{judgement.policy_name} version {judgement.policy_version}" if judgement.policy_name else "none, or unsigned"
    facts: list[tuple[str, str | None]] = [
        ("bundle", told["bundleDigest"]),
        ("mode", told["mode"]),
        ("freshness", told["freshness"]),
        ("revocation", told["revocation"]),
        ("policy", f"{policy}; signature {judgement.policy_signature}" + (f" by {judgement.owner}" if judgement.owner else "")),
        ("broker", f"{judgement.placement or 'none'}; result's signature {judgement.ear}; bundle's signature {judgement.statement}"),
        ("as recorded", _recorded(judgement)),
        ("evidence class", verdict.evidence_class.value if verdict.evidence_class else None),
        ("GPUs", f"{len(judgement.gpu.gpus)} judged: {judgement.gpu.verdict}" if judgement.gpu else None),
        ("NVIDIA's service", f"{judgement.nras_issuer}; keys of: {judgement.nras}" if judgement.nras_issuer else None),
        ("TCB status", verdict.tcb_status),
        ("allowed as", verdict.measurement_name),
        ("expires", f"{rfc3339(verdict.expires_at)}, limited by {verdict.limited_by}" if verdict.expires_at else None),
    ]
    width = max(len(name) for name, _ in facts)
    return shown + [f"  {name:<{width}}  {value}" for name, value in facts if value]


def _recorded(judgement: Judgement) -> str | None:
    """How the client that made the bundle says it had verified the worker; nobody signs that."""
    said = judgement.verification
    if said is None:
        return None
    return f"by a client: {said.mode}, freshness {said.freshness}, revocation {said.revocation}, judged by {said.judged_by}"


def cautions(judgement: Judgement) -> list[str]:
    """What the answer does not cover, in words."""
    found = []
    if judgement.other_policy:
        found.append("judged under the policy that you gave, not under the enclosed one")
    elif judgement.policy_signature == Signature.UNNAMED:
        found.append(f"--owner was not given: this is the policy of {judgement.owner}, whoever that is")
    elif judgement.policy_signature == Signature.ABSENT:
        found.append("nobody signed the enclosed policy: whoever made the bundle may have written it")
    if judgement.ear == Signature.MEASURED:
        found.append("--ear-key was not given: the result is signed by the broker that the worker is measured with, whoever that is")
    elif judgement.ear in (Signature.ABSENT, Signature.NOT_CHECKED):
        found.append("no broker's result was checked")
    if judgement.nras == KeysOf.BROKER:
        found.append("--nras-keys was not given: NVIDIA's service's answer is judged under the keys that the broker says it got from it")
    elif judgement.nras == KeysOf.BUNDLE:
        found.append("--nras-keys was not given: NVIDIA's service's answer is judged under keys that anybody may have put into the bundle")
    if judgement.gpu is not None and awaits(judgement.gpu):
        absent = judgement.verification is not None and judgement.verification.gpu_answers == AnswersOf.ABSENT
        found.append(
            "the policy wants NVIDIA's services' word about the GPUs, and the bundle does not hold all of it"
            + (
                ": the client that made it had its broker's word; the broker's own bundle (`chrysalis bundle get`) holds it"
                if absent
                else ""
            )
        )
    if judgement.mode == FreshnessMode.OFFLINE:
        found.append("freshness: NotChecked; the evidence is judged, not when it was made")
    if judgement.revocation == Revocation.NOT_CHECKED:
        found.append("revocation: NotChecked; ask the broker whether the result was revoked since")
    if judgement.verdict.evidence_class == EvidenceClass.SIMULATED:
        found.append("evidence class Simulated: the root is not Intel's, so this proves nothing about hardware")
    if judgement.placement == "Development":
        found.append("the broker's placement is Development: it runs inside the cluster that it judges")
    return found
