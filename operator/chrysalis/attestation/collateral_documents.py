"""The four signed documents that collateral is made of, each on its own: its exact bytes, who signed it, how new it is.

They have lives of their own: one TCB info for each platform family, one revocation list for each authority, one QE identity
and one root list for all.  `Collateral` is one of each, in the form that an appraisal takes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from cryptography import x509

from chrysalis.attestation.collateral import Collateral, Crl, Document, chain, read_crl, read_document
from chrysalis.attestation.reasons import AttestationError, AttestationReason


class DocumentKind(StrEnum):
    """In the order in which they are checked: the root list says whose signatures count for the others."""

    ROOT_CRL = "rootCrl"
    PCK_CRL = "pckCrl"
    TCB_INFO = "tcbInfo"
    QE_IDENTITY = "qeIdentity"

    @property
    def is_crl(self) -> bool:
        """Whether it is a revocation list (DER) and not a JSON document."""
        return self in (DocumentKind.ROOT_CRL, DocumentKind.PCK_CRL)


@dataclass(frozen=True)
class SignedDocument:
    """One document.  The properties read it on first use and raise AttestationError (CollateralMalformed).

    body: the exact bytes that are signed (JSON), or the DER of a revocation list.
    signature: r ‖ s for JSON, empty for a list, which carries its own.
    issuers: PEM chain of the signer, leaf first; empty for the root list, whose signer is the trust root.
    """

    kind: DocumentKind
    body: bytes
    signature: bytes
    issuers: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all three parts, hex: two documents of the same digest are the same."""
        digest = hashlib.sha256(self.kind.value.encode())
        for part in (self.body, self.signature, self.issuers.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    @cached_property
    def facts(self) -> Document:
        """Of a JSON document."""
        try:
            return read_document(self.body.decode(), self.kind.value)
        except UnicodeDecodeError as error:
            raise AttestationError(AttestationReason.COLLATERAL_MALFORMED, f"the {self.kind.value} is not UTF-8", str(error)) from error

    @cached_property
    def crl(self) -> Crl:
        """Of a revocation list."""
        return read_crl(self.body, self.kind.value)

    @cached_property
    def certificates(self) -> list[x509.Certificate]:
        """The signer's chain, leaf first."""
        return chain(self.issuers.encode(), f"{self.kind.value} issuer chain")

    @property
    def number(self) -> int:
        """What only grows: the TCB evaluation data number, or the CRL number."""
        return self.crl.number if self.kind.is_crl else self.facts.evaluation_data_number

    @property
    def issued(self) -> datetime:
        """issueDate or thisUpdate."""
        return self.crl.this_update if self.kind.is_crl else self.facts.issue_date

    @property
    def next_update(self) -> datetime:
        """nextUpdate: the last moment of a JSON document, the first moment after a list."""
        return self.crl.next_update if self.kind.is_crl else self.facts.next_update

    @property
    def ends(self) -> datetime:
        """When it ceases to be of use: nextUpdate, or the end of a certificate of its signer."""
        signers = [certificate.not_valid_after_utc for certificate in self.certificates] if self.issuers else []
        return min([self.next_update, *signers])

    def goes_back_behind(self, held: SignedDocument) -> bool:
        """Whether this one is older than `held`, by number or by date of issue."""
        return self.number < held.number or self.issued < held.issued


def split(collateral: Collateral) -> dict[DocumentKind, SignedDocument]:
    """The documents of a collateral."""
    c = collateral
    return {
        DocumentKind.ROOT_CRL: SignedDocument(DocumentKind.ROOT_CRL, c.root_ca_crl, b"", ""),
        DocumentKind.PCK_CRL: SignedDocument(DocumentKind.PCK_CRL, c.pck_crl, b"", c.pck_crl_issuer_chain),
        DocumentKind.TCB_INFO: SignedDocument(DocumentKind.TCB_INFO, c.tcb_info.encode(), c.tcb_info_signature, c.tcb_info_issuer_chain),
        DocumentKind.QE_IDENTITY: SignedDocument(
            DocumentKind.QE_IDENTITY, c.qe_identity.encode(), c.qe_identity_signature, c.qe_identity_issuer_chain
        ),
    }


def join(documents: dict[DocumentKind, SignedDocument]) -> Collateral:
    """The collateral out of one document of each kind; raises KeyError where one is missing."""
    pck_crl, tcb, qe = (documents[kind] for kind in (DocumentKind.PCK_CRL, DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY))
    return Collateral(
        pck_crl_issuer_chain=pck_crl.issuers,
        root_ca_crl=documents[DocumentKind.ROOT_CRL].body,
        pck_crl=pck_crl.body,
        tcb_info_issuer_chain=tcb.issuers,
        tcb_info=tcb.body.decode(),
        tcb_info_signature=tcb.signature,
        qe_identity_issuer_chain=qe.issuers,
        qe_identity=qe.body.decode(),
        qe_identity_signature=qe.signature,
    )
