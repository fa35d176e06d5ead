"""Judging a broker that runs in a trust domain, before it is given a key: `keys verify-broker`, and `keys put --broker-policy`."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from chrysalis.attestation import collateral_file
from chrysalis.attestation.collateral import MAX_COLLATERAL_BYTES
from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.attestation.verdict import EvidenceClass, Verdict
from chrysalis.cli import files, printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import HEX32
from chrysalis.cli.owner_files import EXIT_NO, ask
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.broker_evidence import BrokerEvidence, judge_broker

NONCE_BYTES = 32


@click.command("verify-broker")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=HEX32, required=True, help="SHA-256 of the broker's TLS key, hex (`chrysalis keys pin`).")
@click.option("--broker-policy", "policy", type=click.Path(path_type=Path), required=True, help="What broker to accept, YAML or JSON.")
@click.option("--ear-key", type=HEX32, help="The broker's result key (hex), as workers pin it: the evidence must cover it.")
@click.option("--collateral", type=click.Path(path_type=Path), help="Intel's collateral in place of what the broker sends.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(url: str, spki: bytes, policy: Path, ear_key: bytes | None, collateral: Path | None, output: str) -> int:
    """Ask a broker for fresh evidence about itself and judge it; exit 1 when it is refused or there is none."""
    code, verdict = check(url, spki, policy, ear_key, collateral)
    if verdict is None:
        return code
    if output == "json":
        appraisal = verdict.to_json_full()
        answer = {"verdict": appraisal["verdict"], "reasons": appraisal["reasons"]}
        printing.document(answer | {"mode": FreshnessMode.FRESH_QUOTE.value, "appraisal": appraisal})
    elif verdict.accepted:
        printing.lines([accepted(verdict)])
    else:
        show_refusal(verdict)
    return code


def check(url: str, spki: bytes, policy: Path, ear_key: bytes | None = None, collateral: Path | None = None) -> tuple[int, Verdict | None]:
    """Exit code and verdict: 0 accepted, 1 refused; no verdict where the broker gave no evidence (it was said why)."""
    accepts = read_policy(files.read(policy, MAX_POLICY_BYTES))
    documents = collateral_file.read(files.read(collateral, MAX_COLLATERAL_BYTES)) if collateral else None
    nonce = secrets.token_bytes(NONCE_BYTES)
    got: list[BrokerEvidence] = []

    async def question(client: BrokerClient) -> None:
        got.append(await client.own_evidence(nonce))

    code = ask(url, spki.hex(), question)
    if code:
        return code, None
    verdict = judge_broker(
        got[0], policy=accepts, nonce=nonce, spki_sha256=spki, at=SystemClock().now(), ear_key=ear_key, collateral=documents
    )
    return (0 if verdict.accepted else EXIT_NO), verdict


def before_upload(url: str, spki: str, policy: Path, ear_key: bytes | None) -> int:
    """What `keys put` asks before it sends a key: 0 when the broker is accepted; else the exit code, and it was said why."""
    code, verdict = check(url, bytes.fromhex(spki), policy, ear_key)
    if verdict is not None and verdict.accepted:
        printing.lines([accepted(verdict)], err=True)
    elif verdict is not None:
        show_refusal(verdict)
    if code:
        click.echo("The key was not sent.", err=True)
    return code


def accepted(verdict: Verdict) -> str:
    """One line for people about a broker that is accepted."""
    until = f", until {rfc3339(verdict.expires_at)}" if verdict.expires_at else ""
    note = " (Simulated: this proves nothing about hardware)" if verdict.evidence_class == EvidenceClass.SIMULATED else ""
    return (
        f"The broker runs in a trust domain that the policy accepts as {verdict.measurement_name!r}: {verdict.evidence_class}{note}{until}"
    )


def show_refusal(verdict: Verdict) -> None:
    """Every reason, on stderr."""
    lines = ["the broker's own evidence is refused:"]
    for reason in verdict.reasons:
        lines += [f"  {reason.reason}: {reason.message}", f"    what to do: {reason.remedy}"]
        if reason.detail:
            lines.append(f"    detail: {reason.detail}")
    printing.lines(lines, err=True)
