"""Why a receipt is not paid, and why settlement stops."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class SettlementReason(StrEnum):
    """Stable words; the same in conditions, metrics, records and exit texts."""

    # A receipt stands in its chain and in the log, but bills nothing:
    TICKET_KEY_UNLISTED = "TicketKeyUnlisted"
    TICKET_SIGNATURE_INVALID = "TicketSignatureInvalid"
    TICKET_MISMATCH = "TicketMismatch"
    TICKET_SPENT_TWICE = "TicketSpentTwice"
    TICKET_EXPIRED = "TicketExpired"
    DAILY_CAP_EXCEEDED = "DailyCapExceeded"
    RECEIPT_AMOUNT_WRONG = "ReceiptAmountWrong"
    RECEIPT_TIME_IMPLAUSIBLE = "ReceiptTimeImplausible"
    # A worker's receipts are not taken further:
    RECEIPT_FORKED = "ReceiptForked"
    RECEIPT_GAP = "ReceiptGap"
    RECEIPT_MALFORMED = "ReceiptMalformed"
    OFFER_MISSING = "OfferMissing"
    CERTIFICATE_INVALID = "CertificateInvalid"
    CHAIN_CLOSED = "ReceiptChainClosed"
    # Settlement goes on or stops:
    SETTLED = "Settled"
    COMMITTING = "Committing"
    WAITING = "Waiting"
    CONTRACT_PAUSED = "ContractPaused"
    CONTRACT_FOREIGN = "ContractForeign"
    EPOCH_CANCELLED = "EpochCancelled"
    STATE_FOREIGN = "StateForeign"
    SIGNER_KEY_FOREIGN = "SignerKeyForeign"
    UNDERFUNDED = "Underfunded"
    EPOCH_OVER_CAP = "EpochOverCap"
    ACCOUNT_INVALID = "AccountInvalid"
    LEDGER_FOREIGN = "LedgerForeign"
    SETTINGS_INVALID = "SettingsInvalid"
    PARTY_UNKNOWN = "PartyUnknown"
    INTERNAL_ERROR = "InternalError"


class SettlementError(ChrysalisError):
    """Settlement cannot go on with this input or in this state."""
