"""`chrysalis epochs`: what was committed, as the chain proves it."""

from __future__ import annotations

from pathlib import Path

import click

from chrysalis import amounts
from chrysalis.chain import settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.servers import ChainConfig
from chrysalis.cli import onchain
from chrysalis.clock import Clock, from_unix, rfc3339


@click.command("epochs")
@onchain.chain_option
@click.option("--contract", "address", required=True, help="The settlement contract's address.")
@onchain.output_option
def command(chain_file: Path, address: str, output: str) -> int:
    """Show the contract's epoch, roots and totals, from proven state."""

    async def work(client: LiteserverClient, config: ChainConfig, _clock: Clock) -> int:
        found = await settlement.read(client, onchain.raw_address(address, config))
        state = found.state
        result = {
            "contract": found.account.address,
            "epoch": str(state.epoch),
            "lastHash": state.last_hash.hex(),
            "committedAt": rfc3339(from_unix(state.last_at)) if state.last_at else "never",
            "active": f"{amounts.ton(state.active.earned_nanoton)} (root {state.active.root.hex()[:16]})",
            "pending": _pending(found),
            "claimed": amounts.ton(state.paid_nanoton),
            "paused": "yes" if state.paused else "no",
            "balance": amounts.ton(found.account.balance_nanoton),
        }
        onchain.show(result, output)
        return 0

    return onchain.run(chain_file, work)


def _pending(found: settlement.Settlement) -> str:
    pending = found.state.pending
    if pending is None:
        return "none"
    at = pending.at + found.state.policy.delay_seconds
    when = "due" if found.state.due(found.now) else f"active from {rfc3339(from_unix(at))}"
    return f"{amounts.ton(pending.earned_nanoton)} (root {pending.root.hex()[:16]}), {when}"
