"""Is a document of the collateral genuine and current: judged without any quote, so that it can be kept at once.  Pure.

An appraisal judges the collateral again, together with the quote; this check decides what is worth keeping, so that an
answer from the network can neither push out good documents nor raise the marks that older ones are refused by.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from chrysalis.attestation.anchor import TrustAnchor, follow, of_certificate, p256
from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.attestation.collateral import Collateral, common_name, is_below_its_root
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument
from chrysalis.attestation.genuineness import QE_IDENTITY_VERSION, TCB_INFO_ID, TCB_INFO_VERSION, TCB_SIGNER
from chrysalis.attestation.pck_chain import authority_of_crl, verify_raw
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.clock import rfc3339

QE_IDENTITY_ID = "TD_QE"
_WANTED = {DocumentKind.TCB_INFO: (TCB_INFO_ID, TCB_INFO_VERSION), DocumentKind.QE_IDENTITY: (QE_IDENTITY_ID, QE_IDENTITY_VERSION)}
_R = AttestationReason


def check(document: SignedDocument, anchor: TrustAnchor, at: datetime, *, name: str = "", root_crl: SignedDocument | None = None) -> None:
    """Check one document under a trust anchor at a stated time.

    1. Its signer's chain leads to the anchor and is current; the signer is Intel's TCB signing certificate (TCB info, QE
       identity), a PCK authority (PCK CRL), or the anchor itself (root CRL).
    2. The signature is the signer's, over the exact bytes.
    3. No certificate below the anchor is revoked by `root_crl`, where one is given (itself checked before).
    4. It is what was asked for: kind, version, and `name` (the FMSPC of a TCB info, platform or processor of a PCK CRL) where given.
    5. It was issued, and is current; a nextUpdate is within a JSON document's life and outside of a list's.

    Raises AttestationError: CollateralMalformed, CollateralSignerInvalid, CollateralSignatureInvalid, CollateralMismatch,
    CollateralNotYetValid, CollateralExpired, TrustRootMismatch, CertificateInvalid, CertificateExpired, CertificateRevoked.
    """
    if document.kind.is_crl:
        _check_crl(document, anchor, at, name)
    else:
        _check_json(document, anchor, at, name)
    if root_crl is not None and document.issuers:
        _not_revoked(document.certificates, root_crl)  # 3
    if document.issued > at:  # 5
        raise AttestationError(_R.COLLATERAL_NOT_YET_VALID, f"the {document.kind.value} was issued after the stated time")
    ended = at >= document.next_update if document.kind.is_crl else at > document.next_update
    if ended:
        words = f"nextUpdate {rfc3339(document.next_update)}"
        raise AttestationError(_R.COLLATERAL_EXPIRED, f"the {document.kind.value} has expired at the stated time", words)


def root_of(collateral: Collateral) -> TrustAnchor:
    """The root that a collateral's own TCB chain ends in: whose it claims to be, before anything is checked.

    Raises AttestationError (CertificateInvalid, RootUnreadable) where the chain does not carry its root.
    """
    root = collateral.tcb_chain[-1]
    if root.subject != root.issuer:
        raise AttestationError(_R.CERTIFICATE_INVALID, "the TCB info's issuer chain does not end in a root certificate")
    return of_certificate(root)


def _check_json(document: SignedDocument, anchor: TrustAnchor, at: datetime, name: str) -> None:
    signer = follow(document.certificates, anchor, at)  # 1
    if common_name(signer) != TCB_SIGNER:
        message = f"the {document.kind.value} was signed by {common_name(signer)[:64]!r}, not by {TCB_SIGNER!r}"
        raise AttestationError(_R.COLLATERAL_SIGNER_INVALID, message)
    if not is_below_its_root(document.certificates):
        message = f"the {document.kind.value}'s signer was not appointed by the root itself"
        raise AttestationError(_R.COLLATERAL_SIGNER_INVALID, message)
    if not verify_raw(p256(signer), document.signature, document.body):  # 2
        raise AttestationError(_R.COLLATERAL_SIGNATURE_INVALID, f"the {document.kind.value}'s signature does not match its bytes")
    facts = document.facts
    wanted, version = _WANTED[document.kind]  # 4
    if facts.id != wanted:
        raise AttestationError(_R.COLLATERAL_MISMATCH, f"the {document.kind.value} is for {facts.id[:16]!r}, not for {wanted}")
    if facts.version != version:  # an appraisal would refuse it, and it would have replaced one that serves
        message = f"the {document.kind.value} is of version {facts.version}; only version {version} is known"
        raise AttestationError(_R.COLLATERAL_MISMATCH, message)
    if name and facts.fmspc != name.upper():
        raise AttestationError(_R.COLLATERAL_MISMATCH, f"the TCB info is of platform {facts.fmspc[:16]}, not of {name.upper()}")


def _check_crl(document: SignedDocument, anchor: TrustAnchor, at: datetime, name: str) -> None:
    try:
        crl = x509.load_der_x509_crl(document.body)
        if document.kind is DocumentKind.ROOT_CRL:
            key = anchor.key
        else:
            signer = follow(document.certificates, anchor, at, authority=True)  # 1
            key = p256(signer)
            if crl.issuer != signer.subject:
                raise AttestationError(_R.COLLATERAL_SIGNER_INVALID, "the PCK CRL names another issuer than its chain")
            kind = authority_of_crl(document.certificates)  # 4
            if name and kind != name:
                raise AttestationError(_R.COLLATERAL_MISMATCH, f"the PCK CRL is of the {kind} authority, not of the {name} one")
        genuine = crl.is_signature_valid(key)  # 2
    except (*UNREADABLE_X509, InvalidSignature) as error:
        raise AttestationError(_R.COLLATERAL_MALFORMED, f"the {document.kind.value} cannot be read", str(error)) from error
    if not genuine:
        raise AttestationError(_R.COLLATERAL_SIGNATURE_INVALID, f"the {document.kind.value} is not signed by its authority")
    _ = document.crl  # its number and dates can be read


def _not_revoked(certificates: list[x509.Certificate], root_crl: SignedDocument) -> None:
    try:
        crl = x509.load_der_x509_crl(root_crl.body)
        issuer = crl.issuer
    except UNREADABLE_X509 as error:
        raise AttestationError(_R.COLLATERAL_MALFORMED, "the root CRL cannot be read", str(error)) from error
    for certificate in certificates:
        if certificate.issuer == issuer and crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise AttestationError(_R.CERTIFICATE_REVOKED, "the root authority revoked a certificate that the collateral rests on")
