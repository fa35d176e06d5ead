"""What the settler writes into a SettlementAccount's status.  Pure; nobody takes it for evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chrysalis import amounts
from chrysalis.api.conditions import ConditionStatus, ConditionType, Finding, merge
from chrysalis.api.status import AccountStatus, WorkerEarning
from chrysalis.clock import from_unix
from chrysalis.errors import ChrysalisError
from chrysalis.settlement.committer import Outcome
from chrysalis.settlement.reasons import SettlementReason
from chrysalis.settlement.recovery import Action
from chrysalis.settlement.store import WorkerSum


@dataclass(frozen=True)
class Report:
    """What a round found: the committer's outcome or what stopped it, and the ledger's sums."""

    outcome: Outcome | None
    problem: ChrysalisError | None
    sums: Sequence[WorkerSum]
    workers_with_problems: Mapping[str, ChrysalisError]
    receipts: int


def account_status(report: Report, *, held: Iterable[Mapping[str, Any]], generation: int, at: datetime) -> dict[str, Any]:
    """The whole status subresource, conditions merged with those that stand there."""
    findings = {ConditionType.SETTLING: settling(report), ConditionType.READY: _ready(report)}
    status = AccountStatus(observed_generation=generation)
    if report.outcome is not None:
        state = report.outcome.state
        newest = state.pending or state.active
        status = AccountStatus(
            observed_generation=generation,
            epoch=state.epoch,
            root=newest.root.hex(),
            last_hash=state.last_hash.hex(),
            earned_nanoton=str(newest.earned_nanoton),
            fees_nanoton=str(newest.fees_nanoton),
            balance_nanoton=str(report.outcome.account.balance_nanoton),
            committed_at=from_unix(state.last_at) if state.last_at else None,
            workers=[WorkerEarning(name=s.name, earned_nanoton=str(s.earned_nanoton), receipts=s.receipts) for s in report.sums if s.name],
        )
    document = status.to_json_dict()
    document["conditions"] = merge(held, findings, generation=generation, at=at)
    return document


def settling(report: Report) -> Finding:
    """Whether settlement goes on, and in words how far it is."""
    if report.problem is not None:
        text = f"{report.problem.message}; {report.problem.remedy}" if report.problem.remedy else report.problem.message
        return Finding(status=ConditionStatus.FALSE, reason=str(report.problem.reason), message=text)
    if report.outcome is None:
        return Finding(status=ConditionStatus.UNKNOWN, reason=SettlementReason.WAITING, message="no state of the contract was read yet")
    decision, state = report.outcome.decision, report.outcome.state
    if decision.action == Action.STOP:
        return Finding(status=ConditionStatus.FALSE, reason=decision.reason, message=STOPPED[decision.reason])
    newest = state.pending or state.active
    words = (
        f"epoch {state.epoch}: {amounts.ton(newest.earned_nanoton)} committed, {amounts.ton(state.paid_nanoton)} claimed, "
        f"{report.receipts} receipts in the ledger"
    )
    if report.workers_with_problems:
        names = ", ".join(sorted({f"{wrk[:16]} ({error.reason})" for wrk, error in report.workers_with_problems.items()})[:5])
        words += f"; workers with problems: {names}"
    return Finding(status=ConditionStatus.TRUE, reason=decision.reason, message=words)


STOPPED: dict[SettlementReason, str] = {
    SettlementReason.STATE_FOREIGN: (
        "the contract's epoch or last hash is not the ledger's: another settler or an older back-up; look, then `chrysalis ledger adopt`"
    ),
    SettlementReason.EPOCH_CANCELLED: "the pending root was cancelled by owner or guardian; find out why, then `chrysalis ledger adopt`",
    SettlementReason.CONTRACT_PAUSED: "the contract is paused; claims go on; the owner resumes it with `chrysalis contract resume`",
    SettlementReason.SIGNER_KEY_FOREIGN: "the contract names a signer key that this settler does not hold; add its seed",
}


def _ready(report: Report) -> Finding:
    found = settling(report)
    return Finding(status=found.status, reason=found.reason)
