"""`chrysalis audit`: sums from receipts against what the chain proves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from chrysalis import amounts
from chrysalis.chain import settlement
from chrysalis.chain.client import LiteserverClient
from chrysalis.chain.servers import ChainConfig
from chrysalis.cli import onchain
from chrysalis.cli.main import EXIT_NO, EXIT_UNREACHABLE
from chrysalis.client.audit import Audit, audit, read_published
from chrysalis.client.reasons import ClientError
from chrysalis.client.receipt_file import MAX_FILE_BYTES
from chrysalis.clock import Clock
from chrysalis.wire.reasons import WireError
from chrysalis.wire.settler_client import epoch_source


@click.command("audit")
@click.option(
    "--receipts", "first", type=onchain.READABLE, multiple=True, required=True, help="Receipt file (JSON Lines); several may follow."
)
@click.argument("more", nargs=-1, type=onchain.READABLE)
@click.option("--epochs", required=True, help="URL of the settler, or a folder that mirrors what it publishes.")
@click.option("--chain", "--liteservers", "chain_file", type=onchain.READABLE, required=True, help="JSON with the liteservers.")
@click.option("--contract", "address", required=True, help="The settlement contract's address.")
@click.option("--ear-key", help="The broker's public key, 64 hex digits: receipt keys must be certified by it.")
@click.option("--own", is_flag=True, help="The files hold one party's own receipts, not all of the account's.")
@onchain.output_option
def command(
    first: tuple[Path, ...],
    more: tuple[Path, ...],
    epochs: str,
    chain_file: Path,
    address: str,
    ear_key: str | None,
    own: bool,
    output: str,
) -> int:
    """Re-derive who must be paid what from receipts and the chain's proofs alone.

    Exit code 0 when all agrees; 1 when something does not, and it is named; 2 for unreadable input; 3 when the chain or the
    published files cannot be reached.
    """
    key = _key(ear_key)

    async def work(client: LiteserverClient, config: ChainConfig, _clock: Clock) -> int:
        raw = onchain.raw_address(address, config)
        found = await settlement.read(client, raw)
        try:
            published = read_published(epoch_source(epochs), found.state.epoch)
        except WireError as error:
            click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", err=True)
            return EXIT_UNREACHABLE
        except ClientError as error:
            click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}", err=True)
            return EXIT_NO
        set_name = f"{config.global_id}:{raw}"
        outcome = audit(_lines([*first, *more]), set_name=set_name, state=found.state, published=published, ear_key=key, own=own)
        click.echo(json.dumps(outcome.to_json_dict(), indent=1) if output == "json" else _text(outcome))
        return 0 if outcome.holds else EXIT_NO

    return onchain.run(chain_file, work)


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise click.UsageError("--ear-key must be 64 hex digits")
    return key


def _lines(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise click.UsageError(f"{path} is over {MAX_FILE_BYTES} bytes")
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line


def _text(outcome: Audit) -> str:
    rows = [f"epoch {outcome.epoch}, {outcome.receipts} receipts checked"]
    for wallet, s in sorted(outcome.wallets.items()):
        rows.append(f"{wallet}")
        rows.append(f"  receipts {s.receipts}, amounts {amounts.ton(s.amount_nanoton)}, fees {amounts.ton(s.fee_nanoton)}")
        rows.append(
            f"  net {amounts.ton(s.net_nanoton)}, committed {amounts.ton(s.committed_nanoton)}, claimed {amounts.ton(s.claimed_nanoton)}"
        )
    if outcome.not_committed:
        rows.append(f"not yet committed: {len(outcome.not_committed)} receipts")
    for reason, count in sorted(outcome.refused.items()):
        rows.append(f"recorded as unpaid by the settler: {count} ({reason})")
    if outcome.loss_nanoton:
        rows.append(f"earned by the contract's word but in nobody's leaf: {amounts.ton(outcome.loss_nanoton)}")
    rows += [f"{f.reason}: {f.subject}: {f.message}" for f in outcome.findings]
    rows.append("the receipts and the chain agree" if outcome.holds else f"{len(outcome.findings)} findings: they do not agree")
    return "\n".join(rows)
