"""NVIDIA's Reference Integrity Manifests: SWID tags (ISO/IEC 19770-2, TCG RIM) with an XML signature, digested ahead of time.

A RIM is read once, by whoever writes a policy; an appraisal then compares with the small GpuReferenceValues that come out.
Only what the signature covers is read: the element that the verifier hands back, never the file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from pydantic import ValidationError
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from chrysalis.api.policy_gpu import GpuArchitecture, GpuReferenceValues, ReferenceKind
from chrysalis.attestation import armor, envelope
from chrysalis.attestation.certificate_errors import UNREADABLE_X509, names_of
from chrysalis.attestation.gpu.chain import MAX_CERTIFICATES, common_name, verify_path
from chrysalis.attestation.gpu.reasons import GpuError, GpuReason
from chrysalis.clock import rfc3339

NVIDIA_RIM_ROOT_SHA256 = "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
"""Of the DER of "NVIDIA CoRIM signing Root CA"."""
MAX_RIM_BYTES = 1024 * 1024
MAX_RESOURCES = 512
"""Twice as many as a report has places for measurements: fields of its opaque data come beside them."""
MAX_ALTERNATIVES = 16
SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
"""The namespace as NVIDIA's RIMs write it."""
DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
OPAQUE = "{https://docs.nvidia.com/attestation/specs/latest/opaque-data.html}"
"""The namespace of what a RIM says of the fields of a report's opaque data ("Opaque Data RIM Attributes")."""
OPAQUE_BASE = 0x1000
"""A resource with this index, or a higher one, is about the opaque field whose id is what is above it."""
_VBIOS = re.compile(r"^[0-9A-Fa-f]{2}(\.[0-9A-Fa-f]{2}){4}$")
_PRODUCTS = (("GH", GpuArchitecture.HOPPER), ("GB", GpuArchitecture.BLACKWELL), ("LS10", GpuArchitecture.LS10))
_CBOR = tuple(bytes([tag]) for tag in (0xD2, 0xD8, 0xD9))
"""How a CoRIM begins: tagged, signed or not."""
_R = GpuReason


@dataclass(frozen=True)
class Rim:
    """A RIM whose signature holds."""

    values: GpuReferenceValues
    signers: tuple[x509.Certificate, ...]  # the signer's certificate first, the trusted root last


def digest(data: bytes, *, at: datetime | None, root_sha256: str = NVIDIA_RIM_ROOT_SHA256) -> GpuReferenceValues:
    """The reference values of a RIM that holds (`read`); raises GpuError."""
    return read(data, at=at, root_sha256=root_sha256).values


def read(data: bytes, *, at: datetime | None, root_sha256: str = NVIDIA_RIM_ROOT_SHA256) -> Rim:
    """Check a RIM (SWID, or the RIM service's JSON around it) and take its active measurements; raises GpuError.

    1. Form: bounded XML without a document type, a SWID tag with one Meta, one Payload and one Signature.
    2. Signer: its certificates lead, in order, to the trusted RIM root, and are valid at the stated time; without a time,
       that is left to the appraisal, which refuses reference values past their `expires`.
    3. Signature: ECDSA with SHA-384 over the whole tag.
    4. Values: of every active measurement, as many alternatives as are stated, each of the stated size; of every active field of
       the opaque data, its least security version.
    """
    data = unwrapped(data)
    tag = _parse(data)
    signers = _signers(tag, at, root_sha256)
    signed = _verified(data, signers[0])
    return Rim(_values(signed, min(certificate.not_valid_after_utc for certificate in signers)), signers)


def unwrapped(data: bytes) -> bytes:
    """The SWID tag, out of the RIM service's answer {"id", "rim": base64, "sha256"} where it is in one, whatever is around that, out of
    base64 or gzip, without padding; raises GpuError (RimMalformed)."""
    if len(data) > 2 * MAX_RIM_BYTES:
        raise _malformed(f"the RIM has {len(data)} bytes; at most {MAX_RIM_BYTES} are read")
    try:
        data = armor.written(armor.inflated(data, 2 * MAX_RIM_BYTES))
        if armor.is_text(data[:256]) and data[:1] not in (b"<", b"{", b"["):
            data = armor.from_base64(data) or data
        found = _answers(envelope.parsed(data), 0) if data[:1] in (b"{", b"[") else None
        if found is None:
            return data
        if len(found) != 1:
            raise _malformed(f"the RIM is JSON, but holds {len(found)} of the RIM service's answers, not one")
        [(tag, stated)] = found
    except (ValueError, RecursionError) as error:
        raise _malformed("the RIM is JSON, but not the RIM service's answer", f"{type(error).__name__}: {error}"[:200]) from error
    if stated is not None and (not isinstance(stated, str) or stated.lower() != hashlib.sha256(tag).hexdigest()):
        raise _malformed("the RIM is not the one whose SHA-256 the RIM service's answer states")
    return tag


