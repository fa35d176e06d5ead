"""The little DER that Intel's PCK certificate extension needs, and nothing more."""

from __future__ import annotations

SGX_EXTENSION = "1.2.840.113741.1.13.1"
_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30


def tlv(tag: int, value: bytes) -> bytes:
    """One element, up to 65,535 bytes."""
    length = len(value)
    if length < 0x80:
        head = bytes([length])
    elif length < 0x100:
        head = bytes([0x81, length])
    else:
        head = bytes([0x82]) + length.to_bytes(2, "big")
    return bytes([tag]) + head + value


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded parts."""
    return tlv(_SEQUENCE, b"".join(parts))


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(_OCTETS, value)


def boolean(value: bool) -> bytes:
    """A BOOLEAN."""
    return tlv(_BOOLEAN, b"\xff" if value else b"\x00")


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def enumerated(value: int) -> bytes:
    """A small ENUMERATED."""
    return tlv(_ENUMERATED, bytes([value]))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = bytes([first * 40 + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | (number & 0x7F))
        encoded += bytes(reversed(digits))
    return tlv(_OID, encoded)


def sgx_extension(
    *,
    fmspc: bytes,
    ppid: bytes,
    pce_id: bytes,
    cpu_svn: bytes,
    pce_svn: int,
    instance_id: bytes,
    dynamic_platform: bool,
    cached_keys: bool,
    smt: bool,
) -> bytes:
    """The value of the PCK certificate's SGX extension (Intel, "PCK Certificate and Certificate Revocation List Profile")."""

    def entry(suffix: str, value: bytes) -> bytes:
        return sequence(oid(f"{SGX_EXTENSION}.{suffix}"), value)

    components = [entry(f"2.{index}", integer(svn)) for index, svn in enumerate(cpu_svn, 1)]
    tcb = sequence(*components, entry("2.17", integer(pce_svn)), entry("2.18", octets(cpu_svn)))
    flags = sequence(entry("7.1", boolean(dynamic_platform)), entry("7.2", boolean(cached_keys)), entry("7.3", boolean(smt)))
    return sequence(
        entry("1", octets(ppid)),
        entry("2", tcb),
        entry("3", octets(pce_id)),
        entry("4", octets(fmspc)),
        entry("5", enumerated(1)),
        entry("6", octets(instance_id)),
        entry("7", flags),
    )
