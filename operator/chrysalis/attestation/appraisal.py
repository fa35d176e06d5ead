"""The appraisal: evidence, collateral and a policy in, a verdict out.  Pure: time and every document are passed in."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta

from chrysalis.api.policy import AttestationPolicySpec, DerRoot, Placement
from chrysalis.attestation import genuineness, rules
from chrysalis.attestation.collateral import Collateral, Expiry
from chrysalis.attestation.genuineness import INTEL, NotGenuine
from chrysalis.attestation.quote import Quote, parse
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict, measured

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
    2. Collateral: of this platform, signed in the name of Intel's TCB signing certificate, no revocation list from the future.
    3. Genuineness: signatures, chains, revocation, dates, QE and TDX module identity, under the trust anchor.
       Evidence class Hardware only under Intel's root.  What is not genuine is judged no further.
    4. TCB: status (with its grace), advisories, evaluation data number, platform flags.
    5. Platform: FMSPC and PPID, where the policy lists any.
    6. Trust domain: attributes and XFAM under the policy's masks.
    7. Configuration: the initdata, where given, hashes to MRCONFIGID and has the form that Chrysalis renders.
    8. Reference values: one whole tuple of the policy matches, is current, and its initdata rule holds.
    9. Event log: where the policy requires it (or, without a policy, where it is given), it replays to RTMR0–3.
    10. Session: report_data, where given, is the quote's.
    11. Circumstances: the measured isolation profile and the broker's placement are among those that the policy lists.
    12. Expiry: the earliest of the policy's maximum age, every part of the collateral, the certificates, the tuple's
        expiry and the grace period; the verdict names it.

    Without a policy, only steps 1–3, the status of step 4 (UpToDate), 9, 10, and the hash of step 7 apply, and the verdict's scope says so.
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
    known["measurements"] = measured(parsed)
    trailing = _trailing(parsed)

    # 2. Collateral
    try:
        found = genuineness.authority(collateral, at)
        expiries = list(collateral.expiries)
    except AttestationError as error:
        return Verdict.refused(Reason.from_error(error), *trailing, fmspc=parsed.fmspc or None, **known)

    # 3. Genuineness
    try:
        anchors = _anchors(policy, roots)
        claims = genuineness.verify(parsed, collateral, at, anchors)
    except AttestationError as error:
        return Verdict.refused(*found, Reason.from_error(error), *trailing, fmspc=parsed.fmspc or None, **known)
    except NotGenuine as error:
        # The library stops at the first failure; collateral of another platform is the better explanation of most.
        found = genuineness.mismatches(parsed, collateral) + found
        told = {reason.reason for reason in found}
        return Verdict.refused(
            *found,
            *(reason for reason in error.reasons if reason.reason not in told),
            *trailing,
            fmspc=parsed.fmspc or None,
            tcb_status=error.tcb_status,
            **known,
        )
    known |= {"evidence_class": claims.evidence_class, "tcb_status": claims.tcb_status, "fmspc": claims.fmspc}
    known |= {"advisory_ids": list(claims.advisory_ids)}
    reasons = found + trailing
    expiries.append(claims.certificate_expiry)

    # 4. TCB
    tcb_rule = policy.tdx.tcb if policy else rules.GENUINENESS_ONLY
    status = rules.tcb(tcb_rule, claims, at)
    reasons += [*status.reasons, *rules.platform(tcb_rule, claims)]
    if status.expiry is not None:
        expiries.append(status.expiry)

    # 7. Configuration: its hash
    mismatch = rules.initdata_hash(initdata, parsed) if initdata is not None else []

    if policy is not None:
        # 5. Platform
        reasons += rules.identity_of_platform(policy.tdx, claims)
        # 6. Trust domain
        reasons += rules.attributes(policy.tdx, parsed)
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
            known["measurement_name"] = tuple_.name
            if tuple_.expires is not None:
                expiries.append(Expiry(rules.aware(tuple_.expires), "measurement.expires"))
        # 11. Circumstances
        reasons += rules.isolation(policy.isolation, config) + rules.placement(policy.broker_placement, placement)
        expiries.append(Expiry(at + timedelta(seconds=policy.freshness.max_result_age_seconds), "freshness.maxResultAgeSeconds"))
    else:
        reasons += mismatch

    # 9. Event log
    if policy.event_log.required if policy else event_log is not None:
        reasons += rules.event_log(event_log, parsed)

    # 10. Session
    if report_data is not None and not hmac.compare_digest(report_data, parsed.report_data):
        reasons.append(Reason.of(_R.REPORT_DATA_MISMATCH, "the quote was not made over this session's nonce, keys and identity"))

    # 12. Expiry
    first = min(expiries, key=lambda expiry: expiry.at)
    if first.at < at and not reasons:
        reasons.append(Reason.of(_R.COLLATERAL_EXPIRED, f"{first.name} lies before the stated time", first.at.isoformat()))
    if reasons:
        return Verdict.refused(*reasons, **known)
    return Verdict.model_validate({"verdict": "Accepted", "expires_at": first.at, "limited_by": first.name, **known})


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
    if roots and not any(genuineness.same_root(anchor, root) for root in roots):
        raise AttestationError(_R.TRUST_ROOT_MISMATCH, "the policy's trust root is not among the roots that are trusted here")
    return [anchor]


def _trailing(quote: Quote) -> list[Reason]:
    if not quote.trailing:
        return []
    message = f"{len(quote.trailing)} bytes that are not zero padding follow the quote"
    return [Reason.of(_R.QUOTE_TRAILING_DATA, message, quote.trailing[:32].hex())]
