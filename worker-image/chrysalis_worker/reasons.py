"""Why a worker does not get ready, or refuses a job."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class WorkerReason(StrEnum):
    """Stable words; never renamed."""

    # on the way to being ready
    INITDATA_MISSING = "InitdataMissing"
    INITDATA_MISMATCH = "InitdataMismatch"
    EVIDENCE_UNAVAILABLE = "EvidenceUnavailable"
    EVIDENCE_MISMATCH = "EvidenceMismatch"
    GPU_LIBRARY_FAILED = "GpuLibraryFailed"
    GPU_LIBRARY_TIMEOUT = "GpuLibraryTimeout"
    GPU_EVIDENCE_INVALID = "GpuEvidenceInvalid"
    GPU_CONFIDENTIAL_COMPUTING_OFF = "GpuConfidentialComputingOff"
    GPU_DEVTOOLS_MODE = "GpuDevtoolsMode"
    GPU_READY_TOO_EARLY = "GpuReadyTooEarly"
    GPU_READY_REFUSED = "GpuReadyRefused"
    GPU_NOT_READY = "GpuNotReady"
    RESULT_INVALID = "ResultInvalid"
    RECEIPT_CERTIFICATE_INVALID = "ReceiptCertificateInvalid"
    PACKAGE_UNREACHABLE = "PackageUnreachable"
    PACKAGE_SIZE_MISMATCH = "PackageSizeMismatch"
    PACKAGE_DIGEST_MISMATCH = "PackageDigestMismatch"
    MODEL_MISSING = "ModelMissing"
    MODEL_SCHEMA_UNSUPPORTED = "ModelSchemaUnsupported"
    SUPERVISOR_UNREACHABLE = "SupervisorUnreachable"
    TRITON_NOT_READY = "TritonNotReady"
    CANARY_FAILED = "CanaryFailed"
    KEYS_DAMAGED = "KeysDamaged"
    RECEIPTS_DAMAGED = "ReceiptsDamaged"
    # of one request
    REQUEST_MALFORMED = "RequestMalformed"
    REQUEST_TOO_LARGE = "RequestTooLarge"
    REQUEST_TIMEOUT = "RequestTimeout"
    CONTENT_ENCODING_REFUSED = "ContentEncodingRefused"
    MODEL_NOT_FOUND = "ModelNotFound"
    PATH_NOT_FOUND = "PathNotFound"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    TOO_MANY_QUOTES = "TooManyQuotes"
    NOT_READY = "NotReady"
    DRAINING = "Draining"
    ATTESTATION_EXPIRED = "AttestationExpired"
    OVERLOADED = "Overloaded"
    INFERENCE_FAILED = "InferenceFailed"
    INFERENCE_TIMEOUT = "InferenceTimeout"
    RECEIPT_STORE_FULL = "ReceiptStoreFull"
    INTERNAL = "InternalError"
    # of a ticket, and of what the settler sends
    SALT_INVALID = "SaltInvalid"
    TICKET_REQUIRED = "TicketRequired"
    TICKET_NOT_EXPECTED = "TicketNotExpected"
    TICKET_INVALID = "TicketInvalid"
    TICKET_MISMATCH = "TicketMismatch"
    TICKET_EXPIRED = "TicketExpired"
    TICKET_SPENT = "TicketSpent"
    OFFER_UNKNOWN = "OfferUnknown"
    CLIENT_NOT_LISTED = "ClientNotListed"
    CLIENT_LIST_MISSING = "ClientListMissing"
    CLIENT_LIST_INVALID = "ClientListInvalid"
    DAILY_CAP_REACHED = "DailyCapReached"
    RESERVATION_EXHAUSTED = "ReservationExhausted"
    NOT_AUTHORIZED = "NotAuthorized"


STATUS: dict[WorkerReason, int] = {
    WorkerReason.REQUEST_MALFORMED: 400,
    WorkerReason.SALT_INVALID: 400,
    WorkerReason.TICKET_NOT_EXPECTED: 400,
    WorkerReason.CLIENT_LIST_INVALID: 400,
    WorkerReason.NOT_AUTHORIZED: 401,
    WorkerReason.TICKET_REQUIRED: 402,
    WorkerReason.TICKET_INVALID: 402,
    WorkerReason.TICKET_MISMATCH: 402,
    WorkerReason.TICKET_EXPIRED: 402,
    WorkerReason.TICKET_SPENT: 402,
    WorkerReason.OFFER_UNKNOWN: 402,
    WorkerReason.DAILY_CAP_REACHED: 402,
    WorkerReason.RESERVATION_EXHAUSTED: 402,
    WorkerReason.CLIENT_NOT_LISTED: 403,
    WorkerReason.MODEL_NOT_FOUND: 404,
    WorkerReason.PATH_NOT_FOUND: 404,
    WorkerReason.METHOD_NOT_ALLOWED: 405,
    WorkerReason.REQUEST_TIMEOUT: 408,
    WorkerReason.REQUEST_TOO_LARGE: 413,
    WorkerReason.CONTENT_ENCODING_REFUSED: 415,
    WorkerReason.TOO_MANY_QUOTES: 429,
    WorkerReason.INTERNAL: 500,
    WorkerReason.INFERENCE_FAILED: 502,
    WorkerReason.NOT_READY: 503,
    WorkerReason.DRAINING: 503,
    WorkerReason.ATTESTATION_EXPIRED: 503,
    WorkerReason.OVERLOADED: 503,
    WorkerReason.RECEIPT_STORE_FULL: 503,
    WorkerReason.CLIENT_LIST_MISSING: 503,
    WorkerReason.EVIDENCE_UNAVAILABLE: 503,
    WorkerReason.GPU_LIBRARY_FAILED: 503,
    WorkerReason.GPU_LIBRARY_TIMEOUT: 503,
    WorkerReason.GPU_EVIDENCE_INVALID: 503,
    WorkerReason.GPU_CONFIDENTIAL_COMPUTING_OFF: 503,
    WorkerReason.GPU_DEVTOOLS_MODE: 503,
    WorkerReason.INFERENCE_TIMEOUT: 504,
}
"""The HTTP status of a request that is refused for this reason; 500 for any other."""


class WorkerError(ChrysalisError):
    """The worker cannot go on, or refuses a request."""

    @property
    def status(self) -> int:
        """The HTTP status that goes with the reason."""
        return STATUS.get(WorkerReason(self.reason), 500)
