"""Collateral: Intel's signed documents about a platform, in the QuoteCollateralV3 JSON form.

The documents are kept byte for byte: one changed space breaks their signatures.  A `pck_certificate_chain` is dropped on
reading, since it would override the quote's own chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.x509.oid import NameOID

from chrysalis.attestation import envelope
from chrysalis.attestation.certificate_errors import UNREADABLE_X509, names_of
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.clock import parse_rfc3339

MAX_COLLATERAL_BYTES = 4 * 1024 * 1024
MAX_CHAIN_CERTIFICATES = 5
MAX_NUMBER = (1 << 63) - 1
"""Of CRL numbers and evaluation data numbers: what a database keeps.  RFC 5280 allows 20 octets; Intel counts from 1."""
TEXT_FIELDS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "tcb_info", "qe_identity_issuer_chain", "qe_identity")
HEX_FIELDS = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True)
class Expiry:
    """A time after which something ends, and the name that results give it (`limitedBy`)."""

    at: datetime
    name: str


@dataclass(frozen=True)
class Document:
    """The facts of a signed JSON document (TCB info or QE identity) that freshness and matching need."""

    id: str
    version: int
    issue_date: datetime
    next_update: datetime
    evaluation_data_number: int
    fmspc: str  # upper-case hex; empty in a QE identity
    pce_id: str


@dataclass(frozen=True)
class Crl:
    """The facts of a certificate revocation list."""

    this_update: datetime
    next_update: datetime
    number: int


@dataclass(frozen=True)
class Collateral:
    """One platform's collateral.  The properties read it on first use and raise AttestationError (CollateralMalformed)."""

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    @classmethod
    def from_json(cls, text: str | bytes) -> Collateral:
        """Read QuoteCollateralV3 JSON; raises AttestationError (CollateralMalformed), also where a member stands twice."""
        if len(text) > MAX_COLLATERAL_BYTES:
            raise _malformed(f"the collateral has {len(text)} bytes; at most {MAX_COLLATERAL_BYTES} are read")
        try:
            document = envelope.parsed(text)
        except envelope.Ambiguous as error:
            raise _malformed("the collateral's JSON is not read", str(error)) from error
        except (ValueError, RecursionError) as error:
            raise _malformed("the collateral is not JSON", str(error)) from error
        if not isinstance(document, dict):
            raise _malformed("the collateral is not a JSON object")
        fields: dict[str, Any] = {}
        for name in (*TEXT_FIELDS, *HEX_FIELDS):
            value = document.get(name)
            if not isinstance(value, str):
                raise _malformed(f"the collateral has no text member `{name}`")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise _malformed(f"the collateral's `{name}` is no text", str(error)) from error
            fields[name] = value
        for name in HEX_FIELDS:
            try:
                fields[name] = bytes.fromhex(fields[name].strip().removeprefix("0x"))
            except ValueError as error:
                raise _malformed(f"the collateral's `{name}` is not hexadecimal", str(error)) from error
        return cls(**fields)

    def to_json(self) -> str:
        """QuoteCollateralV3 JSON, the same text for the same documents."""
        document = {name: getattr(self, name) for name in TEXT_FIELDS} | {name: getattr(self, name).hex() for name in HEX_FIELDS}
        return json.dumps(document, separators=(",", ":"), sort_keys=True)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of `to_json`: the name of exactly these documents."""
        return hashlib.sha256(self.to_json().encode("utf-8", "surrogatepass")).digest()

    @cached_property
    def qvl(self) -> Any:
        """The same documents for dcap-qvl."""
        return dcap_qvl.QuoteCollateralV3(
            self.pck_crl_issuer_chain,
            self.root_ca_crl,
            self.pck_crl,
            self.tcb_info_issuer_chain,
            self.tcb_info,
            self.tcb_info_signature,
            self.qe_identity_issuer_chain,
            self.qe_identity,
            self.qe_identity_signature,
        )

    @cached_property
    def tcb(self) -> Document:
        """The TCB info's facts."""
        return read_document(self.tcb_info, "TCB info")

    @cached_property
    def qe(self) -> Document:
        """The QE identity's facts."""
        return read_document(self.qe_identity, "QE identity")

    @cached_property
    def root_crl_facts(self) -> Crl:
        """The root CA's revocation list."""
        return read_crl(self.root_ca_crl, "root CA CRL")

    @cached_property
    def pck_crl_facts(self) -> Crl:
        """The PCK CA's revocation list."""
        return read_crl(self.pck_crl, "PCK CRL")

    @cached_property
    def tcb_chain(self) -> list[x509.Certificate]:
        """Who signed the TCB info, leaf first."""
        return chain(self.tcb_info_issuer_chain.encode(), "TCB info issuer chain")

    @cached_property
    def qe_chain(self) -> list[x509.Certificate]:
        """Who signed the QE identity, leaf first."""
        return chain(self.qe_identity_issuer_chain.encode(), "QE identity issuer chain")

    @cached_property
    def tcb_signer(self) -> str:
        """The common name of the certificate that signed the TCB info."""
        return common_name(self.tcb_chain[0])

    @cached_property
    def qe_signer(self) -> str:
        """The common name of the certificate that signed the QE identity."""
        return common_name(self.qe_chain[0])

    @cached_property
    def issuer_expiry(self) -> Expiry:
        """When the first certificate of the PCK CRL's issuer chain ends."""
        certificates = chain(self.pck_crl_issuer_chain.encode(), "PCK CRL issuer chain")
        return Expiry(min(certificate.not_valid_after_utc for certificate in certificates), "pckCrlIssuer.notAfter")

    @cached_property
    def expiries(self) -> tuple[Expiry, ...]:
        """When each part of the collateral ends."""
        signers = min(certificate.not_valid_after_utc for certificate in (*self.tcb_chain, *self.qe_chain))
        return (
            Expiry(self.tcb.next_update, "tcbInfo.nextUpdate"),
            Expiry(self.qe.next_update, "qeIdentity.nextUpdate"),
            Expiry(self.pck_crl_facts.next_update, "pckCrl.nextUpdate"),
            Expiry(self.root_crl_facts.next_update, "rootCrl.nextUpdate"),
            Expiry(signers, "tcbSigningCertificate.notAfter"),
        )


