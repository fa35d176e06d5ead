"""Whose platform is this: what of a quote can be proved before there is any collateral.  Pure.

Collateral is asked for by platform (FMSPC) and PCK authority, and both stand in the quote.  Anybody can write a quote, so
they are believed only when the whole line of signatures from the trust root down to the quote holds.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from chrysalis.attestation.anchor import TrustAnchor, follow, p256
from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.attestation.collateral import chain, common_name
from chrysalis.attestation.quote import BODY_TYPES, ECDSA_BYTES, HEADER_BYTES, QE_REPORT_BYTES, Quote, parse
from chrysalis.attestation.reasons import AttestationError, AttestationReason

AUTHORITIES = ("platform", "processor")
SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_FMSPC = bytes.fromhex("060a2a864886f84d010d01040406")
"""DER: OID 1.2.840.113741.1.13.1.4, then the head of its OCTET STRING of six bytes ("Intel SGX PCK Certificate and CRL Profile")."""
_REPORT_DATA = 320
"""Where the quoting enclave's report carries its data, 64 bytes."""
_R = AttestationReason


@dataclass(frozen=True)
class Platform:
    """What collateral is asked for by.

    fmspc: upper-case hex.  ca: which of the PCK authorities certified it (platform, processor).
    """

    fmspc: str
    ca: str


def prove(quote: Quote, anchor: TrustAnchor, at: datetime) -> Platform:
    """Prove a quote's platform under a trust anchor, without collateral; hence nothing about revocation or TCB levels.

    1. The PCK certificate chain leads to the anchor and is current.
    2. The quoting enclave's report is signed by the PCK certificate's key.
    3. That report vouches for the key that signed the quote (SHA-256 of the key and the authentication data).
    4. Header and report are signed by that key.
    5. FMSPC and authority are read out of the proved certificate.

    Raises AttestationError: TrustRootMismatch, CertificateInvalid, CertificateExpired, SignatureInvalid, CollateralMismatch.
    """
    try:
        certificates = chain(quote.pck_chain, "PCK certificate chain")
    except AttestationError as error:
        raise AttestationError(_R.CERTIFICATE_INVALID, "the quote's PCK certificate chain cannot be read", error.detail) from error
    leaf = follow(certificates, anchor, at)  # 1
    try:
        _signatures(quote, p256(leaf))  # 2-4
        return Platform(_fmspc(leaf), authority(leaf.issuer))  # 5
    except (*UNREADABLE_X509, IndexError, struct.error) as error:
        raise AttestationError(
            _R.CERTIFICATE_INVALID, "the quote or its PCK certificate is not in the form of Intel's", str(error)
        ) from error


def claimed(quote: Quote) -> Platform:
    """The platform that a quote says it is of; nothing is proved.

    Raises AttestationError (CertificateInvalid, CollateralMismatch) where it says nothing that can be read.
    """
    return _claimed(quote.pck_chain)


def claimed_or_none(raw: bytes) -> Platform | None:
    """The platform that a quote's bytes say they are of; nothing is proved, and None where they say nothing that can be read."""
    try:
        return claimed(parse(raw))
    except AttestationError:
        return None


@lru_cache(maxsize=64)
def _claimed(pck_chain: bytes) -> Platform:
    try:
        leaf = chain(pck_chain, "PCK certificate chain")[0]
        return Platform(_fmspc(leaf), authority(leaf.issuer))
    except AttestationError as error:
        if error.reason is _R.COLLATERAL_MISMATCH:
            raise
        raise AttestationError(_R.CERTIFICATE_INVALID, "the quote's PCK certificate chain cannot be read", error.detail) from error
    except UNREADABLE_X509 as error:
        message = "the quote's PCK certificate is not in the form of Intel's"
        raise AttestationError(_R.CERTIFICATE_INVALID, message, str(error)) from error


def authority(name: x509.Name) -> str:
    """`platform` or `processor`, by the name of a PCK authority; raises AttestationError (CollateralMismatch) for others."""
    text = name.rfc4514_string().lower()
    for kind in AUTHORITIES:
        if kind in text:
            return kind
    raise AttestationError(_R.COLLATERAL_MISMATCH, "the PCK chain names neither Platform nor Processor CA", text[:256])


def authority_of_crl(certificates: list[x509.Certificate]) -> str:
    """Which PCK authority a CRL's issuer chain is of; raises AttestationError (CollateralMismatch)."""
    kinds = [kind for kind in AUTHORITIES if kind in common_name(certificates[0]).lower()]
    if len(kinds) != 1:
        raise AttestationError(_R.COLLATERAL_MISMATCH, "the PCK CRL's issuer is neither Platform nor Processor CA")
    return kinds[0]


def verify_raw(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether r ‖ s (64 bytes) is the key's signature over the data's SHA-256: the form in Intel's documents and quotes."""
    if len(signature) != ECDSA_BYTES:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _signatures(quote: Quote, pck: ec.EllipticCurvePublicKey) -> None:
    start = HEADER_BYTES + (6 if quote.version == 5 else 0)
    end = start + BODY_TYPES[quote.body_type]
    signature = quote.raw[end + 4 :]
    own, point = signature[:ECDSA_BYTES], signature[ECDSA_BYTES : 2 * ECDSA_BYTES]
    inner = signature[2 * ECDSA_BYTES + 6 :]
    report, report_signature = inner[:QE_REPORT_BYTES], inner[QE_REPORT_BYTES : QE_REPORT_BYTES + ECDSA_BYTES]
    fixed = QE_REPORT_BYTES + ECDSA_BYTES
    (auth_bytes,) = struct.unpack_from("<H", inner, fixed)
    data = inner[fixed + 2 : fixed + 2 + auth_bytes]
    if not verify_raw(pck, report_signature, report):
        raise _signature("the quoting enclave's report is not signed by the platform's key")
    vouched = hashlib.sha256(point + data).digest() + bytes(32)
    if not hmac.compare_digest(report[_REPORT_DATA:], vouched):
        raise _signature("the quoting enclave does not vouch for the key that signed the quote")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    if not verify_raw(key, own, quote.raw[:end]):
        raise _signature("the quote's signature does not match its bytes")


def _fmspc(leaf: x509.Certificate) -> str:
    extension = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value
    if not isinstance(extension, x509.UnrecognizedExtension) or extension.value.count(_FMSPC) != 1:
        raise ValueError("the PCK certificate does not say its FMSPC once")
    start = extension.value.index(_FMSPC) + len(_FMSPC)
    fmspc = extension.value[start : start + 6]
    if len(fmspc) != 6:
        raise ValueError("the PCK certificate's FMSPC is cut off")
    return fmspc.hex().upper()


def _signature(message: str) -> AttestationError:
    return AttestationError(_R.SIGNATURE_INVALID, message)
