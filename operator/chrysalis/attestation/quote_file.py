"""The quote out of a file or a message: binary, or wrapped in one of the ways in which vendors' tools hand quotes on.

Binary, also in gzip; hexadecimal or base64 text, or a dump (armor.py); JSON that holds one of these in a member of a known name, or in
any member, if what is in it begins like a quote.  Judges form only.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from chrysalis.attestation import armor, envelope
from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_QUOTE_BYTES = 64 * 1024
"""Of a quote, padding included, and of a file that is nothing but a quote."""
MAX_REPORT_BYTES = 2 * 1024 * 1024
"""Of a JSON report, which may carry an event log beside the quote."""
MAX_PACKED = 64
"""Texts of gzip that are unpacked in a search for the quote: each may hold MAX_QUOTE_BYTES in a hundred characters."""
MEMBERS = ("quote", "tdx_quote", "td_quote", "intel_quote")
"""What vendors call the quote: most `quote`; az-tdx-vtpm `td_quote`; hosted inference services `intel_quote`."""

_CBOR = range(0x80, 0xDC)
_HEAD = struct.Struct("<HHI")
_VERSIONS = range(3, 6)
_KEY_TYPES = (2, 3)
_TDX = 0x81
_TEES = (0, _TDX)
_DIGITS = re.compile(r"(?:0[xX])?\s*0[45]\s*00", re.ASCII)
_GZIP_TEXT = "H4sI"
_ENCODED = ("BAAC", "BAAD", "BQAC", "BQAD", _GZIP_TEXT)
"""How base64 of a quote (version 4 or 5, key type 2 or 3) begins, and that of a gzip stream."""


def read(data: bytes) -> bytes:
    """The quote's bytes out of a file; raises AttestationError.

    QuoteTooLarge and QuoteUnreadable where the file is in none of the forms, QuoteMalformed where it is in one of them
    and damaged.
    """
    data = armor.as_utf8(data)
    text = data.removeprefix(armor.BOM).rstrip(b"\0").strip()
    is_json = text[:1] in (b"{", b'"', b"[")
    limit = MAX_REPORT_BYTES if is_json else MAX_QUOTE_BYTES * (6 if armor.is_text(data[:256]) else 1)
    if len(data) > limit:
        raise _too_large(len(data), limit)
    raw = _inflated(_from_json(text) if is_json else _from_plain(data))
    if len(raw) > MAX_QUOTE_BYTES:
        raise _too_large(len(raw), MAX_QUOTE_BYTES)
    if not is_json and not _resembles(raw) and not looks_like_cbor(raw):
        empty = not raw.strip(b"\0")
        raise _unreadable("the file is empty" if empty else "the file does not begin like a quote, in no form that is read")
    return raw


def looks_like_cbor(data: bytes) -> bool:
    """Whether the bytes begin like CBOR (RFC 8949): an array, a map or a tag, as DICE evidence does."""
    return data[:1] != b"" and data[0] in _CBOR


def _resembles(raw: bytes) -> bool:
    """Whether the bytes begin like a quote of some kind, perhaps damaged or cut: two of three header fields are those of one."""
    if len(raw) < _HEAD.size:
        return raw[:1] != b"" and raw[0] in _VERSIONS and raw[1:2] in (b"", b"\0")
    version, key_type, tee = _HEAD.unpack_from(raw)
    return (version in _VERSIONS) + (key_type in _KEY_TYPES) + (tee in _TEES) >= 2


def _is_tdx(raw: bytes) -> bool:
    """Whether the bytes begin like a quote of a TDX trust domain and of nothing else."""
    if len(raw) < _HEAD.size:
        return False
    version, key_type, tee = _HEAD.unpack_from(raw)
    return version in (4, 5) and key_type in _KEY_TYPES and tee == _TDX


def _from_plain(data: bytes) -> bytes:
    text = armor.written(data)
    if not text or not armor.is_text(text):
        return data
    try:
        raw = armor.from_dump(text)
        raw = armor.from_hex(text) if raw is None else raw
    except ValueError as error:
        raise _malformed(str(error), "truncated") from error
    if raw is not None:
        return raw
    try:
        raw = armor.from_base64(text)
        raw = _hexadecimal_inside(raw) if raw is not None else None
    except ValueError as error:
        raise _unreadable("the file is text, but neither hexadecimal, base64 nor JSON", str(error)) from error
    # Many a word is base64 of something.
    if raw is not None and (_resembles(raw) or raw[:2] == armor.GZIP):
        return raw
    if raw is not None and raw.lstrip()[:1] in (b"{", b"["):
        return _from_json(raw.strip())
    raise _unreadable("the file is text, but neither a quote in hexadecimal or base64, nor JSON with a member `quote`")


def _hexadecimal_inside(raw: bytes) -> bytes:
    """A quote's hexadecimal text that was put into base64 once more; anything else as it is; raises ValueError."""
    inner = raw.strip() if _DIGITS.match(raw[:16].decode("latin-1")) else b""
    found = armor.from_hex(inner) if inner else None
    return raw if found is None else found


