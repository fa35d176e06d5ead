"""The table of opinions: for each vector and mutation what every verifier says, and why they differ where they do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.reasons import AttestationError
from e2e import cache
from e2e.opinions import Case, Opinion, gotdx, tinfoil_verifier

TABLE = cache.REPOSITORY / "tests" / "differential" / "table.json"
REGENERATE = ".ci/python -m e2e.opinions"
SCHEMA_VERSION = "chrysalis-opinions/v1"


class Cause(StrEnum):
    """Why verifiers differ.  The list is closed: a difference that none of these explains is a finding."""

    STATUS_ALLOW_LIST = "StatusAllowList"  # which TCB statuses are good enough is each verifier's choice; ours without a policy: UpToDate
    MODULE_STATUS_ALONE = "ModuleStatusAlone"  # go-tdx-guest takes the TDX module's level for the platform's where the module has a version
    UNCHECKED_BY_OTHER = "UncheckedByOther"  # another verifier does not look at what we refuse
    LEFT_TO_POLICY_HERE = "LeftToPolicyHere"  # our policies judge it, by exact masks; this table is made without one
    CHAIN_FORM = "ChainForm"  # how many certificates a chain may have, and what may stand behind them, where its trust is the same
    UNUSED_DOCUMENT = "UnusedDocument"  # we verify the CRL under the quote's own CA and do not use this document
    END_OF_VALIDITY = "EndOfValidity"  # whether nextUpdate itself is still valid: a CRL's is exclusive with us, as in RFC 5280
    MODULE_VERSION_ZERO = "ModuleVersionZero"  # whether `tdxModule` or an entry of `tdxModuleIdentities` is meant


@dataclass(frozen=True)
class Line:
    """One row of the table; `cause` is set exactly where verdicts differ."""

    vector: str
    mutation: str
    chrysalis: str
    reason: str  # ours, first; empty where accepted
    tinfoil: str
    gotdx: str
    cause: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the row."""
        return self.vector, self.mutation

    @property
    def differs(self) -> bool:
        """Whether two verifiers that support the quote disagree."""
        return len({self.chrysalis, self.tinfoil, self.gotdx} - {"Unsupported"}) > 1


@dataclass(frozen=True)
class Judged:
    """A case with what each verifier says."""

    case: Case
    ours: Opinion
    reason: str
    tinfoil: Opinion
    gotdx: Opinion

    @property
    def line(self) -> Line:
        """The case's row, its cause not yet known."""
        return Line(self.case.vector, self.case.mutation, self.ours.verdict, self.reason, self.tinfoil.verdict, self.gotdx.verdict)


def judge(cases: Sequence[Case]) -> list[Judged]:
    """Ask every verifier about every case."""
    second, third = tinfoil_verifier.opinions(cases), gotdx.opinions(cases)
    return [Judged(case, *_ours(case), tinfoil, go) for case, tinfoil, go in zip(cases, second, third, strict=True)]


def _ours(case: Case) -> tuple[Opinion, str]:
    try:
        collateral = Collateral.from_json(case.collateral)
    except AttestationError as error:
        return Opinion(False, str(error)), str(error.reason)
    verdict = appraise(quote=case.quote, collateral=collateral, policy=None, at=case.at, roots=[case.root])
    if verdict.accepted:
        return Opinion(True), ""
    return Opinion(False, "; ".join(f"{each.reason}: {each.message}" for each in verdict.reasons)), str(verdict.reasons[0].reason)


def load(path: Path = TABLE) -> dict[tuple[str, str], Line]:
    """The committed table, by row."""
    document = json.loads(path.read_text())
    if document["schemaVersion"] != SCHEMA_VERSION:
        raise ValueError(f"{path} is of {document['schemaVersion']}, not {SCHEMA_VERSION}")
    lines = [Line(**row) for row in document["rows"]]
    return {line.key: line for line in lines}


def dump(lines: Iterable[Line]) -> str:
    """The table's text: one row a line, so that a change of one verdict is a change of one line."""
    rows = ",\n".join("  " + json.dumps(asdict(line)) for line in lines)
    causes = json.dumps([cause.value for cause in Cause])
    return f'{{"schemaVersion": "{SCHEMA_VERSION}", "causes": {causes}, "rows": [\n{rows}\n]}}\n'


def with_causes(judged: Iterable[Judged], known: dict[tuple[str, str], Line]) -> list[Line]:
    """The rows, with the cause that the committed table gives for the same verdicts; none where the verdicts are new."""
    lines = []
    for line in (each.line for each in judged):
        before = known.get(line.key)
        cause = before.cause if before is not None and line.differs and _verdicts(before) == _verdicts(line) else ""
        lines.append(replace(line, cause=cause))
    return lines


def changes(judged: Sequence[Judged], known: dict[tuple[str, str], Line]) -> list[str]:
    """What is not as in the table, for people; a row that is there and was not judged counts only for judged vectors."""
    found = []
    for each in judged:
        line, before = each.line, known.get(each.line.key)
        words = f"tinfoil: {each.tinfoil.words[:120]!r}; go-tdx-guest: {each.gotdx.words[:120]!r}"
        if before is None:
            found.append(f"{_title(line)}: not in the table: {_shown(line)} ({words})")
        elif _verdicts(before) != _verdicts(line):
            found.append(f"{_title(line)}: the table says {_shown(before)}, now {_shown(line)} ({words})")
    judged_keys, vectors = {each.line.key for each in judged}, {each.case.vector for each in judged}
    found += [
        f"{_title(line)}: in the table, but not judged" for key, line in known.items() if key not in judged_keys and key[0] in vectors
    ]
    return found


def unexplained(lines: Iterable[Line]) -> list[str]:
    """Rows whose verdicts differ without a cause of the list, or that have a cause and do not differ."""
    causes = {cause.value for cause in Cause}
    found = []
    for line in lines:
        if line.differs and line.cause not in causes:
            found.append(f"{_title(line)}: {_shown(line)} differ, and the cause {line.cause!r} is not of the list")
        elif line.cause and not line.differs:
            found.append(f"{_title(line)}: has a cause, but the verifiers agree")
    return found


def _verdicts(line: Line) -> tuple[str, str, str, str]:
    return line.chrysalis, line.reason, line.tinfoil, line.gotdx


def _title(line: Line) -> str:
    return f"{line.vector} / {line.mutation}"


def _shown(line: Line) -> str:
    ours = f"{line.chrysalis} {line.reason}".strip()
    return f"chrysalis {ours}, tinfoil {line.tinfoil}, go-tdx-guest {line.gotdx}"
