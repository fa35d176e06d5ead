"""The appraisal: evidence, collateral and a policy in, a verdict out.  Pure: time and every document are passed in."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from chrysalis.api.policy import AttestationPolicySpec, DerRoot, Placement
from chrysalis.attestation import domain, genuineness, rules
from chrysalis.attestation.anchor import from_der
from chrysalis.attestation.collateral import Collateral, Expiry
from chrysalis.attestation.genuineness import INTEL, Claims, NotGenuine, verified
from chrysalis.attestation.quote import Quote, parse
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict, measured
from chrysalis.clock import rfc3339

_R = AttestationReason


def appraise(
    *,
    quote: bytes,
    collateral: Collateral,
    policy: AttestationPolicySpec | None,
    at: datetime,
    roots: Sequence[bytes] = (),
    event_log: bytes | None = None,
    initdata: bytes | None = None,
    report_data: bytes | None = None,
    placement: Placement | None = None,
) -> Verdict:
    """Judge one TDX quote (binary) at a stated time; never raises for what a stranger sent.

    1. Form: a TDX quote of version 4 or 5, all lengths exact, nothing but zero padding behind it.
    2. Collateral: of this platform, signed in the name of Intel's TCB signing certificate, current, nothing from the future.
    3. Genuineness: signatures, chains, revocation, dates, QE and TDX module identity, under the trust anchor; no debugging,
       no migration, SEPT_VE_DISABLE, no service domain.  Evidence class Hardware only under Intel's root.
    4. TCB: status (with its grace), advisories, evaluation data number, platform flags.
    5. Platform: FMSPC and PPID, where the policy lists any.
    6. Trust domain: attributes and XFAM under the policy's masks.
    7. Configuration: the initdata, where given, hashes to MRCONFIGID and has the form that Chrysalis renders.
    8. Reference values: one whole tuple of the policy matches, is current, and its initdata rule holds.
    9. Event log: where the policy requires it or has rules for it (or, without a policy, where it is given), it replays to
       RTMR0–3, its separators are sound, and each rule is met by an event whose digest proves it.
    10. Session: report_data, where given, is the quote's.
    11. Circumstances: the measured isolation profile and the broker's placement are among those that the policy lists.  Without
        initdata the profile is not judged, and the verdict says `isolation: NotChecked`.
    12. Expiry: the earliest of the policy's maximum age, every part of the collateral, the certificates, the tuple's
        expiry and the grace period; the verdict names it.

    All reasons that can be judged are told: a quote whose form cannot be read is judged no further; of one that is not
    genuine, step 4 is judged as far as the collateral says it, and 5 to 11 by what the quote says of itself.
    Without a policy, only steps 1–3, the status of step 4 (UpToDate), 9, 10, and the hash of step 7 apply, and the verdict's
    scope says so.
    roots are DER trust anchors, Intel's alone by default.  A policy names its own root; roots then must contain it.
    """
    at = at.replace(microsecond=0)
    if at.tzinfo is None:
        raise ValueError("an appraisal needs an aware time")
    known: dict[str, object] = {"scope": "Policy" if policy else "GenuinenessAndTcb"}

    # 1. Form
    try:
        parsed = parse(quote)
    except AttestationError as error:
        return Verdict.refused(Reason.from_error(error), **known)
    known |= {"measurements": measured(parsed), "fmspc": parsed.fmspc or None}

    # 2. Collateral, 3. Genuineness
    proof = _prove(parsed, collateral, policy, roots, at)
    claims, reasons, expiries = proof.claims, [*proof.reasons, *_trailing(parsed)], proof.expiries
    known["tcb_status"] = proof.tcb_status

    # 4. TCB
    tcb_rule = policy.tdx.tcb if policy else rules.GENUINENESS_ONLY
    if claims is not None:
        known |= {"evidence_class": claims.evidence_class, "tcb_status": claims.tcb_status, "fmspc": claims.fmspc}
        known |= {"advisory_ids": list(claims.advisory_ids), "claims": verified(parsed, claims, collateral)}
        expiries.append(claims.certificate_expiry)
        status = rules.tcb(tcb_rule, claims, at)
        reasons += [*status.reasons, *rules.platform(tcb_rule, claims)]
        if status.expiry is not None:
            expiries.append(status.expiry)
    elif proof.evaluation_data_number is not None:
        reasons += rules.evaluation(tcb_rule, proof.evaluation_data_number)

    # 7. Configuration: its hash
    mismatch = rules.initdata_hash(initdata, parsed) if initdata is not None else []

    if policy is not None:
        # 5. Platform
        if claims is not None or parsed.fmspc:
            fmspc, ppid = (claims.fmspc, claims.ppid) if claims is not None else (parsed.fmspc, parsed.ppid)
            reasons += rules.identity_of_platform(policy.tdx, fmspc, ppid)
        # 6. Trust domain
        told = {reason.reason for reason in reasons}
        reasons += [reason for reason in rules.attributes(policy.tdx, parsed) if claims is not None or reason.reason not in told]
        # 7. Configuration: its form
        config = None
        try:
            if initdata is not None and not mismatch:
                config = rules.configuration(initdata)
        except AttestationError as error:
            mismatch = [Reason.from_error(error)]
        # 8. Reference values
        tuple_, unmatched = rules.measurements(policy.tdx.measurements, parsed, config, at)
        if mismatch:  # the rules' "missing" would only repeat it
            unmatched = [reason for reason in unmatched if reason.reason != _R.INITDATA_MISSING]
        reasons += [*mismatch, *unmatched]
        if tuple_ is not None:
            if claims is not None:
                known["measurement_name"] = tuple_.name
            if tuple_.expires is not None:
                expiries.append(Expiry(rules.aware(tuple_.expires), "measurement.expires"))
        # 11. Circumstances
        if config is not None and claims is not None:
            known["isolation"] = config.identity.isolation.value
        reasons += rules.isolation(policy.isolation, config) + rules.placement(policy.broker_placement, placement)
        expiries.append(Expiry(_after(at, policy.freshness.max_result_age_seconds), "freshness.maxResultAgeSeconds"))
    else:
        reasons += mismatch

    # 9. Event log
    log_rule = policy.event_log if policy else None
    if (log_rule.required or log_rule.rules is not None) if log_rule else event_log is not None:
        reasons += rules.event_log(log_rule, event_log, parsed)

    # 10. Session
    if report_data is not None and not hmac.compare_digest(report_data, parsed.report_data):
        reasons.append(Reason.of(_R.REPORT_DATA_MISMATCH, "the quote was not made over this session's nonce, keys and identity"))

    # 12. Expiry
    if claims is None and not reasons:
        raise AssertionError("what is not genuine has a reason")
    if not reasons:
        first = min(expiries, key=lambda expiry: expiry.at)
        if first.at >= at:
            return Verdict.model_validate({"verdict": "Accepted", "expires_at": first.at, "limited_by": first.name, **known})
        reasons = [Reason.of(_R.COLLATERAL_EXPIRED, f"{first.name} lies before the stated time", rfc3339(first.at))]
    return Verdict.refused(*reasons, **known)


def _after(at: datetime, seconds: int) -> datetime:
    """Some seconds later; at the end of the last year, that end."""
    last = datetime.max.replace(tzinfo=UTC, microsecond=0)
    return last if last - at < timedelta(seconds=seconds) else at.astimezone(UTC) + timedelta(seconds=seconds)


@dataclass(frozen=True)
class _Proof:
    """The outcome of steps 2 and 3."""

    claims: Claims | None  # None where the quote is not genuine; then there is a reason
    reasons: list[Reason]
    expiries: list[Expiry]
    tcb_status: str | None = None  # where the refusal itself says it
    evaluation_data_number: int | None = None


def _prove(parsed: Quote, collateral: Collateral, policy: AttestationPolicySpec | None, roots: Sequence[bytes], at: datetime) -> _Proof:
    """Is the quote genuine; where it is not, the library's first failure and every one that we can judge ourselves."""
    # 2. Collateral
    try:
        found, expiries = genuineness.authority(collateral, at), list(collateral.expiries)
        number = min(collateral.tcb.evaluation_data_number, collateral.qe.evaluation_data_number)
    except AttestationError as error:
        return _Proof(None, [Reason.from_error(error), *domain.judge(parsed)], [])
    # 3. Genuineness
    status = None
    try:
        claims = genuineness.verify(parsed, collateral, at, _anchors(policy, roots))
        return _Proof(claims, found + domain.judge(parsed), expiries, claims.tcb_status, number)
    except AttestationError as error:
        first = [Reason.from_error(error)]
    except NotGenuine as error:
        # The library stops at the first failure; collateral of another platform is the better explanation of most.
        first, status = error.reasons, error.tcb_status
        found = genuineness.mismatches(parsed, collateral) + found
    told = {reason.reason for reason in found}
    reasons = found + [reason for reason in first if reason.reason not in told]
    return _Proof(None, _merged(reasons, domain.judge(parsed) + genuineness.expired(collateral, at)), expiries, status, number)


