"""`chrysalis infer`: verify a worker, then ask it for embeddings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from chrysalis.amounts import AmountError, ton
from chrysalis.amounts import parse as parse_amount
from chrysalis.api.policy import Envelope
from chrysalis.attestation import collateral_file
from chrysalis.attestation.freshness import Freshness, FreshnessMode
from chrysalis.attestation.policy_envelope import read_envelope
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.cli import files, onchain, printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.bundle import write_bundle
from chrysalis.cli.gpu_service_options import gpu_service_options
from chrysalis.cli.hexadecimal import HEX32, PIN, PIN_HELP
from chrysalis.cli.main import EXIT_NO, EXIT_UNREACHABLE
from chrysalis.cli.owner_files import owner_key, read_text
from chrysalis.client import answers
from chrysalis.client.ear_mode import PolicyPin
from chrysalis.client.reasons import ClientError
from chrysalis.client.receipt_file import ReceiptFile
from chrysalis.client.revocation import RevocationCheck
from chrysalis.client.session import DEFAULT_MAX_NANOTON, Client, Job
from chrysalis.client.verified import VerifiedWorker
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire import owner_token
from chrysalis.wire.bundle import MAX_COLLATERAL_CHARACTERS, to_bytes
from chrysalis.wire.bundle_answers import AnswersOf
from chrysalis.wire.gpu_services import GpuServices
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.recalls import MAX_LIST_BYTES, RecallList, open_list

FOUR = ("reason", "message", "remedy", "detail")
PREVIEW = 4
"""Components of each vector in the text output."""


@click.command("infer")
@click.argument("texts", nargs=-1, required=True)
@click.option("--endpoint", type=HTTPS, required=True, help="https://HOST:PORT of a worker's gateway.")
@click.option("--policy", type=click.Path(path_type=Path), required=True, help="What to accept: an AttestationPolicy or its bare spec.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in FreshnessMode]),
    default=FreshnessMode.FRESH_QUOTE.value,
    show_default=True,
    help="By what the worker is verified: a quote over a nonce of your own; the result of the broker with --ear-key; or the evidence"
    " that the worker keeps, of which nobody here knows when it was made.",
)
@click.option("--max-ear-age", type=click.IntRange(min=1), metavar="SECONDS", help="Mode ear: how old the result may be. [its own life]")
@click.option("--recalls", type=click.Path(path_type=Path), help="Mode ear: the broker's recalled keys (`chrysalis keys recalls --out`).")
@click.option("--policy-owner", type=HEX32, help="Mode ear: whose policy the broker must have judged under, where --policy is not signed.")
@click.option("--policy-name", help="Mode ear: that policy's name, where --policy is not signed.")
@click.option("--collateral", type=click.Path(path_type=Path), help="Mode offline: Intel's collateral, instead of what the worker sends.")
@click.option("--client-key", type=onchain.READABLE, help="Seed of the client's key (32 bytes, raw or hex); signs tickets of paid jobs.")
@click.option("--receipts", type=click.Path(dir_okay=False, path_type=Path), help="Keep receipts in this file (JSON Lines).")
@click.option("--ear-key", type=HEX32, help="The broker's public key (hex): the worker must be measured with it. Mode ear needs it.")
@click.option("--model-digest", help="sha256:<hex> of the model; needed where the policy leaves the worker's model open.")
@click.option(
    "--check-revocation",
    type=click.Choice(["if-reachable", "required"]),
    help="Ask --broker whether it has revoked its result since; without an answer, go on and say so, or stop.",
)
@click.option("--broker", "broker", type=HTTPS, help="With --check-revocation: the broker's https address.")
@click.option("--pin", "spki", type=PIN, help=PIN_HELP)
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), help="With --check-revocation: the key of the result's owner.")
@click.option("--token-file", "token", type=click.Path(path_type=Path), help="With --check-revocation: somebody else's bearer token.")
@click.option("--max", "maximum", default=str(DEFAULT_MAX_NANOTON), show_default=True, help="What the job may cost at most, nanoton.")
@click.option("--sni", default="", help="Server name of the worker behind a TLS passthrough.")
@click.option("--save-bundle", type=click.Path(dir_okay=False, path_type=Path), help="Keep the evidence bundle of this verification here.")
@click.option("--verify-only", is_flag=True, help="Verify and stop before anything is asked.")
@gpu_service_options
@onchain.output_option
def command(
    texts: tuple[str, ...],
    endpoint: str,
    policy: Path,
    mode: str,
    max_ear_age: int | None,
    policy_owner: bytes | None,
    policy_name: str | None,
    collateral: Path | None,
    client_key: Path | None,
    receipts: Path | None,
    recalls: Path | None,
    ear_key: bytes | None,
    model_digest: str | None,
    maximum: str,
    sni: str,
    save_bundle: Path | None,
    verify_only: bool,
    output: str,
    gpu_services: GpuServices | None,
    **asking: Any,
) -> int:
    """Verify a worker's evidence under a policy, then have TEXTS embedded by it.

    Nothing is sent before the worker is verified, and the answer says in which mode it was.  Exit code 1 when it is refused or the job
    fails, 3 when the worker cannot be reached.
    """
    text = files.read(policy, MAX_POLICY_BYTES)
    accepted, envelope = read_policy(text), read_envelope(text)
    try:
        limit = parse_amount(maximum)
    except AmountError as error:
        raise click.UsageError(str(error)) from error
    given = {"--recalls": recalls, "--max-ear-age": max_ear_age, "--policy-owner": policy_owner, "--policy-name": policy_name}
    _only_with("--mode ear", mode == FreshnessMode.EAR, given)
    _only_with("--mode fresh-quote", mode == FreshnessMode.FRESH_QUOTE, {"--nras-url or --ocsp-url": gpu_services})
    _only_with("--mode offline", mode == FreshnessMode.OFFLINE, {"--collateral": collateral})
    revocation = _revocation(FreshnessMode(mode), **asking)
    client = Client(
        endpoint,
        policy=accepted,
        client_key=onchain.read_signer(client_key) if client_key else None,
        receipts=ReceiptFile(receipts) if receipts else None,
        ear_key=ear_key,
        model_digest=model_digest,
        mode=FreshnessMode(mode),
        policy_pin=_pin(envelope, policy_owner, policy_name, ear_key) if mode == FreshnessMode.EAR else None,
        max_ear_age_seconds=max_ear_age,
        collateral=collateral_file.as_text(files.read(collateral, MAX_COLLATERAL_CHARACTERS)) if collateral else None,
        revocation=revocation,
        gpu_services=gpu_services,
        recalls=_recalls(recalls, ear_key),
        sni=sni,
    )
    try:
        worker, job = asyncio.run(_ask(client, list(texts), limit, verify_only))
        if save_bundle is not None:
            worker = asyncio.run(_answered(worker, revocation))
    except (ClientError, WireError) as error:
        return _say(error, mode, EXIT_UNREACHABLE if error.reason == WireReason.SERVICE_UNREACHABLE else EXIT_NO, output)
    if save_bundle is not None:
        write_bundle(save_bundle, to_bytes(worker.bundle(SystemClock().now(), envelope)))
    if output == "json":
        click.echo(json.dumps(_json(worker, job), indent=2))
    else:
        printing.lines(_text(worker, job, list(texts)))
    return 0


def _recalls(file: Path | None, ear_key: bytes | None) -> RecallList | None:
    if file is None:
        return None
    if ear_key is None:
        raise click.UsageError("--recalls needs --ear-key, which signs the list")
    return open_list(files.read(file, MAX_LIST_BYTES).decode("ascii", "replace").strip(), ear_key)


def _only_with(what: str, given: bool, options: Mapping[str, object]) -> None:
    if not given and (unused := [name for name, value in options.items() if value is not None]):
        raise click.UsageError(f"{unused[0]} belongs to {what}")


def _pin(envelope: Envelope | None, owner: bytes | None, name: str | None, ear_key: bytes | None) -> PolicyPin:
    """Whose policy it must have been: the signed file says it, else the options do; both must agree."""
    if ear_key is None:
        raise click.UsageError("--mode ear needs --ear-key: a result is believed only under a key that you were given")
    if envelope is not None:
        pin = PolicyPin.of(envelope)
        if owner not in (None, pin.owner) or name not in (None, pin.name):
            raise click.UsageError(f"--policy is signed by {pin.owner.hex()} as {pin.name!r}, not as the options say")
        return pin
    if owner is None or name is None:
        raise click.UsageError("--mode ear needs a signed --policy, or --policy-owner and --policy-name: whose policy was judged under?")
    return PolicyPin(owner, name)


def _revocation(
    mode: FreshnessMode, check_revocation: str | None, broker: str | None, spki: str | None, owner: Path | None, token: Path | None
) -> RevocationCheck | None:
    given = {"--broker": broker, "--pin": spki, "--owner-key": owner, "--token-file": token}
    _only_with("--check-revocation", check_revocation is not None, given)
    if check_revocation is None:
        return None
    if mode == FreshnessMode.OFFLINE:
        raise click.UsageError("--mode offline asks no broker; leave --check-revocation out, or verify in another mode")
    if broker is None or spki is None:
        raise click.UsageError("--check-revocation needs --broker and --pin")
    if owner is not None and token is not None:
        raise click.UsageError("give --owner-key or --token-file, not both")
    return RevocationCheck(url=broker, spki_sha256=spki, token=_bearer(owner, token, spki), required=check_revocation == "required")


def _bearer(owner: Path | None, token: Path | None, spki: str) -> Callable[[], str] | None:
    """What the broker is asked with: tokens that the owner's key signs for it, or the one in a file; None without both."""
    if owner is not None:
        key, audience = owner_key(owner), bytes.fromhex(spki)
        return lambda: owner_token.make(key, SystemClock().now(), audience)
    if token is not None:
        shown = read_text(token).strip()
        return lambda: shown
    return None


