"""The quote out of a file or a message: binary, or wrapped in one of the ways in which vendors' tools hand quotes on.

Binary; hexadecimal or base64 text (standard or URL-safe alphabet, wrapped or not, padded or not); JSON with a member that
holds one of these.  Judges form only.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_QUOTE_BYTES = 64 * 1024
"""Of a quote, padding included, and of a file that is nothing but a quote."""
MAX_REPORT_BYTES = 2 * 1024 * 1024
"""Of a JSON report, which may carry an event log beside the quote."""
MAX_NESTING = 4
"""Objects around a report: attestation services and agents put one for each device into another."""
MEMBERS = ("quote", "tdx_quote", "td_quote", "intel_quote")
"""What vendors call the quote: most `quote`; az-tdx-vtpm `td_quote`; hosted inference services `intel_quote`."""

_HEX = re.compile(rb"(0[xX])?[0-9a-fA-F\s]*\Z")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}\Z")
_TEXT_CONTROLS = frozenset(range(32)) - {9, 10, 13}
_BOM = b"\xef\xbb\xbf"
_CBOR = range(0x80, 0xDC)
_VERSIONS = range(1, 10)


def read(data: bytes) -> bytes:
    """The quote's bytes out of a file; raises AttestationError.

    QuoteTooLarge and QuoteUnreadable where the file is in none of the forms, QuoteMalformed where it is in one of them
    and damaged.
    """
    text = data.removeprefix(_BOM).strip()
    is_json = text[:1] in (b"{", b'"', b"[")
    limit = MAX_REPORT_BYTES if is_json else MAX_QUOTE_BYTES * (4 if _is_text(data[:256]) else 1)
    if len(data) > limit:
        raise _too_large(len(data), limit)
    raw = _from_json(text) if is_json else _from_plain(data, text)
    if len(raw) > MAX_QUOTE_BYTES:
        raise _too_large(len(raw), MAX_QUOTE_BYTES)
    return raw


def looks_like_cbor(data: bytes) -> bool:
    """Whether the bytes begin like CBOR (RFC 8949): an array, a map or a tag, as DICE evidence does."""
    return data[:1] != b"" and data[0] in _CBOR


def _from_plain(data: bytes, text: bytes) -> bytes:
    written = text.rstrip(b"\0").rstrip()  # text in a zero-padded buffer
    if written and _HEX.match(written):
        return _from_hex(written)
    if not data or not _is_text(data):
        return data
    packed = b"".join(text.split())
    if _BASE64.match(packed):
        try:
            raw = _from_base64(packed)
        except AttestationError as error:
            raise _unreadable("the file is text, but neither hexadecimal, base64 nor JSON", error.detail) from error
        # Many a word is base64 of something; a quote begins with its version, two bytes.
        if raw[:1] != b"" and raw[0] in _VERSIONS and raw[1:2] == b"\0":
            return raw
    raise _unreadable("the file is text, but neither a quote in hexadecimal or base64, nor JSON with a member `quote`")


def _from_hex(text: bytes) -> bytes:
    digits = b"".join(text[2:].split() if text[:2] in (b"0x", b"0X") else text.split())
    if len(digits) % 2:
        raise _malformed("the hexadecimal text has an odd number of digits", "truncated")
    return bytes.fromhex(digits.decode())


def _from_base64(packed: bytes) -> bytes:
    body = packed.rstrip(b"=")
    alphabet = b"-_" if b"-" in body or b"_" in body else b"+/"
    try:
        if len(packed) != len(body) and len(packed) % 4:
            raise binascii.Error("the padding is wrong")
        return base64.b64decode(body + b"=" * (-len(body) % 4), altchars=alphabet, validate=True)
    except binascii.Error as error:
        raise _malformed("the base64 text cannot be decoded", str(error)) from error


def _from_json(text: bytes) -> bytes:
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except AttestationError:
        raise
    except (ValueError, RecursionError) as error:
        raise _unreadable("the file begins like JSON but is none", str(error)[:256]) from error
    if isinstance(document, list) and len(document) == 1:
        (document,) = document  # a list of one report
    if isinstance(document, str):
        return _from_value(document, "the JSON text")
    if not isinstance(document, dict):
        raise _unreadable("the JSON holds no quote")
    found = {name: _from_value(value, f"the member `{name}`") for name, value in _quotes(document).items()}
    if not found:
        raise _unreadable(f"the JSON has no member `quote` (nor {', '.join(f'`{name}`' for name in MEMBERS[1:])})")
    if len(set(found.values())) > 1:
        raise _malformed(f"the JSON holds different quotes: {', '.join(found)}")
    return next(iter(found.values()))


def _quotes(document: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """The members that are quotes; where there is none, those of the objects inside, an object that is one's value included."""
    own = {name: document[name] for name in MEMBERS if name in document and not isinstance(document[name], dict)}
    if own or depth == MAX_NESTING:
        return own
    inner = [(name, _quotes(value, depth + 1)) for name, value in document.items() if isinstance(value, dict)]
    return {f"{name}.{member}": value for name, found in inner for member, value in found.items()}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Parsers differ in which of two members of one name they take: a quote that is named twice is ambiguous."""
    names = [name for name, _ in pairs if name in MEMBERS]
    if len(names) != len(set(names)):
        raise _malformed("the JSON names its quote twice")
    return dict(pairs)


def _from_value(value: object, what: str) -> bytes:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value)
    if not isinstance(value, str) or not value.isascii():
        raise _malformed(f"{what} is not hexadecimal or base64 text")
    text = value.strip().encode()
    if _HEX.match(text):
        return _from_hex(text)
    packed = b"".join(text.split())
    if not _BASE64.match(packed):
        raise _malformed(f"{what} is not hexadecimal or base64 text")
    return _from_base64(packed)


def _is_text(data: bytes) -> bool:
    """Whether the bytes are text: a binary quote has NUL bytes in its first four."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
    return not _TEXT_CONTROLS.intersection(data)


def _too_large(size: int, limit: int) -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_TOO_LARGE, f"the quote has {size} bytes; at most {limit} are read")


def _unreadable(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_UNREADABLE, message, detail)


def _malformed(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_MALFORMED, message, detail)
