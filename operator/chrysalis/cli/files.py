"""Files that a command line names: read once, up to a limit, `-` from standard input; what cannot be read is said with its reason.

Every verb that judges foreign files reads them here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chrysalis.attestation import armor
from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.errors import ChrysalisError

STDIN = Path("-")
MAX_ROOT_BYTES = 64 * 1024
Refusal = Callable[[str], ChrysalisError]
_TAKEN: ContextVar[object] = ContextVar("taken", default=None)


def unreadable(message: str) -> ChrysalisError:
    """FileUnreadable, for whoever has no word of their own."""
    return AttestationError(AttestationReason.FILE_UNREADABLE, message)


def read(path: Path, limit: int, refusal: Refusal = unreadable, too_large: Refusal | None = None) -> bytes:
    """A file's bytes; raises what `refusal` makes of the message, or `too_large` for more than `limit` bytes.

    No more than the limit is kept in memory, however much there is: /dev/zero ends, too.
    """
    try:
        if path == STDIN:
            data = _standard_input(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise refusal(f"{path} cannot be read: {said or type(error).__name__}") from error
    if len(data) > limit:
        raise (too_large or refusal)(f"{path} has more than {limit} bytes")
    return data


def _standard_input(limit: int) -> bytes:
    """What stands there, once: whoever names it for two files would have the second one judged empty.  Raises ValueError."""
    if sys.stdin is None:  # closed by whoever started the program
        raise ValueError("standard input is closed")
    if _TAKEN.get() is sys.stdin:
        raise ValueError("standard input was read for another file already; `-` can stand for one only")
    _TAKEN.set(sys.stdin)
    return sys.stdin.buffer.read(limit)


def root(path: Path, refusal: Refusal = unreadable, malformed: Callable[[str, str], ChrysalisError] | None = None) -> bytes:
    """A trust anchor's DER, from a file of DER or PEM; `malformed` makes the error of what is no certificate."""
    data = read(path, MAX_ROOT_BYTES, refusal)
    try:
        is_pem = armor.is_text(data) and b"-----BEGIN" in data  # text may stand before it (RFC 7468, section 5.2)
        certificate = x509.load_pem_x509_certificate(data) if is_pem else x509.load_der_x509_certificate(data)
        return certificate.public_bytes(Encoding.DER)
    except UNREADABLE_X509 as error:
        message, detail = f"{path} is not a certificate", str(error)[:200]
        if malformed is not None:
            raise malformed(message, detail) from error
        raise AttestationError(AttestationReason.ROOT_UNREADABLE, message, detail) from error
