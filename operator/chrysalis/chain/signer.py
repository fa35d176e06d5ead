"""Who signs: an interface, so that a seed can stay in a key service; and the one implementation for development.

Nothing in this package signs by itself: a Signer is always passed in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.chain.reasons import ChainError, ChainReason

SEED_BYTES = 32


class Signer(Protocol):
    """Holds one Ed25519 key."""

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""


class SeedSigner:
    """A Signer over a seed in memory."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise _invalid(f"{len(seed)} bytes")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @classmethod
    def from_file(cls, path: Path) -> SeedSigner:
        """From a file that holds a seed: 32 bytes, or 64 hexadecimal digits.  Raises ChainError SeedInvalid, or OSError."""
        with path.open("rb") as stream:
            data = stream.read(1024)
        if len(data) == SEED_BYTES:
            return cls(data)
        try:
            return cls(bytes.fromhex(data.decode("ascii").strip()))
        except ValueError as error:
            raise _invalid("not hexadecimal") from error

    @property
    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def _invalid(detail: str) -> ChainError:
    return ChainError(
        ChainReason.SEED_INVALID,
        "the file does not hold the seed of a key",
        "give a file with the 32 bytes of an Ed25519 seed, raw or as 64 hexadecimal digits; a mnemonic is not taken",
        detail,
    )
