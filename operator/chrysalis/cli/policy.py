"""`chrysalis policy …`: read a policy critically, sign it, and store it at a broker."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from chrysalis.api import names
from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.attestation import lint as lints
from chrysalis.cli import printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import PIN, PIN_HELP
from chrysalis.cli.owner_files import EXIT_NO, OwnerFileError, OwnerFileReason, ask, owner_key, read_text
from chrysalis.cli.policy_simulate import simulate
from chrysalis.cli.times import Rfc3339
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY


@click.group("policy")
def command() -> None:
    """What evidence a data owner accepts: lint it, try it on stored evidence, and sign it."""


command.add_command(simulate)


@command.command("lint")
@click.option("-f", "--filename", "file", type=click.Path(path_type=Path), required=True, help="An AttestationPolicy, YAML or JSON.")
@click.option("--strict", is_flag=True, help="Exit 1 when there is any warning.")
@click.option("--at", type=Rfc3339(), help="Judge expiries as of this time; default: now.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def lint(file: Path, strict: bool, at: datetime | None, output: str) -> int:
    """Say what a policy leaves open, what ends soon, where it contradicts itself and what it denies.

    Exit code: 0 usable (there may be warnings), 1 it accepts nothing or contradicts itself, 2 it is no policy.
    """
    _, name, spec = policy_file(file)
    moment = at or SystemClock().now()
    found = lints.lint(spec, moment)
    wrong = lints.errors(found)
    warnings = [finding for finding in found if finding.severity == "warning"]
    refused = bool(wrong or (strict and warnings))
    if output == "json":
        findings = [finding.to_json_dict() for finding in wrong + warnings]
        printing.document({"policy": name, "at": rfc3339(moment), "usable": not refused, "findings": findings})
        return EXIT_NO if refused else 0
    word, tone = ("not usable", "red") if wrong else ("usable", "green")
    counted = f"{len(wrong)} errors, {len(warnings)} warnings" + (", which --strict does not allow" if refused and not wrong else "")
    shown = [click.style(word, fg=tone, bold=True) + f"  (policy {name}, as of {rfc3339(moment)}; {counted})"]
    shown += [f"{finding.severity}: {finding.message}  [{finding.code}]" for finding in wrong + warnings]
    printing.lines(shown if found else [*shown, "nothing to say: every field constrains"])
    return EXIT_NO if refused else 0


@command.command("sign")
@click.option("-f", "--filename", "file", type=click.Path(path_type=Path), required=True, help="An AttestationPolicy, YAML or JSON.")
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), required=True, help="The owner's signing key.")
@click.option("--put", "url", type=HTTPS, help="Store it at this broker, too.")
@click.option("--pin", "spki", type=PIN, help=PIN_HELP)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="text is YAML.")
def sign(file: Path, owner: Path, url: str | None, spki: str | None, output: str) -> int:
    """Sign a policy and print the AttestationPolicy with envelope and ownerPublicKey, ready for `kubectl apply`.

    The signed bytes hold name and spec; spec.version must be higher than the stored one's.
    """
    if (url is None) != (spki is None):
        raise click.UsageError("--put and --pin belong together")
    key = owner_key(owner)
    resource, name, spec = policy_file(file)
    payload = SignedPolicy(name=name, spec=spec).model_dump_json(by_alias=True, exclude_none=True).encode()
    envelope = dsse.sign(PAYLOAD_POLICY, payload, key)
    if url is not None and spki is not None:
        code = ask(url, spki, lambda client: client.put_policy(name, envelope))
        if code:
            return code
    signed = {"envelope": envelope.to_json_dict(), "ownerPublicKey": key.public_key().public_bytes_raw().hex()}
    whole = resource | {"spec": spec.to_json_dict() | signed}
    click.echo(json.dumps(whole, indent=2) if output == "json" else yaml.safe_dump(whole, sort_keys=False).rstrip("\n"))
    return 0


def policy_file(file: Path) -> tuple[dict[str, Any], str, AttestationPolicySpec]:
    """The resource without its spec, its name, and its spec without signature; raises OwnerFileError."""
    try:
        resource = yaml.safe_load(read_text(file))
        if not isinstance(resource, dict) or resource.get("kind") != names.KIND_POLICY or resource.get("apiVersion") != names.API_VERSION:
            raise ValueError(f"not an {names.KIND_POLICY} of {names.API_VERSION}")
        name = resource["metadata"]["name"]
        body = {key: value for key, value in resource["spec"].items() if key not in ("envelope", "ownerPublicKey")}
        spec = AttestationPolicySpec.model_validate(body)
        SignedPolicy(name=name, spec=spec)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [f"spec.{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in found[:8]]
        raise _invalid(file, "; ".join(problems)) from error
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, RecursionError) as error:
        raise _invalid(file, str(error) or type(error).__name__) from error
    return {member: value for member, value in resource.items() if member not in ("spec", "status")}, name, spec


def _invalid(file: Path, detail: str) -> OwnerFileError:
    return OwnerFileError(
        OwnerFileReason.DOCUMENT_INVALID, f"{file} is no AttestationPolicy", "correct the fields that the detail names", detail
    )
