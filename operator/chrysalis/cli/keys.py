"""`chrysalis keys …`: an owner's signing key, the broker's pin, and the key record that binds a model key to a policy."""

from __future__ import annotations

import asyncio
import json
import os
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import click
import pyrage
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from pyrage import x25519

from chrysalis.api.worker import BrokerPin
from chrysalis.broker.backup import recovery_copies
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.cli import broker_evidence, failures, printing, recalls
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import HEX32, PIN, PIN_HELP
from chrysalis.cli.owner_files import EXIT_NO, EXIT_UNREACHABLE, OwnerFileError, OwnerFileReason, ask, new_owner_key, owner_key, read_text
from chrysalis.clock import SystemClock
from chrysalis.errors import ChrysalisError
from chrysalis.wire import dsse, owner_token
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, KeyRecord
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.ear_keys import anchor_of
from chrysalis.wire.pinning import pinned_context
from chrysalis.wire.reasons import WireError, WireReason

OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


class RecoveryReason(StrEnum):
    """Why an owner gets no key out of a backup."""

    NOTHING_RECOVERED = "NothingRecovered"


class RecoveryError(ChrysalisError):
    """A backup without a copy for this owner."""


@click.group("keys")
def command() -> None:
    """The owner's key, the broker's pin, and model keys at the broker."""


command.add_command(broker_evidence.command)
command.add_command(recalls.command)


@command.command("new-owner")
@click.argument("file", type=click.Path(path_type=Path))
@OUTPUT
def new_owner(file: Path, output: str) -> int:
    """Make an owner's signing key in FILE and print its public half, which the broker's settings list among a tenant's owners."""
    return _public(new_owner_key(file), output)


@command.command("show-owner")
@click.argument("file", type=click.Path(path_type=Path))
@OUTPUT
def show_owner(file: Path, output: str) -> int:
    """Print the public half of the owner's signing key in FILE."""
    return _public(owner_key(file), output)


@command.command("pin")
@click.argument("url", type=HTTPS)
@click.option("--connect", metavar="HOST:PORT", help="Connect there instead (a port-forward), but print URL.")
@OUTPUT
def pin(url: str, connect: str | None, output: str) -> int:
    """Print the broker's pin as it belongs into a worker's spec.broker.

    Ask over a way that you trust: this is the moment of trust on first use.
    """
    parts = urlsplit(HTTPS.convert(f"https://{connect}", None, click.get_current_context()) if connect else url)
    try:
        server = pinned_context(parts.hostname or "", parts.port or 443)
        address = f"https://{parts.netloc}"
        ear_key = asyncio.run(_ear_key(address, server.spki_sha256.hex()))
    except WireError as error:
        if error.reason != WireReason.SERVICE_UNREACHABLE:
            raise
        return failures.tell([error], EXIT_UNREACHABLE)
    found = BrokerPin(url=url, spki_sha256=server.spki_sha256.hex(), ear_key=ear_key.hex())
    shown = found.to_json_dict()
    click.echo(json.dumps(shown, indent=2) if output == "json" else yaml.safe_dump(shown, sort_keys=False).rstrip("\n"))
    return 0


@command.command("put")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=PIN, required=True, help=PIN_HELP)
@click.option("--record", "file", type=click.Path(path_type=Path), required=True, help="The key record, YAML or JSON, without `key`.")
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), required=True, help="The owner's signing key.")
@click.option("--identity", type=click.Path(path_type=Path), required=True, help="The package's key, as `chrysalis seal` wrote it.")
@click.option("--broker-policy", type=click.Path(path_type=Path), help="Judge the broker's own evidence by this first (placement InTD).")
@click.option("--ear-key", type=HEX32, help="With --broker-policy: the broker's result key (hex), which its evidence must cover.")
@OUTPUT
def put(
    url: str, spki: str, file: Path, owner: Path, identity: Path, broker_policy: Path | None, ear_key: bytes | None, output: str
) -> int:
    """Store a model key at a broker, bound to the owner's policy.

    With --broker-policy nothing is sent before the broker has shown, over its pinned key, that it runs in a trust domain which
    that policy accepts.

    The record names keyId, modelDigest, policyName, and may set minPolicyVersion, isolation, evidenceClass (default:
    Hardware only) and version, which must grow with every change.  The broker never gives the key back; it releases it
    only to trust domains that the policy accepts.
    """
    key = owner_key(owner)
    record = key_record(file, key.public_key().public_bytes_raw().hex(), read_text(identity).strip())
    payload = record.model_dump_json(by_alias=True).encode()
    if broker_policy is not None:
        refused = broker_evidence.before_upload(url, spki, broker_policy, ear_key)
        if refused:
            return refused
    else:
        click.echo("note: the broker's own evidence was not asked for (--broker-policy); you trust whoever runs it", err=True)
    code = ask(url, spki, lambda client: client.put_key(record.key_id, dsse.sign(PAYLOAD_KEY_RECORD, payload, key)))
    if code == 0:
        facts = {"keyId": record.key_id, "modelDigest": record.model_digest, "policyName": record.policy_name, "version": record.version}
        words = f"The broker holds key {record.key_id} for model {record.model_digest}, under policy {record.policy_name}."
        needed = _meant_without_owner(url, spki, record.key_id, key) is False
        if needed:
            words += (
                "\nAnother owner has stored a key of this id for this model before: workers mean yours only if they name you,"
                f"\n  spec.model.keyOwner: {record.owner_public_key}"
            )
        printing.outcome(facts | {"keyOwnerNeeded": needed}, words, output)
    return code


