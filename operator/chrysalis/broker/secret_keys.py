"""Opening everything secret in the right order: first what seals, then the broker's own keys."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chrysalis.broker import encryption_settings, state_keys
from chrysalis.broker.database import Database
from chrysalis.broker.encryption import Keyring
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import Settings
from chrysalis.broker.state_keys import StateKeys
from chrysalis.clock import Clock


def prepare(configuration: Settings) -> None:
    """Make the state directory, before anything is put there; raises BrokerError (StateUnusable)."""
    try:
        state_keys.make_directory(configuration.state_dir)
    except OSError as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            f"{configuration.state_dir} cannot be made",
            "mount a directory that the broker may write to",
            str(error),
        ) from error


def keyring(configuration: Settings, clock: Clock) -> Keyring:
    """What seals secrets at rest under these settings; raises BrokerError."""

    def root_key() -> bytes:
        if configuration.root_key_file is not None:
            return encryption_settings.read_root_key(configuration.root_key_file)
        return state_keys.root_key(configuration.state_dir)

    return encryption_settings.keyring(configuration.key_encryption, configuration.previous_key_encryption, root_key=root_key, clock=clock)


def open_all(configuration: Settings, database: Database, clock: Clock) -> tuple[StateKeys, Keyring]:
    """The broker's own keys, made at first start, and what seals.  Raises BrokerError (StateUnusable, KeyServiceUnavailable)."""
    encryption = keyring(configuration, clock)
    if configuration.state_keys == "Database":
        return state_keys.load_or_share(configuration.state_dir, database, encryption, clock), encryption
    return state_keys.load_or_make(configuration.state_dir, clock), encryption


def own_anchor(configuration: Settings) -> bytes:
    """The pinned EAR key (raw, public) of the state directory's own files; raises BrokerError (StateUnusable)."""
    try:
        key = load_pem_private_key((configuration.state_dir / state_keys.EAR_KEY).read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("ear.key is not an Ed25519 key")
    except (OSError, ValueError, TypeError) as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE, f"{state_keys.EAR_KEY} cannot be read", "give --ear-key", type(error).__name__
        ) from error
    return key.public_key().public_bytes_raw()
