"""Every field of the policy's schema refuses by itself: the list of fields is read from the model, so a new one needs a row."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest

from chrysalis.api.base import Model
from chrysalis.api.initdata import mrconfigid
from chrysalis.api.policy import AttestationPolicySpec, Placement
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.verdict import Verdict
from e2e.simtd import eventlog as boot
from e2e.simtd.pki import CollateralShape, SimulatedPlatform

Appraise = Callable[..., Verdict]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
OTHER = "ab" * 48
ELSEWHERE = {
    "version": "tests/broker: PolicyTooOld, VersionNotHigher",
    "gpu": "tests/attestation/gpu",
}
"""Fields that an appraisal of TDX evidence does not read."""


def fields_of(model: type[Model], prefix: str = "") -> Iterator[str]:
    """The paths of a model's leaf fields; a list of models counts as one of them."""
    for name, info in model.model_fields.items():
        path = prefix + (info.alias or name)
        inner = list(models_in(info.annotation))
        if path in ELSEWHERE or not inner:
            yield path
        for one in inner if path not in ELSEWHERE else []:
            yield from fields_of(one, path + ".")


def models_in(annotation: Any) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, list) or hasattr(annotation, "__metadata__"):
        for inner in get_args(annotation):
            yield from models_in(inner)


@dataclass(frozen=True)
class Row:
    """A base that is accepted, and the one change of the policy that refuses it."""

    path: str  # in the document
    value: Any
    reason: str
    base: dict[str, Any] = field(default_factory=dict)  # changes of the policy that come first
    shape: CollateralShape | None = None


RULE = {"register": 2, "type": "EV_IPL", "text": boot.BOOT[5].data.decode()}
DIGEST = {"register": 2, "type": "EV_IPL", "sha384": boot.BOOT[5].digest.hex()}
RULES = {"eventLog": {"rules": [RULE]}}
OUT_OF_DATE = CollateralShape(status="OutOfDate", tcb_date="2026-10-31T00:00:00Z")
HARDENED = CollateralShape(status="SWHardeningNeeded", advisories=["INTEL-SA-1"])
ALLOWED = {"tdx.tcb.allowedStatuses": ["SWHardeningNeeded"], "tdx.tcb.advisories": {"allow": ["INTEL-SA-1"]}}
OPEN_BITS = "00000000000000ff"
REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
ROWS: dict[str, Row] = {
    "trustRoot.der": Row("trustRoot.der", "MAAA", "TrustRootMismatch"),
    "isolation": Row("isolation", ["NodeTD"], "IsolationNotAllowed"),
    "brokerPlacement": Row("brokerPlacement", ["InTD"], "PlacementNotAllowed"),
    "tdx.tcb.allowedStatuses": Row("tdx.tcb.allowedStatuses", ["OutOfDate"], "TcbStatusNotAllowed"),
    "tdx.tcb.advisories.allow": Row("tdx.tcb.advisories.allow", ["INTEL-SA-2"], "AdvisoryNotAllowed", ALLOWED, HARDENED),
    "tdx.tcb.advisories.deny": Row("tdx.tcb.advisories.deny", ["INTEL-SA-1"], "AdvisoryDenied", ALLOWED, HARDENED),
    "tdx.tcb.graceSeconds": Row("tdx.tcb.graceSeconds", 60, "TcbOutOfDate", {"tdx.tcb.graceSeconds": 10 * 86400}, OUT_OF_DATE),
    "tdx.tcb.minEvaluationDataNumber": Row("tdx.tcb.minEvaluationDataNumber", 21, "TcbEvaluationTooOld"),
    "tdx.tcb.allowSmt": Row("tdx.tcb.allowSmt", False, "SmtNotAllowed"),
    "tdx.tcb.allowDynamicPlatform": Row("tdx.tcb.allowDynamicPlatform", False, "DynamicPlatformNotAllowed"),
    "tdx.measurements.expires": Row("tdx.measurements.0.expires", "2026-11-01T12:00:00Z", "MeasurementExpired"),
    **{f"tdx.measurements.{name}": Row(f"tdx.measurements.0.{name}", OTHER, "MeasurementNotAllowed") for name in REGISTERS},
    "tdx.measurements.initdata.policyDigests": Row(
        "tdx.measurements.0.initdata.policyDigests", ["sha256:" + "f" * 64], "InitdataNotAllowed"
    ),
    "tdx.measurements.initdata.templateVersions": Row("tdx.measurements.0.initdata.templateVersions", [2], "InitdataNotAllowed"),
    "tdx.measurements.initdata.imageDigests": Row("tdx.measurements.0.initdata.imageDigests", ["sha256:" + "f" * 64], "InitdataNotAllowed"),
    "tdx.measurements.initdata.wallets": Row("tdx.measurements.0.initdata.wallets", ["0:" + "6" * 64], "InitdataNotAllowed"),
    "tdx.tdAttributes.value": Row("tdx.tdAttributes.value", "0000001040000000", "TdAttributesNotAllowed"),
    "tdx.tdAttributes.mask": Row(
        "tdx.tdAttributes.mask",
        "ff" * 8,
        "TdAttributesNotAllowed",
        {"tdx.tdAttributes": {"value": "ffffff10ffffffff", "mask": "000000ff00000000"}},
    ),
    "tdx.xfam.value": Row("tdx.xfam.value", "e703060000000000", "XfamNotAllowed"),
    "tdx.xfam.mask": Row("tdx.xfam.mask", "ff" * 8, "XfamNotAllowed", {"tdx.xfam": {"value": OPEN_BITS, "mask": "00" * 8}}),
    "tdx.fmspcs": Row("tdx.fmspcs", ["00906ED50000"], "FmspcNotAllowed"),
    "tdx.ppids": Row("tdx.ppids", ["00" * 16], "PpidNotAllowed"),
    "eventLog.rules.register": Row("eventLog.rules.0.register", 1, "EventLogRuleUnmet", RULES),
    "eventLog.rules.type": Row("eventLog.rules.0.type", "EV_EFI_ACTION", "EventLogRuleUnmet", RULES),
    "eventLog.rules.text": Row("eventLog.rules.0.text", "init=/bin/sh", "EventLogRuleUnmet", RULES),
    "eventLog.rules.sha384": Row("eventLog.rules.0.sha384", OTHER, "EventLogRuleUnmet", {"eventLog": {"rules": [DIGEST]}}),
    "eventLog.rules.closed": Row("eventLog.rules.0.closed", True, "EventNotAllowed", RULES),
}
OTHERWISE = {
    "trustRoot": "test_appraisal.py: test_a_policy_for_intels_root_refuses_simulated_evidence",
    "tdx.tcb.allowCachedKeys": "test_policy_rules.py: test_cached_keys",
    "tdx.measurements.name": "below: it is what a verdict says",
    "tdx.measurements.mrconfigid": "below: in place of the initdata rule",
    "eventLog.required": "below: refuses where the log is missing",
    "eventLog.rules.variable.name": "test_event_data.py",
    "eventLog.rules.variable.guid": "test_event_data.py",
    "eventLog.rules.variable.value": "test_event_data.py",
    "eventLog.rules.variable.valueSha384": "test_event_data.py",
    "freshness.maxResultAgeSeconds": "below: it limits the result's life",
}


