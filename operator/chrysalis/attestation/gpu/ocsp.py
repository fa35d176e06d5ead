"""OCSP answers about certificates of devices and of RIMs (RFC 6960): checked here, fetched by whoever wants revocation checked.

An answer counts only when the certificate's issuer signed it, or a responder that the issuer appointed (extended key usage
OCSPSigning), and when it is current at the stated time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.clock import rfc3339

MAX_RESPONSE_BYTES = 64 * 1024
MAX_RESPONSES = 256
LEEWAY_SECONDS = 60
"""How much the responder's clock may be ahead."""
_R = GpuReason


@dataclass(frozen=True)
class Answer:
    """A readable answer; nothing is proved before `check`."""

    response: ocsp.OCSPResponse

    def is_about(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        """Whether the answer names this certificate of this issuer."""
        if self.response.serial_number != certificate.serial_number:
            return False
        key = issuer.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        hashed = []
        for part in (issuer.subject.public_bytes(), key):
            hasher = hashes.Hash(self.response.hash_algorithm)
            hasher.update(part)
            hashed.append(hasher.finalize())
        return hashed == [self.response.issuer_name_hash, self.response.issuer_key_hash]

    def check(self, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime, nonce: bytes | None = None) -> datetime:
        """Until when the certificate is known to be good; raises GpuError (GpuOcspInvalid, …Expired, GpuCertificateRevoked)."""
        name = certificate.subject.rfc4514_string()
        if not self.is_about(certificate, issuer):
            raise GpuError(_R.GPU_OCSP_INVALID, f"the OCSP answer is about another certificate than {name}")
        self._signature(issuer, at)
        if nonce is not None and self._nonce() != nonce:
            raise GpuError(_R.GPU_OCSP_INVALID, "the OCSP answer does not carry the nonce that was asked with")
        until = self.response.next_update_utc
        if until is None or not self.response.this_update_utc - timedelta(seconds=LEEWAY_SECONDS) <= at < until:
            ends = "no end" if until is None else rfc3339(until)
            span = f"{rfc3339(self.response.this_update_utc)} to {ends}"
            raise GpuError(_R.GPU_OCSP_EXPIRED, f"the OCSP answer about {name} is not current at the stated time", span)
        if self.response.certificate_status == ocsp.OCSPCertStatus.REVOKED:
            since = self.response.revocation_time_utc
            raise GpuError(_R.GPU_CERTIFICATE_REVOKED, f"the certificate was revoked: {name}", rfc3339(since) if since else "")
        if self.response.certificate_status != ocsp.OCSPCertStatus.GOOD:
            raise GpuError(_R.GPU_OCSP_INVALID, f"the OCSP service does not know the certificate: {name}")
        return until.astimezone(UTC)

    def _nonce(self) -> bytes | None:
        try:
            return self.response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        except UNREADABLE_X509:
            return None

    def _signature(self, issuer: x509.Certificate, at: datetime) -> None:
        responder = self._responder(issuer, at)
        key, algorithm = responder.public_key(), self.response.signature_hash_algorithm
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
            raise GpuError(_R.GPU_OCSP_INVALID, "the OCSP answer is not signed with ECDSA and SHA-2")
        try:
            key.verify(self.response.signature, self.response.tbs_response_bytes, ec.ECDSA(algorithm))
        except InvalidSignature as error:
            raise GpuError(_R.GPU_OCSP_INVALID, "the OCSP answer's signature does not hold") from error

    def _responder(self, issuer: x509.Certificate, at: datetime) -> x509.Certificate:
        """The issuer itself, or the one certificate in the answer that it appointed as a responder."""
        name, key_hash = self.response.responder_name, self.response.responder_key_hash
        for candidate in (issuer, *self.response.certificates[:4]):
            if name is not None and candidate.subject != name:
                continue
            if key_hash is not None and _key_hash(candidate) != key_hash:
                continue
            if candidate == issuer:
                return candidate
            if _appointed(candidate, issuer, at):
                return candidate
        raise GpuError(_R.GPU_OCSP_INVALID, "the OCSP answer is signed by none whom the certificate's issuer appointed")


def good_until(certificate: x509.Certificate, issuer: x509.Certificate, answers: Sequence[Answer], at: datetime) -> datetime | None:
    """Until when the answers about this certificate say that it is good; None where none is about it.

    Of several, one that says revoked decides: an older one may still be current.  A good one needs no others.  Raises GpuError:
    GpuCertificateRevoked, or GpuOcspInvalid, GpuOcspExpired of the first where none is good.
    """
    failures: list[GpuError] = []
    good: list[datetime] = []
    for answer in answers:
        if not answer.is_about(certificate, issuer):
            continue
        try:
            good.append(answer.check(certificate, issuer, at))
        except GpuError as error:
            failures.append(error)
    revoked = [error for error in failures if error.reason is _R.GPU_CERTIFICATE_REVOKED]
    if revoked or (failures and not good):
        raise (revoked or failures)[0]
    return max(good, default=None)


def read(responses: Sequence[bytes]) -> list[Answer]:
    """The successful answers (DER); raises GpuError (GpuOcspInvalid) for anything else."""
    if len(responses) > MAX_RESPONSES:
        raise GpuError(_R.GPU_OCSP_INVALID, f"{len(responses)} OCSP answers were given; at most {MAX_RESPONSES} are read")
    return [_read(response) for response in responses]


def _read(data: bytes) -> Answer:
    if len(data) > MAX_RESPONSE_BYTES:
        raise GpuError(_R.GPU_OCSP_INVALID, f"the OCSP answer has {len(data)} bytes; at most {MAX_RESPONSE_BYTES} are read")
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise GpuError(_R.GPU_OCSP_INVALID, "the OCSP service refused to answer", response.response_status.name)
        # Properties are read lazily: what cannot be read must fail here, under this reason.
        _ = (response.serial_number, response.this_update_utc, response.hash_algorithm, response.certificates, response.extensions)
        _ = (response.responder_name, response.signature_hash_algorithm, response.next_update_utc, response.certificate_status)
        _ = [(candidate.subject, candidate.extensions, candidate.public_key()) for candidate in response.certificates]
    except UNREADABLE_X509 as error:
        raise GpuError(_R.GPU_OCSP_INVALID, "the OCSP answer cannot be read", str(error)[:200]) from error
    return Answer(response)


def _key_hash(certificate: x509.Certificate) -> bytes:
    """RFC 6960, section 4.2.1: SHA-1 of the key's bits; a name for the key, not a proof of anything."""
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _appointed(candidate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> bool:
    try:
        candidate.verify_directly_issued_by(issuer)
        usage = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (*UNREADABLE_X509, InvalidSignature):
        return False
    current = candidate.not_valid_before_utc <= at <= candidate.not_valid_after_utc
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage and current
