"""`chrysalis inspect PACKAGE`: what a sealed package tells without its key."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chrysalis.sealing import package


@click.command("inspect")
@click.argument("sealed", metavar="PACKAGE", type=click.Path(path_type=Path))
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(sealed: Path, output: str) -> int:
    """Show digest, size and recipients of a sealed package; nothing is decrypted."""
    seen = package.inspect(sealed)
    if output == "json":
        facts = {"packageDigest": seen.package_digest, "sizeBytes": seen.size_bytes, "recipients": seen.recipients}
        click.echo(json.dumps({"schemaVersion": "chrysalis/v1", **facts}))
        return 0
    click.echo(f"package digest  {seen.package_digest}")
    click.echo(f"size            {seen.size_bytes} bytes")
    click.echo(f"sealed to       {', '.join(seen.recipients)}")
    return 0
