"""Collateral out of a file, in the forms in which tools keep it; the documents' bytes are left as Intel signed them.

QuoteCollateralV3 JSON has hexadecimal members and the bare documents.  Others have the same members in base64, PEM or as
numbers, in camel case, within another object; the TCB info and QE identity as the service answered, signature included, or
as JSON instead of text; issuer chains as HTTP headers carry them; C strings with the NUL at their end.  What has no such names
is looked for by what it is (collateral_search.py).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from chrysalis.attestation import armor, collateral_search, envelope, exact_json
from chrysalis.attestation.collateral import HEX_FIELDS, MAX_COLLATERAL_BYTES, TEXT_FIELDS, Collateral
from chrysalis.attestation.collateral_search import BEGIN_CERTIFICATE
from chrysalis.attestation.pck_chain import Platform
from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_NESTING = 4
MAX_ITEMS = 50_000
"""Commas; one platform's collateral has some thousands, or tens of them where bytes are kept as numbers."""
_NAMES = {name.replace("_", ""): name for name in (*TEXT_FIELDS, *HEX_FIELDS)} | {"enclaveidentityissuerchain": "qe_identity_issuer_chain"}
_NOT_OF_NAME = re.compile("^sgx[-_]|[-_]")
"""What a header's name has more than a member's: SGX-PCK-CRL-Issuer-Chain."""
_ANSWERS = {"tcb_info": ("tcbInfo", "tcb_info_signature"), "qe_identity": ("enclaveIdentity", "qe_identity_signature")}
"""What the service calls a document within its answer, and where its signature belongs."""


def read(data: bytes, platform: Platform | None = None) -> Collateral:
    """The collateral of a file; raises AttestationError (CollateralMalformed).

    platform: what the quote is of, to choose from a file that holds several platforms' documents.
    """
    if len(data) > MAX_COLLATERAL_BYTES:
        raise _malformed(f"the collateral has {len(data)} bytes; at most {MAX_COLLATERAL_BYTES} are read")
    try:
        text = data.decode(json.detect_encoding(data)).strip()
        if text.count(",") > MAX_ITEMS:
            raise _malformed(f"the collateral has more than {MAX_ITEMS} members and items; give one platform's")
        json.loads(text)
        found = _found(text) if text[:1] in ("{", "[") else None
        fields = {} if found is None else {name: _field(name, value) for name, value in found.items()}
        _answered(fields)
        if found is None and text[:1] in ("{", "["):
            fields = dict(collateral_search.search(text, platform))
    except collateral_search.Several as error:
        raise _malformed("the collateral has more than one platform's documents", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _malformed("the collateral is not JSON, or names a member twice", str(error)[:300]) from error
    return Collateral.from_json(json.dumps(fields) if fields else data)  # says what is missing


def as_text(data: bytes, platform: Platform | None = None) -> str:
    """QuoteCollateralV3 JSON: the file as it is where it is that, else its documents in that form; raises AttestationError."""
    try:
        Collateral.from_json(data)
        return data.decode()
    except (AttestationError, UnicodeDecodeError):
        return read(data, platform).to_json()


def together(files: Sequence[bytes]) -> bytes:
    """Several files as one: a service's answers as they were saved, chains in PEM or as headers carry them, lists in DER or PEM."""
    texts = [data if armor.is_text(data := armor.as_utf8(file)) else base64.b64encode(data) for file in files]
    return json.dumps([text.removeprefix(armor.BOM).decode() for text in texts]).encode()


def _answered(fields: dict[str, Any]) -> None:
    """Put what are a service's answers as documents and signatures."""
    for name, (inner, signature) in _ANSWERS.items():
        document, signed = _document(fields.get(name), inner)
        if document is not None:
            fields[name] = document
        if signed is not None:
            fields.setdefault(signature, signed)


def _found(text: str, depth: int = 0) -> dict[str, str] | None:
    """The members of the first object that has both documents, by their own names, each as its exact text."""
    if depth > MAX_NESTING:
        return None
    if text[:1] == "[":
        listed = text[1:-1].strip()
        return _found(listed, depth + 1) if len(json.loads(text)) == 1 and listed[:1] == "{" else None
    members = exact_json.members(text)
    known = [(_NAMES[plain], value) for name, value in members.items() if (plain := _NOT_OF_NAME.sub("", name.lower())) in _NAMES]
    named = dict(known)
    if len(named) != len(known):
        raise ValueError("a member stands there under two of its names")
    if "tcb_info" in named and "qe_identity" in named:
        return named
    inner = (_found(value, depth + 1) for value in members.values() if value[:1] in ("{", "["))
    return next((found for found in inner if found is not None), None)


def _field(name: str, exact: str) -> Any:
    """A member as QuoteCollateralV3 has it; what is in no form that is known stays as it is, to be refused by its name."""
    value = json.loads(exact)
    if name in HEX_FIELDS:
        return _hexadecimal(value)
    if (raw := envelope.as_bytes(value)) is not None:
        value = raw.decode("utf-8", "replace")
    if name in _ANSWERS:
        if isinstance(value, dict):
            return collateral_search.as_signed(value)
        return _plain(value, b"{") if isinstance(value, str) else value
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = "\n".join(value)  # one text for each certificate
    return _chain(value) if isinstance(value, str) else value


def _plain(value: str, begin: bytes) -> str:
    """A text that holds `begin`, out of hexadecimal or base64 of it; what is in neither stays as it is."""
    text = value.rstrip("\0")
    if begin.decode() in text or not text.isascii():
        return text
    try:
        raw = _bytes(text.strip().encode())
        return raw.rstrip(b"\0").decode() if raw is not None and begin in raw else text
    except ValueError:
        return text


def _chain(value: str) -> str:
    """A chain in PEM, leaf first."""
    text = _plain(unquote(value) if "BEGIN%20CERTIFICATE" in value else value, BEGIN_CERTIFICATE)
    return collateral_search.leaf_first(text) or text


def _hexadecimal(value: Any) -> Any:
    if (numbers := envelope.as_bytes(value)) is not None:
        return numbers.hex()
    if not isinstance(value, str) or not value.isascii():
        return value
    try:
        raw = _bytes(value.strip("\0").strip().encode())
        if raw is not None and armor.is_text(raw):  # text of text: hexadecimal or PEM that was encoded once more
            raw = _bytes(raw.strip()) or raw
    except ValueError:
        return value
    return value if raw is None else raw.hex()


def _bytes(text: bytes) -> bytes | None:
    raw = armor.from_hex(text)
    return armor.from_base64(text) if raw is None else raw


def _document(text: Any, inner: str) -> tuple[str | None, str | None]:
    """A document and its signature out of a service's answer; nothing of what is no such answer."""
    if not isinstance(text, str):
        return None, None
    try:
        members = exact_json.members(text)
        if inner not in members:
            return None, None
        signature = json.loads(members.get("signature", "null"))
    except (ValueError, RecursionError):
        return None, None
    return members[inner], signature if isinstance(signature, str) else None


def _malformed(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.COLLATERAL_MALFORMED, message, detail)
