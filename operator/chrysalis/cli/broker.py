"""`chrysalis broker …`: what an administrator does beside the broker, on its configuration and its database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from chrysalis.broker import anchors, backup, database_settings, rotation, secret_keys, settings
from chrysalis.broker.audit_check import AuditCheck
from chrysalis.broker.database import Database
from chrysalis.broker.ear_keys import EarKeys
from chrysalis.broker.encryption import Keyring
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import Settings
from chrysalis.broker.state_keys import EAR_KEY, StateKeys
from chrysalis.cli import failures, printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import HEX32, PIN, PIN_HELP
from chrysalis.cli.keys import key_record
from chrysalis.cli.owner_files import EXIT_NO, EXIT_UNREACHABLE, ask, owner_key, read_text
from chrysalis.clock import SystemClock, from_unix, rfc3339, unix
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD

UNREACHABLE = frozenset({BrokerReason.KEY_SERVICE_UNAVAILABLE, BrokerReason.DATABASE_UNAVAILABLE})
REFUSED = frozenset(
    {
        BrokerReason.STATE_ROLLED_BACK,
        BrokerReason.STATE_NOT_EMPTY,
        BrokerReason.STATE_UNUSABLE,
        BrokerReason.AUDIT_BROKEN,
        BrokerReason.ANCHOR_UNUSABLE,
        BrokerReason.ANCHOR_MISSING,
        BrokerReason.ANCHOR_INVALID,
        BrokerReason.BACKUP_INVALID,
    }
)
KID = re.compile(r"[A-Za-z0-9_-]{43}")
F = TypeVar("F", bound=Callable[..., Any])


@click.group("broker")
def command() -> None:
    """Keys, backups and anchors of a broker.

    Run it where the broker runs, as its user: the verbs read its configuration, its state directory and its database.
    """


@dataclass(frozen=True)
class Opened:
    """A broker's state, opened beside it."""

    configuration: Settings
    database: Database
    keys: StateKeys
    keyring: Keyring
    ear_keys: EarKeys


def _configured(function: F) -> F:
    """The options of every verb."""
    config = click.option(
        "--config", type=click.Path(path_type=Path), default=Path("/etc/chrysalis/broker.yaml"), show_default=True, help="The broker's."
    )
    output = click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the outcome."
    )
    return config(output(function))


@contextmanager
def _opened(config: Path) -> Iterator[Opened]:
    configuration = settings.load(config)
    secret_keys.prepare(configuration)
    database = Database(database_settings.url_of(configuration.database, configuration.state_dir))
    try:
        keys, keyring = secret_keys.open_all(configuration, database, SystemClock())
        try:
            ear_keys = EarKeys(
                database=database, anchor=keys.ear_key, encryption=keyring, settings=configuration.ear_keys, clock=SystemClock()
            )
            ear_keys.check()  # before a backup is made of a state directory that is another broker's
            yield Opened(configuration, database, keys, keyring, ear_keys)
        finally:
            keyring.close()
    finally:
        database.close()


def _run(output: str, work: Callable[[], tuple[dict[str, Any], str]]) -> int:
    """Do it, print what it says, and return the exit code; unreadable input is left to the caller (exit 2)."""
    try:
        facts, words = work()
    except BrokerError as error:
        if error.reason not in UNREACHABLE | REFUSED:
            raise
        return failures.tell([error], EXIT_UNREACHABLE if error.reason in UNREACHABLE else EXIT_NO)
    printing.outcome(facts, words, output)
    return 0


@command.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@_configured
def make_backup(file: Path, config: Path, output: str) -> int:
    """Write a backup of the running broker into a new FILE.

    It holds no secret in plain and is of no use without the root key (or key service), which it does not hold: keep that elsewhere.
    Owners whose key records name recovery recipients get their keys out of it without either (`chrysalis keys recover`).
    """

    def work() -> tuple[dict[str, Any], str]:
        with _opened(config) as broker:
            made = backup.write(file, database=broker.database, keys=broker.keys, encryption=broker.keyring, clock=SystemClock())
        rows = sum(made.rows.values())
        return made.to_json_dict(), (
            f"{file}: {rows} rows, the audit log up to record {made.audit_seq}.\nSigned by EAR key {made.anchor}; `restore` asks for it."
        )

    return _run(output, work)