def _merged(first: Sequence[Reason], ours: Sequence[Reason]) -> list[Reason]:
    """The first reasons, then those of ours that say something else; where both say the same, ours knows all of it."""
    mine = {reason.reason: reason for reason in ours}
    merged = [reason.model_copy(update={"message": mine[reason.reason].message}) if reason.reason in mine else reason for reason in first]
    told = {reason.reason for reason in first}
    return merged + [reason for reason in ours if reason.reason not in told]


def _anchors(policy: AttestationPolicySpec | None, roots: Sequence[bytes]) -> list[bytes]:
    """The trust anchors; raises AttestationError where policy and roots contradict each other."""
    if policy is None:
        return list(roots) or [INTEL]
    anchor = INTEL
    if isinstance(policy.trust_root, DerRoot):
        try:
            anchor = base64.b64decode(policy.trust_root.der, validate=True)
        except binascii.Error as error:
            raise AttestationError(_R.TRUST_ROOT_MISMATCH, "the policy's trustRoot.der is not base64", str(error)) from error
        if not anchor:
            raise AttestationError(_R.TRUST_ROOT_MISMATCH, "the policy's trustRoot.der is empty")
        try:
            from_der(anchor)
        except AttestationError as error:
            message = "the policy's trustRoot.der is not a certificate that evidence could chain to"
            raise AttestationError(_R.TRUST_ROOT_MISMATCH, message, error.message) from error
    if roots and not any(genuineness.same_root(anchor, root) for root in roots):
        raise AttestationError(_R.TRUST_ROOT_MISMATCH, "the policy's trust root is not among the roots that are trusted here")
    return [anchor]


def _trailing(quote: Quote) -> list[Reason]:
    if not quote.trailing:
        return []
    message = f"{len(quote.trailing)} bytes that are not zero padding follow the quote"
    return [Reason.of(_R.QUOTE_TRAILING_DATA, message, quote.trailing[:32].hex())]
