"""`chrysalis unseal PACKAGE`: open a sealed model again, as its owner."""

from __future__ import annotations

from pathlib import Path

import click

from chrysalis.cli.owner_files import read_text
from chrysalis.sealing import package


@click.command("unseal")
@click.argument("sealed", metavar="PACKAGE", type=click.Path(path_type=Path))
@click.option("--identity", type=click.Path(path_type=Path), required=True, help="The key that `chrysalis seal` wrote.")
@click.option("--digest", required=True, help="The model's digest (sha256:…), as `chrysalis seal` printed it.")
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, help="The directory to make.")
def command(sealed: Path, identity: Path, digest: str, out: Path) -> int:
    """Decrypt a package into a new directory: all of it, or nothing.

    A changed byte, a missing end, another key or another model are refused, and nothing is left behind.
    """
    package.open_package(sealed, read_text(identity), digest, out)
    click.echo(f"Opened {sealed} into {out}.")
    return 0
