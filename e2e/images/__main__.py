"""`python -m e2e.images [NAME…]`: build images (all by default) and print how pods name them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from chrysalis.clock import SystemClock
from chrysalis.errors import ChrysalisError
from chrysalis.rendering.identity import TEMPLATE_VERSION
from e2e.images import RECIPES, build
from e2e.images.oci import read_digest


def layer_digests(folder: Path) -> list[str]:
    """The layers of an image layout, lowest first."""
    manifest = json.loads((folder / "blobs" / "sha256" / read_digest(folder).removeprefix("sha256:")).read_bytes())
    return [str(layer["digest"]) for layer in manifest["layers"]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(sorted(RECIPES)))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(names: tuple[str, ...], output: str) -> None:
    """Build images and print NAME, reference by digest, and the folder of the OCI layout.

    With -o json, what `chrysalis measure --rebuild` compares: name, digest, layers and the template version of these sources.
    """
    clock = SystemClock()
    built: list[dict[str, object]] = []
    for name in names or tuple(RECIPES):
        started = clock.monotonic()
        try:
            image = build(name, lambda text: click.echo(text, err=True))
        except ChrysalisError as error:
            click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", err=True)
            sys.exit(1)
        if output == "json":
            members = {"name": name, "digest": image.digest, "layers": layer_digests(image.archive), "templateVersion": TEMPLATE_VERSION}
            built.append(members)
            continue
        click.echo(f"{image.reference}\n  {image.archive}  ({clock.monotonic() - started:.1f} s)")
    if output == "json":
        click.echo(json.dumps({"schemaVersion": "chrysalis/v1", "images": built}, indent=1))


if __name__ == "__main__":
    main()
