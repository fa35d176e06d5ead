"""`chrysalis earnings`: what a wallet has earned, may claim and was paid."""

from __future__ import annotations

from pathlib import Path

import click

from chrysalis import amounts
from chrysalis.chain import contract, settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.servers import ChainConfig
from chrysalis.cli import onchain
from chrysalis.cli.main import EXIT_NO, EXIT_UNREACHABLE
from chrysalis.client.audit import read_published
from chrysalis.client.reasons import ClientError
from chrysalis.clock import Clock
from chrysalis.wire.reasons import WireError
from chrysalis.wire.settler_client import epoch_source


@click.command("earnings")
@onchain.chain_option
@click.option("--contract", "address", required=True, help="The settlement contract's address.")
@click.option("--epochs", required=True, help="URL of the settler, or a folder that mirrors what it publishes.")
@click.option("--wallet", "text", required=True, help="The payout wallet, either form.")
@onchain.output_option
def command(chain_file: Path, address: str, epochs: str, text: str, output: str) -> int:
    """Show what a wallet has earned by the newest epoch, checked against the contract's proven state."""

    async def work(client: LiteserverClient, config: ChainConfig, _clock: Clock) -> int:
        wallet = onchain.raw_address(text, config)
        found = await settlement.read(client, onchain.raw_address(address, config))
        try:
            published = read_published(epoch_source(epochs), found.state.epoch)
        except (WireError, ClientError) as error:
            click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}", err=True)
            return EXIT_UNREACHABLE if isinstance(error, WireError) else EXIT_NO
        committed = 0
        if published is not None:
            if published.content.hash != found.state.last_hash or contract.root_hash(published.earned) != published.content.root:
                click.echo("EarnedForeign: the published files are not those of the contract's epoch", err=True)
                return EXIT_NO
            committed = contract.earned_of(published.earned, contract.account_id(wallet))
        paid = found.state.claimed_nanoton(contract.account_id(wallet))
        onchain.show(
            {
                "wallet": wallet,
                "epoch": str(found.state.epoch),
                "committed": amounts.ton(committed),
                "claimed": amounts.ton(paid),
                "unclaimed": amounts.ton(max(0, committed - paid)),
                "committedNanoton": str(committed),
                "claimedNanoton": str(paid),
            },
            output,
        )
        return 0

    return onchain.run(chain_file, work)
