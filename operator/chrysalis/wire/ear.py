"""The broker's attestation result as a signed token: an EAR (draft-ietf-rats-ear-04, an EAT of RFC 9711) in a JWT.

Claims of the draft: eat_profile, iat, exp, eat_nonce, ear_verifier_id and submodules, `tdx` first, each with ear_status and a
trustworthiness vector (AR4SI).  Claims of this project: cnf (the TLS key that the result is bound to), chrysalis_keys,
chrysalis_result.  Signed with EdDSA by the pinned key itself, or with EdDSA or ES256 by a key that it certifies
(chrysalis.wire.ear_keys).  Whoever accepts the token must compare cnf with the key that its peer proves: `require` does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from chrysalis.api.base import DnsLabel, Hex32, Model, Sha256Digest
from chrysalis.api.policy import Placement
from chrysalis.api.worker import Isolation
from chrysalis.clock import unix
from chrysalis.receipts.jws import thumbprint
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire import ear_keys
from chrysalis.wire.broker import Keys
from chrysalis.wire.ear_keys import Algorithm, CertifiedKey, KeyCertificate, PublicKey
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.recalls import RecallList

TYP = "eat+jwt"
KEY_HEADER = "x-chrysalis-key"
PROFILE: Literal["tag:ietf.org,2026:rats/ear#04"] = "tag:ietf.org,2026:rats/ear#04"
SUBMODULE = "tdx"
MAX_TOKEN_BYTES = 16 * 1024
CLOCK_LEEWAY_SECONDS = 60
"""How far the broker's clock may be ahead of the reader's."""


Status = Literal["none", "affirming", "warning", "contraindicated"]
"""The tiers of AR4SI, section 3.2, weakest claim first."""
AFFIRMING_ONLY: tuple[Status, ...] = ("affirming",)
VectorClaim = Literal[
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
]
"""The claims of AR4SI, section 3.1; 0 says that nothing is claimed."""


class VerifierId(Model):
    """Which software judged."""

    developer: Annotated[str, Field(max_length=128)]
    build: Annotated[str, Field(max_length=128)]


class Appraisal(Model):
    """One attester's appraisal in the draft's words; the status is the worst tier of the vector."""

    status: Annotated[Status, Field(alias="ear_status")]
    vector: Annotated[dict[VectorClaim, Annotated[int, Field(ge=-128, le=127)]], Field(alias="ear_trustworthiness_vector", max_length=8)]
    policy_ids: Annotated[list[Annotated[str, Field(max_length=256)]], Field(alias="ear_appraisal_policy_ids", min_length=1, max_length=4)]


class Confirmation(Model):
    """The key that the token is bound to (RFC 7800): SHA-256 of the TLS key's SubjectPublicKeyInfo, hex."""

    spki_sha256: Annotated[Hex32, Field(alias="spki#S256")]


class EarGpus(Model):
    """What was judged of the GPUs; each has a submodule of its own (`gpu0`, `gpu1`, …; `nvswitch0`, …)."""

    backend: Literal["Local", "NRAS"]
    evidence_class: Literal["Hardware", "Simulated"]
    device_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=16)]
    revocation: Literal["Good", "Revoked", "NotChecked"]
    service: Annotated[str, Field(max_length=256)] | None = None  # issuer of the service that compared the measurements; null: the broker
    bound: Literal["Unknown"] = "Unknown"  # whether the GPUs are those of this trust domain: no report says so


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
    key_since: int = 1  # version of the key record in which the model key itself was last replaced
    model_digest: Sha256Digest
    gpu: EarGpus | None = None  # null where the policy judges no GPUs


class Ear(Model):
    """The token's claims."""

    profile: Annotated[Literal["tag:ietf.org,2026:rats/ear#04"], Field(alias="eat_profile")] = PROFILE
    jti: Annotated[str, Field(max_length=36)]  # the result's id
    iat: int
    exp: int
    nonce: Annotated[Hex32, Field(alias="eat_nonce")]
    verifier: Annotated[VerifierId, Field(alias="ear_verifier_id")]
    submods: Annotated[dict[str, Appraisal], Field(min_length=1, max_length=32)]
    cnf: Confirmation
    keys: Annotated[Keys, Field(alias="chrysalis_keys")]
    result: Annotated[EarResult, Field(alias="chrysalis_result")]

    def sign(self, key: Ed25519PrivateKey | CertifiedKey) -> str:
        """The compact token, signed by the pinned key itself or by a certified one."""
        if isinstance(key, CertifiedKey):
            headers = {"typ": TYP, "kid": key.kid, KEY_HEADER: key.token}
            return jwt.encode(self.to_json_dict(), key.private, algorithm=key.certificate.jwk.algorithm.value, headers=headers)
        headers = {"typ": TYP, "kid": thumbprint(key.public_key().public_bytes_raw())}
        return jwt.encode(self.to_json_dict(), key, algorithm=Algorithm.EDDSA.value, headers=headers)


@dataclass(frozen=True)
class Opened:
    """A token whose signature holds; certificate: of the key that signed it, None for the pinned key itself."""

    ear: Ear
    certificate: KeyCertificate | None


def verify(token: str, ear_key: bytes, now: datetime, recalls: RecallList | None = None) -> Ear:
    """Judge a token by the broker's pinned key (raw Ed25519).

    1. The header: typ, and EdDSA or ES256, never anything else.  2. The key: the pinned one, or one that it certifies, of the kid and
    the kind that the header names.  3. The signature.  4. The claims, none missing and none unknown.  5. The result's own time.
    6. The certified key's time: it signed within its window, and what it signed still verifies.  7. The certified key is not recalled.

    recalls: the broker's list (chrysalis.wire.recalls), where the reader has one; without it, a key that was stolen and recalled is
    believed until its own time ends.  Raises WireError: EarMalformed, EarSignatureInvalid, EarExpired, KeyRecalled.
    """
    opened = open_token(token, ear_key)
    check_times(opened, now)
    check_recalled(opened, frozenset() if recalls is None else recalls.kids)
    return opened.ear


