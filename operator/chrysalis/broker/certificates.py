"""TLS client certificates of administrators: which tenant's authority issued one, and in which role it comes in.

The TLS server checks a certificate's chain, times and the possession of its key before a request reaches the application
(main.tls_server asks for certificates without requiring them: workers have none).  Here the certificate is only attributed:
its issuer must be, key and name, one of the certificates in a tenant's caFile.  Revocation lists are not consulted; issue
certificates that live for hours, or take the authority out of the settings.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.tenants import CertificateAdministrator, Tenant
from chrysalis.clock import Clock

MAX_CA_FILE_BYTES = 256 * 1024
MAX_AUTHORITIES = 16
MAX_CERTIFICATE_BYTES = 16 * 1024
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class _Entry:
    tenant: Tenant
    administrator: CertificateAdministrator
    authorities: tuple[x509.Certificate, ...]


class ClientCertificates:
    """The authorities of every tenant."""

    def __init__(self, tenants: Iterable[Tenant], clock: Clock) -> None:
        """Read every caFile; raises BrokerError (SettingsInvalid), also where one authority is listed by two tenants."""
        self._clock = clock
        self._entries: list[_Entry] = []
        holder: dict[bytes, str] = {}
        for tenant in tenants:
            for administrator in tenant.administrators.certificates:
                authorities = _read(administrator.ca_file)
                for authority in authorities:
                    key = authority.public_key().public_bytes(*_SPKI)
                    if holder.setdefault(key, tenant.name) != tenant.name:
                        raise _invalid(administrator.ca_file, f"tenant {holder[key]} lists the same authority; it may belong to one only")
                self._entries.append(_Entry(tenant, administrator, authorities))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a TLS server ask for certificates of these authorities, without requiring one."""
        pem = b"".join(authority.public_bytes(Encoding.PEM) for entry in self._entries for authority in entry.authorities)
        if pem:
            context.load_verify_locations(cadata=pem.decode())
            context.verify_mode = ssl.CERT_OPTIONAL

    def identify(self, der: bytes) -> tuple[str, list[tuple[Tenant, CertificateAdministrator]]]:
        """The certificate's name for the log, and the entries that it fits.

        der is what the TLS layer has verified.  Checked again: validity at the broker's own clock, not an authority itself,
        and, where it limits its use, for client authentication.  Raises BrokerError (CallerUnauthenticated).
        """
        try:
            if len(der) > MAX_CERTIFICATE_BYTES:
                raise ValueError("too large")
            certificate = x509.load_der_x509_certificate(der)
            now = self._clock.now()
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                raise ValueError("not valid at this time")
            _check_use(certificate)
            names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        except UNREADABLE_X509 as error:
            raise BrokerError(
                BrokerReason.CALLER_UNAUTHENTICATED,
                "the client certificate cannot be used",
                "ask its authority for another",
                str(error)[:512],
            ) from error
        fitting = [
            (entry.tenant, entry.administrator)
            for entry in self._entries
            if any(_issued(certificate, authority) for authority in entry.authorities)
            and entry.administrator.common_name in (None, *names[:1])
        ]
        return f"certificate {names[0][:64] if names else certificate.serial_number}", fitting


def _check_use(certificate: x509.Certificate) -> None:
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError("an authority's own certificate")
    except x509.ExtensionNotFound:
        pass
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            raise ValueError("not for client authentication")
    except x509.ExtensionNotFound:
        pass


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        text = path.read_bytes()
        if len(text) > MAX_CA_FILE_BYTES:
            raise ValueError(f"over {MAX_CA_FILE_BYTES} bytes")
        found = tuple(x509.load_pem_x509_certificates(text))
        if not 0 < len(found) <= MAX_AUTHORITIES:
            raise ValueError(f"it must hold 1 to {MAX_AUTHORITIES} certificates")
    except (OSError, *UNREADABLE_X509) as error:
        raise _invalid(path, str(error)) from error
    return found


def _invalid(path: Path, detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.SETTINGS_INVALID, f"{path} cannot be used as a tenant's certificate authority", "see chrysalis.broker.tenants", detail
    )