async def _ask(client: Client, texts: list[str], limit: int, verify_only: bool) -> tuple[VerifiedWorker, Job | None]:
    async with client:
        worker = await client.connect()
        return worker, None if verify_only else await client.embeddings(texts, max_nanoton=limit)


async def _answered(worker: VerifiedWorker, check: RevocationCheck | None) -> VerifiedWorker:
    """For a bundle: with NVIDIA's answers out of the broker's, where it hands them over; where they are absent, that is said."""
    why = "no broker is asked (--check-revocation)"
    if check is not None:
        try:
            worker = await answers.from_broker(worker, check)
        except WireError as error:
            if error.reason == WireReason.EAR_CLAIM_MISMATCH:
                raise
            why = f"{error.reason}: {error.message}"
    if worker.answers_of is AnswersOf.ABSENT:
        click.echo(f"note: the bundle holds none of the answers of NVIDIA's services that the policy wants; {why}", err=True)
    return worker


def _json(worker: VerifiedWorker, job: Job | None) -> dict[str, object]:
    return {
        "schemaVersion": "chrysalis/v1",
        "verdict": "Accepted",
        "reasons": [],
        **worker.facts(),
        "appraisal": worker.verdict.to_json_full() if worker.verdict else None,
        "gpu": worker.gpu.to_json_full() if worker.gpu else None,
        "result": worker.ear.to_json_dict() if worker.ear else None,
        "wrk": worker.wrk,
        "model": worker.identity.model.name,
        "embeddings": job.vectors if job else None,
        "receipt": job.receipt.claims() if job and job.receipt else None,
    }


