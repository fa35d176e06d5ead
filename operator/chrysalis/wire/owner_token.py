"""How a data owner shows who it is to one broker: a short-lived JWS by its Ed25519 key, as a bearer token.

Typ `chrysalis-owner+jwt`, members {aud, iat, exp, jti}.  `aud` is `chrysalis-broker:` and the SHA-256 of the broker's TLS key (lower-case
hex), which every client pins: what one broker is shown is worth nothing at another one.  Replicas of a broker have one such key.
`jti` are 16 random bytes in hex; a broker lets a token change something once.  It opens what is the owner's own key's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.clock import unix
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Seconds, SignedObject, check_time
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason
from chrysalis.wire.reasons import WireError, WireReason

LIFE_SECONDS = 300
MAX_LIFE_SECONDS = 600
LEEWAY_SECONDS = 60
JTI = re.compile(r"[0-9a-f]{32}")


class OwnerToken(SignedObject):
    """The bearer token's claims; jti is empty in tokens of the form before, which no broker takes any more."""

    TYP: ClassVar[str] = "chrysalis-owner+jwt"

    aud: str
    iat: Seconds
    exp: Seconds
    jti: str = ""


@dataclass(frozen=True)
class Shown:
    """What a verified token says: the owner's raw public key, the token's own id, and when its leeway ends (Unix seconds)."""

    owner: bytes
    jti: str
    until: int


def audience(broker_spki_sha256: bytes) -> str:
    """The audience of a broker, by the SHA-256 of its TLS key."""
    if len(broker_spki_sha256) != 32:
        raise ValueError(f"the SHA-256 of a broker's TLS key has 32 bytes, not {len(broker_spki_sha256)}")
    return f"chrysalis-broker:{broker_spki_sha256.hex()}"


def make(key: Ed25519PrivateKey, now: datetime, broker_spki_sha256: bytes) -> str:
    """A token for one broker that is good for five minutes, and for one change."""
    claims = OwnerToken(aud=audience(broker_spki_sha256), iat=unix(now), exp=unix(now) + LIFE_SECONDS, jti=secrets.token_hex(16))
    return claims.sign(key)


def is_one(token: str) -> bool:
    """Whether a bearer token claims to be of this type (a ServiceAccount's has another)."""
    try:
        return jws.peek(token).typ == OwnerToken.TYP
    except ReceiptError:
        return False


def verify(token: str, owners: Collection[bytes], now: datetime, broker_spki_sha256: bytes) -> Shown:
    """What a token shows to this broker.

    1. One of `owners` (raw public keys) signed it.  2. It is for this broker.  3. It is in its time, which is not long.
    4. It has an id.  Raises ReceiptError; WireError (CredentialForAnotherBroker).
    """
    kid = jws.peek(token).kid
    owner = next((owner for owner in owners if jws.thumbprint(owner) == kid), None)
    if owner is None:
        raise ReceiptError(
            ReceiptReason.OBJECT_KEY_UNEXPECTED, "no known owner signed this token", "let the broker's settings name the owner's key"
        )
    claims = OwnerToken.parse(token, owner)  # 1
    if claims.aud != audience(broker_spki_sha256):  # 2
        raise WireError(
            WireReason.CREDENTIAL_FOR_ANOTHER_BROKER,
            "the owner's token is for another broker, or for none in particular",
            "make it for this broker, by the pin that `chrysalis keys pin` prints; older versions' tools name no broker: update them",
        )
    check_time("the owner's token", unix(now), exp=claims.exp, not_before=claims.iat, leeway=LEEWAY_SECONDS)  # 3
    if claims.exp - claims.iat > MAX_LIFE_SECONDS:
        raise ReceiptError(ReceiptReason.OBJECT_MALFORMED, "the owner's token lives too long", f"let it live at most {MAX_LIFE_SECONDS} s")
    if not JTI.fullmatch(claims.jti):  # 4
        raise ReceiptError(
            ReceiptReason.OBJECT_MALFORMED, "the owner's token has no id", "give it a jti of 16 random bytes in lower-case hex"
        )
    return Shown(owner, claims.jti, claims.exp + LEEWAY_SECONDS)
