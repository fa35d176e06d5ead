"""TLS to a server whose key is known in advance: trust exactly the certificate that carries the pinned key, and no authority.

Python's ssl can neither pin a key nor ask a callback, so a first TLS 1.3 handshake fetches the certificate, and sends nothing
over it; its key is compared with the pin; then a context is made that verifies against this one certificate.  The second
handshake proves that the server holds the key.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chrysalis.wire.reasons import WireError, WireReason

MAX_CERTIFICATE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class PinnedServer:
    """A server's certificate and a client context that trusts it alone."""

    context: ssl.SSLContext
    certificate_der: bytes
    spki_sha256: bytes


def spki_sha256(certificate_der: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a DER certificate; raises WireError for what is not one."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        return hashlib.sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise WireError(
            WireReason.ANSWER_MALFORMED,
            "the server's certificate cannot be read",
            "check that the address is that of a Chrysalis service",
            str(error),
        ) from error


def context_for(certificate_der: bytes) -> ssl.SSLContext:
    """A TLS 1.3 client context that trusts exactly this certificate (its names are not compared)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate_der)
    return context


def pinned_context(
    host: str, port: int, server_name: str | None = None, *, spki_sha256: bytes | None = None, timeout: float = 10.0
) -> PinnedServer:
    """Fetch the certificate of host:port and return a context that trusts it alone.

    spki_sha256 is the pin, 32 bytes.  Without one the certificate is returned for the caller to judge (RA-TLS does so by
    the evidence in it) before anything is sent.  server_name is the SNI, by default the host.  timeout in seconds.
    Blocks; call it in a thread.  Raises WireError: ServiceUnreachable, PinMismatch, AnswerMalformed.
    """
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    probe.minimum_version = ssl.TLSVersion.TLSv1_3
    probe.check_hostname = False
    probe.verify_mode = ssl.CERT_NONE  # nothing is sent on this connection; the pin decides below
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as raw,
            probe.wrap_socket(raw, server_hostname=server_name or host) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: a host name that IDNA refuses
        raise WireError(
            WireReason.SERVICE_UNREACHABLE,
            f"no TLS 1.3 handshake with {host}:{port}",
            "check the address, the network policy and that the service runs",
            str(error),
        ) from error
    if not der or len(der) > MAX_CERTIFICATE_BYTES:
        raise WireError(WireReason.ANSWER_MALFORMED, f"{host}:{port} showed no certificate of usable size", "check the address")
    found = _fingerprint(der)
    if spki_sha256 is not None and found != spki_sha256:
        raise WireError(
            WireReason.PIN_MISMATCH,
            f"{host}:{port} has another key than the pinned one",
            "somebody else answers there, or the service was given a new key; compare with `chrysalis keys pin` over a trusted way",
            f"pinned {spki_sha256.hex()}, found {found.hex()}",
        )
    return PinnedServer(context=context_for(der), certificate_der=der, spki_sha256=found)


_fingerprint = spki_sha256  # pinned_context has a parameter of the same name
