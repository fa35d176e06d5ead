"""The broker's attestation result as a signed token: an EAR (draft-ietf-rats-ear) in a JWT, Ed25519.

Claims of the draft: eat_profile, iat, exp, eat_nonce, ear.verifier-id and one submodule `tdx` with ear.status and a
trustworthiness vector (AR4SI).  Claims of this project: cnf (the TLS key that the result is bound to), chrysalis_keys,
chrysalis_result.  Whoever accepts the token must compare cnf with the key that its peer proves.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from chrysalis.api.base import DnsLabel, Hex32, Model, Sha256Digest
from chrysalis.api.policy import Placement
from chrysalis.api.worker import Isolation
from chrysalis.clock import unix
from chrysalis.receipts.jws import thumbprint
from chrysalis.wire.broker import Keys
from chrysalis.wire.reasons import WireError, WireReason

TYP = "eat+jwt"
ALGORITHM = "EdDSA"
PROFILE: Literal["tag:github.com,2023:veraison/ear"] = "tag:github.com,2023:veraison/ear"
SUBMODULE = "tdx"
MAX_TOKEN_BYTES = 16 * 1024
CLOCK_LEEWAY_SECONDS = 60
"""How far the broker's clock may be ahead of the reader's."""


class VerifierId(Model):
    """Which software judged."""

    developer: Annotated[str, Field(max_length=128)]
    build: Annotated[str, Field(max_length=128)]


class Appraisal(Model):
    """One attester's appraisal in the draft's words; `warning` marks simulated evidence and weaker TCB levels."""

    status: Annotated[Literal["none", "affirming", "warning", "contraindicated"], Field(alias="ear.status")]
    vector: Annotated[dict[str, int], Field(alias="ear.trustworthiness-vector", max_length=8)]
    policy_id: Annotated[str, Field(alias="ear.appraisal-policy-id", max_length=256)]


class Confirmation(Model):
    """The key that the token is bound to (RFC 7800): SHA-256 of the TLS key's SubjectPublicKeyInfo, hex."""

    spki_sha256: Annotated[Hex32, Field(alias="spki#S256")]


class EarResult(Model):
    """The project's own facts of a result."""

    evidence_class: Literal["Hardware", "Simulated"]
    placement: Placement  # of the broker that judged
    isolation: Isolation
    tcb_status: str
    measurement: str  # name of the policy's tuple that matched
    limited_by: str  # what `exp` comes from
    policy_owner: Hex32
    policy_name: DnsLabel
    policy_version: int
    key_id: DnsLabel
    model_digest: Sha256Digest


class Ear(Model):
    """The token's claims."""

    profile: Annotated[Literal["tag:github.com,2023:veraison/ear"], Field(alias="eat_profile")] = PROFILE
    jti: Annotated[str, Field(max_length=36)]  # the result's id
    iat: int
    exp: int
    nonce: Annotated[Hex32, Field(alias="eat_nonce")]
    verifier: Annotated[VerifierId, Field(alias="ear.verifier-id")]
    submods: Annotated[dict[str, Appraisal], Field(min_length=1, max_length=16)]
    cnf: Confirmation
    keys: Annotated[Keys, Field(alias="chrysalis_keys")]
    result: Annotated[EarResult, Field(alias="chrysalis_result")]

    def sign(self, key: Ed25519PrivateKey) -> str:
        """The compact token."""
        headers = {"typ": TYP, "kid": thumbprint(key.public_key().public_bytes_raw())}
        return jwt.encode(self.to_json_dict(), key, algorithm=ALGORITHM, headers=headers)


def verify(token: str, ear_key: bytes, now: datetime) -> Ear:
    """Check signature (raw Ed25519 key), form and times; raises WireError: EarMalformed, EarSignatureInvalid, EarExpired."""
    if len(token) > MAX_TOKEN_BYTES:
        raise _malformed(f"{len(token)} bytes; at most {MAX_TOKEN_BYTES} are read")
    try:
        if jwt.get_unverified_header(token).get("typ") != TYP:
            raise _malformed("the token's typ is not " + TYP)
        # Times are checked below, with the caller's clock; PyJWT would ask the system.
        claims: dict[str, Any] = jwt.decode(
            token,
            Ed25519PublicKey.from_public_bytes(ear_key),
            algorithms=[ALGORITHM],
            options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False, "verify_jti": False},
        )
        ear = Ear.model_validate(claims)
    except jwt.InvalidSignatureError as error:
        raise WireError(
            WireReason.EAR_SIGNATURE_INVALID,
            "the attestation result is not signed by the pinned broker",
            "compare the EAR key with the one in the worker's spec.broker",
        ) from error
    except (jwt.PyJWTError, ValidationError, ValueError, RecursionError) as error:
        raise _malformed(str(error)[:1024]) from error
    at = unix(now)
    if at >= ear.exp or ear.iat > at + CLOCK_LEEWAY_SECONDS:
        raise WireError(
            WireReason.EAR_EXPIRED,
            "the attestation result is expired, or from the future",
            "ask the worker again: it renews its result; check this machine's clock",
            f"issued {ear.iat}, expires {ear.exp}, now {at}",
        )
    return ear


def _malformed(detail: str) -> WireError:
    return WireError(WireReason.EAR_MALFORMED, "this is not an attestation result of this version", "compare the versions", detail)
