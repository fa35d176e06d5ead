"""`chrysalis policy …`: read a policy critically, sign it, and store it at a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from chrysalis.api import names
from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy, TcbStatus
from chrysalis.api.worker import Isolation
from chrysalis.cli.owner_files import EXIT_NO, OwnerFileError, OwnerFileReason, ask, owner_key, read_text
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY

WEAK_STATUSES = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
LONG_RESULT_SECONDS = 86400


@click.group("policy")
def command() -> None:
    """What evidence a data owner accepts: lint and sign it."""


@command.command("lint")
@click.option("-f", "--filename", "file", type=click.Path(path_type=Path), required=True, help="An AttestationPolicy, YAML or JSON.")
@click.option("--strict", is_flag=True, help="Exit 1 when there is any warning.")
def lint(file: Path, strict: bool) -> int:
    """Say what a policy does not constrain and what it denies; exit 2 when it is no policy, 1 when it accepts nothing."""
    _, _, spec = policy_file(file)
    errors, warnings = list(denials(spec)), list(concerns(spec))
    for kind, lines in (("error", errors), ("warning", warnings)):
        for line in lines:
            click.echo(f"{kind}: {line}")
    if not errors and not warnings:
        click.echo("nothing to say: every field constrains")
    return EXIT_NO if errors or (strict and warnings) else 0


@command.command("sign")
@click.option("-f", "--filename", "file", type=click.Path(path_type=Path), required=True, help="An AttestationPolicy, YAML or JSON.")
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), required=True, help="The owner's signing key.")
@click.option("--put", "url", help="Store it at this broker, too.")
@click.option("--pin", "spki", help="SHA-256 of the broker's TLS key, hex (`chrysalis keys pin`).")
def sign(file: Path, owner: Path, url: str | None, spki: str | None) -> int:
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
    click.echo(yaml.safe_dump(resource | {"spec": spec.to_json_dict() | signed}, sort_keys=False), nl=False)
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


def denials(spec: AttestationPolicySpec) -> Iterator[str]:
    """Why the policy can accept nothing: lists that are there and empty."""
    lists: dict[str, list[Any] | None] = {
        "isolation": list(spec.isolation),
        "brokerPlacement": list(spec.broker_placement),
        "tdx.tcb.allowedStatuses": list(spec.tdx.tcb.allowed_statuses),
        "tdx.measurements": list(spec.tdx.measurements),
        "tdx.fmspcs": spec.tdx.fmspcs,
        "tdx.ppids": spec.tdx.ppids,
    }
    for name, found in lists.items():
        if found is not None and not found:
            yield f"spec.{name} is empty: nothing is accepted"


def concerns(spec: AttestationPolicySpec) -> Iterator[str]:
    """What the policy leaves open, in words for its owner."""
    if spec.trust_root != "Intel":
        yield "spec.trustRoot is not Intel's: all evidence under it is simulated and protects nothing"
    if Isolation.NODE_TD in spec.isolation:
        yield "spec.isolation lists NodeTD: it does not protect against the cluster's administrators"
    tcb = spec.tdx.tcb
    for status in WEAK_STATUSES.intersection(tcb.allowed_statuses):
        yield f"spec.tdx.tcb.allowedStatuses lists {status}: platforms with published weaknesses are accepted"
    if tcb.grace_seconds:
        yield f"spec.tdx.tcb.graceSeconds accepts outdated platforms for {tcb.grace_seconds} s after a TCB recovery"
    for name, value in (("advisories.allow", tcb.advisories.allow), ("minEvaluationDataNumber", tcb.min_evaluation_data_number)):
        if value is None:
            yield f"spec.tdx.tcb.{name} is absent: not constrained"
    for name, listed in (("fmspcs", spec.tdx.fmspcs), ("ppids", spec.tdx.ppids)):
        if listed is None:
            yield f"spec.tdx.{name} is absent: any platform is accepted"
    for measurement in spec.tdx.measurements:
        for register, value in measurement:
            if value == "Any":
                yield f"spec.tdx.measurements[{measurement.name}].{register} is Any: not compared"
        if measurement.initdata is not None and measurement.initdata.wallets == "Any":
            yield f"spec.tdx.measurements[{measurement.name}].initdata.wallets is Any: the payout wallet is not judged"
    for name, masked in (("tdAttributes", spec.tdx.td_attributes), ("xfam", spec.tdx.xfam)):
        if masked.mask.lower() != "f" * 16:
            yield f"spec.tdx.{name}.mask leaves bits open: {masked.mask}"
    if not spec.event_log.required:
        yield "spec.eventLog.required is false: the boot log is not replayed"
    if spec.freshness.max_result_age_seconds > LONG_RESULT_SECONDS:
        yield f"spec.freshness.maxResultAgeSeconds lets a result live {spec.freshness.max_result_age_seconds} s"


def _invalid(file: Path, detail: str) -> OwnerFileError:
    return OwnerFileError(
        OwnerFileReason.DOCUMENT_INVALID, f"{file} is no AttestationPolicy", "correct the fields that the detail names", detail
    )