def _answers(value: Any, depth: int) -> list[tuple[bytes, Any]]:
    """The tags in here, each with the SHA-256 that is stated beside it; raises ValueError."""
    if depth > envelope.MAX_NESTING or not isinstance(value, dict | list):
        return []
    text = value.get("rim") if isinstance(value, dict) else None
    if not isinstance(text, str):
        return [answer for _, item in envelope.items(value) for answer in _answers(item, depth + 1)]
    tag = text.encode() if text.lstrip().startswith("<") else armor.from_base64(text.strip().encode())
    if tag is None:
        raise ValueError("its `rim` is neither base64 nor XML")
    return [(tag, value.get("sha256") if isinstance(value, dict) else None)]


def root_digest(der: bytes) -> str:
    """What names a root here: the SHA-256 of its DER, lower-case hex."""
    return hashlib.sha256(der).hexdigest()


def canonical(values: GpuReferenceValues) -> bytes:
    """The one JSON form of reference values: members sorted, no spaces, absent ones left out."""
    return json.dumps(values.to_json_dict(), sort_keys=True, separators=(",", ":")).encode()


def _parse(data: bytes) -> etree._Element:
    """The tag's element, with nothing fetched, nothing expanded, and no document type."""
    if len(data) > MAX_RIM_BYTES:
        raise _malformed(f"the RIM has {len(data)} bytes; at most {MAX_RIM_BYTES} are read")
    if data[:1] in _CBOR:
        raise _malformed("this is a CoRIM (CBOR); only SWID tags are read")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _malformed("the RIM has a document type, or is not UTF-8; neither is accepted")
    try:
        root = etree.fromstring(data, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _malformed("the RIM is not XML", str(error)[:200]) from error
    if root is None or root.tag != f"{SWID}SoftwareIdentity" or root.getroottree().docinfo.doctype:
        raise _malformed("the RIM is no SWID tag: its first element is no SoftwareIdentity")
    if len(root.findall(f"{DSIG}Signature")) != 1 or len(list(root.iter(f"{DSIG}Signature"))) != 1:
        raise _malformed("the RIM does not have exactly one signature, right below its first element")
    return root


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False, remove_comments=False, recover=False
    )


def _signers(tag: etree._Element, at: datetime | None, root_sha256: str) -> tuple[x509.Certificate, ...]:
    """The signing certificate and those above it, up to the trusted root."""
    texts = [element.text or "" for element in tag.iterfind(f"{DSIG}Signature/{DSIG}KeyInfo/{DSIG}X509Data/{DSIG}X509Certificate")]
    if not 2 <= len(texts) <= MAX_CERTIFICATES:
        raise GpuError(_R.RIM_SIGNER_INVALID, f"the RIM carries {len(texts)} certificates; 2 to {MAX_CERTIFICATES} make a chain")
    try:
        certificates = [x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True)) for text in texts]
        names_of(certificates)
    except UNREADABLE_X509 as error:
        raise GpuError(_R.RIM_SIGNER_INVALID, "a certificate of the RIM cannot be read", str(error)[:200]) from error
    verify_path(certificates, _R.RIM_SIGNER_INVALID)
    found = hashlib.sha256(certificates[-1].public_bytes(Encoding.DER)).hexdigest()
    if not hmac.compare_digest(found, root_sha256.lower()):
        ends = f"its signer's chain ends at {common_name(certificates[-1])!r}"
        raise GpuError(_R.RIM_SIGNER_INVALID, "the RIM was not signed under the trusted RIM root", ends)
    for certificate in certificates:
        if at is not None and not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            span = f"{rfc3339(certificate.not_valid_before_utc)} to {rfc3339(certificate.not_valid_after_utc)}"
            name = common_name(certificate)
            raise GpuError(_R.RIM_EXPIRED, f"the RIM's signing certificate {name!r} is not valid at the stated time", span)
    return tuple(certificates)


