"""Intel's documents out of JSON of any shape, each known by what it is and not by its name.

The services' answers with their headers, a PCCS's export of its cache, one tool's list of another's answers: what these have in
common are the documents.  A TCB info and a QE identity are known by their `id`, with the signature beside them; a revocation
list by its issuer; a chain of certificates by its first.  Of two documents of one kind none is taken, unless the quote says
which one is about its platform.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chrysalis.attestation import armor, envelope, exact_json
from chrysalis.attestation.certificate_errors import UNREADABLE_X509, names_of
from chrysalis.attestation.collateral import common_name
from chrysalis.attestation.genuineness import TCB_SIGNER
from chrysalis.attestation.pck_chain import AUTHORITIES, Platform

MAX_TEXTS = 4000
"""Texts in one file that are looked at: an export of a cache has some hundreds."""
BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_ANSWERS = {"tcbInfo": "TDX", "enclaveIdentity": "TD_QE"}
_HEAD = ("id", "version", "issueDate", "nextUpdate", "fmspc", "pceId", "tcbType", "tcbEvaluationDataNumber")
_TCB = ("sgxtcbcomponents", "pcesvn", "tdxtcbcomponents", "svn", "category", "type")
_LEVEL = ("tcbLevels", "tcb", "tcbDate", "tcbStatus", "advisoryIDs", *_TCB)
_ORDER = ("tcbInfo", *_HEAD, "tdxModule", "tdxModuleIdentities", "mrsigner", "attributes", "attributesMask", *_LEVEL, "signature")
_QE_BODY = ("miscselect", "miscselectMask", "attributes", "attributesMask", "mrsigner", "isvprodid")
_QE_ORDER = ("enclaveIdentity", *_HEAD, *_QE_BODY, *_LEVEL, "signature")
"""The order in which Intel writes a document's members (PCS API, version 4)."""
_K = TypeVar("_K")
_ENCODED_BEGIN = "BEGIN%20CERTIFICATE"


class Several(ValueError):
    """More than one document of a kind."""


@dataclass
class _Found:
    """Everything of a kind, by what tells one platform's from another's."""

    tcb: dict[tuple[str, str], str] = field(default_factory=dict)  # (document, signature) -> FMSPC
    qe: dict[tuple[str, str], str] = field(default_factory=dict)
    lists: dict[bytes, str] = field(default_factory=dict)  # DER -> common name of the issuer
    chains: dict[str, str] = field(default_factory=dict)  # PEM -> common name of the first certificate


def search(text: str, platform: Platform | None = None) -> dict[str, str]:
    """The members of QuoteCollateralV3 that are in a JSON text, hexadecimal where that form has it so.

    platform: what the quote is of, where it is known.  Raises Several, another ValueError for what is no JSON or names a member
    twice, and RecursionError.
    """
    found = _Found()
    for number, (exact, is_answer, verbatim) in enumerate(_texts(text, 0)):
        if number == MAX_TEXTS:
            raise ValueError(f"it has more than {MAX_TEXTS} texts")
        if is_answer:
            _answer(exact, found, verbatim=verbatim)
        else:
            _text(json.loads(exact), found)
    named: dict[str, str] = {}
    fmspc, authority = (platform.fmspc, platform.ca) if platform is not None else ("", "")
    documents = (("tcb_info", found.tcb, fmspc), ("qe_identity", found.qe, ""))
    for name, listed, wanted in documents:
        if (one := _only(name, listed, wanted)) is not None:
            named[name], named[f"{name}_signature"] = one
    lists = {"root_ca_crl": {der: name for der, name in found.lists.items() if "PCK" not in name}}
    lists["pck_crl"] = {der: _authority(name) for der, name in found.lists.items() if "PCK" in name}
    for name, held in lists.items():
        if (der := _only(name, held, authority if name == "pck_crl" else "")) is not None:
            named[name] = der.hex()
    signers = {pem: name for pem, name in found.chains.items() if name == TCB_SIGNER}
    authorities = {pem: _authority(name) for pem, name in found.chains.items() if "PCK" in name and "CA" in name.split()}
    for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        if (pem := _only(name, signers, "")) is not None:
            named[name] = pem
    if (pem := _only("pck_crl_issuer_chain", authorities, authority)) is not None:
        named["pck_crl_issuer_chain"] = pem
    return named


def as_signed(document: dict[str, Any]) -> str:
    """A document that was kept as JSON, not as text, as Intel signs it: without blanks, in Intel's order; the signature decides
    whether its bytes are found again."""
    return json.dumps(_ordered(document), separators=(",", ":"), ensure_ascii=False)


def _ordered(value: Any) -> Any:
    """JSON with its members in Intel's order, which tools that keep objects sorted by name have lost.  What stands in that order
    stays as it is, members that are not known here included."""
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if not isinstance(value, dict):
        return value
    order = _QE_ORDER if "miscselect" in value or "enclaveIdentity" in value else _ORDER
    known = [order.index(name) for name in value if name in order]
    names = list(value) if known == sorted(known) else sorted(value, key=lambda name: order.index(name) if name in order else len(order))
    return {name: _ordered(value[name]) for name in names}


