"""Reading a policy critically: what it denies, where it contradicts itself, what it leaves open, what ends soon.  Pure.

Codes are stable words, one for each kind of finding; an error means that the policy accepts nothing, or says two things at
once.  Nothing here judges evidence: a policy with warnings is valid.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from chrysalis.api import wallet as wallets
from chrysalis.api.base import Model
from chrysalis.api.policy import AttestationPolicySpec, DerRoot, Masked, Measurement, TcbStatus
from chrysalis.api.policy_gpu import gpu_concerns, gpu_denials
from chrysalis.api.worker import Isolation
from chrysalis.attestation.domain import MIGRATABLE, SEPT_VE_DISABLE, UNTRUSTED
from chrysalis.attestation.rules import aware
from chrysalis.errors import ChrysalisError

WEAK_STATUSES = (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED)
LONG_RESULT_SECONDS = 86400
SOON = timedelta(days=14)
"""Reference values that end earlier than this are reported."""


class LintCode(StrEnum):
    """Kinds of findings.  Never renamed."""

    # Errors: it allows nothing
    LIST_EMPTY = "ListEmpty"
    ALL_EXPIRED = "AllExpired"
    ALL_TUPLES_DENY = "AllTuplesDeny"
    # Errors: it contradicts itself
    ADVISORY_CONTRADICTION = "AdvisoryContradiction"
    MASK_CONTRADICTION = "MaskContradiction"
    NAME_REPEATED = "NameRepeated"
    EVENT_RULE_CONTRADICTION = "EventRuleContradiction"
    # Warnings: parts of it do nothing
    TUPLE_DENIES = "TupleDenies"
    TUPLE_EXPIRED = "TupleExpired"
    TUPLE_REPEATED = "TupleRepeated"
    GRACE_USELESS = "GraceUseless"
    MINIMUM_USELESS = "MinimumUseless"
    DENY_USELESS = "DenyUseless"
    WALLET_UNREADABLE = "WalletUnreadable"
    TRUST_ROOT_UNREADABLE = "TrustRootUnreadable"
    ATTRIBUTES_UNREACHABLE = "AttributesUnreachable"
    # Warnings: it ends soon
    EXPIRES_SOON = "ExpiresSoon"
    # Warnings: it is wide
    TRUST_ROOT_SIMULATED = "TrustRootSimulated"
    NODE_ISOLATION = "NodeIsolation"
    WEAK_STATUS = "WeakStatus"
    GRACE = "Grace"
    NOT_CONSTRAINED = "NotConstrained"
    ANY_VALUE = "AnyValue"
    NEVER_EXPIRES = "NeverExpires"
    MASK_OPEN = "MaskOpen"
    EVENT_LOG_NOT_REQUIRED = "EventLogNotRequired"
    LONG_RESULT = "LongResult"
    # What policy_gpu.py finds
    GPU_DENIES = "GpuDenies"
    GPU_WIDE = "GpuWide"


class LintFinding(Model):
    """One finding: its code, whether it is an error, the field that it is about, and a sentence that begins with that field."""

    code: LintCode
    severity: Literal["error", "warning"]
    field: str
    message: str


def lint(spec: AttestationPolicySpec, at: datetime) -> list[LintFinding]:
    """Everything that its owner should know about a policy at this time, errors first."""
    found = [*_denials(spec), *_expiries(spec, at), *_contradictions(spec), *_useless(spec, at), *_soon(spec, at), *_wide(spec)]
    if spec.gpu is not None:
        found += [_sentence(LintCode.GPU_DENIES, "error", text) for text in gpu_denials(spec.gpu)]
        found += [_sentence(LintCode.GPU_WIDE, "warning", text) for text in gpu_concerns(spec.gpu)]
    return sorted(found, key=lambda finding: finding.severity)


def errors(findings: Sequence[LintFinding]) -> list[LintFinding]:
    """Those that mean that the policy accepts nothing or contradicts itself."""
    return [finding for finding in findings if finding.severity == "error"]


def _sentence(code: LintCode, severity: Literal["error", "warning"], text: str) -> LintFinding:
    return LintFinding(code=code, severity=severity, field=text.split(" ", 1)[0], message=text)


def _error(code: LintCode, field: str, words: str) -> LintFinding:
    return LintFinding(code=code, severity="error", field=field, message=f"{field} {words}")


def _warning(code: LintCode, field: str, words: str) -> LintFinding:
    return LintFinding(code=code, severity="warning", field=field, message=f"{field} {words}")


def _denials(spec: AttestationPolicySpec) -> Iterator[LintFinding]:
    lists: dict[str, Sequence[Any] | None] = {
        "isolation": spec.isolation,
        "brokerPlacement": spec.broker_placement,
        "tdx.tcb.allowedStatuses": spec.tdx.tcb.allowed_statuses,
        "tdx.measurements": spec.tdx.measurements,
        "tdx.fmspcs": spec.tdx.fmspcs,
        "tdx.ppids": spec.tdx.ppids,
        "eventLog.rules": spec.event_log.rules,
    }
    for name, found in lists.items():
        if found is not None and not found:
            yield _error(LintCode.LIST_EMPTY, f"spec.{name}", "is empty: nothing is accepted")
    refusing = [item for item in spec.tdx.measurements if _empty_lists(item)]
    for item in refusing:
        words = f"is empty: this tuple accepts nothing ({', '.join(_empty_lists(item))})"
        yield _warning(LintCode.TUPLE_DENIES, f"{_place(item)}.initdata", words)
    if refusing and len(refusing) == len(spec.tdx.measurements):
        yield _error(LintCode.ALL_TUPLES_DENY, "spec.tdx.measurements", "holds only tuples with an empty list: nothing is accepted")


def _empty_lists(item: Measurement) -> list[str]:
    rule = item.initdata
    if rule is None:
        return []
    lists = {
        "policyDigests": rule.policy_digests,
        "templateVersions": rule.template_versions,
        "imageDigests": rule.image_digests,
        "wallets": rule.wallets,
    }
    return [name for name, found in lists.items() if not found]


def _expiries(spec: AttestationPolicySpec, at: datetime) -> Iterator[LintFinding]:
    tuples = spec.tdx.measurements
    if tuples and all(item.expires is not None and aware(item.expires) <= at for item in tuples):
        yield _error(LintCode.ALL_EXPIRED, "spec.tdx.measurements", "holds only tuples that have expired: nothing is accepted")


def _contradictions(spec: AttestationPolicySpec) -> Iterator[LintFinding]:
    advisories = spec.tdx.tcb.advisories
    for name in sorted(set(advisories.allow or []) & set(advisories.deny or [])):
        yield _error(LintCode.ADVISORY_CONTRADICTION, "spec.tdx.tcb.advisories", f"allows and denies {name}; it is denied")
    for field, masked in (("tdAttributes", spec.tdx.td_attributes), ("xfam", spec.tdx.xfam)):
        if outside := _int(masked.value) & ~_int(masked.mask):
            words = f"has bits that its mask leaves out, so they are not compared: {outside:016x}"
            yield _error(LintCode.MASK_CONTRADICTION, f"spec.tdx.{field}.value", words)
    for name, count in Counter(item.name for item in spec.tdx.measurements).items():
        if count > 1:
            words = f"names {count} tuples {name!r}; a result could not say which one it matched"
            yield _error(LintCode.NAME_REPEATED, "spec.tdx.measurements", words)
    values: dict[tuple[Any, ...], str] = {}
    for number, rule in enumerate(spec.event_log.rules or []):
        if rule.variable is None:
            continue
        key = (rule.register_index, rule.type, (rule.variable.guid or "").lower(), rule.variable.name)
        value = (rule.variable.value or "") + (rule.variable.value_sha384 or "")
        if values.setdefault(key, value.lower()) != value.lower():
            words = f"demands another value of the variable {rule.variable.name!r} than a rule before it"
            yield _error(LintCode.EVENT_RULE_CONTRADICTION, f"spec.eventLog.rules[{number}]", words)


def _useless(spec: AttestationPolicySpec, at: datetime) -> Iterator[LintFinding]:
    tcb = spec.tdx.tcb
    if tcb.grace_seconds and TcbStatus.OUT_OF_DATE in tcb.allowed_statuses:
        yield _warning(LintCode.GRACE_USELESS, "spec.tdx.tcb.graceSeconds", "changes nothing: OutOfDate is allowed for ever")
    if tcb.min_evaluation_data_number == 0:
        yield _warning(LintCode.MINIMUM_USELESS, "spec.tdx.tcb.minEvaluationDataNumber", "is 0: every number is accepted")
    if tcb.advisories.allow is not None and tcb.advisories.deny:
        words = "adds nothing to advisories.allow, which refuses every advisory that it does not list"
        yield _warning(LintCode.DENY_USELESS, "spec.tdx.tcb.advisories.deny", words)
    seen: dict[str, str] = {}
    for item in spec.tdx.measurements:
        if item.expires is not None and aware(item.expires) <= at:
            yield _warning(LintCode.TUPLE_EXPIRED, f"{_place(item)}.expires", "has passed: this tuple accepts nothing")
        content = item.model_copy(update={"name": "x"}).model_dump_json()
        if content in seen:
            yield _warning(LintCode.TUPLE_REPEATED, _place(item), f"is the same as {seen[content]!r}")
        seen.setdefault(content, item.name)
        for wallet in item.initdata.wallets if item.initdata is not None and item.initdata.wallets != "Any" else []:
            try:
                wallets.to_raw(wallet)
            except ChrysalisError:
                yield _warning(LintCode.WALLET_UNREADABLE, f"{_place(item)}.initdata.wallets", f"lists {wallet!r}, which is no address")
    yield from _unreachable(spec.tdx.td_attributes)
    if isinstance(spec.trust_root, DerRoot) and not _is_der(spec.trust_root.der):
        yield _warning(LintCode.TRUST_ROOT_UNREADABLE, "spec.trustRoot.der", "is not the base64 of a DER certificate: nothing chains to it")


def _unreachable(rule: Masked) -> Iterator[LintFinding]:
    """Attributes that no accepted trust domain has: those are refused before the policy's masks are looked at."""
    value, mask = (int.from_bytes(bytes.fromhex(text), "little") for text in (rule.value, rule.mask))
    field = "spec.tdx.tdAttributes"
    if value & mask & (UNTRUSTED | MIGRATABLE):
        yield _warning(
            LintCode.ATTRIBUTES_UNREACHABLE, field, "demands debugging or migration, which is refused always: nothing is accepted"
        )
    if mask & SEPT_VE_DISABLE and not value & SEPT_VE_DISABLE:
        yield _warning(LintCode.ATTRIBUTES_UNREACHABLE, field, "demands SEPT_VE_DISABLE off, which is refused always: nothing is accepted")


