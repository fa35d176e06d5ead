"""A device's certificate chain: the device's own certificate first, NVIDIA's Device Identity root last.

Every signature is ECDSA on P-384 with SHA-384.  The path is checked as RFC 5280, section 6.1 demands of what stands in
these certificates: names, key identifiers, CA flags, path lengths, key usage, validity, and no critical extension that is
not understood.  A chain that stands root first, as SPDM itself carries it, is turned round; any other order is refused.
NVIDIA's own root may be left out, as TLS allows it: its key is known here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from chrysalis.api.policy_gpu import GpuArchitecture
from chrysalis.attestation import armor
from chrysalis.attestation.certificate_errors import UNREADABLE_X509, names_of
from chrysalis.attestation.gpu import der
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.clock import rfc3339

NVIDIA_DEVICE_ROOT_SHA256 = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
"""Of the DER of "NVIDIA Device Identity CA", the root of GPUs and NVSwitches alike."""
NVIDIA_DEVICE_ROOT_NAME = "O=NVIDIA,CN=NVIDIA Device Identity CA"
NVIDIA_DEVICE_ROOT_KEY = ec.EllipticCurvePublicKey.from_encoded_point(
    ec.SECP384R1(),
    bytes.fromhex("030e4c14a33bf8a5626658db4129607e4cbf4519c4412716f4d0d917c4978005bdeabeaefd57bc66082d718a4f8b6052e1"),
)
"""The key of that certificate, for chains that leave it out."""
MAX_CHAIN_BYTES = 32 * 1024
MAX_CERTIFICATES = 8
COORDINATE_BYTES = 48

FWID_OIDS = (x509.ObjectIdentifier("2.23.133.5.4.1.1"), x509.ObjectIdentifier("2.23.133.5.4.1"))
"""TCG DICE: the firmware's digest; DiceTcbInfo (Blackwell) or the older CompositeDeviceID (Hopper, LS10)."""
_FWIDS_IN_TCB_INFO = 0xA6  # [6] of DiceTcbInfo
_SHA384 = bytes.fromhex("608648016503040202")
_UNDERSTOOD = {
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.SubjectAlternativeName.oid,
    x509.SubjectKeyIdentifier.oid,
    x509.AuthorityKeyIdentifier.oid,
    x509.ExtendedKeyUsage.oid,
}
_DER = b"\x30"
_EXPLANATION = re.compile(rb"[\t\n\r\x20-\x7e]*")
"""What tools write around certificates (RFC 7468, section 5.2): names, dates, attributes."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_FAMILIES = (("GH", GpuArchitecture.HOPPER), ("GB", GpuArchitecture.BLACKWELL), ("LS10", GpuArchitecture.LS10))
_R = GpuReason
FIRST_SHARED = 2
"""The place in a chain from which on certificates are not one device's own."""
_T = TypeVar("_T", bound=x509.ExtensionType)


@dataclass(frozen=True)
class Chain:
    """A chain whose path to its last certificate holds; whether that one is trusted, and the time, are asked separately."""

    certificates: tuple[x509.Certificate, ...]
    root_sha256: str
    architecture: GpuArchitecture | None  # of the identity certificate's name; None where it is not one we know
    hardware_model: str
    device_id: str  # lower-case hex of the identity key's SHA-256
    fwid: bytes | None  # of the device's certificate
    complete: bool = True  # whether the root stands in it

    @property
    def revocable(self) -> list[tuple[x509.Certificate, x509.Certificate]]:
        """The authorities below the root, each with its issuer: what an OCSP responder is asked about."""
        return list(zip(self.certificates[1:-1], self.certificates[2:], strict=True))

    def check(self, at: datetime, root_sha256: str = NVIDIA_DEVICE_ROOT_SHA256) -> None:
        """Raise GpuError unless the chain ends at this root and every certificate is valid at this time."""
        if not hmac.compare_digest(self.root_sha256, root_sha256.lower()):
            ends = self.certificates[-1].subject.rfc4514_string()
            raise GpuError(_R.GPU_TRUST_ROOT_MISMATCH, "the chain does not end at the trusted device root", f"it ends at {ends}")
        for certificate in self.certificates:
            if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
                name = certificate.subject.rfc4514_string()
                span = f"{rfc3339(certificate.not_valid_before_utc)} to {rfc3339(certificate.not_valid_after_utc)}"
                raise GpuError(_R.GPU_CERTIFICATE_EXPIRED, f"a certificate is not valid at the stated time: {name}", span)

    @property
    def valid_to(self) -> datetime:
        """When the first of the certificates ends."""
        return min(certificate.not_valid_after_utc for certificate in self.certificates)

    def verify(self, signature: bytes, signed: bytes) -> bool:
        """Whether the device's key made this raw signature (r ‖ s, 96 bytes) over these bytes, with SHA-384."""
        key = self.certificates[0].public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 2 * COORDINATE_BYTES:
            return False
        r, s = (int.from_bytes(part, "big") for part in (signature[:COORDINATE_BYTES], signature[COORDINATE_BYTES:]))
        try:
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return False
        return True


