"""Why a message or a connection between two parts is not usable, and the refusals that a service answers with."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker import NamedReason, Problem


class WireReason(StrEnum):
    """Reasons that arise between two parts; the service's own reasons travel in its problem document."""

    SERVICE_UNREACHABLE = "ServiceUnreachable"
    PIN_MISMATCH = "PinMismatch"
    ANSWER_MALFORMED = "AnswerMalformed"
    ANSWER_TOO_LARGE = "AnswerTooLarge"
    REFUSED_BY_SERVICE = "RefusedByService"
    CREDENTIAL_FOR_ANOTHER_BROKER = "CredentialForAnotherBroker"
    VERIFICATION_EXPIRED = "VerificationExpired"
    ENVELOPE_MALFORMED = "EnvelopeMalformed"
    ENVELOPE_TYPE_MISMATCH = "EnvelopeTypeMismatch"
    ENVELOPE_SIGNATURE_INVALID = "EnvelopeSignatureInvalid"
    EAR_MALFORMED = "EarMalformed"
    EAR_SIGNATURE_INVALID = "EarSignatureInvalid"
    EAR_EXPIRED = "EarExpired"
    EAR_CLAIM_MISMATCH = "EarClaimMismatch"
    KEY_RECALLED = "KeyRecalled"
    RECALLS_INVALID = "RecallsInvalid"
    RECALLS_TOO_OLD = "RecallsTooOld"
    BUNDLE_MALFORMED = "BundleMalformed"
    BUNDLE_TOO_LARGE = "BundleTooLarge"
    BUNDLE_DISAGREES = "BundleDisagrees"
    BUNDLE_STATEMENT_INVALID = "BundleStatementInvalid"


class WireError(ChrysalisError):
    """A message or a connection that cannot be used."""


class Refused(WireError):
    """A service answered with a problem document (RFC 9457): it understood and said no, or cannot answer now.

    problem: the document.  status: the HTTP status.  reasons: every reason that it names, at least one.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(
            WireReason.REFUSED_BY_SERVICE,
            f"{problem.reason}: {problem.detail or problem.title}",
            problem.remedy,
            "; ".join(f"{r.reason}: {r.message}" for r in problem.reasons),
        )
        self.problem = problem
        self.status = problem.status
        self.reasons = problem.reasons or [
            NamedReason(reason=problem.reason, message=problem.detail or problem.title, remedy=problem.remedy)
        ]

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything (429 and 5xx)."""
        return self.status == 429 or self.status >= 500

    def as_dict(self) -> dict[str, Any]:
        """The service's own reason, message and remedy."""
        first = self.reasons[0]
        return {"reason": first.reason, "message": first.message, "remedy": first.remedy, "detail": first.detail or self.detail}
