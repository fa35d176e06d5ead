"""Wrapping a model key to an attested key: HPKE base mode (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305.

One-shot; `info` says what the key is for, so a wrapped key that is moved to another purpose does not open.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from chrysalis.sealing.reasons import SealingError, SealingReason

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_CONTEXT = b"chrysalis/v1/model-key"


def model_key_info(key_id: str, model_digest: str, result_id: str) -> bytes:
    """The `info` under which a model key is wrapped: the context and the three texts, each with its length (attestation.md)."""
    return _CONTEXT + b"".join(len(text).to_bytes(2, "big") + text for text in (s.encode() for s in (key_id, model_digest, result_id)))


def wrap(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal plaintext to a raw X25519 public key: enc (32 bytes) ‖ ciphertext.  Raises SealingError for a key that is none."""
    try:
        return bytes(_SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info))
    except ValueError as error:  # wrong length, or a point of low order
        raise SealingError(
            SealingReason.WRAPPED_KEY_INVALID,
            "the HPKE key is not a usable X25519 public key",
            "the worker must attest a key that it has just made",
            str(error),
        ) from error


def unwrap(private: X25519PrivateKey, wrapped: bytes, info: bytes) -> bytes:
    """Open enc ‖ ciphertext; raises SealingError for another key, another info or a changed byte (they look the same)."""
    try:
        return bytes(_SUITE.decrypt(wrapped, private, info))
    except (InvalidTag, ValueError) as error:
        raise SealingError(
            SealingReason.WRAPPED_KEY_INVALID,
            "the wrapped key does not open",
            "it was wrapped to another key or for another model or result, or it was changed on its way; attest again",
            type(error).__name__,
        ) from error
