"""NVIDIA's Remote Attestation Service: its signed answer about a set of GPUs, checked against a given key set.  Pure.

The answer is a detached EAT bundle (RFC 9711, section 4.3): an overall token, and a token of each GPU whose SHA-256 the overall
one holds under `submods`.  Only ES384 is accepted; tokens of local verifiers are unsigned (`alg: none`) and prove nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from chrysalis.api.policy_gpu import MAX_GPUS
from chrysalis.attestation import armor, envelope
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.clock import from_unix

ISSUER = "https://nras.attestation.nvidia.com"
MAX_ANSWER_BYTES = 1024 * 1024
MAX_TOKEN_BYTES = 64 * 1024
MAX_JWKS_BYTES = 1024 * 1024
MAX_KEYS = 64
MAX_KEY_ID = 256
LEEWAY_SECONDS = 60
ALGORITHM = "ES384"
_COORDINATE = 48
_GPU = re.compile(r"^GPU-(0|[1-9][0-9]?)$")
_R = GpuReason


@dataclass(frozen=True)
class Device:
    """What the service says of one GPU."""

    name: str  # GPU-n
    ueid: str  # decimal serial number of the device's own certificate
    driver_version: str
    vbios_version: str
    hardware_model: str


@dataclass(frozen=True)
class Answer:
    """An answer whose signatures, issuer, time, nonce, digests and claims hold."""

    issuer: str
    nonce: bytes
    expires: datetime  # of the first token that ends
    devices: tuple[Device, ...]


def read_keys(jwks: bytes | str) -> dict[str, ec.EllipticCurvePublicKey]:
    """The P-384 keys of a JSON Web Key Set (RFC 7517) by their ids; others are passed over; raises GpuError (NrasKeyUnknown)."""
    try:
        if len(jwks) > MAX_JWKS_BYTES:
            raise ValueError(f"over {MAX_JWKS_BYTES} bytes")
        listed = json.loads(jwks)["keys"]
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise ValueError(f"not a list of at most {MAX_KEYS} keys")
        keys = {}
        for entry in listed:
            if entry.get("kty") == "EC" and entry.get("crv") == "P-384" and entry.get("alg", ALGORITHM) == ALGORITHM:
                x, y = (int.from_bytes(_b64url(entry[part], _COORDINATE + 2), "big") for part in ("x", "y"))
                keys[str(entry["kid"])] = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GpuError(_R.NRAS_KEY_UNKNOWN, "the service's key set cannot be read", f"{type(error).__name__}: {error}"[:200]) from error
    return keys


def check(
    answer: bytes | str, *, keys: Mapping[str, ec.EllipticCurvePublicKey], at: datetime, nonce: bytes, issuer: str = ISSUER
) -> Answer:
    """Judge the service's whole answer; raises GpuError for the first thing that does not hold.

    1. Form: `[["JWT", overall], {"GPU-0": token, …}]`, bounded.
    2. Each token: ES384 with a key of the set, issuer, not expired, not of the future.
    3. The overall token: this nonce, and `x-nvidia-overall-att-result` is true.
    4. `submods` names exactly the GPUs whose tokens are there, each with the SHA-256 of its token.
    5. Each GPU's token: the same nonce, `measres` success, `secboot` true, `dbgstat` disabled.
    """
    overall_token, tokens = _bundle(answer)
    overall, ends = _token(overall_token, keys, at, issuer)
    _nonce(overall, nonce, "the overall token")
    if overall.get("x-nvidia-overall-att-result") is not True:
        raise GpuError(_R.NRAS_CLAIM_REFUSED, "the service's overall result is not true")
    _digests(overall.get("submods"), tokens)
    devices = []
    for name in sorted(tokens, key=lambda one: int(one.removeprefix("GPU-"))):
        claims, until = _token(tokens[name], keys, at, issuer)
        ends = min(ends, until)
        _nonce(claims, nonce, f"the token of {name}")
        _claims(claims, name)
        members = ("ueid", "x-nvidia-gpu-driver-version", "x-nvidia-gpu-vbios-version", "hwmodel")
        devices.append(Device(name, *(str(claims.get(member, ""))[:128] for member in members)))
    return Answer(issuer, nonce, from_unix(ends), tuple(devices))


def read(data: bytes) -> bytes:
    """The service's answer out of a file: alone, or within what NVIDIA's tools print and keep (`detached_eat` of the command line,
    REMOTE_GPU_CLAIMS of the Python SDK's token).  What has none in it is given as it is, for `check` to say what is wrong.

    Raises GpuError (NrasTokenMalformed) for more than one answer about GPUs, and for JSON in which one might be hidden.
    """
    if len(data) > MAX_ANSWER_BYTES:
        raise _malformed(f"the file has {len(data)} bytes; at most {MAX_ANSWER_BYTES} are read")
    try:
        found = _answers(envelope.parsed(data.removeprefix(armor.BOM)), 0)
    except envelope.Ambiguous as error:
        raise _malformed("the file is ambiguous", str(error)[:200]) from error
    except (ValueError, RecursionError):
        return data
    texts = {json.dumps(answer) for answer in found}
    if len(texts) > 1:
        raise _malformed(f"the file holds {len(texts)} answers about GPUs; give one of them")
    return texts.pop().encode() if texts else data


def _answers(value: Any, depth: int) -> list[Any]:
    """The detached EAT bundles about GPUs in here."""
    if isinstance(value, str):
        value = envelope.nested(value)
    if depth > envelope.MAX_NESTING or not isinstance(value, dict | list):
        return []
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict) and isinstance(value[0], list):
        tokens = value[1]
        if value[0][:1] == ["JWT"] and tokens and all(_GPU.match(name) and isinstance(token, str) for name, token in tokens.items()):
            return [value]
    return [answer for _, item in envelope.items(value) for answer in _answers(item, depth + 1)]


def key_ids(answer: bytes | str) -> frozenset[str]:
    """The ids of the keys that the answer's tokens say they are signed with; nothing is proved.  Raises GpuError."""
    overall, tokens = _bundle(answer)
    found = set()
    for token in (overall, *tokens.values()):
        head, _, _ = token.partition(".")
        found.add(str(_object(head).get("kid"))[:MAX_KEY_ID])
    return frozenset(found)


def _bundle(answer: bytes | str) -> tuple[str, dict[str, str]]:
    """The overall token and the GPUs' tokens by name."""
    if len(answer) > MAX_ANSWER_BYTES:
        raise _malformed(f"the answer has {len(answer)} bytes; at most {MAX_ANSWER_BYTES} are read")
    try:
        head, tokens = json.loads(answer)
        kind, overall = head
    except (ValueError, TypeError, RecursionError) as error:
        raise _malformed("the answer is no detached EAT bundle", str(error)[:200]) from error
    if kind != "JWT" or not isinstance(overall, str) or not isinstance(tokens, dict) or not 1 <= len(tokens) <= MAX_GPUS:
        raise _malformed(f"the answer does not hold an overall token and the tokens of 1 to {MAX_GPUS} GPUs")
    for name, token in tokens.items():
        if _GPU.match(name) is None or not isinstance(token, str):
            raise _malformed("a submodule of the answer is no token of a GPU", str(name)[:64])
    return overall, tokens


def _token(token: str, keys: Mapping[str, ec.EllipticCurvePublicKey], at: datetime, issuer: str) -> tuple[dict[str, Any], int]:
    """The claims of one token (RFC 7515, compact form) and its expiry, once signature, issuer and times hold."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise _malformed("a token is not a signed one of three parts")
    header = _object(parts[0])
    if header.get("alg") != ALGORITHM or "crit" in header:
        raise GpuError(_R.NRAS_ALGORITHM_NOT_ALLOWED, "a token is not signed with ES384", f"alg: {str(header.get('alg'))[:32]}")
    key = keys.get(str(header.get("kid")))
    if key is None:
        raise GpuError(_R.NRAS_KEY_UNKNOWN, "a token names a key that the service's key set does not have", str(header.get("kid"))[:128])
    signature = _decoded(parts[2], 2 * _COORDINATE)
    if len(signature) != 2 * _COORDINATE:
        raise _malformed("a token's signature does not have 96 bytes")
    r, s = (int.from_bytes(half, "big") for half in (signature[:_COORDINATE], signature[_COORDINATE:]))
    try:
        key.verify(encode_dss_signature(r, s), f"{parts[0]}.{parts[1]}".encode(), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise GpuError(_R.NRAS_SIGNATURE_INVALID, "a token's signature does not hold") from error
    claims = _object(parts[1])
    if claims.get("iss") != issuer:
        raise GpuError(_R.NRAS_ISSUER_MISMATCH, f"a token is not of {issuer}", str(claims.get("iss"))[:128])
    now, ends = at.timestamp(), claims.get("exp")
    if not isinstance(ends, int) or isinstance(ends, bool) or not 0 <= ends < 1 << 40 or ends <= now:
        raise GpuError(_R.NRAS_EXPIRED, "a token has expired at the stated time, or says nothing of its end", str(ends)[:32])
    for name in ("nbf", "iat"):
        begins = claims.get(name, 0)
        if not isinstance(begins, int | float) or begins > now + LEEWAY_SECONDS:
            raise GpuError(_R.NRAS_EXPIRED, f"a token is of the future: {name}", str(begins)[:32])
    return claims, ends


def _nonce(claims: Mapping[str, Any], nonce: bytes, what: str) -> None:
    stated = claims.get("eat_nonce")
    if not isinstance(stated, str) or not stated.isascii() or not hmac.compare_digest(stated.lower().encode(), nonce.hex().encode()):
        raise GpuError(_R.NRAS_NONCE_MISMATCH, f"{what} answers another nonce", str(stated)[:80])


def _digests(submods: object, tokens: Mapping[str, str]) -> None:
    """`{"GPU-0": ["DIGEST", ["SHA-256", hex]]}`, for exactly these tokens."""
    if not isinstance(submods, dict) or set(submods) != set(tokens):
        raise GpuError(_R.NRAS_SUBMODULE_MISMATCH, "the overall token is not about exactly the GPUs whose tokens are there")
    for name, token in tokens.items():
        try:
            kind, (algorithm, digest) = submods[name]
        except (ValueError, TypeError) as error:
            raise GpuError(_R.NRAS_SUBMODULE_MISMATCH, f"the overall token holds no digest of {name}'s token") from error
        wanted = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        right = kind == "DIGEST" and algorithm in ("SHA-256", "SHA256") and isinstance(digest, str) and digest.isascii()
        if not right or not hmac.compare_digest(digest.lower().encode(), wanted.encode()):
            raise GpuError(_R.NRAS_SUBMODULE_MISMATCH, f"the overall token's digest of {name} is not that of the token that is there")


def _claims(claims: Mapping[str, Any], name: str) -> None:
    measured = claims.get("measres")
    if not isinstance(measured, str) or measured.lower() != "success":
        raise GpuError(_R.NRAS_CLAIM_REFUSED, f"the service did not find {name}'s measurements right", f"measres: {str(measured)[:32]}")
    if claims.get("secboot") is not True or claims.get("dbgstat") != "disabled":
        detail = f"secboot: {str(claims.get('secboot'))[:16]}, dbgstat: {str(claims.get('dbgstat'))[:16]}"
        raise GpuError(_R.GPU_STATE_UNPROVED, f"the service does not say that {name} booted securely with debugging off", detail)


def _object(part: str) -> dict[str, Any]:
    try:
        document = json.loads(_decoded(part, MAX_TOKEN_BYTES))
    except (ValueError, RecursionError) as error:
        raise _malformed("a part of a token is not JSON", str(error)[:200]) from error
    if not isinstance(document, dict):
        raise _malformed("a part of a token is no JSON object")
    return document


def _decoded(part: str, limit: int) -> bytes:
    try:
        return _b64url(part, limit)
    except (ValueError, TypeError) as error:
        raise _malformed("a part of a token is not base64url", str(error)[:200]) from error


def _b64url(text: str, limit: int) -> bytes:
    """Base64url without padding (RFC 7515, section 2); raises ValueError."""
    if not text.isascii() or len(text) > 2 * limit:
        raise ValueError("too long, or not ASCII")
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _malformed(message: str, detail: str = "") -> GpuError:
    return GpuError(_R.NRAS_MALFORMED, message, detail)
