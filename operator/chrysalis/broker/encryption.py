"""Secrets at rest: what the broker stores of model keys and of its own keys is sealed under a key that is kept elsewhere.

A sealed value says by itself what opens it, so that keys can be rotated and moved from one place to another:

    "CHK1" ‖ len(scheme) ‖ scheme ‖ len(keyId) ‖ keyId ‖ body        each len one byte

The associated data of every scheme is lp(header) ‖ context (lp: two-byte big-endian length prefix), so that neither the header
nor what a secret belongs to can be exchanged.  Schemes are KeyWrappers: a root key in a file (here), Vault or OpenBao transit
(chrysalis.broker.vault), PKCS #11 (chrysalis.broker.hsm), and plug-ins (chrysalis.broker.encryption_settings).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chrysalis.broker.reasons import BrokerError, BrokerReason

MAGIC = b"CHK1"
NONCE_BYTES = 12
MAX_SECRET_BYTES = 16 * 1024
"""Of one secret; key services take small values only."""


class KeyEncryption(Protocol):
    """Seals small secrets; `context` names what a secret belongs to, so that sealed values cannot be exchanged."""

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        """The sealed form; raises BrokerError (KeyServiceUnavailable)."""

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        """The secret; raises BrokerError: StateUnusable for another key or context, or a changed byte; KeyServiceUnavailable."""


class KeyWrapper(Protocol):
    """One key, wherever it is kept, that seals and opens.  Thread-safe; what plug-ins implement.

    scheme: the kind of place, a short ASCII word.  key_id: which key there, at most 200 ASCII characters; a value is opened by
    the wrapper with the same two.
    """

    scheme: str
    key_id: str

    def wrap(self, secret: bytes, associated: bytes) -> bytes:
        """The body of a sealed value.  Raises BrokerError (KeyServiceUnavailable) when the key cannot be reached."""

    def unwrap(self, body: bytes, associated: bytes) -> bytes:
        """The secret.  Raises BrokerError: StateUnusable when it does not open, KeyServiceUnavailable."""

    def current(self, body: bytes) -> bool:
        """Whether the body is under the newest version of the key; False asks `rotate-root` to seal it again."""

    def close(self) -> None:
        """Let go of connections and sessions."""


@dataclass(frozen=True)
class Sealed:
    """A sealed value in its parts; header are the bytes before the body."""

    scheme: str
    key_id: str
    header: bytes
    body: bytes


def read(sealed: bytes) -> Sealed:
    """Take a sealed value apart; raises BrokerError (StateUnusable) when it has no header of this form."""
    words, at = [], len(MAGIC)
    try:
        if not sealed.startswith(MAGIC):
            raise ValueError("it does not begin with " + MAGIC.decode())
        for _ in range(2):
            end = at + 1 + sealed[at]
            if end > len(sealed):
                raise ValueError("it is truncated")
            words.append(sealed[at + 1 : end].decode("ascii"))
            at = end
    except (ValueError, IndexError) as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            "a stored secret is not in the form of this version",
            "restore the database from a backup",
            str(error),
        ) from error
    return Sealed(words[0], words[1], sealed[:at], sealed[at:])


def header(scheme: str, key_id: str) -> bytes:
    """The bytes before the body; raises ValueError for words that do not fit."""
    parts = [word.encode("ascii") for word in (scheme, key_id)]
    if not all(0 < len(part) < 256 for part in parts):
        raise ValueError("scheme and key id must have 1 to 255 ASCII characters")
    return MAGIC + b"".join(bytes([len(part)]) + part for part in parts)


def associated_data(head: bytes, context: bytes) -> bytes:
    """What a sealed value's authentication covers besides the secret."""
    return len(head).to_bytes(2, "big") + head + context


class Keyring:
    """The current wrapper, which seals, and previous ones, which only open; the KeyEncryption that the broker uses."""

    def __init__(self, current: KeyWrapper, previous: Sequence[KeyWrapper] = ()) -> None:
        self._current = current
        self._all: dict[tuple[str, str], KeyWrapper] = {}
        for wrapper in (*previous, current):
            self._all[wrapper.scheme, wrapper.key_id] = wrapper

    @property
    def current(self) -> KeyWrapper:
        """The wrapper that seals."""
        return self._current

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        if len(secret) > MAX_SECRET_BYTES:
            raise BrokerError(BrokerReason.MESSAGE_TOO_LARGE, f"a secret of {len(secret)} bytes", f"at most {MAX_SECRET_BYTES} are sealed")
        head = header(self._current.scheme, self._current.key_id)
        return head + self._current.wrap(secret, associated_data(head, context))

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        value = read(sealed)
        wrapper = self._all.get((value.scheme, value.key_id))
        if wrapper is None:
            raise BrokerError(
                BrokerReason.STATE_UNUSABLE,
                f"a stored secret is sealed under {value.scheme} key {value.key_id!r}, which this broker is not configured with",
                "list that key under `previousKeyEncryption`, or restore the owners' keys with `chrysalis keys recover`",
                f"configured: {', '.join(f'{scheme} {key}' for scheme, key in self._all)}",
            )
        return wrapper.unwrap(value.body, associated_data(value.header, context))

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value is sealed under the current key in its newest version; raises BrokerError (StateUnusable)."""
        value = read(sealed)
        if (value.scheme, value.key_id) != (self._current.scheme, self._current.key_id):
            return False
        return self._current.current(value.body)

    def close(self) -> None:
        """Let go of every wrapper's connections."""
        for wrapper in self._all.values():
            wrapper.close()


class RootKey:
    """ChaCha20-Poly1305 (RFC 8439) under a 32-byte root key, with a random nonce before the ciphertext."""

    scheme = "root-key"

    def __init__(self, root_key: bytes) -> None:
        self.key_id = hashlib.sha256(b"chrysalis/v1/root-key-id\0" + root_key).hexdigest()[:16]
        self._cipher = ChaCha20Poly1305(root_key)

    def wrap(self, secret: bytes, associated: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, associated)

    def unwrap(self, body: bytes, associated: bytes) -> bytes:
        try:
            return self._cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], associated)
        except (InvalidTag, ValueError) as error:
            raise not_opened(self) from error

    def current(self, body: bytes) -> bool:
        return True

    def close(self) -> None:
        pass


class RootKeyEncryption(Keyring):
    """A keyring of one root key."""

    def __init__(self, root_key: bytes) -> None:
        super().__init__(RootKey(root_key))


def not_opened(wrapper: KeyWrapper, detail: str = "") -> BrokerError:
    """The error of a value that does not open under the key that its header names."""
    return BrokerError(
        BrokerReason.STATE_UNUSABLE,
        f"a stored secret does not open with {wrapper.scheme} key {wrapper.key_id!r}",
        "it was changed, or belongs to something else: restore the database from a backup",
        detail,
    )


def unavailable(wrapper: KeyWrapper, detail: str) -> BrokerError:
    """The error of a key service that does not answer, or not as it should."""
    return BrokerError(
        BrokerReason.KEY_SERVICE_UNAVAILABLE,
        f"the {wrapper.scheme} key {wrapper.key_id!r} cannot be used now",
        "check that the key service runs, that the broker reaches it, and that it may use this key",
        detail[:1024],
    )
