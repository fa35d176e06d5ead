"""What the verbs that touch the chain share: options, and how an outcome becomes an exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from chrysalis.api import wallet
from chrysalis.chain import servers
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.reasons import STATE_SAYS_NO, UNREACHABLE, ChainError, ChainReason
from chrysalis.chain.servers import ChainConfig
from chrysalis.chain.signer import SeedSigner
from chrysalis.cli.main import EXIT_NO, EXIT_UNREACHABLE, EXIT_USAGE
from chrysalis.clock import Clock, SystemClock

F = TypeVar("F", bound=Callable[..., Any])
READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


def chain_option(command: F) -> F:
    """--chain FILE."""
    text = "JSON with the liteservers and how many must agree (TON's own global configuration is read too)."
    return click.option("--chain", "chain_file", type=READABLE, required=True, help=text)(command)


def output_option(command: F) -> F:
    """-o text|json."""
    return click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)(command)


def wallet_option(command: F) -> F:
    """--wallet-key FILE."""
    text = "File with the 32-byte Ed25519 seed of a v4r2 wallet (raw or hexadecimal); it pays."
    return click.option("--wallet-key", type=READABLE, required=True, help=text)(command)


def read_signer(path: Path) -> SeedSigner:
    """The signer in a seed file."""
    try:
        return SeedSigner.from_file(path)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error


def raw_address(text: str, config: ChainConfig) -> str:
    """Either form of an address as the raw one; a wrong checksum or network is a usage error (exit 2)."""
    return wallet.to_raw(text, global_id=config.global_id)


def run(chain_file: Path, work: Callable[[LiteserverClient, ChainConfig, Clock], Coroutine[Any, Any, int]]) -> int:
    """Connect, do the work, close; a ChainError becomes 1 (the state says no), 2 (unreadable) or 3 (unreachable)."""
    clock = SystemClock()

    async def session() -> int:
        try:
            config = servers.load(chain_file)
        except OSError as error:
            raise click.UsageError(f"cannot read {chain_file}: {error.strerror}") from error
        if config.min_servers < servers.MIN_SERVERS:
            click.echo("one liteserver is believed by itself, because the file says minServers: 1", err=True)
        async with LiteserverClient(config, clock) as client:
            return await work(client, config, clock)

    try:
        return asyncio.run(session())
    except ChainError as error:
        say(error)
        reason = ChainReason(error.reason)
        return EXIT_UNREACHABLE if reason in UNREACHABLE else EXIT_NO if reason in STATE_SAYS_NO else EXIT_USAGE


def say(error: ChainError) -> None:
    """An error for people, on stderr."""
    click.echo(f"{error.reason}: {error.message}", err=True)
    if error.remedy:
        click.echo(f"  what to do: {error.remedy}", err=True)
    if error.detail:
        click.echo(f"  detail: {error.detail}", err=True)


def show(result: dict[str, Any], output: str) -> None:
    """A result on stdout: JSON, or one aligned line for each member."""
    if output == "json":
        click.echo(json.dumps({"schemaVersion": 1} | result, indent=1))
        return
    width = max(len(key) for key in result)
    for key, value in result.items():
        click.echo(f"{key.ljust(width)}  {value}")