def open_token(token: str, ear_key: bytes) -> Opened:
    """Steps 1 to 4 of `verify`: all that does not depend on the time.  Raises WireError: EarMalformed, EarSignatureInvalid."""
    if len(token) > MAX_TOKEN_BYTES:
        raise _malformed(f"{len(token)} bytes; at most {MAX_TOKEN_BYTES} are read")
    certificate: KeyCertificate | None = None
    try:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != TYP:  # 1
            raise _malformed("the token's typ is not " + TYP)
        algorithm = Algorithm(header["alg"])
        key: PublicKey = Ed25519PublicKey.from_public_bytes(ear_key)  # 2
        if KEY_HEADER in header:
            certificate = ear_keys.open_certificate(str(header[KEY_HEADER]), ear_key)
            if header.get("kid") != certificate.jwk.kid:
                raise _malformed("the certified key is not the one that kid names")
            key = certificate.jwk.public_key()
        if algorithm is not (certificate.jwk.algorithm if certificate else Algorithm.EDDSA):
            raise _malformed("the algorithm is not that of the key")
        ear = _open(token, key, algorithm)  # 3, 4
    except jwt.InvalidSignatureError as error:
        raise WireError(
            WireReason.EAR_SIGNATURE_INVALID,
            "the attestation result is not signed by the pinned broker",
            "compare the EAR key with the one in the worker's spec.broker",
        ) from error
    except (jwt.PyJWTError, ReceiptError, KeyError, ValidationError, ValueError, RecursionError, UnsupportedAlgorithm) as error:
        raise _malformed(str(error)[:1024]) from error
    return Opened(ear, certificate)


def check_times(opened: Opened, now: datetime) -> None:
    """Steps 5 and 6 of `verify`; raises WireError (EarExpired)."""
    ear, certificate, at = opened.ear, opened.certificate, unix(now)
    if at >= ear.exp or ear.iat > at + CLOCK_LEEWAY_SECONDS:  # 5
        raise _expired("the attestation result is expired, or from the future", f"issued {ear.iat}, expires {ear.exp}, now {at}")
    if certificate and not (certificate.nbf <= ear.iat < certificate.signs_until and at < certificate.exp):  # 6
        raise _expired(
            "the attestation result was signed outside of its key's time, or the key's time is over",
            f"issued {ear.iat}, key signs {certificate.nbf} to {certificate.signs_until}, verifies until {certificate.exp}, now {at}",
        )


def check_recalled(opened: Opened, kids: Collection[str]) -> None:
    """Step 7 of `verify`; kids: thumbprints of recalled keys.  Raises WireError (KeyRecalled)."""
    if opened.certificate is not None and opened.certificate.jwk.kid in kids:
        raise WireError(
            WireReason.KEY_RECALLED,
            "the key that signed the attestation result was recalled by its broker",
            "let the worker attest again; do not use what this result was shown for",
            f"kid {opened.certificate.jwk.kid}",
        )


def require(
    ear: Ear,
    *,
    tls_spki_sha256: bytes,
    nonce: bytes | None = None,
    statuses: Collection[Status] = AFFIRMING_ONLY,
    evidence_classes: Collection[str] = ("Hardware",),
    placements: Collection[Placement] = (Placement.EXTERNAL, Placement.IN_TD),
) -> None:
    """What a relying party asks of a verified result before it uses the connection.

    tls_spki_sha256: of the key that the peer proved in this very TLS handshake.  nonce: the reader's own, where it gave the
    challenge.  statuses: tiers that every submodule may have.  The defaults accept hardware judged by a broker that its operator
    cannot impersonate, and nothing simulated.  Raises WireError (EarClaimMismatch).
    """
    found: dict[str, tuple[object, bool]] = {
        "cnf": (ear.cnf.spki_sha256, ear.cnf.spki_sha256.lower() == tls_spki_sha256.hex()),
        "eat_nonce": (ear.nonce, nonce is None or ear.nonce.lower() == nonce.hex()),
        "evidenceClass": (ear.result.evidence_class, ear.result.evidence_class in evidence_classes),
        "placement": (ear.result.placement.value, ear.result.placement in placements),
    }
    for name, appraisal in ear.submods.items():
        found[f"submods.{name}.ear_status"] = (appraisal.status, appraisal.status in statuses)
    for claim, (value, good) in found.items():
        if not good:
            raise WireError(
                WireReason.EAR_CLAIM_MISMATCH,
                f"the attestation result's {claim} is not what this reader asks for",
                "do not use this peer for this; or ask for less, knowingly",
                f"found {value}",
            )


def _open(token: str, key: PublicKey, algorithm: Algorithm) -> Ear:
    # Times are checked by the caller, with its clock; PyJWT would ask the system.
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=[algorithm.value],
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False, "verify_jti": False},
    )
    return Ear.model_validate(claims)


def _expired(message: str, detail: str) -> WireError:
    return WireError(WireReason.EAR_EXPIRED, message, "ask the worker again: it renews its result; check this machine's clock", detail)


def _malformed(detail: str) -> WireError:
    return WireError(WireReason.EAR_MALFORMED, "this is not an attestation result of this version", "compare the versions", detail)
