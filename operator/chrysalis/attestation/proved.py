"""What was proved lately about platforms: a bounded memory that spares a broker to prove the same thing at each renewal.

The library's verdict on a quote depends on the collateral, the trust anchor, the time, the signature of the quote, and
those bytes of the quote that do not name the trust domain: its header, the levels and identity of the TDX module, the
attributes, and everything behind the signature (key, quoting enclave, certificates).  Here lies, for a digest of all these
bytes, what the library said of them.  A quote with exactly the same bytes, and a signature that holds under the same key,
would get the same answer, as long as nothing has expired.  Only successes are kept; everything else goes to the library.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from chrysalis.attestation.quote import BODY_TYPES, ECDSA_BYTES, Quote

MAX_PLATFORMS = 256
HOLD_SECONDS = 600
"""After this time the library is asked again, although nothing has expired."""
NAMELESS_BYTES = 136
"""Of a TD report: from TEE_TCB_SVN to XFAM; what follows (MRTD to REPORTDATA) names the domain, and the library never reads it."""
REPORT_10_BYTES = BODY_TYPES[2]
_ALGORITHM = ec.ECDSA(SHA256())
T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    key: ec.EllipticCurvePublicKey  # the attestation key, for which the quoting enclave vouched
    first: int  # Unix seconds of the proof, and the time from which it holds no more
    end: int


class ProvedPlatforms(Generic[T]):
    """The memory; thread-safe."""

    def __init__(self, size: int = MAX_PLATFORMS) -> None:
        self._size = size
        self._entries: OrderedDict[bytes, _Entry[T]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, name: bytes, quote: Quote, seconds: int) -> T | None:
        """What was proved under this name, where it still holds and the quote's own signature does; None otherwise."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or not entry.first <= seconds < entry.end:
                return None
            self._entries.move_to_end(name)
        r, s = (int.from_bytes(quote.signature[start : start + 32], "big") for start in (0, 32))
        try:
            entry.key.verify(encode_dss_signature(r, s), quote.signed, _ALGORITHM)
        except InvalidSignature:
            return None
        return entry.value

    def keep(self, name: bytes, quote: Quote, value: T, seconds: int, end: int) -> None:
        """Remember what the library accepted at this time; `end` is when the first of the documents expires."""
        point = b"\x04" + quote.signature[ECDSA_BYTES : 2 * ECDSA_BYTES]
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        with self._lock:
            self._entries[name] = _Entry(value, key, seconds, min(end, seconds + HOLD_SECONDS))
            self._entries.move_to_end(name)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


def name(quote: Quote, collateral_digest: bytes, anchor: bytes) -> bytes:
    """A digest of all that the library's verdict depends on, the quote's own signature and the time apart."""
    body = len(quote.signed) - BODY_TYPES[quote.body_type]
    parts = (
        collateral_digest,
        anchor,
        quote.signed[: body + NAMELESS_BYTES],
        quote.signed[body + REPORT_10_BYTES :],
        quote.signature[ECDSA_BYTES:],
    )
    digest = hashlib.sha256(b"chrysalis/v1/proved-platform")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
