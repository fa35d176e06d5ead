"""The outcome of an appraisal, as it stands in JSON."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.attestation.quote import Quote
from chrysalis.attestation.reasons import REMEDIES, AttestationError, AttestationReason

NOT_CHECKED = "NotChecked"


class EvidenceClass(StrEnum):
    """Hardware only under Intel's own root; whatever another root signed is simulated."""

    HARDWARE = "Hardware"
    SIMULATED = "Simulated"


class Reason(Model):
    """One reason of a refusal."""

    reason: AttestationReason
    message: str
    remedy: str = ""
    detail: str = ""

    @classmethod
    def of(cls, reason: AttestationReason, message: str, detail: str = "") -> Reason:
        """A reason with the remedy that belongs to it."""
        return cls(reason=reason, message=message, remedy=REMEDIES[reason], detail=detail)

    @classmethod
    def from_error(cls, error: AttestationError) -> Reason:
        """The reason that an error names."""
        return cls(reason=error.reason, message=error.message, remedy=error.remedy, detail=error.detail)


class VerifiedClaims(Model):
    """What is proved about the platform of a genuine quote, and the levels that its trust domain reports."""

    quote_version: int
    tee_tcb_svn: str  # hex, 16 bytes: of the TDX module and the microcode when the domain was started
    tee_tcb_svn2: str | None = None  # the same as of now; only in TD report 1.5
    ppid: str  # hex: the machine
    pce_id: str  # hex
    cpu_svn: str  # hex
    pce_svn: int
    smt: bool  # the three flags are true unless the PCK certificate says no
    cached_keys: bool
    dynamic_platform: bool
    evaluation_data_number: int  # the smaller one of TCB info and QE identity
    tcb_date: datetime  # the oldest one of the platform's levels and the quoting enclave's
    qe_status: str  # of the quoting enclave's level
    collateral_sha256: str  # of the documents that were used


class Verdict(Model):
    """What an appraisal says.  Members that could not be established are null; expiresAt is set only when accepted."""

    verdict: Literal["Accepted", "Refused"]
    reasons: list[Reason] = []
    scope: Literal["Policy", "GenuinenessAndTcb"] = "Policy"  # GenuinenessAndTcb: no policy was given, measurements were not judged
    evidence_class: EvidenceClass | None = None
    tcb_status: str | None = None
    advisory_ids: list[str] = Field(default=[], alias="advisoryIDs")
    fmspc: str | None = None
    expires_at: datetime | None = None
    limited_by: str | None = None  # which of the times below expiry comes first, e.g. "pckCrl.nextUpdate"
    measurements: dict[str, str] = {}
    measurement_name: str | None = None  # of the policy's tuple that matched
    isolation: str = NOT_CHECKED  # the measured profile of the worker; NotChecked where no initdata, or no policy, was given
    claims: VerifiedClaims | None = None  # null where the quote is not genuine

    @property
    def accepted(self) -> bool:
        """Whether the evidence was accepted."""
        return self.verdict == "Accepted"

    def to_json_full(self) -> dict[str, Any]:
        """The JSON form with every member, null where nothing could be established."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def refused(cls, *reasons: Reason, **known: Any) -> Verdict:
        """A refusal for these reasons, and what is known all the same."""
        if not reasons:
            raise ValueError("a refusal needs a reason")
        return cls(verdict="Refused", reasons=list(reasons), **known)


def measured(quote: Quote) -> dict[str, str]:
    """The measurements of a quote as lower-case hex, by their names in policies, and the bits beside them.

    TD report 1.5 adds teeTcbSvn2 and mrservicetd.
    """
    shown = {
        **quote.registers,
        "tdAttributes": quote.td_attributes,
        "xfam": quote.xfam,
        "reportData": quote.report_data,
        "mrsignerseam": quote.mrsignerseam,
        "seamAttributes": quote.seam_attributes,
        "teeTcbSvn": quote.tee_tcb_svn,
    }
    if quote.tee_tcb_svn_2 is not None and quote.mr_servicetd is not None:
        shown |= {"teeTcbSvn2": quote.tee_tcb_svn_2, "mrservicetd": quote.mr_servicetd}
    return {name: value.hex() for name, value in shown.items()}