def _authority(name: str) -> str:
    return next((kind for kind in AUTHORITIES if kind in name.lower()), name)


def _only(name: str, listed: dict[_K, str], wanted: str) -> _K | None:
    """The one that is there; of several, the one about the platform that the quote is of."""
    if len(listed) > 1 and wanted:
        listed = {one: about for one, about in listed.items() if about == wanted}
    if len(listed) > 1:
        about = ", ".join(sorted({about for about in listed.values() if about}))[:200]
        raise Several(f"it holds {len(listed)} documents for `{name}`" + (f", of {about}" if about else ""))
    return next(iter(listed), None)


def _texts(exact: str, depth: int, *, verbatim: bool = False) -> Iterator[tuple[str, bool, bool]]:
    """Every text, and every service's answer (then True), as its exact text; True behind it for what was kept as a text, which is as
    it was served.  Texts that hold JSON are gone through like what is around them."""
    if depth > envelope.MAX_NESTING:
        return
    if exact[:1] == "{":
        members = _members(exact)
        is_answer = "signature" in members and any(name in members for name in _ANSWERS)
        if is_answer:
            yield exact, True, verbatim
        for value in members.values() if not is_answer and "tcbLevels" not in members else ():
            yield from _texts(value, depth + 1, verbatim=verbatim)
    elif exact[:1] == "[":
        for value in exact_json.items(exact):
            yield from _texts(value, depth + 1, verbatim=verbatim)
    elif exact[:1] == '"':
        inner = _json(json.loads(exact))
        if inner is None:
            yield exact, False, True
        else:
            yield from _texts(inner, depth + 1, verbatim=True)


def _members(exact: str) -> dict[str, str]:
    return exact_json.members(exact) if exact[1:].strip() != "}" else {}


def _json(value: str) -> str | None:
    """The JSON that a text holds, or base64 of it, as its exact text."""
    plain = value.strip("\0").strip()
    if plain[:1] not in ("{", "["):
        raw = envelope.nested(value)
        if raw is None:
            return None
        decoded = armor.from_base64(plain.encode()) or b""
        plain = decoded.decode("utf-8", "replace").strip("\0").strip()
    try:
        json.loads(plain)
    except ValueError:
        return None
    return plain


def _answer(exact: str, found: _Found, *, verbatim: bool) -> None:
    """An object that is a service's answer: the document and its signature."""
    members = _members(exact)
    for name, kind in _ANSWERS.items():
        if name in members and "signature" in members:
            document, signature = json.loads(members[name]), json.loads(members["signature"])
            if not isinstance(document, dict) or not isinstance(signature, str) or document.get("id") != kind:
                continue
            listed = found.tcb if name == "tcbInfo" else found.qe
            listed[members[name] if verbatim else as_signed(document), signature] = str(document.get("fmspc", "")).upper()


def _text(value: str, found: _Found) -> None:
    """A text that is a chain of certificates or a revocation list, in whatever encoding."""
    plain = unquote(value) if _ENCODED_BEGIN in value else value
    if not plain.isascii():
        return
    raw = plain.strip("\0").strip().encode()
    for _ in range(3):  # hexadecimal or base64 of hexadecimal or PEM, and of DER
        if BEGIN_CERTIFICATE in raw:
            _chain(raw, found)
            return
        if raw[:1] == b"\x30":
            _list(raw, found)
            return
        if not armor.is_text(raw):
            return
        try:
            decoded = armor.from_hex(raw)
            decoded = armor.from_base64(raw) if decoded is None else decoded
        except ValueError:
            return
        if not decoded:
            return
        raw = decoded.strip(b"\0").strip() if armor.is_text(decoded) else decoded


def leaf_first(pem: str) -> str | None:
    """A chain in PEM turned round, where its root stands first; None where it does not, and for what is no chain."""
    certificates = _certificates(pem.encode())
    if len(certificates) < 2 or certificates[0].subject != certificates[0].issuer or certificates[-1].subject == certificates[-1].issuer:
        return None
    return b"".join(one.public_bytes(Encoding.PEM) for one in reversed(certificates)).decode()


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        names_of(certificates)
    except UNREADABLE_X509:
        return []
    return certificates


def _chain(pem: bytes, found: _Found) -> None:
    text = leaf_first(pem.decode("ascii", "replace")) or pem.decode("ascii", "replace")
    if certificates := _certificates(text.encode()):
        canonical = b"".join(one.public_bytes(Encoding.PEM) for one in certificates).decode()
        found.chains[canonical] = common_name(certificates[0])


def _list(der: bytes, found: _Found) -> None:
    try:
        crl = x509.load_der_x509_crl(der)
        names = crl.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except UNREADABLE_X509:
        return
    found.lists[der] = str(names[0].value) if len(names) == 1 else ""
