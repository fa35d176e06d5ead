"""`chrysalis seal DIR`: encrypt a Triton model repository for confidential workers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from chrysalis.sealing import package
from chrysalis.sealing.reasons import SealingError, SealingReason

FORMATS = ("text", "json")


@click.command("seal")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "outputs", multiple=True, metavar="FILE", required=True, help="The package to write; `-o json` besides prints JSON.")
@click.option("--identity-out", type=click.Path(path_type=Path), required=True, help="Where the secret key goes; the file must not exist.")
def command(directory: Path, outputs: tuple[str, ...], identity_out: Path) -> int:
    """Archive and encrypt a Triton model repository.

    DIRECTORY holds one directory for each model, with its config.pbtxt.  Prints what a ConfidentialWorker's spec.model
    needs.  Whoever has the identity file can open the package: give it to the broker (`chrysalis keys put`) and keep it safe.
    """
    files = [Path(output) for output in outputs if output not in FORMATS]
    if len(files) != 1:
        raise click.UsageError("give exactly one package with -o FILE")
    try:
        descriptor = os.open(identity_out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SealingError(
            SealingReason.DESTINATION_UNUSABLE, f"{identity_out} cannot be made", "name a new file in a directory that exists", str(error)
        ) from error
    with os.fdopen(descriptor, "w") as file:
        try:
            sealed = package.seal(directory, files[0])
        except SealingError:
            identity_out.unlink(missing_ok=True)
            raise
        file.write(sealed.identity + "\n")
    facts = {"packageDigest": sealed.package_digest, "modelDigest": sealed.model_digest, "sizeBytes": sealed.size_bytes}
    if "json" in outputs:
        click.echo(json.dumps({"schemaVersion": "chrysalis/v1", **facts, "package": str(files[0]), "identityFile": str(identity_out)}))
        return 0
    click.echo(f"Sealed {directory} into {files[0]}; its key is in {identity_out}.\n")
    click.echo("For spec.model of the worker:\n")
    click.echo(f"  digest: {sealed.model_digest}")
    click.echo(f"  package:\n    digest: {sealed.package_digest}\n    sizeBytes: {sealed.size_bytes}")
    return 0
