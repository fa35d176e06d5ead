"""Why the broker refuses; the evidence's own reasons are those of chrysalis.attestation."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class BrokerReason(StrEnum):
    """Stable words; never renamed."""

    # Messages
    MESSAGE_MALFORMED = "MessageMalformed"
    MESSAGE_TOO_LARGE = "MessageTooLarge"
    MESSAGE_TOO_SLOW = "MessageTooSlow"
    CONTENT_TYPE_UNSUPPORTED = "ContentTypeUnsupported"
    NOT_FOUND = "NotFound"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    BUSY = "Busy"
    INTERNAL_ERROR = "InternalError"
    # Callers
    CALLER_UNAUTHENTICATED = "CallerUnauthenticated"
    CREDENTIAL_FOR_ANOTHER_BROKER = "CredentialForAnotherBroker"
    CREDENTIAL_REPLAYED = "CredentialReplayed"
    CALLER_NOT_ALLOWED = "CallerNotAllowed"
    CALLER_CHECK_UNAVAILABLE = "CallerCheckUnavailable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    TOO_MANY_REQUESTS = "TooManyRequests"
    # Owners' documents
    OWNER_NOT_ALLOWED = "OwnerNotAllowed"
    OWNER_MISMATCH = "OwnerMismatch"
    NAME_MISMATCH = "NameMismatch"
    VERSION_NOT_HIGHER = "VersionNotHigher"
    KEY_MALFORMED = "KeyMalformed"
    # Publishers' documents
    PUBLISHER_NOT_ALLOWED = "PublisherNotAllowed"
    WITHDRAWAL_MISSING = "WithdrawalMissing"
    REFERENCE_VALUE_WITHDRAWN = "ReferenceValueWithdrawn"
    # Attestation
    NONCE_INVALID = "NonceInvalid"
    NONCE_EXPIRED = "NonceExpired"
    NONCE_REPLAYED = "NonceReplayed"
    EVIDENCE_REFUSED = "EvidenceRefused"
    KEY_UNKNOWN = "KeyUnknown"
    POLICY_MISSING = "PolicyMissing"
    POLICY_TOO_OLD = "PolicyTooOld"
    MODEL_MISMATCH = "ModelMismatch"
    BROKER_PIN_MISMATCH = "BrokerPinMismatch"
    ISOLATION_NOT_ALLOWED = "IsolationNotAllowed"
    EVIDENCE_CLASS_NOT_ALLOWED = "EvidenceClassNotAllowed"
    COLLATERAL_MISSING = "CollateralMissing"
    COLLATERAL_UNAVAILABLE = "CollateralUnavailable"
    # Release
    RESULT_UNKNOWN = "ResultUnknown"
    EVIDENCE_FORGOTTEN = "EvidenceForgotten"
    RESULT_REFUSED = "ResultRefused"
    RESULT_EXPIRED = "ResultExpired"
    RESULT_REVOKED = "ResultRevoked"
    RESULT_TOO_OLD = "ResultTooOld"
    EVIDENCE_UNUSABLE = "EvidenceUnusable"
    TOO_MANY_WATCHERS = "TooManyWatchers"
    RESULT_FOR_ANOTHER_KEY = "ResultForAnotherKey"
    POLICY_CHANGED = "PolicyChanged"
    # Start
    SETTINGS_INVALID = "SettingsInvalid"
    STATE_UNUSABLE = "StateUnusable"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    COLLATERAL_ROLLED_BACK = "CollateralRolledBack"
    AUDIT_BROKEN = "AuditBroken"
    OWN_EVIDENCE_UNAVAILABLE = "OwnEvidenceUnavailable"
    # Keys, backups and anchors
    KEY_SERVICE_UNAVAILABLE = "KeyServiceUnavailable"
    KEY_CHANGED = "KeyChanged"
    STATE_ROLLED_BACK = "StateRolledBack"
    VERSION_LOST = "VersionLost"
    ANCHOR_UNUSABLE = "AnchorUnusable"
    ANCHOR_MISSING = "AnchorMissing"
    ANCHOR_INVALID = "AnchorInvalid"
    BACKUP_INVALID = "BackupInvalid"
    BACKUP_FILE_UNUSABLE = "BackupFileUnusable"
    STATE_NOT_EMPTY = "StateNotEmpty"


STATUS: dict[BrokerReason, int] = {
    BrokerReason.MESSAGE_MALFORMED: 400,
    BrokerReason.MESSAGE_TOO_LARGE: 413,
    BrokerReason.MESSAGE_TOO_SLOW: 408,
    BrokerReason.CONTENT_TYPE_UNSUPPORTED: 415,
    BrokerReason.NOT_FOUND: 404,
    BrokerReason.METHOD_NOT_ALLOWED: 405,
    BrokerReason.BUSY: 429,
    BrokerReason.INTERNAL_ERROR: 500,
    BrokerReason.CALLER_UNAUTHENTICATED: 401,
    BrokerReason.CREDENTIAL_FOR_ANOTHER_BROKER: 401,
    BrokerReason.CREDENTIAL_REPLAYED: 401,
    BrokerReason.CALLER_CHECK_UNAVAILABLE: 503,
    BrokerReason.QUOTA_EXCEEDED: 429,
    BrokerReason.TOO_MANY_REQUESTS: 429,
    BrokerReason.VERSION_NOT_HIGHER: 409,
    BrokerReason.KEY_MALFORMED: 400,
    BrokerReason.WITHDRAWAL_MISSING: 409,
    BrokerReason.OWN_EVIDENCE_UNAVAILABLE: 503,
    BrokerReason.COLLATERAL_UNAVAILABLE: 503,
    BrokerReason.RESULT_UNKNOWN: 404,
    BrokerReason.TOO_MANY_WATCHERS: 429,
    BrokerReason.EVIDENCE_FORGOTTEN: 404,
    BrokerReason.KEY_SERVICE_UNAVAILABLE: 503,
    BrokerReason.DATABASE_UNAVAILABLE: 503,
}
"""HTTP status of each reason; 403 where none stands here."""


class BrokerError(ChrysalisError):
    """A request that the broker does not fulfil, or a start that it refuses."""

    reason: BrokerReason

    @property
    def status(self) -> int:
        """The HTTP status that the reason is answered with."""
        return STATUS.get(self.reason, 403)