def _soon(spec: AttestationPolicySpec, at: datetime) -> Iterator[LintFinding]:
    for item in spec.tdx.measurements:
        if item.expires is not None and at < aware(item.expires) < at + SOON:
            days = (aware(item.expires) - at).days
            yield _warning(LintCode.EXPIRES_SOON, f"{_place(item)}.expires", f"comes in {days} days: {item.expires.isoformat()}")


def _wide(spec: AttestationPolicySpec) -> Iterator[LintFinding]:
    if spec.trust_root != "Intel":
        words = "is not Intel's: all evidence under it is simulated and protects nothing"
        yield _warning(LintCode.TRUST_ROOT_SIMULATED, "spec.trustRoot", words)
    if Isolation.NODE_TD in spec.isolation:
        words = "lists NodeTD: it does not protect against the cluster's administrators"
        yield _warning(LintCode.NODE_ISOLATION, "spec.isolation", words)
    tcb = spec.tdx.tcb
    for status in WEAK_STATUSES:
        if status in tcb.allowed_statuses:
            words = f"lists {status}: platforms with published weaknesses are accepted"
            yield _warning(LintCode.WEAK_STATUS, "spec.tdx.tcb.allowedStatuses", words)
    if tcb.grace_seconds:
        words = f"accepts outdated platforms for {tcb.grace_seconds} s after a TCB recovery"
        yield _warning(LintCode.GRACE, "spec.tdx.tcb.graceSeconds", words)
    constrained = {
        "tdx.tcb.advisories.allow": tcb.advisories.allow,
        "tdx.tcb.minEvaluationDataNumber": tcb.min_evaluation_data_number,
        "eventLog.rules": spec.event_log.rules,
    }
    for name, value in constrained.items():
        if value is None:
            yield _warning(LintCode.NOT_CONSTRAINED, f"spec.{name}", "is absent: not constrained")
    for name, listed in (("fmspcs", spec.tdx.fmspcs), ("ppids", spec.tdx.ppids)):
        if listed is None:
            yield _warning(LintCode.NOT_CONSTRAINED, f"spec.tdx.{name}", "is absent: any platform is accepted")
    for item in spec.tdx.measurements:
        for register, value in item:
            if value == "Any":
                yield _warning(LintCode.ANY_VALUE, f"{_place(item)}.{register}", "is Any: not compared")
        if item.initdata is not None and item.initdata.wallets == "Any":
            yield _warning(LintCode.ANY_VALUE, f"{_place(item)}.initdata.wallets", "is Any: the payout wallet is not judged")
        if item.expires is None:
            yield _warning(LintCode.NEVER_EXPIRES, f"{_place(item)}.expires", "is absent: the tuple is accepted until the policy changes")
    for name, masked in (("tdAttributes", spec.tdx.td_attributes), ("xfam", spec.tdx.xfam)):
        if masked.mask.lower() != "f" * 16:
            yield _warning(LintCode.MASK_OPEN, f"spec.tdx.{name}.mask", f"leaves bits open: {masked.mask}")
    if not spec.event_log.required and not spec.event_log.rules:
        yield _warning(LintCode.EVENT_LOG_NOT_REQUIRED, "spec.eventLog.required", "is false: the boot log is not replayed")
    if spec.freshness.max_result_age_seconds > LONG_RESULT_SECONDS:
        words = f"lets a result live {spec.freshness.max_result_age_seconds} s"
        yield _warning(LintCode.LONG_RESULT, "spec.freshness.maxResultAgeSeconds", words)


def _place(item: Measurement) -> str:
    return f"spec.tdx.measurements[{item.name}]"


def _int(bits: str) -> int:
    return int(bits, 16)


def _is_der(text: str) -> bool:
    try:
        return base64.b64decode(text, validate=True)[:1] == b"\x30"
    except binascii.Error:
        return False