def read_pem(data: bytes) -> bytes:
    """PEM out of PEM (line ends, written as escapes or not, blank lines and zero padding as they may be), out of certificates in DER
    one behind the other, or out of base64 or hexadecimal of either; raises GpuError.

    Base64 may be broken into lines, unpadded, and in the URL-safe alphabet.
    """
    if len(data) > 2 * MAX_CHAIN_BYTES:
        raise _unreadable(f"the certificate chain has {len(data)} bytes; at most {MAX_CHAIN_BYTES} are read")
    text = armor.written(data) if data[:1] != _DER else data
    if b"-----BEGIN" not in text and text[:1] != _DER:
        try:
            decoded = armor.from_hex(text)
            decoded = armor.from_base64(text) if decoded is None else decoded
        except ValueError as error:
            raise _unreadable("the certificate chain is neither PEM nor base64 of PEM", str(error)) from error
        if decoded is None:
            raise _unreadable("the certificate chain is neither PEM nor base64 of PEM")
        text = armor.written(decoded) if decoded[:1] != _DER else decoded
    if text[:1] == _DER:
        text = _pem(text)
    if b"\\n" in text:
        text = text.replace(b"\\n", b"\n").strip()
    if b"-----BEGIN" not in text:
        raise _unreadable("the certificate chain holds no PEM")
    if len(text) > MAX_CHAIN_BYTES:
        raise _unreadable(f"the certificate chain has {len(text)} bytes; at most {MAX_CHAIN_BYTES} are read")
    return text


