"""How a data owner shows who it is to a broker: a short-lived JWS by its Ed25519 key, as a bearer token.

Typ `chrysalis-owner+jwt`, members {aud: "chrysalis-broker", iat, exp}.  It opens the results of the owner's own keys.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import ClassVar, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.clock import unix
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Seconds, SignedObject, check_time
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

LIFE_SECONDS = 300
MAX_LIFE_SECONDS = 3600
LEEWAY_SECONDS = 60


class OwnerToken(SignedObject):
    """The bearer token's claims."""

    TYP: ClassVar[str] = "chrysalis-owner+jwt"

    aud: Literal["chrysalis-broker"] = "chrysalis-broker"
    iat: Seconds
    exp: Seconds


def make(key: Ed25519PrivateKey, now: datetime) -> str:
    """A token that is good for five minutes."""
    return OwnerToken(iat=unix(now), exp=unix(now) + LIFE_SECONDS).sign(key)


def is_one(token: str) -> bool:
    """Whether a bearer token claims to be of this type (a ServiceAccount's has another)."""
    try:
        return jws.peek(token).typ == OwnerToken.TYP
    except ReceiptError:
        return False


def verify(token: str, owners: Collection[bytes], now: datetime) -> bytes:
    """The raw public key of the owner, one of `owners`, who signed this token; raises ReceiptError."""
    kid = jws.peek(token).kid
    for owner in owners:
        if jws.thumbprint(owner) == kid:
            claims = OwnerToken.parse(token, owner)
            check_time("the owner's token", unix(now), exp=claims.exp, not_before=claims.iat, leeway=LEEWAY_SECONDS)
            if claims.exp - claims.iat > MAX_LIFE_SECONDS:
                raise ReceiptError(
                    ReceiptReason.OBJECT_MALFORMED, "the owner's token lives too long", f"let it live at most {MAX_LIFE_SECONDS} s"
                )
            return owner
    raise ReceiptError(
        ReceiptReason.OBJECT_KEY_UNEXPECTED, "no known owner signed this token", "let the broker's settings name the owner's key"
    )
