"""Reading a policy critically: what it denies, where it contradicts itself, what it leaves open, what ends soon.  Pure.

Codes are stable words, one for each kind of finding; an error means that the policy accepts nothing, or says two things at
once.  Nothing here judges evidence: a policy with warnings is valid.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from cryptography import x509

from chrysalis.api import wallet as wallets
from chrysalis.api.base import Model
from chrysalis.api.policy import AttestationPolicySpec, DerRoot, Masked, Measurement, TcbStatus
from chrysalis.api.policy_gpu import NvidiaDerRoot, gpu_concerns, gpu_denials
from chrysalis.api.worker import Isolation
from chrysalis.attestation import anchor
from chrysalis.attestation.certificate_errors import UNREADABLE_X509
from chrysalis.attestation.domain import SEPT_VE_DISABLE
from chrysalis.attestation.reasons import AttestationError
from chrysalis.attestation.rules import aware
from chrysalis.clock import rfc3339
from chrysalis.errors import ChrysalisError

WEAK_STATUSES = (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED)
LONG_RESULT_SECONDS = 86400
SOON = timedelta(days=14)
"""Reference values that end earlier than this are reported."""
PRODUCTION_BITS = (16, 18, 19, 20, 21, 22, 27, 28, 30, 31, 62, 63)
"""Of the TD attributes: what a domain in production may have.  The appraisal refuses every other one, whatever a policy says."""
_ADVISORY = re.compile(r"INTEL-(SA|DOC)-[0-9]{5}")
_PRODUCTION = sum(1 << bit for bit in PRODUCTION_BITS)


class LintCode(StrEnum):
    """Kinds of findings.  Never renamed."""

    # Errors: it allows nothing
    LIST_EMPTY = "ListEmpty"
    ALL_EXPIRED = "AllExpired"
    ALL_TUPLES_DENY = "AllTuplesDeny"
    TRUST_ROOT_UNREADABLE = "TrustRootUnreadable"
    ATTRIBUTES_UNREACHABLE = "AttributesUnreachable"
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
    ADVISORY_UNREADABLE = "AdvisoryUnreadable"
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
    found = [*_denials(spec), *_dead(spec, at), *_contradictions(spec), *_useless(spec, at), *_soon(spec, at), *_wide(spec)]
    if spec.gpu is not None:
        found += [_sentence(LintCode.GPU_DENIES, "error", text) for text in gpu_denials(spec.gpu, at)]
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
    if isinstance(spec.trust_root, DerRoot) and not _is_root(spec.trust_root.der):
        words = "is not the base64 of a root certificate with a P-256 key: nothing chains to it"
        yield _error(LintCode.TRUST_ROOT_UNREADABLE, "spec.trustRoot.der", words)
    if spec.gpu is not None and isinstance(spec.gpu.trust_root, NvidiaDerRoot) and not _is_certificate(spec.gpu.trust_root.der):
        words = "is not the base64 of a DER certificate: nothing chains to it"
        yield _error(LintCode.TRUST_ROOT_UNREADABLE, "spec.gpu.trustRoot.der", words)
    yield from _unreachable(spec.tdx.td_attributes)


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


def _dead(spec: AttestationPolicySpec, at: datetime) -> Iterator[LintFinding]:
    """Tuples that accept nothing, and whether there are any others."""
    tuples = spec.tdx.measurements
    expired = [item for item in tuples if _has_expired(item, at)]
    refusing = [item for item in tuples if _empty_lists(item)]
    for item in expired:
        yield _warning(LintCode.TUPLE_EXPIRED, f"{_place(item)}.expires", "has passed: this tuple accepts nothing")
    for item in refusing:
        words = f"is empty: this tuple accepts nothing ({', '.join(_empty_lists(item))})"
        yield _warning(LintCode.TUPLE_DENIES, f"{_place(item)}.initdata", words)
    unpaid = [item for item in tuples if _no_wallet(item)]
    if tuples and len(expired) == len(tuples):
        yield _error(LintCode.ALL_EXPIRED, "spec.tdx.measurements", "holds only tuples that have expired: nothing is accepted")
    elif tuples and all(item in expired or item in refusing or item in unpaid for item in tuples):
        words = "holds only tuples that have expired, or have an empty list or no readable wallet: nothing is accepted"
        yield _error(LintCode.ALL_TUPLES_DENY, "spec.tdx.measurements", words)


def _has_expired(item: Measurement, at: datetime) -> bool:
    return item.expires is not None and aware(item.expires) <= at


def _no_wallet(item: Measurement) -> bool:
    """Whether the tuple lists wallets, and none of them can be read."""
    listed = item.initdata.wallets if item.initdata is not None and item.initdata.wallets != "Any" else None
    return bool(listed) and not any(_is_wallet(wallet) for wallet in listed or [])


def _contradictions(spec: AttestationPolicySpec) -> Iterator[LintFinding]:
    advisories = spec.tdx.tcb.advisories
    for name in sorted({name.upper() for name in advisories.allow or []} & {name.upper() for name in advisories.deny or []}):
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
    for field, names in (("allow", tcb.advisories.allow), ("deny", tcb.advisories.deny)):
        for name in names or []:
            if _ADVISORY.fullmatch(name.upper()) is None:
                words = f"lists {name!r}, which is not in the form of Intel's (INTEL-SA-00837): no advisory is called so"
                yield _warning(LintCode.ADVISORY_UNREADABLE, f"spec.tdx.tcb.advisories.{field}", words)
    seen: dict[str, str] = {}
    for item in spec.tdx.measurements:
        content = item.model_copy(update={"name": "x"}).model_dump_json()
        if content in seen:
            yield _warning(LintCode.TUPLE_REPEATED, _place(item), f"is the same as {seen[content]!r}")
        seen.setdefault(content, item.name)
        for wallet in item.initdata.wallets if item.initdata is not None and item.initdata.wallets != "Any" else []:
            if not _is_wallet(wallet):
                yield _warning(LintCode.WALLET_UNREADABLE, f"{_place(item)}.initdata.wallets", f"lists {wallet!r}, which is no address")


def _unreachable(rule: Masked) -> Iterator[LintFinding]:
    """Attributes that no accepted trust domain has: those are refused whatever the policy's masks say."""
    value, mask = (int.from_bytes(bytes.fromhex(text), "little") for text in (rule.value, rule.mask))
    field = "spec.tdx.tdAttributes"
    if value & mask & ~_PRODUCTION:
        words = "demands debugging, migration or a reserved bit, which is refused always: nothing is accepted"
        yield _error(LintCode.ATTRIBUTES_UNREACHABLE, field, words)
    if mask & SEPT_VE_DISABLE and not value & SEPT_VE_DISABLE:
        yield _error(LintCode.ATTRIBUTES_UNREACHABLE, field, "demands SEPT_VE_DISABLE off, which is refused always: nothing is accepted")


