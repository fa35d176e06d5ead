"""A policy's rules, one function each: what is proved or measured goes in, reasons come out.  Empty lists deny."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from chrysalis.api import initdata as initdata_form
from chrysalis.api import wallet as wallets
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import EventLogRules, InitdataRule, Masked, Measurement, Placement, Tcb, TcbStatus, TdxRules
from chrysalis.api.worker import Isolation
from chrysalis.attestation import event_data, eventlog
from chrysalis.attestation.collateral import Expiry
from chrysalis.attestation.genuineness import Claims
from chrysalis.attestation.quote import Quote
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason
from chrysalis.errors import ChrysalisError

_R = AttestationReason
STATUS_REASONS = {
    "OutOfDate": _R.TCB_OUT_OF_DATE,
    "OutOfDateConfigurationNeeded": _R.TCB_OUT_OF_DATE,
    "ConfigurationNeeded": _R.TCB_CONFIGURATION_NEEDED,
    "ConfigurationAndSWHardeningNeeded": _R.TCB_CONFIGURATION_NEEDED,
    "SWHardeningNeeded": _R.TCB_SW_HARDENING_NEEDED,
    "TDRelaunchAdvised": _R.TCB_RELAUNCH_ADVISED,
    "TDRelaunchAdvisedConfigurationNeeded": _R.TCB_RELAUNCH_ADVISED,
    "Revoked": _R.TCB_REVOKED,
}
GENUINENESS_ONLY = Tcb(allowed_statuses=[TcbStatus.UP_TO_DATE])
"""What holds where no policy is given."""


@dataclass(frozen=True)
class Finding:
    """What a rule found: reasons to refuse, or a time that ends the acceptance."""

    reasons: tuple[Reason, ...] = ()
    expiry: Expiry | None = None


def tcb(rule: Tcb, claims: Claims, at: datetime) -> Finding:
    """The TCB status, with its grace period.

    Grace is Intel's: a level that is OutOfDate passes while its TCB date is at most graceSeconds ago.  It widens a list; one that
    is empty denies all the same.
    """
    if claims.tcb_status in set(rule.allowed_statuses):
        return Finding()
    reason = STATUS_REASONS.get(claims.tcb_status, _R.TCB_STATUS_NOT_ALLOWED)
    if claims.tcb_status == "OutOfDate" and rule.grace_seconds and rule.allowed_statuses:
        end = claims.tcb_date + timedelta(seconds=rule.grace_seconds)
        if at < end:
            return Finding(expiry=Expiry(end, "tcb.graceSeconds"))
    allowed = ", ".join(rule.allowed_statuses) or "none"
    advisories = ", ".join(claims.advisory_ids)
    message = f"the platform's TCB status is {claims.tcb_status}; allowed: {allowed}"
    return Finding((Reason.of(reason, message, advisories and f"advisories: {advisories}"),))


def platform(rule: Tcb, claims: Claims) -> list[Reason]:
    """Advisories, the age of the TCB data, and the platform's flags."""
    found = []
    allow, deny = _upper(rule.advisories.allow), _upper(rule.advisories.deny)
    names = sorted(set(claims.advisory_ids))
    if allow is not None and (extra := [name for name in names if name.upper() not in allow]):
        found.append(Reason.of(_R.ADVISORY_NOT_ALLOWED, f"advisories apply that the policy does not allow: {', '.join(extra)}"))
    if deny is not None and (denied := [name for name in names if name.upper() in deny]):
        found.append(Reason.of(_R.ADVISORY_DENIED, f"advisories apply that the policy denies: {', '.join(denied)}"))
    found += evaluation(rule, claims.evaluation_data_number)
    if claims.smt and not rule.allow_smt:
        found.append(Reason.of(_R.SMT_NOT_ALLOWED, "the platform has (or does not exclude) hyper-threading"))
    if claims.cached_keys and not rule.allow_cached_keys:
        found.append(Reason.of(_R.CACHED_KEYS_NOT_ALLOWED, "the platform's keys are (or may be) cached by Intel's registration service"))
    if claims.dynamic_platform and not rule.allow_dynamic_platform:
        found.append(Reason.of(_R.DYNAMIC_PLATFORM_NOT_ALLOWED, "the platform can (or may) be extended by processor packages"))
    return found


def _upper(names: Sequence[str] | None) -> set[str] | None:
    """A list of advisories in Intel's capitals: a denial must not fail for its letters."""
    return None if names is None else {name.upper() for name in names}


