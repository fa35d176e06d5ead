"""`chrysalis claim`: a wallet takes what the active root says that it has earned.

The proof comes from the epoch's earned.boc, which anybody may hand out: it is believed only because it hashes to a root
in the proven state of the contract.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import httpx
from pytoniq_core.boc.cell import Cell

from chrysalis.chain import contract, settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.proof import Account
from chrysalis.chain.purse import Purse
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.servers import ChainConfig
from chrysalis.chain.settlement import Settlement
from chrysalis.chain.wallet import Transfer
from chrysalis.cli import onchain
from chrysalis.clock import Clock, from_unix, rfc3339

EPOCHS_BACK = 8
"""How many epochs before the newest are looked at for the active one (cancelled ones lie between)."""
FETCH_SECONDS = 20
SETTLE_SECONDS = 30
"""How long the payout and what the message had left are waited for after the claim."""


@click.command()
@onchain.chain_option
@onchain.wallet_option
@click.option("--contract", "address", required=True, help="The settlement contract's address.")
@click.option("--earned", required=True, help="earned.boc, or a folder or URL under which epochs/N/earned.boc lie.")
@click.option("--for", "payee", help="Claim for this wallet; --wallet-key's own if not given. Anyone may claim for anyone.")
@onchain.output_option
def command(chain_file: Path, wallet_key: Path, address: str, earned: str, payee: str | None, output: str) -> int:
    """Claim what a wallet has earned; prints the amount and the fee.  Exit code 1 when there is nothing to claim."""
    signer = onchain.read_signer(wallet_key)

    async def work(client: LiteserverClient, config: ChainConfig, clock: Clock) -> int:
        purse = Purse(client, signer, clock)
        to = onchain.raw_address(payee, config) if payee else purse.address
        onchain.show(await _claim(client, clock, purse, onchain.raw_address(address, config), to, earned), output)
        return 0

    return onchain.run(chain_file, work)


async def _claim(client: LiteserverClient, clock: Clock, purse: Purse, address: str, payee: str, source: str) -> dict[str, Any]:
    account = contract.account_id(payee)
    found = await settlement.read(client, address)
    dictionary = await _claimable(source, found)
    total, before = contract.earned_of(dictionary, account), found.state.claimed_nanoton(account)
    if total <= before:
        raise ChainError(
            ChainReason.NOTHING_TO_CLAIM,
            f"{payee} has earned {total} nanoton under this root and was paid {before}",
            "wait for the next epoch, or check that the wallet is the one that the worker's offer names",
        )
    body = contract.claim_body(account, dictionary)
    payee_before = await client.account(payee)
    paid_from = await purse.spend([Transfer(to=address, value_nanoton=contract.CLAIM_VALUE_NANOTON, body=body)])

    def claimed(now: Account) -> Account | None:
        return now if now.data is not None and contract.parse_state(now.data).claimed_nanoton(account) >= total else None

    await settlement.wait_until(client, address, claimed, clock=clock, seconds=SETTLE_SECONDS)
    amount = total - before
    start = paid_from.balance_nanoton + (amount if payee == purse.address else 0)
    purse_after = await _settled(client, purse.address, start, clock)
    payee_after = purse_after if payee == purse.address else await client.account(payee)
    return {
        "contract": address,
        "wallet": payee,
        "root": contract.root_hash(dictionary).hex(),
        "earnedNanoton": str(total),
        "claimedNanoton": str(amount),
        "feeNanoton": str(start - purse_after.balance_nanoton),
        "balanceBeforeNanoton": str(payee_before.balance_nanoton),
        "balanceAfterNanoton": str(payee_after.balance_nanoton),
    }


async def _settled(client: LiteserverClient, address: str, start: int, clock: Clock) -> Account:
    """The wallet once payout and remainder have come: then the fee is below the value that the message carried."""

    def settled(account: Account) -> Account | None:
        return account if start - account.balance_nanoton < contract.CLAIM_VALUE_NANOTON else None

    try:
        return await settlement.wait_until(client, address, settled, clock=clock, seconds=SETTLE_SECONDS)
    except ChainError as error:
        if error.reason != ChainReason.WAIT_TIMED_OUT:
            raise
        return await client.account(address)  # the claim itself is proven; the remainder was too small to be sent


async def _claimable(source: str, found: Settlement) -> Cell | None:
    """The earned dictionary of a root that the contract takes now; raises ChainError RootNotActive when there is none."""
    active, prev = found.state.claimable_roots(found.now)
    candidates: dict[bytes, Cell | None] = {}
    for data in await _read_source(source, found.state.epoch):
        dictionary = contract.read_earned(data)
        candidates[contract.root_hash(dictionary)] = dictionary
        if contract.root_hash(dictionary) == active:
            return dictionary
    if prev in candidates and prev != contract.ZERO_HASH:
        return candidates[prev]
    pending = found.state.pending
    waits = pending is not None and pending.root in candidates
    when = f"; it becomes active at {rfc3339(from_unix(pending.at + found.state.policy.delay_seconds))}" if waits and pending else ""
    raise ChainError(
        ChainReason.ROOT_NOT_ACTIVE,
        "the dictionary is not of the contract's active root" + when,
        "wait until then and claim again" if waits else "get earned.boc of the active epoch from the pool's published files",
        f"active {active.hex()}, given {', '.join(root.hex() for root in candidates) or 'none'}",
    )


async def _read_source(source: str, epoch: int) -> list[bytes]:
    """The bytes of the candidates, newest epoch first."""
    epochs = range(epoch, max(0, epoch - EPOCHS_BACK), -1)
    if source.startswith(("http://", "https://")):
        return await _fetch(source.rstrip("/"), epochs)
    try:
        return await asyncio.to_thread(_read_files, Path(source), epochs)
    except OSError as error:
        raise click.UsageError(f"cannot read {error.filename or source}: {error.strerror}") from error


def _read_files(path: Path, epochs: range) -> list[bytes]:
    """The file itself, or those of a folder that are there."""
    folder = path.is_dir()
    files = [path / "epochs" / str(number) / "earned.boc" for number in epochs] if folder else [path]
    found = []
    for file in files:
        if folder and not file.is_file():
            continue
        with file.open("rb") as stream:
            found.append(stream.read(contract.MAX_BOC_BYTES + 1))
    return found


async def _fetch(base: str, epochs: range) -> list[bytes]:
    """The files that a server has of these epochs; raises ChainError when it cannot be reached."""
    urls = [base] if base.endswith(".boc") else [f"{base}/epochs/{number}/earned.boc" for number in epochs]
    bodies = []
    try:
        async with httpx.AsyncClient(timeout=FETCH_SECONDS) as client:
            for url in urls:
                async with client.stream("GET", url) as response:
                    if response.status_code == httpx.codes.NOT_FOUND:
                        continue
                    response.raise_for_status()
                    body = b""
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > contract.MAX_BOC_BYTES:
                            break
                    bodies.append(body)
    except httpx.HTTPError as error:
        raise ChainError(
            ChainReason.FILES_UNREACHABLE,
            f"the pool's files at {base} cannot be read",
            "check the URL, or give the file itself",
            str(error),
        ) from error
    return bodies
