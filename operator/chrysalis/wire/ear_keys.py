"""The keys that sign attestation results, and the broker's word for them.

Workers pin one Ed25519 key of their broker in measured initdata, so that key cannot rotate: it is the anchor.  Results are signed by
short-lived keys that the anchor certifies: a compact JWS of typ `chrysalis-ear-key+jwt` with {jwk, nbf, signsUntil, exp}, which
travels in the result's header `x-chrysalis-key`.  A reader that pinned the anchor needs nothing else; one that reads the broker's
JWKS finds each key there by its kid.  docs/adr/0006-ear-keys-rotate-below-a-pinned-anchor.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from pydantic import ConfigDict, Field, ValidationError, model_validator

from chrysalis.api.base import Model
from chrysalis.receipts import jws
from chrysalis.receipts.jws import b64u, from_b64u
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire.reasons import WireError, WireReason

TYP = "chrysalis-ear-key+jwt"
MAX_CERTIFICATE_BYTES = 2048
Coordinate = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""32 bytes in base64url."""
Seconds = Annotated[int, Field(ge=0, lt=1 << 53)]

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey


class Algorithm(StrEnum):
    """How results are signed (RFC 7518, section 3.4; RFC 8037): ES256 for readers that lack EdDSA."""

    EDDSA = "EdDSA"
    ES256 = "ES256"


class Jwk(Model):
    """A public key (RFC 7517) of one of the two kinds; members in the lexical order that its thumbprint needs."""

    model_config = ConfigDict(alias_generator=None)

    crv: Literal["Ed25519", "P-256"]
    kty: Literal["OKP", "EC"]
    x: Coordinate
    y: Coordinate | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.crv == "P-256") != (self.kty == "EC") or (self.crv == "P-256") != (self.y is not None):
            raise ValueError("crv, kty and y do not belong together")
        return self

    @classmethod
    def of(cls, key: PublicKey) -> Jwk:
        """The JWK of a public key."""
        if isinstance(key, Ed25519PublicKey):
            return cls(crv="Ed25519", kty="OKP", x=b64u(key.public_bytes_raw()))
        numbers = key.public_numbers()
        return cls(crv="P-256", kty="EC", x=b64u(numbers.x.to_bytes(32, "big")), y=b64u(numbers.y.to_bytes(32, "big")))

    @property
    def algorithm(self) -> Algorithm:
        """What a key of this kind signs with."""
        return Algorithm.EDDSA if self.crv == "Ed25519" else Algorithm.ES256

    @property
    def kid(self) -> str:
        """The thumbprint (RFC 7638)."""
        members = self.model_dump(exclude_none=True)
        return b64u(hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest())

    def public_key(self) -> PublicKey:
        """The key; raises ValueError for a point that is not on the curve, ReceiptError for base64url that is not canonical."""
        x = from_b64u(self.x)
        if self.y is None:
            return Ed25519PublicKey.from_public_bytes(x)
        y = from_b64u(self.y)
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()).public_key()


class KeyCertificate(Model):
    """The anchor's word for one signing key.  Unix seconds: it signs while nbf ≤ iat < signsUntil; what it signed verifies until exp."""

    jwk: Jwk
    nbf: Seconds
    signs_until: Seconds
    exp: Seconds

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.nbf <= self.signs_until <= self.exp:
            raise ValueError("nbf ≤ signsUntil ≤ exp does not hold")
        return self

    def sign(self, anchor: Ed25519PrivateKey) -> str:
        """The compact certificate."""
        return jws.sign(TYP, self.to_json_dict(), anchor)


def open_certificate(token: str, anchor: bytes) -> KeyCertificate:
    """A certificate that the anchor (raw Ed25519 key) signed; raises WireError: EarMalformed, EarSignatureInvalid."""
    if len(token) > MAX_CERTIFICATE_BYTES:
        raise _malformed(f"a key certificate of {len(token)} bytes; at most {MAX_CERTIFICATE_BYTES} are read")
    try:
        peeked = jws.peek(token)
    except ReceiptError as error:
        raise _malformed(f"{error.message}: {error.detail}") from error
    try:
        return KeyCertificate.model_validate(jws.verify(token, TYP, anchor))
    except ReceiptError as error:
        raise WireError(
            WireReason.EAR_SIGNATURE_INVALID,
            "the key that signed the attestation result is not certified by the pinned broker",
            "compare the EAR key with the one in the worker's spec.broker",
            f"{error.message} (kid {peeked.kid[:64]})",
        ) from error
    except ValidationError as error:
        raise _malformed(str(error)[:1024]) from error


@dataclass(frozen=True)
class CertifiedKey:
    """A private signing key with the anchor's certificate for it."""

    private: PrivateKey
    certificate: KeyCertificate
    token: str

    @classmethod
    def issue(
        cls, private: PrivateKey, anchor: Ed25519PrivateKey, *, not_before: int, signs_until: int, verifies_until: int
    ) -> CertifiedKey:
        """Certify a key; times in Unix seconds."""
        certificate = KeyCertificate(jwk=Jwk.of(private.public_key()), nbf=not_before, signs_until=signs_until, exp=verifies_until)
        return cls(private, certificate, certificate.sign(anchor))

    @property
    def kid(self) -> str:
        """The key's thumbprint."""
        return self.certificate.jwk.kid


def generate(algorithm: Algorithm) -> PrivateKey:
    """A new private key."""
    return Ed25519PrivateKey.generate() if algorithm is Algorithm.EDDSA else ec.generate_private_key(ec.SECP256R1())


def to_der(key: PrivateKey) -> bytes:
    """PKCS #8, for sealing."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def from_der(data: bytes) -> PrivateKey:
    """The private key of to_der; raises ValueError."""
    key = load_der_private_key(data, None)
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError("neither an Ed25519 nor a P-256 key")


def key_set(anchor: bytes, certified: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The JWKS: the anchor first, marked as such, then every certified key that still verifies or will sign next.

    certified: the certificates; each also stands in its key's member `x-chrysalis-key`.
    """
    first = Jwk.of(Ed25519PublicKey.from_public_bytes(anchor))
    keys = [_entry(first) | {"x-chrysalis-use": "anchor"}]
    for token in certified:
        certificate = open_certificate(token, anchor)
        keys.append(_entry(certificate.jwk) | {"exp": certificate.exp, "nbf": certificate.nbf, "x-chrysalis-key": token})
    return {"keys": keys}


def anchor_of(keys: dict[str, Any]) -> bytes:
    """The anchor that a JWKS shows, raw: what workers pin.  Raises WireError (AnswerMalformed)."""
    try:
        (found,) = (key for key in keys["keys"] if key.get("x-chrysalis-use") == "anchor")
        raw = from_b64u(found["x"])
        if found["crv"] != "Ed25519" or len(raw) != 32:
            raise ValueError("the anchor is not an Ed25519 key")
    except (KeyError, TypeError, ValueError, AttributeError, ReceiptError) as error:
        raise WireError(
            WireReason.ANSWER_MALFORMED, "the key set does not show one anchor", "check the address", str(error)[:512]
        ) from error
    return raw


def _entry(jwk: Jwk) -> dict[str, Any]:
    return {**jwk.model_dump(exclude_none=True), "kid": jwk.kid, "use": "sig", "alg": jwk.algorithm.value}


def _malformed(detail: str) -> WireError:
    return WireError(WireReason.EAR_MALFORMED, "this is not an attestation result of this version", "compare the versions", detail)
