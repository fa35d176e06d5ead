"""Evidence in an X.509 certificate: the interoperable RA-TLS form of the Confidential Computing Consortium.

The extension 2.23.133.5.4.9 (TCG DICE conceptual message wrapper, formerly tagged evidence) holds CBOR tag 60000
(IANA: "Intel TEE quote") around [quote, claims-buffer], two byte strings.
"""

from __future__ import annotations

import cbor2

from chrysalis.attestation.reasons import AttestationError, AttestationReason

OID = "2.23.133.5.4.9"
TAG_INTEL_TEE_QUOTE = 60000
MAX_EXTENSION_BYTES = 16 * 1024
"""Peers limit whole certificates to 64–100 kB; a quote has about 5 kB."""


def extension(quote: bytes, claims_buffer: bytes) -> bytes:
    """The extension's value; raises AttestationError when it would be too large for peers."""
    value = cbor2.dumps(cbor2.CBORTag(TAG_INTEL_TEE_QUOTE, [quote, claims_buffer]), canonical=True)
    if len(value) > MAX_EXTENSION_BYTES:
        raise _invalid(f"the evidence extension would have {len(value)} bytes; at most {MAX_EXTENSION_BYTES} are sent")
    return value


def parse_extension(value: bytes) -> tuple[bytes, bytes]:
    """(quote, claims-buffer) of an extension's value; raises AttestationError for anything but the exact form."""
    if len(value) > MAX_EXTENSION_BYTES:
        raise _invalid(f"the evidence extension has {len(value)} bytes; at most {MAX_EXTENSION_BYTES} are read")
    try:
        tag = cbor2.loads(value)
        if not isinstance(tag, cbor2.CBORTag) or tag.tag != TAG_INTEL_TEE_QUOTE:
            raise ValueError("not CBOR tag 60000")
        quote, claims_buffer = tag.value
        if not isinstance(quote, bytes) or not isinstance(claims_buffer, bytes) or extension(quote, claims_buffer) != value:
            raise ValueError("not the deterministic encoding of [quote, claims-buffer]")
    except (cbor2.CBORError, ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise _invalid("the certificate's evidence extension is not of the interoperable RA-TLS form", str(error)) from error
    return quote, claims_buffer


def _invalid(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.RA_TLS_INVALID, message, detail)
