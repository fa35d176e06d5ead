"""Binary evidence out of the wrappings in which tools hand it on: hexadecimal, dumps with offsets, base64, PEM-like lines, gzip.

Each reader gives None for what is not in its form, so that a caller can try the next one, and raises ValueError for what
is in its form and damaged.  Whether the bytes are evidence is asked elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib

BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
_PREFIXES = re.compile(rb"(?:(?<![0-9a-zA-Z])0[xX]|\\x)(?=[0-9a-fA-F])")
"""What stands before hexadecimal digits: before all of them, or before each byte, as in a C array."""
_APART = bytes.maketrans(b":,;\t\r\n", b"      ")
_HEX = re.compile(rb"[0-9a-fA-F ]*\Z")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}\Z")
_LINES = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s(.+?)\s-----END \1-----\Z", re.DOTALL)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DUMPED = re.compile(rb"([0-9a-fA-F]{6,16})(:?)(?:[ \t]+(.*))?\Z")
MAX_DUMPED = 1024 * 1024
"""Bytes that a dump may stand for: a line of one asterisk repeats the line before up to the next offset."""
_TEXT_CONTROLS = frozenset(range(32)) - {9, 10, 13}


def is_text(data: bytes) -> bool:
    """Whether the bytes are text (UTF-8 without control characters, perhaps cut within a character)."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
    return not _TEXT_CONTROLS.intersection(data)


def written(data: bytes) -> bytes:
    """A text without what tools put around it: byte order mark, blanks, the zeros of a buffer, one pair of quotation marks."""
    text = data.removeprefix(BOM).rstrip(b"\0").strip()
    return text[1:-1].strip() if len(text) > 1 and text[:1] == text[-1:] and text[:1] in (b'"', b"'") else text


def as_utf8(data: bytes) -> bytes:
    """A text in UTF-16, as some shells write what they redirect, in UTF-8; anything else as it is."""
    if data[:2] not in _UTF_16:
        return data
    try:
        return data.decode("utf-16").encode()
    except UnicodeError:
        return data


def from_dump(text: bytes) -> bytes | None:
    """A dump of lines, each with its offset and its bytes, perhaps with their characters behind them: xxd, hexdump -C, od -A x -t x1.

    Every offset must be that of its line, so nothing else is taken for a dump; dumps of words, whose order a reader cannot know, are
    none.  For whole files only: three short lines may stand for MAX_DUMPED bytes.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    out, last, repeated = bytearray(), b"", False
    if _DUMPED.match(lines[0] if lines else b"") is None or len(lines) < 2:
        return None
    for number, line in enumerate(lines):
        if line == b"*" and last and not repeated:
            repeated = True
            continue
        match = _DUMPED.match(line)
        if match is None:
            return None
        offset, colon, rest = int(match[1], 16), match[2], match[3] or b""
        if repeated:
            if not len(out) < offset <= MAX_DUMPED:
                return None
            out += (last * ((offset - len(out)) // len(last) + 1))[: offset - len(out)]
        if offset != len(out) or (not rest and number + 1 < len(lines)):
            return None
        groups = rest.partition(b"  ")[0].split() if colon else rest.partition(b"|")[0].split()
        if any(len(group) % 2 or (len(group) != 2 and not colon) for group in groups):
            return None
        try:
            last, repeated = bytes.fromhex(b"".join(groups).decode()), False
        except ValueError:
            return None
        out += last
    return bytes(out)


def from_hex(text: bytes) -> bytes | None:
    """Hexadecimal digits, in any case, broken anywhere, with colons or commas between bytes, behind 0x or each behind it."""
    digits = _PREFIXES.sub(b"", text).translate(_APART)
    if _HEX.match(digits) is None:
        return None
    packed = digits.replace(b" ", b"")
    if len(packed) % 2:
        raise ValueError("the hexadecimal text has an odd number of digits")
    return bytes.fromhex(packed.decode("ascii"))


def from_base64(text: bytes) -> bytes | None:
    """Base64 in the standard or the URL-safe alphabet, padded or not, broken into lines or not, between PEM-like lines or not."""
    lines = _LINES.match(text)
    if lines is None and b"-----" in text:
        return None  # hyphens are digits of the URL-safe alphabet
    if lines is not None and b"-----" in lines[2]:
        raise ValueError("there is more than one text between PEM-like lines")
    packed = b"".join((lines[2] if lines else text).split())
    if _BASE64.match(packed) is None:
        return None
    body = packed.rstrip(b"=")
    if len(packed) != len(body) and len(packed) % 4:
        raise ValueError("the padding of the base64 text is wrong")
    alphabet = b"-_" if b"-" in body or b"_" in body else b"+/"
    try:
        return base64.b64decode(body + b"=" * (-len(body) % 4), altchars=alphabet, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the base64 text cannot be decoded: {error}") from error


def inflated(data: bytes, limit: int) -> bytes:
    """What a gzip stream holds, and anything else as it is; raises ValueError, also where more than `limit` bytes come out."""
    if data[:2] != GZIP:
        return data
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        out = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"the gzip stream is damaged: {error}") from error
    if len(out) > limit:
        raise ValueError(f"the gzip stream holds more than {limit} bytes")
    if not stream.eof:
        raise ValueError("the gzip stream ends early")
    return out
