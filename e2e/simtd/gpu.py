"""Simulated NVIDIA GPUs and NVSwitches: a device root of their own, made at run time, and SPDM reports as the hardware's.

Everything that a verifier reads is here in the vendor's form, and nothing of it is NVIDIA's: the names say Simulated, and
under NVIDIA's roots all of it is refused.  Tests bend each part with ReportShape and RimShape.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from lxml import etree
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureConstructionMethod, SignatureMethod
from signxml.signer import XMLSigner

ORGANISATION = "Chrysalis Simulated Devices"
NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 12, 31, tzinfo=UTC)
HOPPER, BLACKWELL, LS10 = "Hopper", "Blackwell", "LS10"
CHIPS = {HOPPER: "GH100", BLACKWELL: "GB100", LS10: "LS10"}
DRIVER = "590.12"
VBIOS = "96.00.A5.00.01"
SWITCH_BIOS = "96.10.6D.00.01"
BLOCKS = 64
DRIVER_INDICES = (7, *range(21, 41))
"""The measurements that a driver RIM is about, as NVIDIA's for Hopper; 35 is the first video decoder's firmware."""
VBIOS_INDICES = (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12)
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
OPAQUE = "https://docs.nvidia.com/attestation/specs/latest/opaque-data.html"
OPAQUE_BASE = 0x1000
RIM_SIGNER = "Simulated RIM Signer"
RIM_NAMES = ("rim-signer", "rim-ca", "rim-root")
_SHA384_OID = bytes.fromhex("0609608648016503040202")
_DEVTOOLS_INDEX = 9


def measured(index: int, what: str = "production") -> bytes:
    """The golden value of one measurement: a SHA-384."""
    return hashlib.sha384(f"Simulated GPU measurement {index} {what}".encode()).digest()


@dataclass(frozen=True)
class ReportShape:
    """How a report looks; the default is a device that is all right."""

    driver: str = DRIVER
    vbios: str = VBIOS
    feature_flag: int | None = 0
    protected_pcie: int | None = 0x55
    nvdec0: int = 0x55
    devtools: bool = False
    fwid: bytes | None = b""  # None: the field is left out; empty: the certificate's
    changed: Mapping[int, bytes] = field(default_factory=dict)  # measurements (index from 0) with other values
    left_out: Sequence[int] = ()
    links: Sequence[bytes] = ()  # PDIs of the switches (of a GPU) or of the GPUs (of a switch)
    edit_opaque: Callable[[dict[int, bytes]], None] | None = None
    versioned: bool = False  # whether the opaque data has the layout of drivers of CUDA 13.5 and later
    security_versions: Mapping[int, bytes] = field(default_factory=dict)  # by field id; in that layout alone
    security_type: int = 0x87  # of their values


GOOD = ReportShape()


@dataclass(frozen=True)
class RimShape:
    """How a RIM looks; the default is the one of a device that is all right."""

    version: str = DRIVER
    indices: Sequence[int] = DRIVER_INDICES
    architecture: str = HOPPER
    changed: Mapping[int, bytes] = field(default_factory=dict)
    security_versions: Mapping[int, int] = field(default_factory=dict)  # the least one that each opaque field may state
    edit: Callable[[etree._Element], None] | None = None  # before it is signed
    not_after: datetime = NOT_AFTER  # of the signer's certificate


@dataclass(frozen=True)
class SimulatedDevice:
    """One GPU or switch: its keys and certificates, leaf first (device's firmware, identity, provisioner, model, root)."""

    architecture: str
    keys: tuple[ec.EllipticCurvePrivateKey, ...]  # one for each certificate
    certificates: tuple[x509.Certificate, ...]
    fwid: bytes
    pdi: bytes

    @property
    def chain(self) -> bytes:
        """The chain as the driver gives it: PEM, leaf first."""
        return pem(*self.certificates)

    @property
    def uuid(self) -> str:
        """What NVML would call the device; nothing signs it."""
        hexed = hashlib.sha256(self.pdi).hexdigest()
        return f"GPU-{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:32]}"

    def report(self, nonce: bytes, shape: ReportShape = GOOD) -> bytes:
        """Request, response, opaque data and signature over this nonce (32 bytes)."""
        request = bytes([0x11, 0xE0, 0x01, 0xFF]) + nonce + b"\0"
        record, count = b"", 0
        for index in range(BLOCKS):
            if index in shape.left_out:
                continue
            value = shape.changed.get(index, measured(index, "devtools" if shape.devtools and index == _DEVTOOLS_INDEX else "production"))
            body = struct.pack("<BH", 1, len(value)) + value
            record += struct.pack("<BBH", index + 1, 1, len(body)) + body
            count += 1
        opaque = b"NVDAOD\0\0\2\0\0\0" if shape.versioned else b""
        for kind, value in self._opaque(shape).items():
            stated = struct.pack("<H", shape.security_type if kind in shape.security_versions else 0) if shape.versioned else b""
            opaque += struct.pack("<H", kind) + stated + struct.pack("<H", len(value)) + value
        response = bytes([0x11, 0x60, 0, 0, count]) + len(record).to_bytes(3, "little") + record
        response += os.urandom(32) + struct.pack("<H", len(opaque)) + opaque
        return request + response + raw_signature(self.keys[0], request + response)

    def evidence(self, nonce: bytes, shape: ReportShape = GOOD) -> dict[str, Any]:
        """One entry of NVIDIA SDK evidence JSON."""
        entry = {
            "version": "1.0",
            "arch": self.architecture.upper(),
            "nonce": nonce.hex(),
            "evidence": base64.b64encode(self.report(nonce, shape)).decode(),
            "certificate": base64.b64encode(self.chain).decode(),
        }
        if self.architecture == LS10:
            return entry
        return entry | {"driver_version": shape.driver, "vbios_version": shape.vbios}

    def ocsp(self, at: datetime, place: int, *, revoked: bool = False) -> bytes:
        """An answer about the certificate at this place of the chain, signed by its issuer's key; current for a day."""
        return ocsp_answer(self.certificates[place], self.certificates[place + 1], self.keys[place + 1], at, revoked=revoked)

    def _opaque(self, shape: ReportShape) -> dict[int, bytes]:
        fields: dict[int, bytes] = {}
        if self.architecture == LS10:
            fields |= {6: shape.vbios.encode() + b"\0", 22: self.pdi}
            fields[26] = b"".join(shape.links).ljust(64, b"\0") + bytes(range(len(shape.links)))
        else:
            parts = [int(part, 16) for part in shape.vbios.split(".")]
            fields |= {6: bytes([parts[3], parts[2], parts[1], parts[0], parts[4], 0, 0, 0]), 14: struct.pack("<I", 1079), 15: b"885\0"}
            fields |= {17: b"G520\0", 18: b"0200\0", 3: shape.driver.encode() + b"\0", 12: bytes(4 * BLOCKS), 11: bytes([shape.nvdec0])}
            if shape.protected_pcie is not None:
                fields[21] = bytes([shape.protected_pcie])
            if shape.links:
                fields[22] = b"".join(pdi[::-1] for pdi in shape.links)
            if shape.feature_flag is not None:
                fields |= {34: struct.pack("<H", 1), 36: struct.pack("<H", shape.feature_flag)}
        if shape.fwid is not None:
            fields[20] = shape.fwid or self.fwid
        fields |= shape.security_versions
        if shape.edit_opaque is not None:
            shape.edit_opaque(fields)
        return fields


@dataclass(frozen=True)
class SimulatedGpus:
    """A vendor of simulated devices: a device root and, apart from it, a RIM root."""

    keys: dict[str, ec.EllipticCurvePrivateKey]
    certificates: dict[str, x509.Certificate]

    @classmethod
    def create(cls) -> SimulatedGpus:
        """New roots."""
        keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("root", "rim-root", "rim-ca", "rim-signer")}
        root = certificate("Simulated Device Identity CA", keys["root"], None, keys["root"], authority=True)
        rim_root = certificate("Simulated RIM signing Root CA", keys["rim-root"], None, keys["rim-root"], authority=True)
        rim_ca = certificate("Simulated RIM CA", keys["rim-ca"], rim_root, keys["rim-root"], authority=True)
        signer = certificate(RIM_SIGNER, keys["rim-signer"], rim_ca, keys["rim-ca"])
        return cls(keys, {"root": root, "rim-root": rim_root, "rim-ca": rim_ca, "rim-signer": signer})

    @property
    def root_der(self) -> bytes:
        """The device root that rules must name to accept these devices."""
        return self.certificates["root"].public_bytes(serialization.Encoding.DER)

    @property
    def rim_root_der(self) -> bytes:
        """The root under which these RIMs are signed."""
        return self.certificates["rim-root"].public_bytes(serialization.Encoding.DER)

    @property
    def rim_signers(self) -> tuple[x509.Certificate, ...]:
        """The certificates that a RIM carries whose shape says nothing else of its signer, the signer's own first."""
        return tuple(self.certificates[name] for name in RIM_NAMES)

    def rim_ocsp(self, at: datetime, place: int, *, revoked: bool = False) -> bytes:
        """An answer about the certificate at this place of the RIM's chain, signed by its issuer's key; current for a day."""
        return ocsp_answer(self.rim_signers[place], self.rim_signers[place + 1], self.keys[RIM_NAMES[place + 1]], at, revoked=revoked)

    def device(self, architecture: str = HOPPER, chip: str = "") -> SimulatedDevice:
        """A new device with an identity of its own; chip: another name than its architecture's in the certificates."""
        chip = chip or CHIPS[architecture]
        keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(4)]
        root, root_key = self.certificates["root"], self.keys["root"]
        fwid = hashlib.sha384(f"Simulated {chip} firmware".encode()).digest()
        pdi = os.urandom(8)
        model = certificate(f"Simulated {chip} Identity", keys[3], root, root_key, authority=True)
        provisioner = certificate(f"Simulated {chip} Provisioner ICA 1", keys[2], model, keys[3], authority=True)
        identity = certificate(f"{chip} A01 Simulated BROM", keys[1], provisioner, keys[2], authority=True)
        extension = _tcb_info(fwid) if architecture == BLACKWELL else _composite(keys[0], fwid)
        leaf = certificate(f"{chip} A01 Simulated FMC LF", keys[0], identity, keys[1], extension=extension)
        return SimulatedDevice(architecture, (*keys, root_key), (leaf, identity, provisioner, model, root), fwid, pdi)

    def rim(self, shape: RimShape) -> bytes:
        """A signed SWID tag with these active measurements; all the others are there and inactive."""
        signer_key, signers = self.keys["rim-signer"], self.rim_signers
        if shape.not_after != NOT_AFTER:
            other = certificate(RIM_SIGNER, signer_key, signers[1], self.keys["rim-ca"], not_after=shape.not_after)
            signers = (other, *signers[1:])
        tag = swid(shape)
        if shape.edit is not None:
            shape.edit(tag)
        signing = XMLSigner(
            method=SignatureConstructionMethod.enveloped,
            signature_algorithm=SignatureMethod.ECDSA_SHA384,
            digest_algorithm=DigestAlgorithm.SHA384,
            c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
        )
        signed = signing.sign(tag, key=signer_key, cert=list(signers))
        return bytes(etree.tostring(signed))


