"""Trust anchors, and the one way in which certificates are followed up to them.  Pure.

An anchor is a key with the digest of its certificate (RFC 5280, section 6.1.1, step d): Intel's is pinned here, any other
comes as DER out of a policy.  Nothing else of an anchor's certificate is judged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding

from chrysalis.api.policy import INTEL_ROOT_SHA256, AttestationPolicySpec, DerRoot
from chrysalis.attestation.certificate_errors import UNREADABLE_X509, names_of
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.clock import rfc3339

INTEL_ROOT_KEY = (
    "040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f567918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
"""The P-256 key of "Intel SGX Root CA" (INTEL_ROOT_SHA256), as an uncompressed point (SEC 1, section 2.3.3)."""
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""Its CRL distribution point."""
MAX_PATH = 3
"""Certificates below the anchor; Intel's chains have two."""
_HASHES = (SHA256, SHA384, SHA512)
_R = AttestationReason


@dataclass(frozen=True)
class TrustAnchor:
    """A root that may be trusted.

    sha256: of its certificate's DER, lower-case hex; the anchor's name wherever documents of several roots meet.
    point: its P-256 key as an uncompressed point.
    crl_url: where the certificate says its revocation list is; empty where it says nothing.
    """

    sha256: str
    point: bytes
    crl_url: str

    @property
    def is_intel(self) -> bool:
        """Whether evidence under it is evidence of hardware."""
        return self.sha256 == INTEL_ROOT_SHA256

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.point)


INTEL_ANCHOR = TrustAnchor(INTEL_ROOT_SHA256, bytes.fromhex(INTEL_ROOT_KEY), INTEL_ROOT_CRL)


@lru_cache(maxsize=64)
def from_der(der: bytes) -> TrustAnchor:
    """The anchor of a root certificate; raises AttestationError (RootUnreadable) unless it is one with a P-256 key."""
    digest = hashlib.sha256(der).hexdigest()
    if digest == INTEL_ROOT_SHA256:
        return INTEL_ANCHOR
    try:
        certificate = x509.load_der_x509_certificate(der)
        names_of([certificate])
        return of_certificate(certificate)
    except UNREADABLE_X509 as error:
        raise AttestationError(_R.ROOT_UNREADABLE, "the trust root is no DER certificate", str(error)) from error


def of_certificate(certificate: x509.Certificate) -> TrustAnchor:
    """The anchor that a root certificate stands for; raises AttestationError (RootUnreadable) for a key of another kind."""
    der = certificate.public_bytes(Encoding.DER)
    digest = hashlib.sha256(der).hexdigest()
    if digest == INTEL_ROOT_SHA256:
        return INTEL_ANCHOR
    try:
        numbers = p256(certificate).public_numbers()
    except ValueError as error:
        raise AttestationError(_R.ROOT_UNREADABLE, "the trust root has no P-256 key", str(error)) from error
    point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    return TrustAnchor(digest, point, _distribution_point(certificate))


def of_policy(policy: AttestationPolicySpec) -> TrustAnchor:
    """The anchor that a policy names; raises AttestationError (TrustRootMismatch, RootUnreadable)."""
    if not isinstance(policy.trust_root, DerRoot):
        return INTEL_ANCHOR
    try:
        return from_der(base64.b64decode(policy.trust_root.der, validate=True))
    except binascii.Error as error:
        raise AttestationError(_R.TRUST_ROOT_MISMATCH, "the policy's trustRoot.der is not base64", str(error)) from error


def follow(certificates: Sequence[x509.Certificate], anchor: TrustAnchor, at: datetime, *, authority: bool = False) -> x509.Certificate:
    """Follow a chain (leaf first, its root last or left out) to the anchor and return its leaf.

    1. The root, where the chain carries it, is the anchor byte for byte.
    2. Each certificate is signed by the next one's key, the last by the anchor's, and names its issuer.
    3. All are current at the stated time.
    4. Issuers are certificate authorities that may sign certificates and allow a path of this length; the leaf is none,
       unless `authority` asks for one.

    Revocation is not judged here.  Raises AttestationError: TrustRootMismatch, CertificateInvalid, CertificateExpired.
    """
    path = list(certificates)
    if path and hashlib.sha256(path[-1].public_bytes(Encoding.DER)).hexdigest() == anchor.sha256:  # 1
        path.pop()
    if not 1 <= len(path) <= MAX_PATH:
        raise _invalid(f"a chain has {len(path)} certificates below its root; 1 to {MAX_PATH} are followed")
    try:
        for position, certificate in enumerate(path):
            _signed(certificate, path[position + 1] if position + 1 < len(path) else None, anchor)  # 2
            if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:  # 3
                words = f"{rfc3339(certificate.not_valid_before_utc)} to {rfc3339(certificate.not_valid_after_utc)}"
                raise AttestationError(_R.CERTIFICATE_EXPIRED, "a certificate is not valid at the stated time", words)
            if position or authority:  # 4
                _may_sign(certificate, below=max(position - 1, 0))
            elif _constraints(certificate).ca:
                raise _invalid("the leaf of a chain is a certificate authority")
    except UNREADABLE_X509 as error:
        raise _invalid("a certificate of the chain is not in the form of Intel's", str(error)) from error
    return path[0]


def p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """A certificate's key; raises ValueError unless it is of P-256."""
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key is not of P-256")
    return key


def _signed(certificate: x509.Certificate, issuer: x509.Certificate | None, anchor: TrustAnchor) -> None:
    digest = certificate.signature_hash_algorithm
    if not isinstance(digest, _HASHES):
        raise ValueError("the signature's hash is not of SHA-2")
    key = anchor.key if issuer is None else p256(issuer)
    if issuer is not None and issuer.subject != certificate.issuer:
        raise _invalid("a certificate names another issuer than the one that follows it")
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(digest))
    except InvalidSignature as error:
        if issuer is None:
            raise AttestationError(_R.TRUST_ROOT_MISMATCH, "the chain does not lead to the trust root") from error
        raise _invalid("a certificate is not signed by the one that follows it") from error


def _may_sign(certificate: x509.Certificate, *, below: int) -> None:
    constraints = _constraints(certificate)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    if not constraints.ca or not usage.key_cert_sign:
        raise _invalid("a certificate in the middle of a chain is no certificate authority")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _invalid("a chain is longer than its authority allows")


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


def _distribution_point(certificate: x509.Certificate) -> str:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except UNREADABLE_X509:
        return ""
    names = [name.value for point in points for name in point.full_name or () if isinstance(name, x509.UniformResourceIdentifier)]
    return names[0][:2048] if names else ""


def _invalid(message: str, detail: str = "") -> AttestationError:
    return AttestationError(_R.CERTIFICATE_INVALID, message, detail)