def _verified(data: bytes, signer: x509.Certificate) -> etree._Element:
    """The element that the signature covers: the whole tag, without the signature."""
    expected = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=signer.not_valid_before_utc,  # the validity was judged above, under its own reason
    )
    try:
        result = XMLVerifier().verify(data, x509_cert=signer, expect_config=expected, parser=_parser())
    except (SignXMLException, etree.LxmlError, ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
        detail = f"{type(error).__name__}: {error}"[:300]
        raise GpuError(_R.RIM_SIGNATURE_INVALID, "the RIM's signature does not match its bytes", detail) from error
    signed = None if isinstance(result, list) else result.signed_xml
    if signed is None or signed.tag != f"{SWID}SoftwareIdentity":
        raise GpuError(_R.RIM_SIGNATURE_INVALID, "the RIM's signature covers something else than the whole tag")
    return signed


def _values(tag: etree._Element, expires: datetime) -> GpuReferenceValues:
    """The active measurements of a tag whose signature holds."""
    meta = _only(tag, "Meta")
    version, product = meta.get("colloquialVersion") or "", meta.get("product") or ""
    architecture = next((known for prefix, known in _PRODUCTS if product.startswith(prefix)), None)
    if architecture is None:
        raise _malformed(f"the RIM is for a product that is not known: {product[:32]!r}")
    listed = _only(tag, "Payload").findall(f"{SWID}Resource")
    if len(listed) > MAX_RESOURCES:
        raise _malformed(f"the RIM has {len(listed)} resources; at most {MAX_RESOURCES} are read")
    values: dict[int, list[str]] = {}
    least: dict[int, tuple[str, int]] = {}
    seen: set[int] = set()
    for resource in listed:
        if resource.get("type") != "Measurement":
            raise _malformed(f"the RIM has a resource of type {str(resource.get('type'))[:32]!r}; only measurements can be compared")
        index, active = _place(resource)
        if index in seen:
            raise _malformed(f"the RIM has measurement {index} twice")
        seen.add(index)
        if index >= OPAQUE_BASE:
            if active:
                least[index - OPAQUE_BASE] = _security_version(resource, index)
            continue
        digests = _digests(resource, index)
        if active:
            values[index] = digests
    try:
        return GpuReferenceValues.model_validate(
            {
                "id": tag.get("tagId") or "",
                "kind": ReferenceKind.VBIOS if _VBIOS.match(version) else ReferenceKind.DRIVER,
                "architecture": architecture,
                "version": version,
                "expires": expires,
                "values": [{"index": index, "digests": values[index]} for index in sorted(values)],
                "security_versions": [{"field": field, "name": name, "minimum": low} for field, (name, low) in sorted(least.items())]
                or None,
            }
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise _malformed("the RIM's values are not those of a GPU's firmware", f"{where}: {problem['msg']}"[:200]) from error


def _place(resource: etree._Element) -> tuple[int, bool]:
    """Index of one measurement, and whether it is active."""
    index = _number(resource, "index")
    state = (resource.get("active") or "").lower()
    if state not in ("true", "false"):
        raise _malformed(f"measurement {index} of the RIM is neither active nor inactive")
    return index, state == "true"


def _security_version(resource: etree._Element, index: int) -> tuple[str, int]:
    """Name and least security version of a field of the opaque data, which has no digest."""
    if any(str(name).rpartition("}")[2].startswith("Hash") for name in resource.attrib):
        raise _malformed(f"resource {index} of the RIM is about opaque data and has a digest; only its least security version is known")
    return resource.get("name") or "", _number(resource, f"{OPAQUE}minSvn")


def _digests(resource: etree._Element, index: int) -> list[str]:
    """The alternatives of one measurement."""
    alternatives, size = (_number(resource, name) for name in ("alternatives", "size"))
    named = [name for name in map(str, resource.keys()) if name.rpartition("}")[2].startswith("Hash")]
    if not 1 <= alternatives <= MAX_ALTERNATIVES or sorted(named) != sorted(f"{HASH}{number}" for number in range(alternatives)):
        raise _malformed(f"measurement {index} of the RIM does not have the SHA-384 alternatives that it states")
    digests = [(resource.get(f"{HASH}{number}") or "").lower() for number in range(alternatives)]
    if any(re.fullmatch(r"[0-9a-f]*", found) is None or len(found) != 2 * size for found in digests):
        raise _malformed(f"measurement {index} of the RIM does not have the size that it states")
    return digests


def _number(resource: etree._Element, name: str) -> int:
    text = resource.get(name) or ""
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise _malformed(f"a measurement of the RIM has no number as its {name.rpartition('}')[2]}")
    return int(text)


def _only(tag: etree._Element, name: str) -> etree._Element:
    found = tag.findall(f"{SWID}{name}")
    if len(found) != 1:
        raise _malformed(f"the RIM has {len(found)} elements {name}; exactly one is expected")
    return found[0]


def _malformed(message: str, detail: str = "") -> GpuError:
    return GpuError(_R.RIM_MALFORMED, message, detail)
