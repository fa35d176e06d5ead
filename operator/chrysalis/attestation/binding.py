"""What a quote's report_data says: the session transcript over nonce, keys and identity (docs/wire/binding.json).

    transcript    = SHA-512("chrysalis/v1/session" ‖ lp(nonce) ‖ lp(SHA-256 of the TLS key's SPKI) ‖ lp(HPKE key)
                            ‖ lp(receipt key) ‖ lp(identity in deterministic CBOR) ‖ lp(GPU evidence digest))
    claims-buffer = CBOR {"nonce": transcript, "pubkey-hash": CBOR [1, SHA-256 of the TLS key's SPKI]}
    report_data   = SHA-256(claims-buffer) ‖ 32 zero bytes

lp is a length prefix of two bytes, big-endian.  The claims-buffer is that of the Confidential Computing Consortium's
interoperable RA-TLS; deterministic CBOR is RFC 8949, section 4.2.1.  The policy is not bound: stored evidence must be
re-appraisable under a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cbor2

from chrysalis.attestation.reasons import AttestationError, AttestationReason

SESSION_CONTEXT = b"chrysalis/v1/session"
GPU_CONTEXT = b"chrysalis/v1/gpu"
NAMED_INFORMATION_SHA256 = 1
"""IANA's Named Information Hash Algorithm Registry: sha-256."""
MAX_CLAIMS_BYTES = 1024
KEY_BYTES = 32


@dataclass(frozen=True)
class Binding:
    """The three forms of one session's binding."""

    transcript: bytes  # 64 bytes
    claims_buffer: bytes
    report_data: bytes  # 64 bytes, for the quote


@dataclass(frozen=True)
class Claims:
    """What a claims-buffer holds."""

    spki_sha256: bytes
    transcript: bytes


def bind(
    *, nonce: bytes, tls_spki_sha256: bytes, hpke: bytes, receipt: bytes, identity: Mapping[str, Any], gpu_digest: bytes = b""
) -> Binding:
    """Bind a session: nonce and keys have 32 bytes each, gpu_digest is empty or has 32 to 64; raises AttestationError."""
    parts = _parts(nonce, tls_spki_sha256, hpke, receipt, identity)
    if gpu_digest and not 32 <= len(gpu_digest) <= 64:
        raise _invalid(f"the GPU evidence digest has {len(gpu_digest)} bytes; 0 or 32 to 64 are expected")
    transcript = hashlib.sha512(SESSION_CONTEXT + parts + _lp(gpu_digest)).digest()
    claims = claims_buffer(tls_spki_sha256, transcript)
    return Binding(transcript, claims, report_data(claims))


def gpu_nonce(*, nonce: bytes, tls_spki_sha256: bytes, hpke: bytes, receipt: bytes, identity: Mapping[str, Any]) -> bytes:
    """The 32-byte nonce for SPDM measurements of the session's GPUs; raises AttestationError."""
    return hashlib.sha256(GPU_CONTEXT + _parts(nonce, tls_spki_sha256, hpke, receipt, identity)).digest()


def claims_buffer(tls_spki_sha256: bytes, transcript: bytes) -> bytes:
    """The claims-buffer of interoperable RA-TLS over one TLS key and one transcript."""
    key_hash = cbor2.dumps([NAMED_INFORMATION_SHA256, tls_spki_sha256], canonical=True)
    return cbor2.dumps({"pubkey-hash": key_hash, "nonce": transcript}, canonical=True)


def report_data(claims: bytes) -> bytes:
    """The 64 bytes that the quote carries for a claims-buffer."""
    return hashlib.sha256(claims).digest() + bytes(32)


def parse_claims(claims: bytes) -> Claims:
    """Read a claims-buffer; raises AttestationError for anything but the exact deterministic form."""
    if len(claims) > MAX_CLAIMS_BYTES:
        raise _invalid(f"the claims-buffer has {len(claims)} bytes; at most {MAX_CLAIMS_BYTES} are read")
    try:
        document = cbor2.loads(claims)
        algorithm, spki = cbor2.loads(document["pubkey-hash"])
        transcript = document["nonce"]
        if algorithm != NAMED_INFORMATION_SHA256 or not isinstance(spki, bytes) or not isinstance(transcript, bytes):
            raise ValueError("pubkey-hash must be [1, SHA-256] and nonce must be bytes")
        if len(spki) != KEY_BYTES or len(transcript) != 64 or claims_buffer(spki, transcript) != claims:
            raise ValueError("not the deterministic encoding of exactly these two claims")
    except (cbor2.CBORError, ValueError, TypeError, KeyError, LookupError, RecursionError, OverflowError) as error:
        raise _invalid("the claims-buffer is not that of a Chrysalis session", str(error)) from error
    return Claims(spki, transcript)


def identity_cbor(identity: Mapping[str, Any]) -> bytes:
    """Deterministic CBOR of a JSON-like identity: text keys, no floats; raises AttestationError."""
    _check_plain(identity, depth=0)
    return cbor2.dumps(dict(identity), canonical=True)


def _parts(nonce: bytes, tls_spki_sha256: bytes, hpke: bytes, receipt: bytes, identity: Mapping[str, Any]) -> bytes:
    named = {"nonce": nonce, "TLS key hash": tls_spki_sha256, "HPKE key": hpke, "receipt key": receipt}
    for name, value in named.items():
        if len(value) != KEY_BYTES:
            raise _invalid(f"the {name} has {len(value)} bytes; {KEY_BYTES} are expected")
    return b"".join(_lp(value) for value in (*named.values(), identity_cbor(identity)))


def _lp(value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise _invalid(f"an element of the transcript has {len(value)} bytes; at most 65,535 fit")
    return len(value).to_bytes(2, "big") + value


def _check_plain(value: object, depth: int) -> None:
    """Text keys sort the same in the canonical form of RFC 7049, which cbor2 writes, and in the deterministic one of RFC 8949."""
    if depth > 16:
        raise _invalid("the identity is nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _invalid("the identity's keys must be text")
        for item in value.values():
            _check_plain(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, depth + 1)
    elif value is not None and not isinstance(value, str | int | bytes):
        raise _invalid(f"the identity holds a {type(value).__name__}; only text, whole numbers, bytes, lists and maps are bound")


def _invalid(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.BINDING_INVALID, message, detail)
