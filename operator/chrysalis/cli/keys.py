"""`chrysalis keys …`: an owner's signing key, the broker's pin, and the key record that binds a model key to a policy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import click
import yaml
from pydantic import ValidationError

from chrysalis.api.worker import BrokerPin
from chrysalis.cli.owner_files import EXIT_UNREACHABLE, OwnerFileError, OwnerFileReason, ask, new_owner_key, owner_key, read_text
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, KeyRecord
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.ear_keys import anchor_of
from chrysalis.wire.pinning import pinned_context
from chrysalis.wire.reasons import WireError, WireReason


@click.group("keys")
def command() -> None:
    """The owner's key, the broker's pin, and model keys at the broker."""


@command.command("new-owner")
@click.argument("file", type=click.Path(path_type=Path))
def new_owner(file: Path) -> int:
    """Make an owner's signing key in FILE and print its public half, which the broker's settings list among a tenant's owners."""
    click.echo(new_owner_key(file).public_key().public_bytes_raw().hex())
    return 0


@command.command("show-owner")
@click.argument("file", type=click.Path(path_type=Path))
def show_owner(file: Path) -> int:
    """Print the public half of the owner's signing key in FILE."""
    click.echo(owner_key(file).public_key().public_bytes_raw().hex())
    return 0


@command.command("pin")
@click.argument("url")
@click.option("--connect", metavar="HOST:PORT", help="Connect there instead (a port-forward), but print URL.")
def pin(url: str, connect: str | None) -> int:
    """Print the broker's pin as it belongs into a worker's spec.broker.

    Ask over a way that you trust: this is the moment of trust on first use.
    """
    parts = urlsplit(f"https://{connect}" if connect else url)
    try:
        port = parts.port or 443
    except ValueError as error:
        raise click.UsageError(f"{connect or url}: {error}") from error
    if parts.scheme != "https" or not parts.hostname:
        raise click.UsageError("URL must begin with https://")
    try:
        server = pinned_context(parts.hostname, port)
        address = f"https://{parts.netloc}"
        ear_key = asyncio.run(_ear_key(address, server.spki_sha256.hex()))
    except WireError as error:
        if error.reason != WireReason.SERVICE_UNREACHABLE:
            raise
        click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", err=True)
        return EXIT_UNREACHABLE
    found = BrokerPin(url=url, spki_sha256=server.spki_sha256.hex(), ear_key=ear_key.hex())
    click.echo(yaml.safe_dump(found.to_json_dict(), sort_keys=False), nl=False)
    return 0


@command.command("put")
@click.option("--broker", "url", required=True, help="The broker's https address.")
@click.option("--pin", "spki", required=True, help="SHA-256 of the broker's TLS key, hex (`chrysalis keys pin`).")
@click.option("--record", "file", type=click.Path(path_type=Path), required=True, help="The key record, YAML or JSON, without `key`.")
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), required=True, help="The owner's signing key.")
@click.option("--identity", type=click.Path(path_type=Path), required=True, help="The package's key, as `chrysalis seal` wrote it.")
def put(url: str, spki: str, file: Path, owner: Path, identity: Path) -> int:
    """Store a model key at a broker, bound to the owner's policy.

    The record names keyId, modelDigest, policyName, and may set minPolicyVersion, isolation, evidenceClass (default:
    Hardware only) and version, which must grow with every change.  The broker never gives the key back; it releases it
    only to trust domains that the policy accepts.
    """
    key = owner_key(owner)
    record = key_record(file, key.public_key().public_bytes_raw().hex(), read_text(identity).strip())
    payload = record.model_dump_json(by_alias=True).encode()
    code = ask(url, spki, lambda client: client.put_key(record.key_id, dsse.sign(PAYLOAD_KEY_RECORD, payload, key)))
    if code == 0:
        click.echo(f"The broker holds key {record.key_id} for model {record.model_digest}, under policy {record.policy_name}.")
    return code


def key_record(file: Path, owner: str, identity: str) -> KeyRecord:
    """The record in a file, completed with owner and key; raises OwnerFileError."""
    try:
        members = yaml.safe_load(read_text(file))
        if not isinstance(members, dict):
            raise ValueError("it is not an object")
        if members.setdefault("ownerPublicKey", owner) != owner:
            raise ValueError("ownerPublicKey is not that of --owner-key")
        if "key" in members:
            raise ValueError("leave out `key`: it comes from --identity")
        return KeyRecord.model_validate(members | {"key": identity})
    except ValidationError as error:
        # Not the error's own text: it would repeat the key.
        found = error.errors(include_input=False, include_url=False)
        detail = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in found[:8])
        raise _invalid(file, detail) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise _invalid(file, str(error)) from error


async def _ear_key(url: str, spki: str) -> bytes:
    async with BrokerClient(url, spki_sha256=spki) as client:
        keys = await client.jwks()
    return anchor_of(keys)


def _invalid(file: Path, detail: str) -> OwnerFileError:
    return OwnerFileError(
        OwnerFileReason.DOCUMENT_INVALID, f"{file} is no key record", "give keyId, modelDigest and policyName in YAML", detail
    )
