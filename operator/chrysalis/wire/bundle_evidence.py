"""Of judging an evidence bundle, steps 2 and 3: its evidence opened and bound again, and appraised.  chrysalis.wire.bundle_judgement
names the steps."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation import binding
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict
from chrysalis.errors import ChrysalisError
from chrysalis.wire import gpu as gpus
from chrysalis.wire.bundle import Bundle
from chrysalis.wire.bundle_verdict import Expectations, Whole


@dataclass(frozen=True)
class Opened:
    """The evidence's bytes; what could not be decoded is empty and stands in `flaw`."""

    quote: bytes
    event_log: bytes
    initdata: bytes
    identity: MeasuredIdentity | None
    report_data: bytes
    gpu_nonce: bytes
    flaw: Reason | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Opened:
        evidence = bundle.evidence
        toml, log, quote = b"", b"", b""
        identity, bound, gpu_nonce, flaw = None, b"", b"", None
        try:
            toml, log, quote = _decode(evidence.initdata), _decode(evidence.event_log), quotes.read(_decode(evidence.quote))
            if not toml:
                raise AttestationError(AttestationReason.INITDATA_MISSING, "without initdata nothing says what the quote is bound to")
            identity = initdata_form.parse(toml).identity
            parts: dict[str, Any] = {
                "nonce": bytes.fromhex(evidence.nonce),
                "tls_spki_sha256": bytes.fromhex(evidence.keys.tls_spki_sha256),
                "hpke": bytes.fromhex(evidence.keys.hpke),
                "receipt": bytes.fromhex(evidence.keys.receipt),
                "identity": {"measured": identity.to_json_dict(), "claimed": evidence.claimed.to_json_dict()},
            }
            gpu_nonce = binding.gpu_nonce(**parts)
            bound = binding.bind(**parts, gpu_digest=gpus.digest(evidence.gpu)).report_data
        except AttestationError as error:
            flaw = Reason.from_error(error)
        except GpuError as error:
            flaw = Reason.of(AttestationReason.BINDING_INVALID, error.message, error.detail[:1024])
        except ChrysalisError as error:
            flaw = Reason.of(AttestationReason.INITDATA_MALFORMED, error.message, error.detail[:1024])
        except (ValueError, binascii.Error) as error:
            flaw = Reason.of(AttestationReason.QUOTE_UNREADABLE, "the evidence is not base64", str(error)[:1024])
        return cls(quote, log, toml, identity, bound, gpu_nonce, flaw)


def appraised(bundle: Bundle, evidence: Opened, policy: AttestationPolicySpec | None, at: datetime, expect: Expectations) -> Whole:
    """The bundle's evidence under a policy (none: genuineness alone) at a time."""
    scope = "Policy" if policy else "GenuinenessAndTcb"
    if evidence.flaw is not None:
        return Whole(Verdict.refused(evidence.flaw, scope=scope))
    try:
        collateral = Collateral.from_json(bundle.collateral)
    except AttestationError as error:
        reason = Reason.from_error(error)
        if not bundle.collateral:
            reason = Reason.of(AttestationReason.COLLATERAL_MISSING, "the bundle holds no collateral; without it nothing can be verified")
        return Whole(Verdict.refused(reason, scope=scope))
    verdict = appraise(
        quote=evidence.quote,
        collateral=collateral,
        policy=policy,
        at=at,
        roots=expect.roots,
        event_log=evidence.event_log or None,
        initdata=evidence.initdata or None,
        report_data=evidence.report_data or None,
        placement=bundle.broker.placement if bundle.broker and bundle.source == "Broker" else None,
    )
    if policy is None or policy.gpu is None:
        return Whole(verdict)
    said = gpus.appraise(
        bundle.evidence.gpu, rules=policy.gpu, nonce=evidence.gpu_nonce, at=at, answers=bundle.gpu_answers, nras_keys=expect.nras_keys
    )
    return Whole(verdict, said)


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
