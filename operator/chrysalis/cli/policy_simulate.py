"""`chrysalis policy simulate`: which workers a new policy would shut out, before it is signed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from chrysalis.api.policy import SignedPolicy
from chrysalis.attestation.policy_file import read_policy
from chrysalis.cli import printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import PIN, PIN_HELP
from chrysalis.cli.owner_files import EXIT_NO, OwnerFileError, OwnerFileReason, ask, owner_key, read_text
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire import owner_token
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.changes import PolicySimulation, SimulatedChange

TIMEOUT_SECONDS = 120.0


@click.command("simulate")
@click.option("-f", "--filename", "file", type=click.Path(path_type=Path), required=True, help="An AttestationPolicy, YAML or JSON.")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=PIN, required=True, help=PIN_HELP)
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), required=True, help="The owner's signing key; signs no policy here.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def simulate(file: Path, url: str, spki: str, owner: Path, output: str) -> int:
    """Have a broker judge all stored evidence of the policy's owner under a new, unsigned version, and change nothing.

    Prints which workers would lose admission, why, and when: at once, or when their result ends and is not renewed.

    Exit code: 0 nobody would lose, 1 somebody would or not everything could be judged, 2 unreadable input, 3 no broker.
    """
    key, policy = owner_key(owner), _policy(file)
    found: list[PolicySimulation] = []

    async def question(client: BrokerClient) -> None:
        found.append(await client.simulate(policy))

    code = ask(url, spki, question, token=lambda: owner_token.make(key, SystemClock().now(), bytes.fromhex(spki)), timeout=TIMEOUT_SECONDS)
    if code:
        return code
    (report,) = found
    if output == "json":
        click.echo(json.dumps(report.model_dump(mode="json", by_alias=True), indent=2))
    else:
        printing.lines(_lines(report))
    return EXIT_NO if report.losing or report.unjudged or not report.complete else 0


def _policy(file: Path) -> SignedPolicy:
    """The unsigned policy of a resource; raises OwnerFileError and AttestationError (PolicyUnreadable)."""
    text = read_text(file)
    spec = read_policy(text.encode())
    resource: Any = yaml.safe_load(text)
    try:
        return SignedPolicy(name=resource["metadata"]["name"], spec=spec)
    except (KeyError, TypeError, ValidationError) as error:
        message = f"{file} is no AttestationPolicy with a metadata.name"
        raise OwnerFileError(OwnerFileReason.DOCUMENT_INVALID, message, "give the whole resource", type(error).__name__) from error


def _lines(report: PolicySimulation) -> list[str]:
    stored = f"version {report.stored_version} is stored" if report.stored_version else "none is stored"
    counted = f"{report.keeping} keep their admission, {len(report.losing)} lose it, {len(report.gaining)} gain it"
    lines = [
        f"judged {report.judged}; {counted}",
        f"policy {report.policy_name} version {report.policy_version} ({stored}), at {rfc3339(report.at)}",
        *_changes("loses", report.losing),
        *_changes("gains", report.gaining),
    ]
    lines += [f"not judged: result {result}: the collateral of its platform is not at hand" for result in report.unjudged]
    if not report.complete:
        lines.append("there is more stored evidence than was judged")
    if 0 < report.policy_version <= report.stored_version:
        lines.append(f"note: to store it, set spec.version above {report.stored_version}")
    return lines


def _changes(verb: str, changes: Sequence[SimulatedChange]) -> Iterator[str]:
    for change in changes:
        when = "at once" if change.when == "Immediately" else f"at {rfc3339(change.at)}, when its result ends"
        yield f"{verb}: {change.namespace}/{change.worker_name} pod {change.pod_name or change.pod_uid} {when}"
        for reason in change.reasons:
            yield f"  {reason.reason}: {reason.message}"
            if reason.remedy:
                yield f"    what to do: {reason.remedy}"