def _pem(data: bytes) -> bytes:
    """Certificates in DER, one behind the other and perhaps zeros behind the last, as PEM; raises GpuError."""
    found: list[bytes] = []
    rest = data
    while rest.strip(b"\0"):
        if rest[:2] != b"\x30\x82" or len(found) == MAX_CERTIFICATES:
            raise _unreadable("the certificate chain is neither PEM nor certificates in DER, one behind the other")
        size = 4 + int.from_bytes(rest[2:4], "big")
        lines = base64.encodebytes(rest[:size])
        found.append(b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----")
        rest = rest[size:]
    return b"\n".join(found)


@lru_cache(maxsize=128)
def read(pem: bytes) -> Chain:
    """Read a chain and verify each signature in it; raises GpuError (GpuChainUnreadable, GpuCertificateInvalid).

    Kept by its bytes: a device presents the same chain at each attestation, and neither time nor trust is decided here.
    """
    certificates = _leaf_first(load(read_pem(pem)))
    rootless = _issued_by_nvidia(certificates[-1])
    length = len(certificates) + rootless
    if length < 2:
        raise GpuError(_R.GPU_CERTIFICATE_INVALID, "the chain has one certificate; a device's and a root are two at least")
    verify_path(certificates, _R.GPU_CERTIFICATE_INVALID, rootless=rootless)
    # The device's certificate is made anew by each firmware; the one above it is the device's own identity, given by NVIDIA.
    identity = certificates[1] if length > 3 else certificates[0]
    root = NVIDIA_DEVICE_ROOT_SHA256 if rootless else hashlib.sha256(certificates[-1].public_bytes(Encoding.DER)).hexdigest()
    model = common_name(identity)
    return Chain(
        certificates=certificates,
        root_sha256=root,
        architecture=architecture(model),
        hardware_model=model,
        device_id=hashlib.sha256(identity.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest(),
        fwid=_fwid(certificates[0]),
        complete=not rootless,
    )


def load(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file, in its order; raises GpuError (GpuChainUnreadable).

    Plain text beside them is passed over; anything else in PEM, such as a key, is not.
    """
    found, rest = _PEM.findall(pem), _PEM.sub(b"", pem)
    if not found or b"-----" in rest or _EXPLANATION.fullmatch(rest) is None:
        raise _unreadable("the certificate chain holds something else than certificates in PEM, or none")
    if len(found) > MAX_CERTIFICATES:
        raise _unreadable(f"the certificate chain has {len(found)} certificates; at most {MAX_CERTIFICATES} are read")
    try:
        certificates = tuple(x509.load_pem_x509_certificate(one) for one in found)
        names_of(certificates)
        return certificates
    except UNREADABLE_X509 as error:
        raise _unreadable("a certificate of the chain cannot be read", str(error)) from error


def _leaf_first(certificates: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """The chain as it is, or turned round where its root stands first; what is no chain stays none."""
    first, last = certificates[0], certificates[-1]
    root_first = first.subject == first.issuer and last.subject != last.issuer
    return certificates[::-1] if root_first else certificates


def _issued_by_nvidia(certificate: x509.Certificate) -> bool:
    """Whether NVIDIA's device root, which is not in the chain, issued the chain's last certificate."""
    try:
        if certificate.subject == certificate.issuer or certificate.issuer.rfc4514_string() != NVIDIA_DEVICE_ROOT_NAME:
            return False
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
            return False
        NVIDIA_DEVICE_ROOT_KEY.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, *UNREADABLE_X509):
        return False
    return True


def verify_path(certificates: Sequence[x509.Certificate], reason: GpuReason, *, rootless: bool = False) -> None:
    """Verify a path, leaf first, up to and including the self-signed root; raises GpuError with the given reason.

    rootless: the issuer of the last certificate is not among them and was verified otherwise.
    """
    try:
        for place, certificate in enumerate(certificates):
            _form(certificate, place, reason)
            if rootless and certificate is certificates[-1]:
                return
            issuer = certificates[min(place + 1, len(certificates) - 1)]
            _issued(certificate, issuer, place, reason)
    except UNREADABLE_X509 as error:
        raise GpuError(reason, "a certificate of the chain is malformed", str(error)[:500]) from error


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or nothing."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value)[:128] if names else ""
    except UNREADABLE_X509:
        return ""


def _form(certificate: x509.Certificate, place: int, reason: GpuReason) -> None:
    """What a certificate at this place (0: leaf) must be."""
    name = certificate.subject.rfc4514_string()
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise GpuError(reason, f"a certificate's key is not on P-384: {name}")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise GpuError(reason, f"a certificate is not signed with ECDSA and SHA-384: {name}")
    extensions = certificate.extensions
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise GpuError(reason, f"a certificate has a critical extension that is not understood: {name}", extension.oid.dotted_string)
    constraints = _extension(extensions, x509.BasicConstraints)
    usage = _extension(extensions, x509.KeyUsage)
    if usage is None:
        raise GpuError(reason, f"a certificate does not say what its key is for: {name}")
    if place == 0:
        if constraints is not None and constraints.ca:
            raise GpuError(reason, f"the first certificate is an authority's, not a device's or signer's: {name}")
        if not usage.digital_signature:
            raise GpuError(reason, f"the first certificate's key is not for signatures: {name}")
        return
    if constraints is None or not constraints.ca or not usage.key_cert_sign:
        raise GpuError(reason, f"a certificate that issued another is not an authority's: {name}")
    if constraints.path_length is not None and constraints.path_length < place - 1:
        raise GpuError(reason, f"a certificate allows {constraints.path_length} authorities below it, not {place - 1}: {name}")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate, place: int, reason: GpuReason) -> None:
    """The issuer's name, key identifier and signature of the certificate at this place (0: leaf)."""
    name = certificate.subject.rfc4514_string()
    if certificate.issuer != issuer.subject:
        raise GpuError(
            reason, f"the certificate after this one did not issue it: {name}", "the chain must be in order, the device's own first"
        )
    wanted = _extension(certificate.extensions, x509.AuthorityKeyIdentifier)
    found = _extension(issuer.extensions, x509.SubjectKeyIdentifier)
    if wanted is not None and wanted.key_identifier is not None and found is not None and wanted.key_identifier != found.digest:
        raise GpuError(reason, f"a certificate names another key of its issuer: {name}")
    try:
        if place < FIRST_SHARED:
            certificate.verify_directly_issued_by(issuer)
        else:
            _shared_issued(certificate, issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise GpuError(reason, f"a certificate's signature does not hold: {name}", str(error)) from error


@lru_cache(maxsize=64)
def _shared_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """An authority's signature, remembered by the bytes of both where it holds: all devices of a make share these."""
    certificate.verify_directly_issued_by(issuer)


def _extension(extensions: x509.Extensions, kind: type[_T]) -> _T | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def architecture(model: str) -> GpuArchitecture | None:
    """The family of a chip by its name (GH100 …), None where it is not one we know."""
    return next((architecture for prefix, architecture in _FAMILIES if model.startswith(prefix)), None)


def _fwid(certificate: x509.Certificate) -> bytes | None:
    """The digest of the firmware that holds the device's key, as the certificate states it; raises GpuError."""
    for oid in FWID_OIDS:
        try:
            extension = certificate.extensions.get_extension_for_oid(oid).value
        except x509.ExtensionNotFound:
            continue
        if not isinstance(extension, x509.UnrecognizedExtension):
            continue
        members = der.sequence(extension.value)
        listed = next((member for member in members if member.tag == _FWIDS_IN_TCB_INFO), None)
        # CompositeDeviceID is {version, public key, FWID}; DiceTcbInfo lists FWIDs, the key holder's first.
        entry = der.elements(listed.value)[0] if listed is not None and listed.value else members[-1] if members else None
        if entry is None or entry.tag != der.SEQUENCE:
            raise GpuError(_R.GPU_CERTIFICATE_INVALID, "the certificate's firmware identifier cannot be read")
        parts = der.elements(entry.value)
        tags = [part.tag for part in parts]
        if tags != [der.OBJECT_IDENTIFIER, der.OCTET_STRING] or parts[0].value != _SHA384 or len(parts[1].value) != COORDINATE_BYTES:
            raise GpuError(_R.GPU_CERTIFICATE_INVALID, "the certificate's firmware identifier is no SHA-384 digest")
        return parts[1].value
    return None


def _unreadable(message: str, detail: str = "") -> GpuError:
    return GpuError(_R.GPU_CHAIN_UNREADABLE, message, detail)