@command.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--ear-key", type=HEX32, help="The broker's pinned EAR key (hex); not needed where the state directory has it.")
@_configured
def restore(file: Path, ear_key: bytes | None, config: Path, output: str) -> int:
    """Fill an empty state directory and database from a backup.

    The same pins go on: workers need not be changed.  Every result in the backup ends (StateRestored), since what was revoked after it
    is not known; workers attest again.  Where an anchor has noted a newer state, the broker refuses to start until `accept-rollback`.
    """

    def work() -> tuple[dict[str, Any], str]:
        configuration = settings.load(config)
        secret_keys.prepare(configuration)
        anchor = _pinned(configuration, ear_key)
        database = Database(database_settings.url_of(configuration.database, configuration.state_dir))
        keyring = secret_keys.keyring(configuration, SystemClock())
        try:
            made = backup.restore(
                file,
                anchor=anchor,
                database=database,
                directory=configuration.state_dir,
                keyring=keyring,
                clock=SystemClock(),
                shared=configuration.state_keys == "Database",
            )
        finally:
            keyring.close()
            database.close()
        return (
            made.to_json_dict(),
            f"Restored the state of {rfc3339(from_unix(made.created_at))}, the audit log to record {made.audit_seq}.",
        )

    return _run(output, work)


@command.command("rotate-root")
@_configured
def rotate_root(config: Path, output: str) -> int:
    """Seal everything stored again under the key that `keyEncryption` (or rootKeyFile) now names.

    First give the new key in the settings, with the old one under previousKeyEncryption, and restart the brokers.  May be stopped
    and run again.  Afterwards the old key may go from the settings; keep it as long as a backup under it matters.
    """

    def work() -> tuple[dict[str, Any], str]:
        with _opened(config) as broker:
            outcome = rotation.rotate(broker.database, broker.keyring, unix(SystemClock().now()))
        rotation.require_complete(outcome)
        facts = {
            "sealedAgain": outcome.sealed_again,
            "alreadyCurrent": outcome.already_current,
            "left": outcome.left,
            "current": outcome.current,
        }
        return facts, (f"{outcome.sealed_again} values sealed again, {outcome.already_current} were; all under {outcome.current}.")

    return _run(output, work)


@command.command("rotate-ear-key")
@click.option("--reason", default="", help="For the audit log.")
@_configured
def rotate_ear_key(reason: str, config: Path, output: str) -> int:
    """Let the next key sign results from now on; what the old one signed still verifies until it ends (recall-ear-key ends that).

    Running brokers follow within 15 s.  The pinned key, which certifies these keys, stays.
    """

    def work() -> tuple[dict[str, Any], str]:
        with _opened(config) as broker:
            kid = broker.ear_keys.rotate(reason)
        return {"kid": kid}, f"Results are signed by key {kid} from now on."

    return _run(output, work)


@command.command("recall-ear-key")
@click.option("--kid", "kids", multiple=True, help="The key, as the header of a result shows it; default: the one that signs now.")
@click.option(
    "--all", "every", is_flag=True, help="Every signing key that the database holds: where the database and what seals it leaked."
)
@click.option("--reason", required=True, help="For the audit log.")
@_configured
def recall_ear_key(kids: tuple[str, ...], every: bool, reason: str, config: Path, output: str) -> int:
    """Recall a signing key that was stolen: what it signed counts no more, whenever that was, and it signs nothing from now on.

    The living results that it signed end (KeyRecalled); their workers attest again.  The broker publishes the recall at
    `/.well-known/ear-recalls`, signed by the pinned key.  Who only pins that key, and never asks, believes the stolen one until the
    end of its own time.
    """
    if kids and every:
        raise click.UsageError("give --kid or --all, not both")
    if any(not KID.fullmatch(kid) for kid in kids):
        raise click.UsageError("a kid has 43 characters of base64url")

    def work() -> tuple[dict[str, Any], str]:
        with _opened(config) as broker:
            done = broker.ear_keys.recall(kids, every=every, reason=reason)
        words = "\n".join(done.kids) or "Recalled before; nothing was changed."
        return asdict(done), words + (f"\nRecalled; {done.ended} living results ended." if done.kids else "")

    return _run(output, work)


