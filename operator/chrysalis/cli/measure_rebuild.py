"""`chrysalis measure --rebuild`: build the worker image from sources and compare it with what a publisher signed."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from chrysalis.api.reference import ReferenceValues
from chrysalis.cli import failures
from chrysalis.cli.hexadecimal import HEX32
from chrysalis.cli.reference import envelope_in, verified
from chrysalis.errors import ChrysalisError
from chrysalis.wire.reasons import WireError

IMAGE = "chrysalis-worker"
BUILDER = Path("e2e/images/__main__.py")
EXIT_NO = 1
Callback = Callable[..., int]


class RebuildReason(StrEnum):
    """Why there is nothing to compare."""

    SOURCES_UNUSABLE = "SourcesUnusable"
    BUILD_FAILED = "BuildFailed"


class RebuildError(ChrysalisError):
    """The image could not be built from these sources."""


@dataclass(frozen=True)
class Built:
    """What came out of the sources."""

    digest: str
    layers: list[str]
    template_version: int


OPTIONS = (
    click.option("--rebuild", is_flag=True, help="Build the worker image from --source and compare it with --against."),
    click.option("--source", type=click.Path(path_type=Path, file_okay=False), default=".", help="The release's checkout."),
    click.option("--against", type=click.Path(path_type=Path), help="Signed reference values, as the release publishes them."),
    click.option("--publisher", type=HEX32, help="The key (hex) that must have signed them."),
    click.option("--cached", is_flag=True, help="Use the layers that are in this machine's cache; quick, and proves less."),
)


def rebuild_options(callback: Callback) -> Callback:
    """Give `measure` the options of rebuilding; with --rebuild, the command is answered here."""

    @functools.wraps(callback)
    def either(**given: Any) -> int:
        own = {name: given.pop(name) for name in ("rebuild", "source", "against", "publisher", "cached")}
        if own.pop("rebuild"):
            if own["against"] is None or own["publisher"] is None:
                raise click.UsageError("--rebuild needs --against FILE and --publisher HEX")
            if given["output"] not in ("text", "json"):
                raise click.UsageError("--rebuild prints text or json")
            return rebuild(**own, output=given["output"])
        if not given["paths"]:
            raise click.UsageError("give the worker's manifest with -f, or --rebuild")
        return callback(**given)

    for option in reversed(OPTIONS):
        either = option(either)
    return either


def rebuild(source: Path, against: Path, publisher: bytes, cached: bool, output: str) -> int:
    """Build, compare, print; 0 when the published image came out, 1 when another one did, and what differs."""
    envelope = envelope_in(against)
    try:
        values = verified(envelope, publisher)
    except WireError as error:
        return failures.tell([error], EXIT_NO)
    built = build(source.absolute(), cached)
    wrong = differences(built, values)
    if output == "json":
        shown = {
            "schemaVersion": "chrysalis/v1",
            "verdict": "Reproduced" if not wrong else "Differs",
            "release": values.release,
            "built": {"digest": built.digest, "layers": built.layers, "templateVersion": built.template_version},
            "published": [image.to_json_dict() for image in values.worker_images],
            "differences": wrong,
            "cached": cached,
        }
        click.echo(json.dumps(shown, indent=1))
    else:
        click.echo(f"{'differs' if wrong else 'reproduced'}: release {values.release}, built {built.digest}")
        for line in wrong:
            click.echo(f"  {line}")
        if cached:
            click.echo("  note: --cached took layers of earlier builds from this machine")
    return EXIT_NO if wrong else 0


def build(source: Path, cached: bool) -> Built:
    """Build the worker image with the sources' own builder, in an empty cache unless `cached`; raises RebuildError.

    The builder is code of the checkout: it runs with the rights of whoever asks.
    """
    if not (source / BUILDER).is_file():
        raise RebuildError(
            RebuildReason.SOURCES_UNUSABLE,
            f"{source} is no checkout of Chrysalis",
            "give the release's sources with --source",
            str(BUILDER),
        )
    with tempfile.TemporaryDirectory(prefix="chrysalis-rebuild-") as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(source / part) for part in ("operator", "worker-image", ""))}
        if not cached:
            environment["CACHE"] = folder
        done = subprocess.run(
            [sys.executable, "-m", "e2e.images", "-o", "json", IMAGE], cwd=source, env=environment, capture_output=True, text=True
        )
    try:
        if done.returncode:
            raise ValueError(f"exit code {done.returncode}")
        (image,) = json.loads(done.stdout)["images"]
        return Built(str(image["digest"]), [str(layer) for layer in image["layers"]], int(image["templateVersion"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RebuildError(
            RebuildReason.BUILD_FAILED,
            f"the sources in {source} do not build the worker image",
            "run `python -m e2e.images chrysalis-worker` there and see why",
            f"{error}: {done.stderr[-1024:]}",
        ) from error


def differences(built: Built, values: ReferenceValues) -> list[str]:
    """What differs from the published values, in words; empty when the image is one of the published ones."""
    found = []
    if built.template_version not in values.template_versions:
        listed = ", ".join(map(str, values.template_versions)) or "none"
        found.append(f"template version {built.template_version} is not published (published: {listed})")
    if built.digest in {image.digest for image in values.worker_images}:
        return found
    if not values.worker_images:
        return [*found, "no worker image is published"]
    for image in values.worker_images:
        found.append(f"the image is {built.digest}, published is {image.digest}")
        if not image.layers:
            found.append("  its layers were not published, so nothing more can be said")
        elif image.layers == built.layers:
            found.append("  all layers are equal: the run configuration, or the platform, differs")
        elif len(image.layers) != len(built.layers):
            found.append(f"  {len(built.layers)} layers, published {len(image.layers)}")
        else:
            pairs = enumerate(zip(built.layers, image.layers, strict=True))
            found += [f"  layer {number} is {mine}, published {theirs}" for number, (mine, theirs) in pairs if mine != theirs]
    return found