def _soon(spec: AttestationPolicySpec, at: datetime) -> Iterator[LintFinding]:
    for item in spec.tdx.measurements:
        if item.expires is not None and at < aware(item.expires) < at + SOON:
            days = (aware(item.expires) - at).days
            yield _warning(LintCode.EXPIRES_SOON, f"{_place(item)}.expires", f"comes in {days} days: {rfc3339(aware(item.expires))}")
    for reference in spec.gpu.measurements if spec.gpu is not None else []:
        if reference.expires is None:  # gpu_concerns says so
            continue
        field, end = f"spec.gpu.measurements[{reference.id}].expires", reference.expires
        if end <= at:
            yield _warning(LintCode.TUPLE_EXPIRED, field, "has passed: these reference values accept nothing")
        elif end < at + SOON:
            yield _warning(LintCode.EXPIRES_SOON, field, f"comes in {(end - at).days} days: {rfc3339(end)}")


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


def _is_wallet(text: str) -> bool:
    try:
        wallets.to_raw(text)
    except ChrysalisError:
        return False
    return True


def _is_certificate(text: str) -> bool:
    try:
        x509.load_der_x509_certificate(base64.b64decode(text, validate=True))
    except UNREADABLE_X509:
        return False
    return True


def _is_root(text: str) -> bool:
    try:
        anchor.from_der(base64.b64decode(text, validate=True))
    except (binascii.Error, AttestationError):
        return False
    return True
