"""`chrysalis measure`: what a worker will measure, before it runs anywhere; the same rendering that the operator uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from pydantic import ValidationError

from chrysalis.api import names
from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.base import Model
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.cli import files
from chrysalis.cli.measure_rebuild import rebuild_options
from chrysalis.errors import ChrysalisError
from chrysalis.rendering import Rendered, render
from chrysalis.rendering.reference import Judging, measurement

MAX_FILE_BYTES = 4 * 1024 * 1024
SCHEMA_VERSION = "chrysalis/v1"

M = TypeVar("M", bound=Model)


class MeasureReason(StrEnum):
    """Why there is nothing to measure."""

    MANIFEST_UNREADABLE = "ManifestUnreadable"
    MANIFEST_INVALID = "ManifestInvalid"


class MeasureError(ChrysalisError):
    """The files do not hold what is to be measured."""


@click.command()
@click.option("-f", "--filename", "paths", multiple=True, type=click.Path(path_type=Path), help="Manifests; - reads stdin.")
@click.option("--name", help="Which ConfidentialWorker, where the files hold several.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "policy", "initdata"]), default="text", show_default=True)
@click.option("--firmware", type=click.Path(path_type=Path), help="JSON with mrtd, rtmr0 to rtmr3, mrseam: needed for -o policy.")
@click.option(
    "--judge",
    type=click.Choice([str(j) for j in Judging]),
    default=str(Judging.EXACT),
    show_default=True,
    help="How -o policy judges the initdata: by its exact hash, or by a rule that leaves wallet, broker and prices open.",
)
@rebuild_options
def command(paths: tuple[Path, ...], name: str | None, output: str, firmware: Path | None, judge: str) -> int:
    """Print what a worker will measure.

    Give the worker's manifest, and that of its SettlementAccount: its contract and keys are measured too.
    With -o policy it prints an entry for spec.tdx.measurements of an AttestationPolicy.
    """
    objects = [found for path in paths for found in _objects(path)]
    worker = _worker(objects, name)
    metadata = worker["metadata"]
    spec = _spec(worker, ConfidentialWorkerSpec)
    rendered = render(metadata["name"], metadata.get("namespace", "default"), spec, _account(objects, worker, spec))
    if output == "json":
        click.echo(json.dumps(_summary(metadata["name"], rendered), indent=2))
    elif output == "initdata":
        click.echo(rendered.toml.decode(), nl=False)
    elif output == "policy":
        if firmware is None:
            raise click.UsageError("-o policy needs --firmware FILE: the reference values of the guest's firmware, kernel and file system")
        entry = measurement(metadata["name"], rendered, _firmware(firmware), Judging(judge))
        click.echo(yaml.safe_dump([entry.to_json_dict()], sort_keys=False), nl=False)
    else:
        for key, value in _summary(metadata["name"], rendered).items():
            click.echo(f"{key:<16} {value}")
    return 0


def _summary(name: str, rendered: Rendered) -> dict[str, Any]:
    identity = rendered.initdata.identity
    return {
        "schemaVersion": SCHEMA_VERSION,
        "worker": name,
        "mrconfigid": rendered.mrconfigid.hex(),
        "policyDigest": rendered.policy_digest,
        "imageDigest": rendered.image_digest,
        "templateVersion": rendered.template_version,
        "modelDigest": identity.model.digest,
        "keyId": identity.model.key_id,
        "policyName": identity.policy_name,
        "wallet": identity.wallet,
        "set": identity.set,
    }


def _objects(path: Path) -> list[dict[str, Any]]:
    text = _read(path)
    try:
        found = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MeasureError(MeasureReason.MANIFEST_UNREADABLE, f"{path} is not YAML", "give a manifest", str(error)) from error
    flat: list[dict[str, Any]] = []
    for document in found:
        items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        flat += [item for item in items or [] if isinstance(item, dict)]
    return flat


def _read(path: Path) -> str:
    try:
        return files.read(path, MAX_FILE_BYTES, _unreadable).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MeasureError(MeasureReason.MANIFEST_UNREADABLE, f"{path} cannot be read", "check its path", str(error)) from error


def _unreadable(message: str) -> MeasureError:
    return MeasureError(MeasureReason.MANIFEST_UNREADABLE, message, "check its path; give one worker's manifest")


def _worker(objects: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    workers = [o for o in _of_kind(objects, names.KIND_WORKER) if name is None or o["metadata"]["name"] == name]
    if len(workers) != 1:
        wanted = f"named {name!r}" if name else ""
        raise MeasureError(
            MeasureReason.MANIFEST_INVALID,
            f"the files hold {len(workers)} {names.KIND_WORKER}s {wanted}".rstrip() + ", and one is measured at a time",
            "choose one with --name" if workers else f"give the manifest of a {names.KIND_WORKER} with -f",
        )
    return workers[0]


def _account(objects: list[dict[str, Any]], worker: dict[str, Any], spec: ConfidentialWorkerSpec) -> SettlementAccountSpec | None:
    if spec.settlement_account_ref is None:
        return None
    namespace = worker["metadata"].get("namespace", "default")
    for found in _of_kind(objects, names.KIND_ACCOUNT):
        metadata = found["metadata"]
        if metadata["name"] == spec.settlement_account_ref.name and metadata.get("namespace", namespace) == namespace:
            return _spec(found, SettlementAccountSpec)
    return None


def _of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    found = [o for o in objects if o.get("kind") == kind and o.get("apiVersion") == names.API_VERSION]
    for o in found:
        metadata = o.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            raise MeasureError(MeasureReason.MANIFEST_INVALID, f"a {kind} has no metadata.name", "give it a name")
    return found


def _spec(found: dict[str, Any], model: type[M]) -> M:
    try:
        return model.model_validate(found.get("spec"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["spec", *(str(part) for part in first["loc"])])
        raise MeasureError(
            MeasureReason.MANIFEST_INVALID,
            f"{found['kind']} {found['metadata']['name']}: {where}: {first['msg']}",
            f"correct {where}; `kubectl explain {found['kind'].lower()}.spec` says what may stand there",
            f"{error.error_count()} problems",
        ) from error


def _firmware(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise MeasureError(MeasureReason.MANIFEST_UNREADABLE, f"{path} is not JSON", "give the firmware's values", str(error)) from error
    if not isinstance(values, dict):
        raise MeasureError(MeasureReason.MANIFEST_UNREADABLE, f"{path} holds no JSON object", "give the firmware's values")
    return values
