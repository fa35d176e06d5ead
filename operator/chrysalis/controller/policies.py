"""The status of an AttestationPolicy: whether its fields parse and are what its owner signed.  Pure.

The broker reads only the envelope that it was given itself; this tells people early what it will refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from chrysalis.api.conditions import ConditionStatus, ConditionType, Finding, merge
from chrysalis.api.policy import AttestationPolicyCarrierSpec, AttestationPolicySpec, SignedPolicy
from chrysalis.attestation.lint import errors, lint
from chrysalis.controller.admission import describe, sentence
from chrysalis.controller.observed import PolicyView, plain, version_of
from chrysalis.controller.reasons import ControllerReason
from chrysalis.errors import ChrysalisError
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY

MAX_FINDINGS = 8
LINT_SECONDS = 3600.0
"""How often a policy is read again: its reference values expire by themselves."""


@dataclass(frozen=True)
class PolicyRecord:
    """An AttestationPolicy, judged once when it arrived, and the status that it carries."""

    name: str
    namespace: str
    uid: str
    version: int
    generation: int
    view: PolicyView
    signed: bool
    spec_version: int
    conditions: tuple[Mapping[str, Any], ...]
    status: Mapping[str, Any]
    spec: AttestationPolicySpec | None = None  # None where the fields do not parse


def record(body: Mapping[str, Any]) -> PolicyRecord:
    """Judge an AttestationPolicy and cut it down."""
    metadata, spec, status = body["metadata"], plain(body.get("spec") or {}), plain(body.get("status") or {})
    view, signed = judge(metadata["name"], spec)
    found = spec.get("version")
    return PolicyRecord(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        version=version_of(metadata),
        generation=int(metadata.get("generation") or 0),
        view=view,
        signed=signed,
        spec_version=found if isinstance(found, int) else 0,
        conditions=tuple(status.get("conditions") or []),
        status={k: v for k, v in status.items() if k != "conditions"},
        spec=_readable(spec),
    )


def judge(name: str, spec: Mapping[str, Any]) -> tuple[PolicyView, bool]:
    """Whether the policy is valid, and whether it carries its owner's valid signature."""
    try:
        carrier = AttestationPolicyCarrierSpec.model_validate(spec)
    except ValidationError as error:
        return PolicyView(False, ControllerReason.POLICY_INVALID, describe(error)), False
    if carrier.envelope is None or carrier.owner_public_key is None:
        text = "no envelope: only the policy that its owner put to the broker counts; `chrysalis policy sign` makes one"
        return PolicyView(True, ControllerReason.POLICY_UNSIGNED, text), False
    try:
        verified = dsse.verify(carrier.envelope, PAYLOAD_POLICY, [bytes.fromhex(carrier.owner_public_key)])
        signed = SignedPolicy.of_payload(verified.payload)
    except ChrysalisError as error:
        return PolicyView(False, ControllerReason.ENVELOPE_INVALID, sentence(error.message, error.remedy)), False
    except ValueError:
        text = "the signed document is not a policy of this version; sign it again with `chrysalis policy sign`"
        return PolicyView(False, ControllerReason.ENVELOPE_INVALID, text), False
    if signed.name != name:
        text = f"the envelope is of the policy {signed.name!r}; give this object that name, or sign under this one"
        return PolicyView(False, ControllerReason.ENVELOPE_DIFFERS, text), True
    if different := _differences(carrier, signed.spec):
        text = f"{', '.join(different)} differ from what was signed; the broker uses what was signed: apply that, or sign anew"
        return PolicyView(False, ControllerReason.ENVELOPE_DIFFERS, text), True
    return PolicyView(True, ControllerReason.POLICY_SIGNED, f"version {signed.spec.version}, signed by its owner"), True


def status(found: PolicyRecord, at: datetime) -> dict[str, Any] | None:
    """The status to write; None when it stands there already."""
    finding = Finding(
        status=ConditionStatus.TRUE if found.view.valid else ConditionStatus.FALSE, reason=found.view.reason, message=found.view.message
    )
    findings = {ConditionType.VALID: finding}
    if found.spec is not None:
        findings[ConditionType.USABLE] = usable(found.spec, at)
    conditions = merge(found.conditions, findings, generation=found.generation, at=at)
    wanted = {"observedGeneration": found.generation, "version": found.spec_version, "signed": found.signed}
    if wanted == dict(found.status) and conditions == [dict(c) for c in found.conditions]:
        return None
    return {**wanted, "conditions": conditions}


def usable(spec: AttestationPolicySpec, at: datetime) -> Finding:
    """What `chrysalis policy lint` says of the policy at this time: whether it can accept anything and does not contradict itself."""
    found = lint(spec, at)
    wrong = errors(found)
    shown = wrong or found
    message = "; ".join(f"{finding.code}: {finding.message}" for finding in shown[:MAX_FINDINGS])
    if len(shown) > MAX_FINDINGS:
        message += f"; and {len(shown) - MAX_FINDINGS} more (`chrysalis policy lint`)"
    reason = (
        ControllerReason.POLICY_UNUSABLE if wrong else ControllerReason.POLICY_HAS_WARNINGS if found else ControllerReason.POLICY_USABLE
    )
    return Finding(status=ConditionStatus.FALSE if wrong else ConditionStatus.TRUE, reason=reason, message=message)


def _readable(spec: Mapping[str, Any]) -> AttestationPolicySpec | None:
    try:
        carrier = AttestationPolicyCarrierSpec.model_validate(spec)
    except ValidationError:
        return None
    return AttestationPolicySpec.model_validate({name: getattr(carrier, name) for name in AttestationPolicySpec.model_fields})


def _differences(carrier: AttestationPolicyCarrierSpec, signed: AttestationPolicySpec) -> list[str]:
    fields = AttestationPolicySpec.model_fields
    return [f"spec.{field.alias or name}" for name, field in fields.items() if getattr(carrier, name) != getattr(signed, name)]
