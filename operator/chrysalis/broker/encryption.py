"""Stored model keys are encrypted at rest: an interface, and the one implementation over a root key in a file."""

from __future__ import annotations

import secrets
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chrysalis.broker.reasons import BrokerError, BrokerReason

NONCE_BYTES = 12


class KeyEncryption(Protocol):
    """Seals small secrets; `context` names what a secret belongs to, so that sealed values cannot be exchanged."""

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        """The sealed form."""

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        """The secret; raises BrokerError (StateUnusable) for another key or context, or a changed byte."""


class RootKeyEncryption:
    """ChaCha20-Poly1305 under a 32-byte root key, with a random nonce before the ciphertext."""

    def __init__(self, root_key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(root_key)

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, context)

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, ValueError) as error:
            raise BrokerError(
                BrokerReason.STATE_UNUSABLE,
                "a stored model key does not open with this root key",
                "start the broker with the root key that it stored the keys under",
            ) from error
