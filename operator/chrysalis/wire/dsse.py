"""DSSE v1.0 envelopes (github.com/secure-systems-lab/dsse) with Ed25519: an owner's signature over exact bytes.

keyid is the lower-case hex of the raw public key.  It only says which of the caller's trusted keys to try; the signature
does not cover it, so a key is never taken from it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chrysalis.api.policy import Envelope, EnvelopeSignature
from chrysalis.wire.reasons import WireError, WireReason


@dataclass(frozen=True)
class Verified:
    """The bytes that were signed, and by whom (raw Ed25519 public key)."""

    payload: bytes
    public_key: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what the signature covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> Envelope:
    """Sign payload as it is."""
    signature = EnvelopeSignature(
        keyid=key.public_key().public_bytes_raw().hex(), sig=base64.b64encode(key.sign(pae(payload_type, payload))).decode()
    )
    return Envelope(payload_type=payload_type, payload=base64.b64encode(payload).decode(), signatures=[signature])


def verify(envelope: Envelope, payload_type: str, trusted: Collection[bytes]) -> Verified:
    """Return the payload when one of the trusted raw public keys signed it.

    Raises WireError: EnvelopeTypeMismatch, EnvelopeMalformed, EnvelopeSignatureInvalid (also for an empty `trusted`).
    """
    if envelope.payload_type != payload_type:
        raise WireError(
            WireReason.ENVELOPE_TYPE_MISMATCH,
            f"the envelope is of type {envelope.payload_type!r}, not {payload_type!r}",
            "sign the right kind of document",
        )
    payload = _decode(envelope.payload)
    signed = pae(payload_type, payload)
    for signature in envelope.signatures:
        for key in trusted:
            if key.hex() != signature.keyid:
                continue
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(_decode(signature.sig), signed)
            except (InvalidSignature, ValueError):
                continue
            return Verified(payload, key)
    raise WireError(
        WireReason.ENVELOPE_SIGNATURE_INVALID,
        "no trusted key signed this envelope",
        "sign it with the owner's key, and let the service's settings name that key",
        "keyids: " + ", ".join(s.keyid[:64] for s in envelope.signatures),
    )


def payload_of(envelope: Envelope) -> bytes:
    """The payload without any check of who signed it; raises WireError (EnvelopeMalformed)."""
    return _decode(envelope.payload)


def _decode(text: str) -> bytes:
    # DSSE allows both alphabets; one form is enough for a document that only our own tools write.
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(
            WireReason.ENVELOPE_MALFORMED, "the envelope's base64 cannot be read", "send the envelope as it was written", str(error)
        ) from error