def _meant_without_owner(url: str, spki: str, key_id: str, key: Ed25519PrivateKey) -> bool | None:
    """Whether workers that name no owner mean this owner's record; None where the broker does not say."""
    audience = bytes.fromhex(spki)

    async def question() -> bool:
        token = owner_token.make(key, SystemClock().now(), audience)
        async with BrokerClient(url, spki_sha256=spki, token=lambda: token) as client:
            return (await client.key(key_id, owner=key.public_key().public_bytes_raw().hex())).meant_without_owner

    try:
        return asyncio.run(question())
    except WireError:
        return None


@command.command("recover")
@click.argument("backup", type=click.Path(path_type=Path))
@click.option("--identity", "identity_file", type=click.Path(path_type=Path), required=True, help="The owner's age identity.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new directory for what opens.")
@click.option("--ear-key", type=HEX32, help="The broker's pinned EAR key (hex): proves that the backup is its own.")
@OUTPUT
def recover(backup: Path, identity_file: Path, out: Path, ear_key: bytes | None, output: str) -> int:
    """Get the owner's keys out of a broker's BACKUP, without the broker and without its root key.

    Opens the recovery copies that were sealed to the owner's age recipient.  Writes for each KEYID.identity (the package's key) and
    KEYID.yaml (the record, for `chrysalis keys put` at another broker; its version must grow).

    Exit code: 0 done, 1 none opens or the backup is damaged or not that broker's, 2 unreadable input.
    """
    try:
        found = recovered(backup, read_text(identity_file), ear_key)
    except BrokerError as error:
        if error.reason != BrokerReason.BACKUP_INVALID:
            raise
        return failures.tell([error], EXIT_NO)
    if not found:
        none = RecoveryError(
            RecoveryReason.NOTHING_RECOVERED,
            "no recovery copy in this backup opens with this identity",
            "give the identity of a recipient in recoveryRecipients",
        )
        return failures.tell([none], EXIT_NO)
    try:
        out.mkdir(mode=0o700)
        for record in found:
            members = record.to_json_dict()
            (out / f"{record.key_id}.yaml").write_text(yaml.safe_dump({k: v for k, v in members.items() if k != "key"}, sort_keys=False))
            with os.fdopen(os.open(out / f"{record.key_id}.identity", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(record.key.strip() + "\n")
    except OSError as error:
        raise OwnerFileError(OwnerFileReason.FILE_UNUSABLE, f"{out} cannot be made", "name a new directory", str(error)) from error
    facts = [{"keyId": record.key_id, "version": record.version, "modelDigest": record.model_digest} for record in found]
    words = [f"{fact['keyId']} (version {fact['version']}): {out / str(fact['keyId'])}.identity" for fact in facts]
    printing.outcome({"keys": facts}, "\n".join(words), output)
    return 0


def _public(key: Ed25519PrivateKey, output: str) -> int:
    public = key.public_key().public_bytes_raw().hex()
    if output == "json":
        printing.document({"ownerPublicKey": public})
    else:
        click.echo(public)
    return 0


def recovered(backup: Path, identity_text: str, ear_key: bytes | None) -> list[KeyRecord]:
    """The key records whose copies open; raises OwnerFileError and BrokerError (BackupInvalid)."""
    try:
        lines = [line for line in identity_text.splitlines() if line.strip() and not line.startswith("#")]  # as age-keygen writes it
        identity = x25519.Identity.from_str(lines[0].strip() if lines else "")
    except (pyrage.IdentityError, ValueError) as error:
        raise OwnerFileError(
            OwnerFileReason.DOCUMENT_INVALID, "the identity cannot be read", "give an age identity (AGE-SECRET-KEY-1…)"
        ) from error
    found: list[KeyRecord] = []
    for _, _, copy in recovery_copies(backup, ear_key):
        try:
            found.append(KeyRecord.model_validate_json(pyrage.decrypt(copy, [identity])))
        except (pyrage.DecryptError, ValidationError):
            continue  # another owner's
    return found


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
