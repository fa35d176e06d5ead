"""`chrysalis keys recalls`: a broker's list of recalled signing keys, checked and kept for `chrysalis verify --bundle --recalls`."""

from __future__ import annotations

from pathlib import Path

import click

from chrysalis.cli import failures, printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import HEX32, PIN, PIN_HELP
from chrysalis.cli.owner_files import EXIT_NO, OwnerFileError, OwnerFileReason, ask
from chrysalis.clock import SystemClock, from_unix, rfc3339
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import WireError
from chrysalis.wire.recalls import open_list

MAX_AGE_SECONDS = 3600


@click.command("recalls")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=PIN, required=True, help=PIN_HELP)
@click.option("--ear-key", type=HEX32, required=True, help="The broker's pinned EAR key (hex), which signs the list.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the signed list into this file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(url: str, spki: str, ear_key: bytes, out: Path | None, output: str) -> int:
    """Print which keys that signed a broker's results are recalled, as of now.

    What a recalled key signed counts no more, whatever time stands in it.
    """

    def show(token: str) -> None:
        found = open_list(token, ear_key)
        found.check_age(SystemClock().now(), MAX_AGE_SECONDS)
        if out is not None:
            try:
                out.write_text(token + "\n")
            except OSError as error:
                raise OwnerFileError(OwnerFileReason.FILE_UNUSABLE, f"{out} cannot be written", "name another file", str(error)) from error
        if output == "json":
            printing.document(found.to_json_dict())
            return
        click.echo(f"{len(found.keys)} keys recalled, as of {rfc3339(from_unix(found.iat))}")
        for key in found.keys:
            click.echo(f"{key.kid}  {rfc3339(from_unix(key.recalled_at))}")

    got: list[str] = []

    async def question(client: BrokerClient) -> None:
        got.append(await client.recalls())

    code = ask(url, spki, question)
    if code:
        return code
    try:
        show(got[0])
    except WireError as error:
        return failures.tell([error], EXIT_NO)
    return 0
