"""Why a document of the collateral could not be had, or is not taken: the words of metrics, log and status."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument
from chrysalis.attestation.reasons import AttestationReason


class CollateralReason(StrEnum):
    """Stable words; never renamed.  AttestationReason has those of documents that are not genuine or not current."""

    UNREACHABLE = "Unreachable"
    TIMED_OUT = "TimedOut"
    REDIRECTED = "Redirected"
    HOST_NOT_ALLOWED = "HostNotAllowed"
    NOT_FOUND = "NotFound"
    THROTTLED = "Throttled"
    SERVER_ERROR = "ServerError"
    STATUS_UNEXPECTED = "StatusUnexpected"
    CONTENT_UNEXPECTED = "ContentUnexpected"
    ANSWER_TOO_LARGE = "AnswerTooLarge"
    ANSWER_BROKEN = "AnswerBroken"
    ISSUER_CHAIN_MISSING = "IssuerChainMissing"
    ROLLED_BACK = "CollateralRolledBack"
    TOO_MANY_PLATFORMS = "TooManyPlatforms"
    NO_SOURCE = "NoSource"


REMEDIES: dict[CollateralReason, str] = {
    CollateralReason.UNREACHABLE: "check collateral.url, collateral.caFile, the name service and the way out of the cluster",
    CollateralReason.TIMED_OUT: "check the PCCS's load and the way to it, or raise collateral.timeoutSeconds",
    CollateralReason.REDIRECTED: "put the address that it redirects to into collateral.url, if that is the right one",
    CollateralReason.HOST_NOT_ALLOWED: "list the host in collateral.allowedHosts, or set collateral.rootCrlUrl",
    CollateralReason.NOT_FOUND: "check that collateral.url serves version 4 for TDX and knows this platform; a PCCS may need to be filled",
    CollateralReason.THROTTLED: "wait, or run a PCCS of your own in front of Intel's service",
    CollateralReason.SERVER_ERROR: "look at the PCCS's log",
    CollateralReason.STATUS_UNEXPECTED: "check what answers at collateral.url",
    CollateralReason.CONTENT_UNEXPECTED: "check what answers at collateral.url; a proxy's page is no collateral",
    CollateralReason.ANSWER_TOO_LARGE: "check what answers at collateral.url",
    CollateralReason.ANSWER_BROKEN: "look at the PCCS's log and at the proxies on the way",
    CollateralReason.ISSUER_CHAIN_MISSING: "check that no proxy removes the PCCS's headers",
    CollateralReason.ROLLED_BACK: "find out who serves old documents: a stale cache, or somebody who hides a TCB recovery",
    CollateralReason.TOO_MANY_PLATFORMS: "wait a minute; many unknown platforms asked to be admitted at once",
    CollateralReason.NO_SOURCE: "set collateral.url, or preload the collateral of this platform from a file",
}


@dataclass(frozen=True)
class DocumentKey:
    """Which document: root is the trust anchor's SHA-256; name the FMSPC (upper-case hex) of a TCB info, the authority of
    a PCK CRL, else empty; update the channel (standard, early) of a JSON document, empty for a list."""

    root: str
    kind: DocumentKind
    name: str = ""
    update: str = ""


@dataclass(frozen=True)
class Failure:
    """Why there is no (new) document."""

    reason: CollateralReason | AttestationReason
    message: str
    detail: str = ""


Answer = SignedDocument | Failure