def _text(worker: VerifiedWorker, job: Job | None, texts: list[str]) -> list[str]:
    rows = [
        f"verified ({worker.mode}): evidence {worker.evidence_class}, TCB {worker.tcb_status}, {worker.isolation}, "
        f"model {worker.identity.model.name}, until {rfc3339(worker.expires_at)} ({worker.limited_by})",
        f"  freshness: {worker.freshness}, revocation: {worker.revocation}"
        + (f" ({worker.revocation_detail})" if worker.revocation_detail else ""),
        f"  judged by: {worker.judged_by}" + (f" in placement {worker.placement}" if worker.placement else ""),
    ]
    if brokers := worker.checked_by["broker"]:
        rows.append(f"  checked by: broker: {', '.join(brokers)}")
    if worker.freshness == Freshness.NOT_CHECKED:
        rows.append("  note: the evidence is genuine and allowed, but nobody here knows when it was made or whether it was revoked since")
    if job is None:
        return rows
    for text, vector in zip(texts, job.vectors, strict=False):
        shown = ", ".join(f"{x:+.4f}" for x in vector[:PREVIEW])
        rows.append(f"[{shown}, …] ({len(vector)})  {text}")
    if job.receipt is not None:
        rows.append(f"receipt {job.receipt.seq} of worker {worker.wrk[:16]}: {job.receipt.amt} nanoton ({ton(job.receipt.amt)})")
    return rows


def _say(error: ClientError | WireError, mode: str, code: int, output: str) -> int:
    """As cli.failures does it, with the mode and, of a refused appraisal, all of its reasons; returns the exit code."""
    reasons = error.reasons if isinstance(error, ClientError) else []
    lines = [f"{error.reason}: {error.message} (mode {mode})"]
    if error.remedy:
        lines.append(f"  what to do: {error.remedy}")
    for reason in reasons:
        lines.append(f"  {reason.reason}: {reason.message}")
        lines += [f"    {name}: {said}" for name, said in (("what to do", reason.remedy), ("detail", reason.detail)) if said]
    printing.lines(lines, err=True)
    if output == "json":
        members = error.as_dict()
        said = {
            "schemaVersion": "chrysalis/v1",
            "verdict": "Refused" if code == EXIT_NO else None,
            "mode": mode,
            **members,
            "reasons": [reason.to_json_dict() for reason in reasons] or [{name: members[name] for name in FOUR}],
        }
        click.echo(json.dumps(said, indent=2))
    return code