def evaluation(rule: Tcb, number: int) -> list[Reason]:
    """The age of the TCB data, by its evaluation number."""
    least = rule.min_evaluation_data_number
    if least is None or number >= least:
        return []
    return [Reason.of(_R.TCB_EVALUATION_TOO_OLD, f"the TCB evaluation data number is {number}; the policy asks for {least} or more")]


def identity_of_platform(rules: TdxRules, fmspc: str, ppid: str) -> list[Reason]:
    """Which platforms (fmspc in upper-case hex) and which machines (ppid in lower-case hex)."""
    found = []
    if rules.fmspcs is not None and fmspc not in {value.upper() for value in rules.fmspcs}:
        found.append(Reason.of(_R.FMSPC_NOT_ALLOWED, f"the policy does not list platform {fmspc}"))
    if rules.ppids is not None and ppid not in {value.lower() for value in rules.ppids}:
        found.append(Reason.of(_R.PPID_NOT_ALLOWED, f"the policy does not list the machine with PPID {ppid}"))
    return found


def attributes(rules: TdxRules, quote: Quote) -> list[Reason]:
    """The trust domain's attributes and its CPU features, under their masks."""
    found = []
    if not _masked(rules.td_attributes, quote.td_attributes):
        found.append(Reason.of(_R.TD_ATTRIBUTES_NOT_ALLOWED, *_masked_words("TD attributes", rules.td_attributes, quote.td_attributes)))
    if not _masked(rules.xfam, quote.xfam):
        found.append(Reason.of(_R.XFAM_NOT_ALLOWED, *_masked_words("XFAM", rules.xfam, quote.xfam)))
    return found


def _masked(rule: Masked, bits: bytes) -> bool:
    mask = int(rule.mask, 16)
    return int.from_bytes(bits, "big") & mask == int(rule.value, 16) & mask


def _masked_words(what: str, rule: Masked, bits: bytes) -> tuple[str, str]:
    return f"the trust domain's {what} are not those of the policy", f"{bits.hex()}, policy {rule.value} under mask {rule.mask}"


@dataclass(frozen=True)
class Configuration:
    """The initdata that came with the evidence, once its hash is MRCONFIGID: its bytes' policy digest and its identity."""

    policy_digest: str
    identity: MeasuredIdentity


def initdata_hash(initdata: bytes, quote: Quote) -> list[Reason]:
    """Whether the initdata is what the trust domain was started with."""
    if hashlib.sha384(initdata).digest() != quote.mrconfigid:
        return [
            Reason.of(_R.INITDATA_MISMATCH, "the initdata's SHA-384 is not the quote's MRCONFIGID", f"MRCONFIGID {quote.mrconfigid.hex()}")
        ]
    return []


def configuration(initdata: bytes) -> Configuration:
    """Read initdata whose hash was checked; raises AttestationError (InitdataMalformed)."""
    try:
        return Configuration(initdata_form.policy_digest(initdata), initdata_form.parse(initdata).identity)
    except ChrysalisError as error:
        raise AttestationError(
            _R.INITDATA_MALFORMED, "the initdata is measured, but not of the form that Chrysalis renders", error.detail
        ) from error


def measurements(
    allowed: Sequence[Measurement], quote: Quote, config: Configuration | None, at: datetime
) -> tuple[Measurement | None, list[Reason]]:
    """The policy's tuple that allows these measurements, or the reasons why none does."""
    if not allowed:
        return None, [Reason.of(_R.MEASUREMENT_NOT_ALLOWED, "the policy allows no measurements (its list is empty)")]
    compared = [(item, _differences(item, quote)) for item in allowed]  # by position: nothing forbids two tuples of one name
    matching = [item for item, differing in compared if not differing]
    if not matching:
        nearest, differing = min(compared, key=lambda pair: len(pair[1]))
        shown = "; ".join(f"{name} {quote.registers[name].hex()}" for name in differing)
        message = f"no tuple of the policy allows these measurements; the nearest, {nearest.name!r}, differs in {', '.join(differing)}"
        reasons = [Reason.of(_R.MEASUREMENT_NOT_ALLOWED, message, f"the quote has {shown}")]
        if _expired(nearest, at):
            reasons.append(Reason.of(_R.MEASUREMENT_EXPIRED, f"the nearest reference values, {nearest.name!r}, have expired as well"))
        return None, reasons + ([] if nearest.initdata is None else _judge_initdata(nearest.initdata, config))
    current = [item for item in matching if not _expired(item, at)]
    if not current:
        names = ", ".join(repr(item.name) for item in matching)
        reasons = [Reason.of(_R.MEASUREMENT_EXPIRED, f"the reference values that match have expired: {names}")]
        rule = matching[0].initdata
        return None, reasons + ([] if rule is None else _judge_initdata(rule, config))
    never = datetime.max.replace(tzinfo=UTC)
    refused: list[Reason] = []
    for item in sorted(current, key=lambda item: never if item.expires is None else aware(item.expires), reverse=True):
        reasons = [] if item.initdata is None else _judge_initdata(item.initdata, config)
        if not reasons:
            return item, []
        refused = refused or reasons
    return None, refused


