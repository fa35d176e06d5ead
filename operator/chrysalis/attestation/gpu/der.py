"""The little DER that certificates' extensions need: tag, length, value, with bounds.  ITU-T X.690."""

from __future__ import annotations

from dataclasses import dataclass

from chrysalis.attestation.gpu.reasons import GpuError, GpuReason

MAX_ELEMENTS = 64
INTEGER = 0x02
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
SEQUENCE = 0x30


@dataclass(frozen=True)
class Element:
    """One value and the tag before it."""

    tag: int
    value: bytes


def elements(data: bytes) -> list[Element]:
    """The elements that stand one after another; raises GpuError (GpuCertificateInvalid)."""
    found: list[Element] = []
    position = 0
    while position < len(data):
        if len(found) == MAX_ELEMENTS:
            raise _invalid("an extension of the certificate has too many elements")
        head = data[position : position + 2]
        if len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise _invalid("an extension of the certificate is not DER")
        position += 2
        size = head[1]
        if size & 0x80:
            octets = size & 0x7F
            encoded = data[position : position + octets]
            size = int.from_bytes(encoded, "big")
            if not 1 <= octets <= 4 or len(encoded) != octets or size < 0x80 or encoded[0] == 0:
                raise _invalid("an extension of the certificate has a length that is not DER")
            position += octets
        value = data[position : position + size]
        if len(value) != size:
            raise _invalid("an extension of the certificate ends too early")
        position += size
        found.append(Element(head[0], value))
    return found


def sequence(data: bytes) -> list[Element]:
    """The elements of the one SEQUENCE that the data is; raises GpuError (GpuCertificateInvalid)."""
    outer = elements(data)
    if len(outer) != 1 or outer[0].tag != SEQUENCE:
        raise _invalid("an extension of the certificate is no SEQUENCE")
    return elements(outer[0].value)


def _invalid(message: str) -> GpuError:
    return GpuError(GpuReason.GPU_CERTIFICATE_INVALID, message)
