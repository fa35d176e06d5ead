"""`chrysalis ledger …`: the settler's ledger file, and what a person must decide about it."""

from __future__ import annotations

from pathlib import Path

import click

from chrysalis import amounts
from chrysalis.chain import settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.servers import ChainConfig
from chrysalis.cli import onchain
from chrysalis.cli.main import EXIT_NO
from chrysalis.clock import Clock, unix
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.settlement.store import Ledger

LEDGER = click.option("--ledger", "path", type=onchain.READABLE, required=True, help="The settler's ledger.sqlite.")


@click.group("ledger")
def command() -> None:
    """Look at a settler's ledger; take over the contract's state after a person has looked."""


@command.command("show")
@LEDGER
@onchain.output_option
def show(path: Path, output: str) -> int:
    """Sums, epochs, closed receipt chains and forks in the ledger."""
    ledger = Ledger.open(path)
    try:
        rows = EpochStore(ledger).all()
        result = {"set": ledger.set_name(), "receipts": str(ledger.size())}
        for s in ledger.sums():
            result[f"worker {s.name or '?'}"] = f"{amounts.ton(s.earned_nanoton)} net, {s.receipts} receipts"
        for row in rows:
            result[f"epoch {row.content.epoch}"] = (
                f"{row.state}, {amounts.ton(row.content.earned_nanoton)} earned, {row.content.log_size} receipts"
            )
        for worker in ledger.workers():
            if worker.closed_reason:
                result[f"closed {worker.worker.wrk[:16]}"] = worker.closed_reason
        for wrk, seq, _ in ledger.forks():
            result[f"fork {wrk[:16]}"] = f"two receipts with seq {seq}"
    finally:
        ledger.close()
    onchain.show(result, output)
    return 0


@command.command("export")
@LEDGER
@click.option("--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), required=True, help="JSON Lines.")
def export(path: Path, out: Path) -> int:
    """Write all receipts of the ledger as parties keep them, for an audit."""
    ledger = Ledger.open(path)
    count = after = 0
    try:
        with out.open("w") as file:
            while rows := ledger.records(after=after):
                file.writelines(record.to_line() + "\n" for _, record in rows)
                after, count = rows[-1][0] + 1, count + len(rows)
    finally:
        ledger.close()
    click.echo(f"{count} receipts written to {out}", err=True)
    return 0


@command.command("adopt")
@LEDGER
@onchain.chain_option
@click.option("--contract", "address", required=True, help="The settlement contract's address.")
@click.option("--yes", is_flag=True, help="Really do it; without it only what would happen is shown.")
def adopt(path: Path, chain_file: Path, address: str, yes: bool) -> int:
    """Take epoch, last hash and totals over from the contract's proven state; what the ledger cannot explain is booked as loss.

    For a settler that stopped with StateForeign or EpochCancelled, when you know why.  Stop the settler first.
    """

    async def work(client: LiteserverClient, config: ChainConfig, clock: Clock) -> int:
        raw = onchain.raw_address(address, config)
        found = await settlement.read(client, raw)
        ledger = Ledger.open(path)
        try:
            if ledger.set_name() != f"{config.global_id}:{raw}":
                click.echo(f"LedgerForeign: this ledger is of {ledger.set_name()}", err=True)
                return EXIT_NO
            if not yes:
                click.echo(f"would take over epoch {found.state.epoch} with last hash {found.state.last_hash.hex()}; add --yes")
                return EXIT_NO
            earned, fees = EpochStore(ledger).adopt(found.state, unix(clock.now()))
        finally:
            ledger.close()
        click.echo(f"epoch {found.state.epoch} taken over; booked as loss: {amounts.ton(earned)} earned, {amounts.ton(fees)} fees")
        return 0

    return onchain.run(chain_file, work)
