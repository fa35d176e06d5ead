"""Why the client refuses to send, or to believe an answer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker import NamedReason


class ClientReason(StrEnum):
    """The client's own reasons; a refused appraisal carries the verdict's."""

    EVIDENCE_REFUSED = "EvidenceRefused"
    EVIDENCE_STALE = "EvidenceStale"
    KEY_NOT_BOUND = "KeyNotBound"
    MODEL_NOT_PINNED = "ModelNotPinned"
    MODEL_MISMATCH = "ModelMismatch"
    CERTIFICATE_MISMATCH = "CertificateMismatch"
    EAR_KEY_MISMATCH = "EarKeyMismatch"
    EAR_KEY_NOT_PINNED = "EarKeyNotPinned"
    EAR_MISSING = "EarMissing"
    EAR_REFUSED = "EarRefused"
    EAR_TOO_OLD = "EarTooOld"
    POLICY_NOT_PINNED = "PolicyNotPinned"
    POLICY_MISMATCH = "PolicyMismatch"
    POLICY_TOO_OLD = "PolicyTooOld"
    RESULT_REVOKED = "ResultRevoked"
    REVOCATION_NOT_CHECKED = "RevocationNotChecked"
    OFFER_INVALID = "OfferInvalid"
    RESULT_EXPIRED = "ResultExpired"
    TICKET_KEY_MISSING = "TicketKeyMissing"
    JOB_REFUSED = "JobRefused"
    ANSWER_UNUSABLE = "AnswerUnusable"
    RECEIPT_MISSING = "ReceiptMissing"
    RECEIPT_INVALID = "ReceiptInvalid"
    AUDIT_FAILED = "AuditFailed"


class ClientError(ChrysalisError):
    """The client does not trust, or did not get, what it needs.  `reasons` holds a refused verdict's reasons."""

    def __init__(
        self,
        reason: ClientReason,
        message: str,
        remedy: str = "",
        detail: str = "",
        *,
        reasons: Sequence[NamedReason] = (),
        status: int = 0,
        code: str = "",
    ) -> None:
        super().__init__(reason, message, remedy, detail)
        self.reasons = list(reasons)
        self.status = status
        """The HTTP status of a refused job, else 0."""
        self.code = code
        """The worker's own word for why it refused a job, else empty."""

    def as_dict(self) -> dict[str, Any]:
        """The four members, and the verdict's reasons."""
        return super().as_dict() | {"reasons": [r.to_json_dict() for r in self.reasons]}


def named(error: ChrysalisError) -> NamedReason:
    """An error as one reason among several."""
    return NamedReason(reason=str(error.reason), message=error.message, remedy=error.remedy, detail=error.detail)


def refused(reasons: Sequence[NamedReason]) -> ClientError:
    """The error of evidence that an appraisal refused for these reasons."""
    return _refused(ClientReason.EVIDENCE_REFUSED, "the worker's evidence is refused", reasons)


def ear_refused(reasons: Sequence[NamedReason]) -> ClientError:
    """The error of a broker's result that the client's own policy does not allow."""
    return _refused(ClientReason.EAR_REFUSED, "the broker's result is not what the policy allows", reasons)


def _refused(reason: ClientReason, what: str, reasons: Sequence[NamedReason]) -> ClientError:
    words = ", ".join(r.reason for r in reasons) or "no reason given"
    first = reasons[0] if reasons else None
    return ClientError(
        reason,
        f"{what}: {words}" + (f" ({first.message})" if first else ""),
        first.remedy if first else "",
        first.detail if first else "",
        reasons=reasons,
    )