def chain(pem: bytes, what: str) -> list[x509.Certificate]:
    """The certificates of a PEM chain, leaf first; raises AttestationError (CollateralMalformed)."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
        names_of(certificates)
    except UNREADABLE_X509 as error:
        raise _malformed(f"the {what} is not a PEM certificate chain", str(error)) from error
    if not 1 <= len(certificates) <= MAX_CHAIN_CERTIFICATES:
        raise _malformed(f"the {what} has {len(certificates)} certificates; 1 to {MAX_CHAIN_CERTIFICATES} are read")
    return certificates


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name; empty unless there is exactly one."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE_X509:
        return ""
    return str(names[0].value) if len(names) == 1 else ""


def is_below_its_root(certificates: Sequence[x509.Certificate]) -> bool:
    """Whether a chain (leaf first, its root last or left out) has no authority between leaf and root.

    So is that of Intel's TCB signer: an authority for platforms' certificates appoints no one who says which levels are current.
    """
    return len(certificates) == 1 or (len(certificates) == 2 and certificates[1].subject == certificates[1].issuer)


def read_document(text: str, what: str) -> Document:
    """The facts of a TCB info's or QE identity's JSON text; raises AttestationError (CollateralMalformed)."""
    try:
        document = json.loads(text)
        return Document(
            id=str(document["id"]),
            version=_number(document["version"]),
            issue_date=parse_rfc3339(document["issueDate"]),
            next_update=parse_rfc3339(document["nextUpdate"]),
            evaluation_data_number=_number(document["tcbEvaluationDataNumber"]),
            fmspc=str(document.get("fmspc", "")).upper(),
            pce_id=str(document.get("pceId", "")).lower(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise _malformed(f"the collateral's {what} is not the document that Intel serves", str(error)) from error


def read_crl(der: bytes, what: str) -> Crl:
    """The facts of a DER revocation list; raises AttestationError (CollateralMalformed)."""
    try:
        crl = x509.load_der_x509_crl(der)
        if crl.next_update_utc is None:
            raise ValueError("it has no nextUpdate")
        try:
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except x509.ExtensionNotFound:
            number = 0
        return Crl(crl.last_update_utc, crl.next_update_utc, _number(number))
    except UNREADABLE_X509 as error:
        raise _malformed(f"the collateral's {what} cannot be read", str(error)) from error


def _number(value: object) -> int:
    """A count that only grows; raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{str(value)[:64]} is no number from 0 to {MAX_NUMBER}")
    return value


def _malformed(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.COLLATERAL_MALFORMED, message, detail)
