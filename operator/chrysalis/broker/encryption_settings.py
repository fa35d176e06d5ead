"""Which key seals what the broker stores: the settings `keyEncryption` and `previousKeyEncryption`, and plug-ins.

A plug-in (a cloud's key service, say) is a distribution with an entry point in the group `chrysalis.key_encryption`:

    [project.entry-points."chrysalis.key_encryption"]
    acme-kms = "acme_kms.chrysalis:wrapper"

The name is what `plugin` in the settings says.  The object is a function of one argument, the settings' `options` (strings by name),
that returns a chrysalis.broker.encryption.KeyWrapper whose scheme is the entry point's name.  It runs inside of the broker: install
only what you trust with every model key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.broker.encryption import Keyring, KeyWrapper, RootKey
from chrysalis.broker.hsm import Hsm, HsmSettings
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.vault import VaultSettings, VaultTransit
from chrysalis.clock import Clock

ENTRY_POINTS = "chrysalis.key_encryption"
ROOT_KEY_BYTES = 32
BUILT_IN = frozenset({RootKey.scheme, VaultTransit.scheme, Hsm.scheme})


class RootKeySettings(Model):
    """A root key in a file: 32 bytes in hex.  For development, or where the file is a mounted secret."""

    kind: Literal["RootKey"]
    file: Path


class PluginSettings(Model):
    """A key behind an installed plug-in; plugin: the entry point's name; options: what the plug-in documents."""

    kind: Literal["Plugin"]
    plugin: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    options: Annotated[dict[str, str], Field(max_length=64)] = {}


KeyEncryptionSettings = Annotated[RootKeySettings | VaultSettings | HsmSettings | PluginSettings, Field(discriminator="kind")]


def keyring(
    current: KeyEncryptionSettings | None, previous: list[KeyEncryptionSettings], *, root_key: Callable[[], bytes], clock: Clock
) -> Keyring:
    """The keyring of the settings; without `current` the key that root_key gives seals.  Raises BrokerError."""
    newest: KeyWrapper = RootKey(root_key()) if current is None else wrapper(current, clock)
    return Keyring(newest, [wrapper(one, clock) for one in previous])


def wrapper(settings: KeyEncryptionSettings, clock: Clock) -> KeyWrapper:
    """One key of the settings; raises BrokerError (SettingsInvalid, StateUnusable)."""
    match settings:
        case RootKeySettings():
            return RootKey(read_root_key(settings.file))
        case VaultSettings():
            return VaultTransit(settings, clock)
        case HsmSettings():
            return Hsm(settings)
        case PluginSettings():
            return _plugin(settings)


def read_root_key(path: Path) -> bytes:
    """The root key in a file; raises BrokerError (StateUnusable)."""
    try:
        with path.open("rb") as file:
            key = bytes.fromhex(file.read(4096).decode("ascii").strip())
        if len(key) != ROOT_KEY_BYTES:
            raise ValueError(f"{len(key)} bytes")
    except (OSError, ValueError) as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            f"{path} does not hold a root key",
            f"it must hold {ROOT_KEY_BYTES} bytes in hex (`openssl rand -hex {ROOT_KEY_BYTES}`)",
            type(error).__name__,  # never the text: it could hold the key
        ) from None
    return key


def _plugin(settings: PluginSettings) -> KeyWrapper:
    found = [point for point in metadata.entry_points(group=ENTRY_POINTS) if point.name == settings.plugin]
    if len(found) != 1 or settings.plugin in BUILT_IN:
        raise BrokerError(
            BrokerReason.SETTINGS_INVALID,
            f"there is not exactly one key-encryption plug-in {settings.plugin!r}",
            f"install it into the broker's environment; its entry point belongs to the group {ENTRY_POINTS}",
            f"{len(found)} found",
        )
    try:
        make: Callable[[Mapping[str, str]], Any] = found[0].load()
        made = make(dict(settings.options))
        _check(made, settings.plugin)
    except BrokerError:
        raise
    except Exception as error:  # a plug-in is foreign code: whatever it raises, the start is refused with a reason
        raise BrokerError(
            BrokerReason.SETTINGS_INVALID,
            f"the key-encryption plug-in {settings.plugin!r} does not start",
            "see the plug-in's documentation for its options",
            f"{type(error).__name__}: {error}"[:1024],
        ) from error
    plugged: KeyWrapper = made
    return plugged


def _check(made: Any, name: str) -> None:
    if getattr(made, "scheme", None) != name or not isinstance(getattr(made, "key_id", None), str):
        raise TypeError(f"its wrapper must have scheme = {name!r} and a key_id")
    for method in ("wrap", "unwrap", "current", "close"):
        if not callable(getattr(made, method, None)):
            raise TypeError(f"its wrapper has no method {method}")
