"""Why a signed object, a receipt chain or a proof is refused."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class ReceiptReason(StrEnum):
    """Stable words; never renamed."""

    OBJECT_MALFORMED = "ObjectMalformed"
    OBJECT_TYPE_UNEXPECTED = "ObjectTypeUnexpected"
    OBJECT_KEY_UNEXPECTED = "ObjectKeyUnexpected"
    SIGNATURE_INVALID = "SignatureInvalid"
    OBJECT_EXPIRED = "ObjectExpired"
    OBJECT_NOT_YET_VALID = "ObjectNotYetValid"
    RECEIPT_GAP = "ReceiptGap"
    RECEIPT_FORKED = "ReceiptForked"
    RECEIPT_AMOUNT_WRONG = "ReceiptAmountWrong"
    RECEIPT_TICKET_MISMATCH = "ReceiptTicketMismatch"
    RECEIPT_OFFER_MISMATCH = "ReceiptOfferMismatch"
    RECEIPT_HASH_MISMATCH = "ReceiptHashMismatch"
    INCLUSION_PROOF_INVALID = "InclusionProofInvalid"


class ReceiptError(ChrysalisError):
    """A signed object or a chain of them is not what it must be."""
