"""`chrysalis contract`: deploy a settlement contract, and show what the chain proves about one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chrysalis.amounts import AmountError, parse
from chrysalis.chain import compiled, contract, settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.contract import Policy
from chrysalis.chain.proof import Account
from chrysalis.chain.purse import Purse
from chrysalis.chain.servers import ChainConfig
from chrysalis.chain.settlement import Settlement
from chrysalis.chain.wallet import Transfer
from chrysalis.cli import onchain
from chrysalis.clock import Clock, from_unix, rfc3339

DEPLOY_SECONDS = 120


class Nanoton(click.ParamType[int]):
    """A decimal number of nanoton."""

    name = "nanoton"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse(value)
        except AmountError as error:
            self.fail(str(error), param, ctx)


class PublicKey(click.ParamType[bytes]):
    """A raw Ed25519 public key in hexadecimal."""

    name = "hex64"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            key = bytes.fromhex(value)
        except ValueError:
            key = b""
        if len(key) != 32:
            self.fail("give the 32 bytes of an Ed25519 public key as 64 hexadecimal digits", param, ctx)
        return key


@click.group()
def command() -> None:
    """The settlement contract on TON."""


@command.command()
@onchain.chain_option
@onchain.wallet_option
@click.option("--signer-key", type=PublicKey(), required=True, help="Public key of the settlement key, which signs commits.")
@click.option("--per-epoch-cap-nanoton", type=Nanoton(), required=True, help="The most that earned and fees may rise in an epoch.")
@click.option("--top-up-nanoton", type=Nanoton(), required=True, help="What the contract is deployed with.")
@click.option("--guardian", help="Address that may pause and cancel.")
@click.option("--fee-bps", type=click.IntRange(0, 10_000), default=0, show_default=True, help="The owner's share, in 1/10000.")
@click.option(
    "--delay-seconds",
    type=click.IntRange(1, 30 * 86400),
    default=10_800,
    show_default=True,
    help="How long a commit waits, cancellable, before it counts.",
)
@click.option(
    "--min-interval-seconds",
    type=click.IntRange(1, 30 * 86400),
    default=10_800,
    show_default=True,
    help="The shortest time between two commits.",
)
@onchain.output_option
def deploy(
    chain_file: Path,
    wallet_key: Path,
    signer_key: bytes,
    per_epoch_cap_nanoton: int,
    top_up_nanoton: int,
    guardian: str | None,
    fee_bps: int,
    delay_seconds: int,
    min_interval_seconds: int,
    output: str,
) -> int:
    """Deploy a contract whose owner is the wallet.  Doing it again with the same values finds the contract and tops nothing up."""
    if min_interval_seconds < delay_seconds:
        raise click.UsageError("--min-interval-seconds must be at least --delay-seconds: a root is active before the next one comes")
    signer = onchain.read_signer(wallet_key)

    async def work(client: LiteserverClient, config: ChainConfig, clock: Clock) -> int:
        purse = Purse(client, signer, clock)
        policy = Policy(
            global_id=config.global_id,
            owner=purse.address,
            guardian=onchain.raw_address(guardian, config) if guardian else None,
            fee_bps=fee_bps,
            delay_seconds=delay_seconds,
            min_interval_seconds=min_interval_seconds,
            per_epoch_cap_nanoton=per_epoch_cap_nanoton,
        )
        address = contract.contract_address(policy, signer_key)
        if not (await client.account(address)).active:
            init = contract.state_init(policy, signer_key)
            transfer = Transfer(to=address, value_nanoton=top_up_nanoton, body=contract.top_up_body(), state_init=init, bounce=False)
            await purse.spend([transfer])
            await settlement.wait_until(client, address, _if_active, clock=clock, seconds=DEPLOY_SECONDS)
        onchain.show(_described(await settlement.read(client, address)), output)
        return 0

    return onchain.run(chain_file, work)


@command.command()
@onchain.chain_option
@click.argument("address")
@onchain.output_option
def show(chain_file: Path, address: str, output: str) -> int:
    """Show the proven state of the contract at ADDRESS (0:<hex64>, or the form that people use)."""

    async def work(client: LiteserverClient, config: ChainConfig, clock: Clock) -> int:
        onchain.show(_described(await settlement.read(client, onchain.raw_address(address, config))), output)
        return 0

    return onchain.run(chain_file, work)


def _if_active(account: Account) -> Account | None:
    return account if account.active else None


def _described(found: Settlement) -> dict[str, Any]:
    """The members that people and programs read; amounts are decimal strings."""
    state, policy = found.state, found.state.policy
    active, prev = state.claimable_roots(found.now)
    waiting = state.pending if state.pending is not None and not state.due(found.now) else None
    return {
        "contract": found.account.address,
        "set": f"{policy.global_id}:{found.account.address}",
        "codeHash": compiled.CODE_HASH,
        "balanceNanoton": str(found.account.balance_nanoton),
        "owedNanoton": str(state.owed_nanoton),
        "surplusNanoton": str(found.surplus_nanoton),
        "paidNanoton": str(state.paid_nanoton),
        "feesPaidNanoton": str(state.fees_paid_nanoton),
        "paused": state.paused,
        "epoch": state.epoch,
        "lastHash": state.last_hash.hex(),
        "activeRoot": active.hex(),
        "prevRoot": prev.hex(),
        "pendingRoot": waiting.root.hex() if waiting else None,
        "pendingUntil": rfc3339(from_unix(waiting.at + policy.delay_seconds)) if waiting else None,
        "walletsPaid": state.entries,
        "signerKey": state.signer_key.hex(),
        "owner": policy.owner,
        "guardian": policy.guardian,
        "feeBps": policy.fee_bps,
        "delaySeconds": policy.delay_seconds,
        "minIntervalSeconds": policy.min_interval_seconds,
        "perEpochCapNanoton": str(policy.per_epoch_cap_nanoton),
        "funding": str(policy.funding),
        "chainTime": rfc3339(from_unix(found.now)),
        "liteservers": found.account.servers,
    }
