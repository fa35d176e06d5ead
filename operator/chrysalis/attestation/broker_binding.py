"""What the quote over a broker's own keys says (docs/wire/binding.json): a broker that runs in a trust domain shows it to owners.

    transcript    = SHA-512("chrysalis/v1/broker" ‖ lp(nonce) ‖ lp(SHA-256 of the TLS key's SPKI) ‖ lp(result key))
    claims-buffer = that of interoperable RA-TLS over the TLS key and the transcript, as in chrysalis.attestation.binding
    report_data   = SHA-256(claims-buffer) ‖ 32 zero bytes

The context string differs from a worker's session, so that neither can be shown as the other.
"""

from __future__ import annotations

import hashlib

from chrysalis.attestation.binding import KEY_BYTES, Binding, claims_buffer, report_data
from chrysalis.attestation.reasons import AttestationError, AttestationReason

BROKER_CONTEXT = b"chrysalis/v1/broker"


def bind_broker(*, nonce: bytes, tls_spki_sha256: bytes, ear_key: bytes) -> Binding:
    """Bind a broker's keys to the asker's nonce: 32 bytes each; raises AttestationError."""
    for name, value in (("nonce", nonce), ("TLS key hash", tls_spki_sha256), ("result key", ear_key)):
        if len(value) != KEY_BYTES:
            raise AttestationError(AttestationReason.BINDING_INVALID, f"the {name} has {len(value)} bytes; {KEY_BYTES} are expected")
    parts = b"".join(len(value).to_bytes(2, "big") + value for value in (nonce, tls_spki_sha256, ear_key))
    transcript = hashlib.sha512(BROKER_CONTEXT + parts).digest()
    claims = claims_buffer(tls_spki_sha256, transcript)
    return Binding(transcript, claims, report_data(claims))
