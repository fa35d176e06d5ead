"""Compact JWS with Ed25519 (RFC 7515, RFC 8037), in the one strict form that settlement uses.

The protected header is exactly {"alg":"EdDSA","kid":<RFC 7638 thumbprint>,"typ":T}; base64url without padding and with
zero trailing bits; no duplicate member anywhere; no floats.  An object's identity is the SHA-256 of its compact ASCII: two
tokens that differ in one byte are two objects, so nothing here re-serialises what it was given.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chrysalis import strict_json
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

MAX_TOKEN_BYTES = 512 * 1024
"""The largest token of any type: a client list of the largest account."""
HEADER_MEMBERS = ("alg", "kid", "typ")
ALGORITHM = "EdDSA"


class Signer(Protocol):
    """Holds an Ed25519 key that may never leave a key service; chrysalis.chain.signer.Signer is one."""

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""


SigningKey = Ed25519PrivateKey | Signer


@dataclass(frozen=True)
class Opened:
    """A token whose form is sound; its signature counts only when `verify` or `open_verified` returned it."""

    kid: str
    typ: str
    claims: dict[str, Any]
    payload: bytes
    """The JSON text of the claims, byte for byte."""


def b64u(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64u(text: str) -> bytes:
    """The bytes of canonical base64url: no padding, no other characters, trailing bits zero; raises ReceiptError."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        _malformed(f"not base64url: {error}")
    if b64u(data) != text:
        _malformed("base64url that is not canonical")
    return data


def thumbprint(public_key: bytes) -> str:
    """The RFC 7638 thumbprint of a raw Ed25519 public key, base64url: the `kid` of what it signs."""
    if len(public_key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    canonical = f'{{"crv":"Ed25519","kty":"OKP","x":"{b64u(public_key)}"}}'
    return b64u(hashlib.sha256(canonical.encode()).digest())


def identity(token: str) -> str:
    """The object's identity: SHA-256 of the compact ASCII, lower-case hex."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def public_key_of(key: SigningKey) -> bytes:
    """The raw public key, 32 bytes."""
    return key.public_key().public_bytes_raw() if isinstance(key, Ed25519PrivateKey) else key.public_key


def sign(typ: str, claims: Mapping[str, Any], key: SigningKey) -> str:
    """Sign claims in the order given; deterministic, since Ed25519 is."""
    kid = thumbprint(public_key_of(key))
    header = json.dumps({"alg": ALGORITHM, "kid": kid, "typ": typ}, separators=(",", ":"))
    payload = json.dumps(claims, separators=(",", ":"), allow_nan=False)
    signed = f"{b64u(header.encode())}.{b64u(payload.encode())}"
    return f"{signed}.{b64u(key.sign(signed.encode()))}"


def peek(token: str) -> Opened:
    """Read a token's form without its signature, to learn which key must have signed it; proves nothing."""
    if len(token) > MAX_TOKEN_BYTES:
        _malformed(f"{len(token)} characters; at most {MAX_TOKEN_BYTES} are read")
    parts = token.split(".")
    if len(parts) != 3:
        _malformed(f"{len(parts)} parts separated by dots instead of three")
    header = _object(from_b64u(parts[0]), "header")
    if sorted(header) != sorted(HEADER_MEMBERS) or header["alg"] != ALGORITHM:
        _malformed("the header must have exactly alg = EdDSA, kid and typ")
    kid, typ = header["kid"], header["typ"]
    if not isinstance(kid, str) or not isinstance(typ, str):
        _malformed("kid and typ must be strings")
    payload = from_b64u(parts[1])
    return Opened(kid=kid, typ=typ, claims=_object(payload, "payload"), payload=payload)


def open_verified(token: str, typ: str, public_key: bytes) -> Opened:
    """Check form, type, key and signature, in this order; raises ReceiptError."""
    opened = peek(token)
    if opened.typ != typ:
        raise ReceiptError(
            ReceiptReason.OBJECT_TYPE_UNEXPECTED,
            f"the token's typ is {opened.typ[:64]!r}, not {typ!r}",
            "use the object that belongs here",
        )
    if opened.kid != thumbprint(public_key):
        raise ReceiptError(
            ReceiptReason.OBJECT_KEY_UNEXPECTED,
            "the token names another key than the one that must have signed it",
            "check which key was pinned, listed or certified for this purpose",
            f"kid {opened.kid[:64]}, expected {thumbprint(public_key)}",
        )
    signed, _, signature = token.rpartition(".")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(from_b64u(signature), signed.encode("ascii"))
    except (InvalidSignature, ValueError) as error:
        raise ReceiptError(
            ReceiptReason.SIGNATURE_INVALID,
            "the token's signature does not verify",
            "it was changed after signing, or damaged on its way; get it again from its signer",
        ) from error
    return opened


def verify(token: str, typ: str, public_key: bytes) -> dict[str, Any]:
    """The claims of a token of this type, signed by this raw Ed25519 key; raises ReceiptError."""
    return open_verified(token, typ, public_key).claims


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(data.decode("utf-8"), whole=True)
    except strict_json.MemberTwice:
        _malformed(f"{what}: a member stands twice")
    except (ValueError, RecursionError) as error:
        _malformed(f"{what}: {error}"[:512])
    if not isinstance(value, dict):
        _malformed(f"the {what} is not a JSON object")
    return value


def _malformed(detail: str) -> NoReturn:
    raise ReceiptError(
        ReceiptReason.OBJECT_MALFORMED,
        "this is not a compact JWS in the form that Chrysalis uses",
        "get the object again from the part that signed it",
        detail,
    )