def aware(at: datetime) -> datetime:
    """A policy's time; one without an offset is UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _expired(item: Measurement, at: datetime) -> bool:
    return item.expires is not None and aware(item.expires) <= at


def _differences(item: Measurement, quote: Quote) -> list[str]:
    """The registers that differ from a tuple.  An absent mrconfigid is judged by the tuple's initdata rule."""
    found = []
    for name, actual in quote.registers.items():
        wanted: str | None = getattr(item, name)
        judged_elsewhere = name == "mrconfigid" and wanted is None and item.initdata is not None
        if not judged_elsewhere and wanted != "Any" and (wanted is None or bytes.fromhex(wanted) != actual):
            found.append(name)
    return found


def _judge_initdata(rule: InitdataRule, config: Configuration | None) -> list[Reason]:
    if config is None:
        return [Reason.of(_R.INITDATA_MISSING, "the policy judges the initdata, but the evidence carries none")]
    identity = config.identity
    wrong = []
    if config.policy_digest not in rule.policy_digests:
        wrong.append(("policyDigests", config.policy_digest))
    if identity.template_version not in rule.template_versions:
        wrong.append(("templateVersions", str(identity.template_version)))
    if identity.image_digest not in rule.image_digests:
        wrong.append(("imageDigests", identity.image_digest))
    if rule.wallets != "Any" and not any(_is_wallet(value, identity.wallet) for value in rule.wallets):
        wrong.append(("wallets", identity.wallet or "no wallet"))
    return [Reason.of(_R.INITDATA_NOT_ALLOWED, f"the policy's initdata.{field} does not list {value}") for field, value in wrong]


def _is_wallet(listed: str, measured: str) -> bool:
    """Whether a policy's wallet is the one in the initdata, which is in the raw form; one that cannot be read is none."""
    try:
        return wallets.to_raw(listed).lower() == measured.lower()
    except ChrysalisError:
        return False


def isolation(allowed: Sequence[Isolation], config: Configuration | None) -> list[Reason]:
    """The isolation profile that the initdata says.

    Without initdata it is not judged, and the verdict says NotChecked: the tuple that matched then names the configuration
    by its digest, or says that any will do.  A broker never gets that far: it judges nothing without initdata.
    """
    if allowed and (config is None or config.identity.isolation in allowed):
        return []
    listed = ", ".join(allowed) or "none"
    runs = "the worker's profile is not known" if config is None else f"the worker runs in profile {config.identity.isolation}"
    return [Reason.of(_R.ISOLATION_NOT_ALLOWED, f"{runs}; the policy lists {listed}")]


def placement(allowed: Sequence[Placement], actual: Placement | None) -> list[Reason]:
    """Where the judging broker runs; None where no broker judges: only an empty list, which denies everything, refuses then."""
    if allowed and (actual is None or actual in allowed):
        return []
    listed = ", ".join(allowed) or "none"
    judged = "no broker judges here" if actual is None else f"the broker's placement is {actual}"
    return [Reason.of(_R.PLACEMENT_NOT_ALLOWED, f"{judged}; the policy lists {listed}")]


def event_log(rule: EventLogRules | None, log: bytes | None, quote: Quote) -> list[Reason]:
    """Whether the log is there, replays to the quote's registers, and holds what the policy's rules demand.

    Without a rule (no policy), the replay alone is judged.
    """
    if not log:
        return [Reason.of(_R.EVENT_LOG_MISSING, "the policy requires the boot event log, but the evidence carries none")]
    try:
        events = eventlog.parse(log)
        registers = eventlog.replay(events)
    except AttestationError as error:
        return [Reason.from_error(error)]
    found: list[Reason] = []
    try:
        eventlog.separators(events)
    except AttestationError as error:
        found.append(Reason.from_error(error))
    replayed = [mine == theirs for mine, theirs in zip(registers, quote.rtmrs, strict=True)]
    if not all(replayed):
        wrong = ", ".join(f"rtmr{index}" for index, right in enumerate(replayed) if not right)
        found.insert(0, Reason.of(_R.EVENT_LOG_MISMATCH, f"the event log does not replay to the quote's {wrong}"))
    if rule is not None and rule.rules is not None:
        found += event_data.judge(rule.rules, events, replayed)
    return found
