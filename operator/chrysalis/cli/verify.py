"""`chrysalis verify QUOTE`: judge a quote from files, offline."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from chrysalis.attestation import collateral_file, eventlog_file, pck_chain
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import MAX_COLLATERAL_BYTES
from chrysalis.attestation.freshness import Freshness, FreshnessMode, Revocation
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.attestation.quote_file import MAX_REPORT_BYTES
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import NOT_CHECKED, EvidenceClass, Reason, Verdict
from chrysalis.cli import files, printing
from chrysalis.cli.hexadecimal import HEX64
from chrysalis.cli.times import Rfc3339
from chrysalis.cli.verify_bundle import bundle_options
from chrysalis.clock import SystemClock, rfc3339

OFFLINE = {"mode": FreshnessMode.OFFLINE.value, "freshness": Freshness.NOT_CHECKED.value, "revocation": Revocation.NOT_CHECKED.value}
"""What a verdict over files says of itself: nobody here knows when the evidence was made (design: what a client can know)."""
MAX_INITDATA_BYTES = 256 * 1024
UNREADABLE = {AttestationReason.QUOTE_UNREADABLE, AttestationReason.QUOTE_TOO_LARGE}
"""What says nothing about the evidence: exit 2.  Every other flaw of a quote is a verdict: exit 1."""


@click.command("verify")
@click.argument("quote", type=click.Path(path_type=Path), required=False)
@click.option(
    "--collateral",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Intel's collateral for the platform: QuoteCollateralV3 JSON, or its members as other tools keep them; repeat for answers that "
    "were saved one by one.",
)
@click.option("--policy", type=click.Path(path_type=Path), help="What to accept: an AttestationPolicy or its bare spec (YAML, JSON).")
@click.option("--at", type=Rfc3339(), help="Judge as of this time; default: now.")
@click.option("--report-data", type=HEX64, help="What the quote must be over: its 64 bytes of report data (hex).")
@click.option("--root", "roots", type=click.Path(path_type=Path), multiple=True, help="Trust this root certificate instead of Intel's.")
@click.option("--initdata", type=click.Path(path_type=Path), help="The initdata's TOML, for policies that judge it.")
@click.option(
    "--event-log",
    type=click.Path(path_type=Path),
    help="The boot event log (CCEL; binary, hexadecimal, base64), for policies that require it.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@bundle_options
def command(
    quote: Path,
    collateral: tuple[Path, ...],
    policy: Path | None,
    at: datetime | None,
    roots: tuple[Path, ...],
    initdata: Path | None,
    event_log: Path | None,
    report_data: bytes | None,
    output: str,
) -> int:
    """Judge an Intel TDX quote: genuine, up to date, and allowed by a policy.

    QUOTE is binary, hexadecimal, base64, or JSON that holds one of these, as vendors' tools write it; at most 64 KiB of it are a
    quote, and - reads standard input.  Without --policy only genuineness and TCB status are judged, and nothing but UpToDate is
    accepted.

    Exit code: 0 accepted, 1 refused, 2 unreadable input.
    """
    moment = at or SystemClock().now()
    data = files.read(quote, MAX_REPORT_BYTES, too_large=_too_large)
    spec = read_policy(files.read(policy, MAX_POLICY_BYTES)) if policy else None
    anchors = [files.root(path) for path in roots]
    raw, flaw = b"", None
    try:
        raw = quotes.read(data)
        if not collateral:
            quotes.parse(raw)
    except AttestationError as error:
        if error.reason in UNREADABLE:
            raise
        flaw = Reason.from_error(error)
    if not collateral and flaw is not None and flaw.reason == AttestationReason.QUOTE_TYPE_UNSUPPORTED:
        return _show(Verdict.refused(flaw, scope="Policy" if spec else "GenuinenessAndTcb"), moment, output)
    if not collateral:
        raise AttestationError(AttestationReason.COLLATERAL_MISSING, "no collateral was given; without it nothing can be verified")
    given = [files.read(path, MAX_COLLATERAL_BYTES) for path in collateral]
    documents = collateral_file.read(given[0] if len(given) == 1 else collateral_file.together(given), pck_chain.claimed_or_none(raw))
    toml = files.read(initdata, MAX_INITDATA_BYTES) if initdata else None
    log = eventlog_file.read(files.read(event_log, eventlog_file.MAX_FILE_BYTES)) if event_log else None
    if flaw is not None:
        return _show(Verdict.refused(flaw, scope="Policy" if spec else "GenuinenessAndTcb"), moment, output)
    verdict = appraise(
        quote=raw,
        collateral=documents,
        policy=spec,
        at=moment,
        roots=anchors,
        initdata=toml,
        event_log=log,
        report_data=report_data,
    )
    return _show(verdict, moment, output, report_data_checked=report_data is not None)


def _too_large(message: str) -> AttestationError:
    return AttestationError(AttestationReason.QUOTE_TOO_LARGE, message)


def _show(verdict: Verdict, at: datetime, output: str, *, report_data_checked: bool = False) -> int:
    if output == "json":
        printing.document(verdict.to_json_full() | OFFLINE | {"reportDataChecked": report_data_checked, "at": rfc3339(at)})
    else:
        printing.lines(_lines(verdict, at, report_data_checked=report_data_checked))
    return 0 if verdict.accepted else 1


def _lines(verdict: Verdict, at: datetime, *, report_data_checked: bool) -> list[str]:
    """The verdict for people: the answer, why, what to do, and the facts."""
    colour = "green" if verdict.accepted else "red"
    lines = [click.style(verdict.verdict, fg=colour, bold=True) + f"  (as of {rfc3339(at)})", ""]
    for reason in verdict.reasons:
        lines += [f"  {click.style(reason.reason, bold=True)}: {reason.message}", f"    what to do: {reason.remedy}"]
        if reason.detail:
            lines.append(f"    detail: {reason.detail}")
    if verdict.reasons:
        lines.append("")
    facts: list[tuple[str, str | None]] = [
        ("judged", _judged(verdict)),
        ("mode", "offline: freshness NotChecked, revocation of a result NotChecked"),
        ("report data", "compared with --report-data" if report_data_checked else None),
        ("evidence class", _class(verdict.evidence_class)),
        ("TCB status", verdict.tcb_status),
        ("advisories", ", ".join(verdict.advisory_ids) or None),
        ("FMSPC", verdict.fmspc),
        *_platform(verdict),
        ("allowed as", verdict.measurement_name),
        ("isolation", _isolation(verdict) if verdict.scope == "Policy" else None),
        ("expires", f"{rfc3339(verdict.expires_at)}, limited by {verdict.limited_by}" if verdict.expires_at else None),
        *verdict.measurements.items(),
    ]
    width = max(len(name) for name, _ in facts)
    lines += [f"  {name:<{width}}  {value}" for name, value in facts if value]
    return lines


def _platform(verdict: Verdict) -> list[tuple[str, str | None]]:
    """What is proved of the platform; nothing where the quote is not genuine."""
    claims = verdict.claims
    if claims is None:
        return []
    flags = {"hyper-threading": claims.smt, "cached keys": claims.cached_keys, "dynamic platform": claims.dynamic_platform}
    return [
        ("PPID", claims.ppid),
        ("platform", ", ".join(f"{name}: {'not excluded' if value else 'no'}" for name, value in flags.items())),
        ("TCB data", f"evaluation {claims.evaluation_data_number}, level of {rfc3339(claims.tcb_date)}"),
    ]


def _isolation(verdict: Verdict) -> str:
    return f"{NOT_CHECKED}: give --initdata, which says the profile" if verdict.isolation == NOT_CHECKED else verdict.isolation


def _judged(verdict: Verdict) -> str:
    if verdict.scope == "Policy":
        return "against the policy"
    return "genuineness and TCB only: no policy was given, so the measurements below were NOT judged"


def _class(evidence: EvidenceClass | None) -> str | None:
    if evidence == EvidenceClass.SIMULATED:
        return "Simulated: the root is not Intel's, so this proves nothing about hardware"
    return evidence.value if evidence else None