def test_every_field_of_the_schema_has_a_row() -> None:
    found = set(fields_of(AttestationPolicySpec)) - set(ELSEWHERE)
    assert found - set(ROWS) - set(OTHERWISE) == set()
    assert (set(ROWS) | set(OTHERWISE)) - found <= {"trustRoot"}


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = copied
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        place[last] = copy.deepcopy(value)
    return copied


@pytest.mark.parametrize("name", ROWS)
def test_a_field_refuses_by_itself(
    judge: Appraise, platform: SimulatedPlatform, policy_document: dict[str, Any], reasons: Callable[[Verdict], list[str]], name: str
) -> None:
    row = ROWS[name]
    evidence: dict[str, Any] = {"placement": Placement.EXTERNAL}
    if row.shape is not None:
        evidence["collateral"] = Collateral.from_json(platform.collateral(AT, row.shape))
    base = changed(policy_document, row.base)
    assert judge(document=base, **evidence).accepted
    verdict = judge(document=changed(base, {row.path: row.value}), **evidence)
    assert reasons(verdict) == [row.reason]
    assert verdict.reasons[0].remedy


def test_a_tuples_name_is_what_a_verdict_says(judge: Appraise, policy_document: dict[str, Any]) -> None:
    assert judge(document=changed(policy_document, {"tdx.measurements.0.name": "other"})).measurement_name == "other"


def test_mrconfigid(judge: Appraise, policy_document: dict[str, Any], initdata: bytes, reasons: Callable[[Verdict], list[str]]) -> None:
    exact = {key: value for key, value in policy_document["tdx"]["measurements"][0].items() if key != "initdata"}
    for value, expected in ((mrconfigid(initdata).hex(), []), (hashlib.sha384(b"x").hexdigest(), ["MeasurementNotAllowed"])):
        document = changed(policy_document, {"tdx.measurements": [exact | {"mrconfigid": value}]})
        assert reasons(judge(document=document)) == expected


def test_event_log_required(judge: Appraise, policy_document: dict[str, Any], reasons: Callable[[Verdict], list[str]]) -> None:
    for required, expected in ((False, []), (True, ["EventLogMissing"])):
        assert reasons(judge(document=changed(policy_document, {"eventLog": {"required": required}}), event_log=None)) == expected


def test_maximum_age(judge: Appraise, policy_document: dict[str, Any]) -> None:
    for seconds in (10, 600):
        verdict = judge(document=changed(policy_document, {"freshness.maxResultAgeSeconds": seconds}))
        assert verdict.expires_at is not None
        assert ((verdict.expires_at - AT).total_seconds(), verdict.limited_by) == (seconds, "freshness.maxResultAgeSeconds")


def test_the_root_of_another(judge: Appraise, policy_document: dict[str, Any], reasons: Callable[[Verdict], list[str]]) -> None:
    other = base64.b64encode(SimulatedPlatform.create().root_der).decode()
    assert reasons(judge(document=changed(policy_document, {"trustRoot.der": other}))) == ["TrustRootMismatch"]
