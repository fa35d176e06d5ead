"""`chrysalis receipts`: fetch one's own receipts from the settler."""

from __future__ import annotations

from pathlib import Path

import click

from chrysalis.cli import onchain
from chrysalis.cli.main import EXIT_NO, EXIT_UNREACHABLE
from chrysalis.clock import SystemClock, unix
from chrysalis.receipts.objects import PartyToken
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.settler_client import SettlerClient, latest

TOKEN_SECONDS = 60


@click.command("receipts")
@click.option("--settler", required=True, help="URL of the settler.")
@click.option("--pin", help="SHA-256 of the settler's TLS key, hex, for https.")
@click.option("--key", type=onchain.READABLE, required=True, help="Seed of a client key (its jobs) or the reservation key (all jobs).")
@click.option("--set", "set_name", help="The account, GLOBAL_ID:0:HEX; by default what the settler's latest.json says.")
@click.option("--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write here instead of to stdout.")
def command(settler: str, pin: str | None, key: Path, set_name: str | None, out: Path | None) -> int:
    """Fetch receipts as JSON Lines, in the ledger's order: a client's own, or with the reservation key the whole account's."""
    signer = onchain.read_signer(key)
    clock = SystemClock()
    try:
        source = SettlerClient(settler, spki_sha256=bytes.fromhex(pin) if pin else None)
        account = set_name or latest(source).set
        lines: list[str] = []
        after = 0
        while True:
            now = unix(clock.now())
            page = source.receipts(PartyToken(aud=account, iat=now, exp=now + TOKEN_SECONDS).sign(signer), after=after)
            lines += page.lines
            if not page.more:
                break
            after = page.next
    except ValueError as error:
        raise click.UsageError(f"--pin or --set: {error}") from error
    except WireError as error:
        click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", err=True)
        return EXIT_UNREACHABLE if error.reason == WireReason.SERVICE_UNREACHABLE else EXIT_NO
    text = "".join(line + "\n" for line in lines)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(f"{len(lines)} receipts written to {out}", err=True)
    return 0
