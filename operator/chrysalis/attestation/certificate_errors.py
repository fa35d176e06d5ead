"""What `cryptography` raises for certificates, revocation lists and OCSP answers that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE_X509 = (
    ValueError,
    TypeError,
    KeyError,  # of a TLS feature with a number that is not known
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,  # of an X.400 address or an EDI party, in any extension with names
)
"""One extension that nobody asked for is enough: all of them are read at once, and these have no common base."""


def names_of(certificates: Iterable[x509.Certificate]) -> None:
    """Read the names of certificates, which is otherwise done when they are first used; raises one of UNREADABLE_X509."""
    for certificate in certificates:
        _ = (certificate.subject, certificate.issuer)
