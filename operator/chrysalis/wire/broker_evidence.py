"""A broker's evidence about itself: GET /.well-known/attestation?nonce=HEX, and how an owner judges it before it hands over a key."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated

from pydantic import Field

from chrysalis.api.base import Hex32
from chrysalis.api.policy import AttestationPolicySpec, Placement
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.broker_binding import bind_broker
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict
from chrysalis.wire.broker import MAX_EVENT_LOG_BYTES, MAX_INITDATA_BYTES, MAX_QUOTE_BYTES, Base64, Versioned


class BrokerEvidence(Versioned):
    """A fresh quote over the broker's keys and the asker's nonce, and what is needed to judge it."""

    placement: Placement
    nonce: Hex32
    spki_sha256: Hex32  # of the key that serves this very connection
    ear_key: Hex32  # the pinned key below which results are signed
    quote: Annotated[Base64, Field(max_length=MAX_QUOTE_BYTES * 4 // 3 + 4)]
    event_log: Annotated[Base64, Field(max_length=MAX_EVENT_LOG_BYTES * 4 // 3 + 4)] = ""
    initdata: Annotated[Base64, Field(max_length=MAX_INITDATA_BYTES * 4 // 3 + 4)] = ""  # where the guest was started with any
    collateral: str  # QuoteCollateralV3 JSON; "" where the broker has none for its own platform


def judge_broker(
    evidence: BrokerEvidence,
    *,
    policy: AttestationPolicySpec,
    nonce: bytes,
    spki_sha256: bytes,
    at: datetime,
    ear_key: bytes | None = None,
    collateral: Collateral | None = None,
) -> Verdict:
    """Whether a broker is one that the owner's broker policy accepts; never raises for what it sent.

    1. It says that it runs in a trust domain, and the policy lists that placement.  2. The nonce is the one that was sent.
    3. The TLS key is that of this connection, the result key the one that workers pin (where given).  4. The quote covers
    exactly these; it is genuine and measures what the policy allows.

    nonce: 32 bytes that the owner chose.  spki_sha256: of the connection's key.  collateral: in place of what the broker sent.
    """
    wrong = []
    if evidence.placement != Placement.IN_TD:  # 1
        wrong.append(Reason.of(AttestationReason.PLACEMENT_NOT_ALLOWED, f"the broker's placement is {evidence.placement}, not InTD"))
    shown = {  # 2, 3
        "nonce": (evidence.nonce, nonce),
        "TLS key": (evidence.spki_sha256, spki_sha256),
        "result key": (evidence.ear_key, ear_key or bytes.fromhex(evidence.ear_key)),
    }
    for name, (said, expected) in shown.items():
        if bytes.fromhex(said) != expected:
            message = f"the broker's evidence is for another {name} than the expected one"
            wrong.append(Reason.of(AttestationReason.REPORT_DATA_MISMATCH, message, f"expected {expected.hex()}, found {said}"))
    try:
        quote, log, toml = (_decode(text) for text in (evidence.quote, evidence.event_log, evidence.initdata))
        raw = quotes.read(quote)
        documents = collateral or _collateral(evidence.collateral)
    except AttestationError as error:
        return Verdict.refused(*wrong, Reason.from_error(error))
    bound = bind_broker(nonce=nonce, tls_spki_sha256=spki_sha256, ear_key=ear_key or bytes.fromhex(evidence.ear_key))
    verdict = appraise(  # 4
        quote=raw,
        collateral=documents,
        policy=policy,
        at=at,
        event_log=log or None,
        initdata=toml or None,
        report_data=bound.report_data,
        placement=evidence.placement,
    )
    told = {reason.reason for reason in wrong}
    rest = [reason for reason in verdict.reasons if reason.reason not in told]
    if not wrong:
        return verdict
    facts = verdict.model_dump(exclude={"verdict", "reasons", "expires_at", "limited_by"})
    return Verdict.refused(*wrong, *rest, **facts)


def _collateral(text: str) -> Collateral:
    if not text:
        raise AttestationError(AttestationReason.COLLATERAL_MISSING, "the broker sent no collateral for its own platform")
    return Collateral.from_json(text)


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AttestationError(AttestationReason.QUOTE_UNREADABLE, "the broker's evidence is not base64", str(error)) from error