def _inflated(raw: bytes) -> bytes:
    try:
        return armor.inflated(raw, MAX_QUOTE_BYTES)
    except ValueError as error:
        raise _malformed("what should hold the quote cannot be unpacked", str(error)) from error


def _from_json(text: bytes) -> bytes:
    document = _parsed(text)
    if isinstance(document, str):
        return _from_value(document, "the JSON text")
    if not isinstance(document, dict | list):
        raise _unreadable("the JSON holds no quote")
    try:
        found = _quotes(document)
    except envelope.Ambiguous as error:
        raise _malformed("JSON within the JSON is ambiguous", str(error)[:256]) from error
    if not found:
        named = ", ".join(f"`{name}`" for name in MEMBERS[1:])
        raise _unreadable(f"the JSON has no member `quote` (nor {named}), and nothing in it begins like a quote")
    if len({raw for _, raw in found}) > 1:
        raise _malformed(f"the JSON holds different quotes: {', '.join(path for path, _ in found)}"[:400])
    return found[0][1]


def _parsed(text: bytes | str) -> Any:
    try:
        return envelope.parsed(text)
    except envelope.TooMuch as error:
        raise _unreadable("the JSON holds more than is read", str(error)) from error
    except envelope.Ambiguous as error:
        raise _malformed("the JSON is ambiguous", str(error)[:256]) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable("the file begins like JSON but is none", str(error)[:256]) from error


def _quotes(document: Any) -> list[tuple[str, bytes]]:
    """The quotes with where they stand: what has a known name, or else what begins like a quote."""
    named = [(path, _from_value(value, f"the member `{path}`")) for path, value in _named(document)]
    return named or _first_two(_unnamed(document))


def _first_two(found: Iterator[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The first, and the first that is another one: no more are kept, since each may have been packed a hundred times smaller."""
    first = next(found, None)
    if first is None:
        return []
    other = next((item for item in found if item[1] != first[1]), None)
    return [first] if other is None else [first, other]


def _named(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The members that have a known name; where there is none, those of the objects inside, an object that is one's value included."""
    if depth > envelope.MAX_NESTING:
        return
    if isinstance(value, dict):
        own = [(envelope.below(path, name), value[name]) for name in MEMBERS if name in value and not envelope.is_container(value[name])]
        if own:
            yield from own
            return
    for name, item in envelope.items(value):
        if isinstance(item, dict | list):
            yield from _named(item, envelope.below(path, name), depth + 1)


def _unnamed(document: Any) -> Iterator[tuple[str, bytes]]:
    """What begins like a quote, under whatever name: as text, as a list of its bytes, within JSON that is kept as a text."""
    packed = 0
    for path, leaf in envelope.leaves(document):
        if isinstance(leaf, str) and leaf[:16].lstrip().startswith(_GZIP_TEXT):
            packed += 1
            if packed > MAX_PACKED:
                raise _malformed(f"the JSON holds more than {MAX_PACKED} texts of gzip")
        raw = leaf if isinstance(leaf, bytes) else _in_text(leaf, path)
        if _is_tdx(raw):
            yield path, raw


def _in_text(text: str, path: str) -> bytes:
    start = text[:16].lstrip()
    if not start.startswith(_ENCODED) and not _DIGITS.match(start):
        return b""
    try:
        return _inflated(_from_value(text, path))
    except AttestationError:
        return b""  # it only looked like one


def _from_value(value: object, what: str) -> bytes:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value)
    if not isinstance(value, str) or not value.isascii():
        raise _malformed(f"{what} is not hexadecimal or base64 text")
    text = value.rstrip("\0").strip().encode()
    try:
        raw = armor.from_hex(text)
        if raw is None and (raw := armor.from_base64(text)) is not None:
            raw = _hexadecimal_inside(raw)
    except ValueError as error:
        raise _malformed(f"{what} is damaged hexadecimal or base64 text", str(error)) from error
    if raw is None:
        raise _malformed(f"{what} is not hexadecimal or base64 text")
    return raw


def _too_large(size: int, limit: int) -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_TOO_LARGE, f"the quote has {size} bytes; at most {limit} are read")


def _unreadable(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_UNREADABLE, message, detail)


def _malformed(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_MALFORMED, message, detail)