@command.command("audit-verify")
@_configured
def audit_verify(config: Path, output: str) -> int:
    """Verify the whole audit log, from its first record; a start verifies only what is new since the last time."""

    def work() -> tuple[dict[str, Any], str]:
        with _opened(config) as broker:
            reached = AuditCheck(broker.database, broker.keys.ear_key).verify_whole()
        return reached.to_json_dict(), f"{reached.seq} records, the newest with hash {reached.hash}."

    return _run(output, work)


@command.command("accept-rollback")
@click.option("--reason", required=True, help="Why the newer state is lost; stands in the audit log.")
@_configured
def accept_rollback(reason: str, config: Path, output: str) -> int:
    """Let a broker go on whose database is older than its anchor, or whose anchor is lost.

    Every result from before ends (StateRestored) and workers attest again.  Policies, key records and reference values that the anchor
    knew in a newer version admit nobody (VersionLost) until their owners store that version or a higher one again; recalled keys stay
    recalled.  Where the anchor itself is lost, nobody knows what is missing: let owners compare their versions.  Run it with all
    brokers stopped.
    """

    def work() -> tuple[dict[str, Any], str]:
        with _opened(config) as broker:
            anchor = anchors.of(broker.configuration, broker.keys.ear_key, SystemClock())
            found = anchors.accept(broker.database, anchor, unix(SystemClock().now()), reason)
        words = "\n".join(found) + "\nAccepted; the broker may start." if found else "Not behind its anchor; nothing was changed."
        return {"accepted": found}, words

    return _run(output, work)


@command.command("rekey-model")
@click.argument("key_id", metavar="KEYID")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=PIN, required=True, help=PIN_HELP)
@click.option("--record", "file", type=click.Path(path_type=Path), required=True, help="The key record, its version higher than before.")
@click.option("--owner-key", "owner", type=click.Path(path_type=Path), required=True, help="The owner's signing key.")
@click.option("--identity", type=click.Path(path_type=Path), required=True, help="The new key, as `chrysalis seal` wrote it.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the outcome.")
def rekey_model(key_id: str, url: str, spki: str, file: Path, owner: Path, identity: Path, output: str) -> int:
    """Replace a model's key; the owner does this, from anywhere.

    Seal the model again with a new key first.  From then on no result from before gets the new key (KeyChanged): workers attest
    again.  What a worker already holds cannot be taken back: the old package stays readable to whoever has the old key.
    """
    key = owner_key(owner)
    record = key_record(file, key.public_key().public_bytes_raw().hex(), read_text(identity).strip())
    if record.key_id != key_id:
        raise click.UsageError(f"the record is of key {record.key_id!r}, not {key_id!r}")
    if record.version < 2:
        raise click.UsageError("the record's version must be higher than that of the stored one, so at least 2")
    payload = record.model_dump_json(by_alias=True).encode()
    code = ask(url, spki, lambda client: client.put_key(key_id, dsse.sign(PAYLOAD_KEY_RECORD, payload, key)))
    if code == 0:
        facts = {"keyId": key_id, "version": record.version}
        words = f"Key {key_id} is replaced (version {record.version}); workers get it after they attest again."
        printing.outcome(facts, words, output)
    return code


def _pinned(configuration: Settings, ear_key: bytes | None) -> bytes:
    if ear_key is not None:
        return ear_key
    if (configuration.state_dir / EAR_KEY).exists():
        return secret_keys.own_anchor(configuration)
    raise click.UsageError("--ear-key is needed: the EAR key that workers pin, as spec.broker.earKey shows it")
