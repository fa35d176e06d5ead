"""`chrysalis infer`: verify a worker, then ask it for embeddings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from chrysalis.amounts import AmountError, ton
from chrysalis.amounts import parse as parse_amount
from chrysalis.attestation.freshness import Freshness, Revocation
from chrysalis.attestation.policy_envelope import read_envelope
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.cli import onchain
from chrysalis.cli.bundle import write_bundle
from chrysalis.cli.main import EXIT_NO, EXIT_UNREACHABLE
from chrysalis.client.reasons import ClientError
from chrysalis.client.receipt_file import ReceiptFile
from chrysalis.client.session import DEFAULT_MAX_NANOTON, Client, Job
from chrysalis.client.verification import VerifiedWorker
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire.bundle import to_bytes
from chrysalis.wire.reasons import WireError, WireReason

PREVIEW = 4
"""Components of each vector in the text output."""


@click.command("infer")
@click.argument("texts", nargs=-1, required=True)
@click.option("--endpoint", required=True, help="https://HOST:PORT of a worker's gateway.")
@click.option("--policy", type=onchain.READABLE, required=True, help="What evidence to accept: an AttestationPolicy or its bare spec.")
@click.option("--client-key", type=onchain.READABLE, help="Seed of the client's key (32 bytes, raw or hex); signs tickets of paid jobs.")
@click.option("--receipts", type=click.Path(dir_okay=False, path_type=Path), help="Keep receipts in this file (JSON Lines).")
@click.option("--ear-key", help="The broker's public key, 64 hex digits: the worker must be measured with it.")
@click.option("--model-digest", help="sha256:<hex> of the model; needed where the policy leaves the worker's model open.")
@click.option("--max", "maximum", default=str(DEFAULT_MAX_NANOTON), show_default=True, help="What the job may cost at most, nanoton.")
@click.option("--sni", default="", help="Server name of the worker behind a TLS passthrough.")
@click.option("--save-bundle", type=click.Path(dir_okay=False, path_type=Path), help="Keep the evidence bundle of this verification here.")
@click.option("--verify-only", is_flag=True, help="Verify and stop before anything is asked.")
@onchain.output_option
def command(
    texts: tuple[str, ...],
    endpoint: str,
    policy: Path,
    client_key: Path | None,
    receipts: Path | None,
    ear_key: str | None,
    model_digest: str | None,
    maximum: str,
    sni: str,
    save_bundle: Path | None,
    verify_only: bool,
    output: str,
) -> int:
    """Verify a worker's evidence under a policy, then have TEXTS embedded by it.

    Nothing is sent before the evidence is accepted.  Exit code 1 when it is refused or the job fails, 3 when the worker cannot be
    reached.
    """
    if policy.stat().st_size > MAX_POLICY_BYTES:
        raise click.UsageError(f"{policy} is over {MAX_POLICY_BYTES} bytes")
    text = policy.read_bytes()
    accepted, envelope = read_policy(text), read_envelope(text)
    try:
        limit = parse_amount(maximum)
        key = bytes.fromhex(ear_key) if ear_key else None
    except (AmountError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if key is not None and len(key) != 32:
        raise click.UsageError("--ear-key must be 64 hex digits")
    client = Client(
        endpoint,
        policy=accepted,
        client_key=onchain.read_signer(client_key) if client_key else None,
        receipts=ReceiptFile(receipts) if receipts else None,
        ear_key=key,
        model_digest=model_digest,
        sni=sni,
    )
    try:
        worker, job = asyncio.run(_ask(client, list(texts), limit, verify_only))
    except (ClientError, WireError) as error:
        _say(error, output)
        return EXIT_UNREACHABLE if error.reason == WireReason.SERVICE_UNREACHABLE else EXIT_NO
    if save_bundle is not None:
        write_bundle(save_bundle, to_bytes(worker.bundle(SystemClock().now(), envelope)))
    click.echo(json.dumps(_json(worker, job), indent=1) if output == "json" else _text(worker, job, list(texts)))
    return 0


async def _ask(client: Client, texts: list[str], limit: int, verify_only: bool) -> tuple[VerifiedWorker, Job | None]:
    async with client:
        worker = await client.connect()
        return worker, None if verify_only else await client.embeddings(texts, max_nanoton=limit)


def _json(worker: VerifiedWorker, job: Job | None) -> dict[str, object]:
    return {
        "schemaVersion": "chrysalis/v1",
        "mode": worker.mode.value,
        "freshness": Freshness.OWN_NONCE.value,
        "revocation": Revocation.NOT_CHECKED.value,
        "verdict": worker.verdict.to_json_full(),
        "wrk": worker.wrk,
        "model": worker.identity.model.name,
        "isolation": str(worker.identity.isolation),
        "expiresAt": rfc3339(worker.expires_at),
        "embeddings": job.vectors if job else None,
        "receipt": job.receipt.claims() if job and job.receipt else None,
    }


def _text(worker: VerifiedWorker, job: Job | None, texts: list[str]) -> str:
    verdict = worker.verdict
    rows = [
        f"verified ({worker.mode}): evidence {verdict.evidence_class}, TCB {verdict.tcb_status}, {worker.identity.isolation}, "
        f"model {worker.identity.model.name}, until {rfc3339(worker.expires_at)} ({verdict.limited_by})"
    ]
    if job is None:
        return rows[0]
    for text, vector in zip(texts, job.vectors, strict=False):
        shown = ", ".join(f"{x:+.4f}" for x in vector[:PREVIEW])
        rows.append(f"[{shown}, …] ({len(vector)})  {text}")
    if job.receipt is not None:
        rows.append(f"receipt {job.receipt.seq} of worker {worker.wrk[:16]}: {job.receipt.amt} nanoton ({ton(job.receipt.amt)})")
    return "\n".join(rows)


def _say(error: ClientError | WireError, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(error.as_dict(), indent=1))
        return
    click.echo(f"{error.reason}: {error.message}", err=True)
    if error.remedy:
        click.echo(f"  what to do: {error.remedy}", err=True)
    if isinstance(error, ClientError):
        for reason in error.reasons:
            click.echo(f"  {reason.reason}: {reason.message}", err=True)
