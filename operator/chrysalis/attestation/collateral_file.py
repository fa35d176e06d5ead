"""Collateral out of a file, in the forms in which tools keep it; the documents' bytes are left as Intel signed them.

QuoteCollateralV3 JSON has hexadecimal members and the bare documents.  Others have the same members in base64, PEM or as
numbers, in camel case, within another object; the TCB info and QE identity as the service answered, signature included, or
as JSON instead of text; issuer chains as HTTP headers carry them; C strings with the NUL at their end.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from chrysalis.attestation import armor, exact_json
from chrysalis.attestation.collateral import HEX_FIELDS, MAX_COLLATERAL_BYTES, TEXT_FIELDS, Collateral
from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_NESTING = 4
_NAMES = {name.replace("_", ""): name for name in (*TEXT_FIELDS, *HEX_FIELDS)}
_ANSWERS = {"tcb_info": ("tcbInfo", "tcb_info_signature"), "qe_identity": ("enclaveIdentity", "qe_identity_signature")}
"""What the service calls a document within its answer, and where its signature belongs."""


def read(data: bytes) -> Collateral:
    """The collateral of a file; raises AttestationError (CollateralMalformed)."""
    if len(data) > MAX_COLLATERAL_BYTES:
        raise _malformed(f"the collateral has {len(data)} bytes; at most {MAX_COLLATERAL_BYTES} are read")
    try:
        text = data.decode(json.detect_encoding(data)).strip()
        json.loads(text)
        found = _found(text) if text[:1] in ("{", "[") else None
        fields = {} if found is None else {name: _field(name, value) for name, value in found.items()}
    except (ValueError, RecursionError) as error:
        raise _malformed("the collateral is not JSON, or names a member twice", str(error)[:300]) from error
    if found is None:
        return Collateral.from_json(data)  # says what is missing
    for name, (inner, signature) in _ANSWERS.items():
        document, signed = _document(fields.get(name), inner)
        if document is not None:
            fields[name] = document
        if signed is not None:
            fields.setdefault(signature, signed)
    return Collateral.from_json(json.dumps(fields))


def _found(text: str, depth: int = 0) -> dict[str, str] | None:
    """The members of the first object that has both documents, by their own names, each as its exact text."""
    if depth > MAX_NESTING:
        return None
    if text[:1] == "[":
        listed = text[1:-1].strip()
        return _found(listed, depth + 1) if len(json.loads(text)) == 1 and listed[:1] == "{" else None
    members = exact_json.members(text)
    known = [(_NAMES[plain], value) for name, value in members.items() if (plain := name.replace("_", "").lower()) in _NAMES]
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
    if name in _ANSWERS:
        if isinstance(value, dict):  # Intel signs JSON without blanks; whoever put it into other JSON may have added some
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return value.rstrip("\0") if isinstance(value, str) else value
    if name in HEX_FIELDS:
        return _hexadecimal(value)
    if isinstance(value, str) and "BEGIN%20CERTIFICATE" in value:
        return unquote(value)
    return value


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, list) and value and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value).hex()
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