def swid(shape: RimShape) -> etree._Element:
    """The tag before it is signed."""
    names = {None: SWID, "ns0": SWID, "ns2": HASH} | ({"ns3": OPAQUE} if shape.security_versions else {})
    tag_id = hashlib.sha384(f"{shape.architecture} {shape.version}".encode()).hexdigest()
    tag = etree.Element(f"{{{SWID}}}SoftwareIdentity", {"name": CHIPS[shape.architecture], "tagId": tag_id, "version": "1.0"}, nsmap=names)
    etree.SubElement(tag, f"{{{SWID}}}Entity", {"name": ORGANISATION, "role": "softwareCreator tagCreator"})
    meta = {"colloquialVersion": shape.version, "edition": "GPU", "product": CHIPS[shape.architecture], "revision": "r1"}
    etree.SubElement(tag, f"{{{SWID}}}Meta", meta)
    payload = etree.SubElement(tag, f"{{{SWID}}}Payload")
    for index in range(BLOCKS):
        active = index in shape.indices
        value = shape.changed.get(index, measured(index)) if active else bytes(48)
        resource = {"type": "Measurement", "index": str(index), "active": str(active), "alternatives": "1", "size": str(len(value))}
        etree.SubElement(payload, f"{{{SWID}}}Resource", {**resource, f"{{{HASH}}}Hash0": value.hex()})
    for kind, least in shape.security_versions.items():
        resource = {"type": "Measurement", "index": str(OPAQUE_BASE + kind), "active": "True", "alternatives": "1", "size": "2"}
        resource |= {"name": f"FIELD_{kind}_MIN_SVN", f"{{{OPAQUE}}}minSvn": str(least), f"{{{OPAQUE}}}includeInResult": "True"}
        etree.SubElement(payload, f"{{{SWID}}}Resource", resource)
    return tag


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
    path_length: int | None = None,
    extension: x509.UnrecognizedExtension | None = None,
    not_after: datetime = NOT_AFTER,
    ocsp_signing: bool = False,
    critical: bool = False,
) -> x509.Certificate:
    """One certificate in the form of NVIDIA's: P-384, ECDSA with SHA-384."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(_usage(authority), critical=True)
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    if ocsp_signing:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
    if extension is not None:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA384())


def ocsp_answer(
    about: x509.Certificate, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, at: datetime, *, revoked: bool = False
) -> bytes:
    """An answer (DER) in the issuer's name, signed by this key; it began an hour before and ends 23 hours after the stated time."""
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=about,
        issuer=issuer,
        algorithm=hashes.SHA256(),
        cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
        this_update=at - timedelta(hours=1),
        next_update=at + timedelta(hours=23),
        revocation_time=at - timedelta(days=1) if revoked else None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    return builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-384 as r ‖ s, 96 bytes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def pem(*certificates: x509.Certificate) -> bytes:
    """A PEM chain, in this order."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _der(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    size = bytes([len(value)]) if len(value) < 0x80 else bytes([0x81, len(value)])
    return bytes([tag]) + size + value


def _fwid(digest: bytes) -> bytes:
    return _der(0x30, _SHA384_OID, _der(0x04, digest))


def _composite(key: ec.EllipticCurvePrivateKey, digest: bytes) -> x509.UnrecognizedExtension:
    """TCG DICE CompositeDeviceID, as in Hopper's certificates."""
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    value = _der(0x30, _der(0x02, b"\1"), spki, _fwid(digest))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), value)


def _tcb_info(digest: bytes) -> x509.UnrecognizedExtension:
    """TCG DiceTcbInfo, as in Blackwell's certificates: two firmware identifiers, the key holder's first."""
    value = _der(0x30, _der(0x80, b"SIMULATED"), _der(0x81, b"GB100"), _der(0xA6, _fwid(digest), _fwid(bytes(48))), _der(0x89, b"\0"))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1.1"), value)
