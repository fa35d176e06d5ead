"""The policy's own validation, bound by bound and default by default: the largest value that is read, and the first that is not."""

from __future__ import annotations

import base64
import copy
import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from chrysalis.api import policy
from chrysalis.api.policy import (
    AttestationPolicyCarrierSpec,
    AttestationPolicySpec,
    DerRoot,
    Envelope,
    EventLogRules,
    InitdataRule,
    Measurement,
    Placement,
    Tcb,
    TdxRules,
)
from chrysalis.api.worker import Isolation

GPU: dict[str, Any] = {
    "count": 1,
    "architectures": ["Hopper"],
    "driverVersions": ["590.12"],
    "vbiosVersions": ["96.00"],
    "ccMode": ["On"],
    "measurements": [],
}
SIMULATED = {"der": "MAAA"}
DAY = 86400
BOUNDS: list[tuple[str, Any, Any, Any, Any]] = [
    # (field, one less than the least, the least, the most, one more than the most)
    ("version", 0, 1, 1 << 53, (1 << 53) + 1),
    ("freshness.maxResultAgeSeconds", 9, 10, 7 * DAY, 7 * DAY + 1),
    ("tdx.tcb.graceSeconds", -1, 0, 365 * DAY, 365 * DAY + 1),
    ("tdx.tcb.minEvaluationDataNumber", -1, 0, 1 << 31, (1 << 31) + 1),
    ("tdx.tdAttributes.mask", "0" * 15, "0" * 16, "f" * 16, "0" * 17),
    ("tdx.xfam.value", "0" * 15, "0" * 16, "F" * 16, "0" * 17),
]
LENGTHS: list[tuple[str, Any, int]] = [
    # (list, an element, how many are read)
    ("isolation", "PodTD", 4),
    ("brokerPlacement", "External", 4),
    ("tdx.tcb.allowedStatuses", "UpToDate", 16),
    ("tdx.tcb.advisories.allow", "INTEL-SA-00001", 256),
    ("tdx.tcb.advisories.deny", "INTEL-SA-00001", 256),
    ("tdx.fmspcs", "0" * 12, 256),
    ("tdx.ppids", "0" * 32, 4096),
    ("tdx.measurements.0.initdata.policyDigests", "sha256:" + "0" * 64, 64),
    ("tdx.measurements.0.initdata.templateVersions", 1, 16),
    ("tdx.measurements.0.initdata.imageDigests", "sha256:" + "0" * 64, 64),
    ("tdx.measurements.0.initdata.wallets", "w" * 66, 1024),
]
TEXTS: list[tuple[str, Any, Any]] = [
    # (field, the longest text, one longer)
    ("tdx.tcb.advisories.allow", ["A" * 64], ["A" * 65]),
    ("tdx.tcb.advisories.deny", ["A" * 64], ["A" * 65]),
    ("tdx.measurements.0.initdata.wallets", ["w" * 66], ["w" * 67]),
    ("tdx.measurements.0.name", "n" * 63, "n" * 64),
    ("trustRoot", {"der": "A" * 4096}, {"der": "A" * 4097}),
]


def _set(document: dict[str, Any], path: str, value: Any) -> AttestationPolicySpec:
    copied = copy.deepcopy(document)
    place: Any = copied
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place[last] = value
    return AttestationPolicySpec.model_validate(copied)


@pytest.mark.parametrize("row", BOUNDS, ids=[row[0] for row in BOUNDS])
def test_numbers_at_their_bounds(policy_document: dict[str, Any], row: tuple[str, Any, Any, Any, Any]) -> None:
    path, below, least, most, above = row
    for good in (least, most):
        _set(policy_document, path, good)
    for bad in (below, above):
        with pytest.raises(ValidationError):
            _set(policy_document, path, bad)


@pytest.mark.parametrize("row", LENGTHS, ids=[row[0] for row in LENGTHS])
def test_lists_at_their_longest(policy_document: dict[str, Any], row: tuple[str, Any, int]) -> None:
    path, element, most = row
    for good in (0, most):
        _set(policy_document, path, [element] * good)
    with pytest.raises(ValidationError):
        _set(policy_document, path, [element] * (most + 1))


def test_the_number_of_tuples_and_of_event_rules(policy_document: dict[str, Any]) -> None:
    one = policy_document["tdx"]["measurements"][0]
    rule = {"register": 0, "type": "EV_SEPARATOR", "sha384": "0" * 96}
    assert len(_set(policy_document, "tdx.measurements", [one] * 256).tdx.measurements) == 256
    with pytest.raises(ValidationError):
        _set(policy_document, "tdx.measurements", [one] * 257)
    rules = _set(policy_document, "eventLog.rules", [rule] * 64).event_log.rules
    assert rules is not None
    assert len(rules) == 64
    with pytest.raises(ValidationError):
        _set(policy_document, "eventLog.rules", [rule] * 65)


@pytest.mark.parametrize("row", TEXTS, ids=[row[0] for row in TEXTS])
def test_texts_at_their_longest(policy_document: dict[str, Any], row: tuple[str, Any, Any]) -> None:
    path, longest, longer = row
    _set(policy_document, path, longest)
    with pytest.raises(ValidationError):
        _set(policy_document, path, longer)


def test_what_is_not_said_has_these_values(policy_document: dict[str, Any]) -> None:
    named = ("version", "trustRoot", "tdx")
    least = AttestationPolicySpec.model_validate({name: policy_document[name] for name in named})
    assert least.isolation == [Isolation.POD_TD]
    assert least.broker_placement == [Placement.EXTERNAL, Placement.IN_TD]
    assert least.event_log == EventLogRules(required=False, rules=None)
    assert least.gpu is None
    assert least.freshness.max_result_age_seconds == 3600
    tcb = Tcb(allowed_statuses=[])
    assert (tcb.grace_seconds, tcb.min_evaluation_data_number) == (0, None)
    assert (tcb.allow_smt, tcb.allow_cached_keys, tcb.allow_dynamic_platform) == (True, True, True)
    assert (tcb.advisories.allow, tcb.advisories.deny) == (None, None)
    carried = AttestationPolicyCarrierSpec.model_validate({name: policy_document[name] for name in named})
    assert (carried.envelope, carried.owner_public_key) == (None, None)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (InitdataRule, {"policyDigests": [], "templateVersions": [], "imageDigests": [], "wallets": "Any"}),
        (DerRoot, SIMULATED),
        (Tcb, {"allowedStatuses": []}),
    ],
)
def test_what_has_no_default_must_be_said(model: Any, named: dict[str, Any]) -> None:
    model.model_validate(named)
    for name in named:
        with pytest.raises(ValidationError):
            model.model_validate({key: value for key, value in named.items() if key != name})


@pytest.mark.parametrize("register", ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig", "name"])
def test_every_register_of_a_tuple_must_be_said(policy_document: dict[str, Any], register: str) -> None:
    one = policy_document["tdx"]["measurements"][0]
    Measurement.model_validate(one)
    with pytest.raises(ValidationError):
        Measurement.model_validate({key: value for key, value in one.items() if key != register})
    with pytest.raises(ValidationError):
        Measurement.model_validate(one | {register: None})


@pytest.mark.parametrize("name", ["tcb", "measurements", "tdAttributes", "xfam"])
def test_every_part_of_the_rules_must_be_said(policy_document: dict[str, Any], name: str) -> None:
    TdxRules.model_validate(policy_document["tdx"])
    with pytest.raises(ValidationError):
        TdxRules.model_validate({key: value for key, value in policy_document["tdx"].items() if key != name})


@pytest.mark.parametrize(("exact", "rule", "good"), [(True, False, True), (False, True, True), (True, True, False), (False, False, False)])
def test_the_configuration_is_judged_once(policy_document: dict[str, Any], exact: bool, rule: bool, good: bool) -> None:
    one = {key: value for key, value in policy_document["tdx"]["measurements"][0].items() if key != "initdata"}
    one |= {"mrconfigid": "0" * 96} if exact else {}
    one |= {"initdata": policy_document["tdx"]["measurements"][0]["initdata"]} if rule else {}
    if good:
        Measurement.model_validate(one)
    else:
        with pytest.raises(ValidationError, match="exactly one of mrconfigid and initdata"):
            Measurement.model_validate(one)


@pytest.mark.parametrize(
    ("root", "gpu", "good"),
    [
        ("Intel", None, True),
        ("Intel", GPU, True),
        ("Intel", GPU | {"trustRoot": "Nvidia"}, True),
        ("Intel", GPU | {"trustRoot": SIMULATED}, False),
        (SIMULATED, None, True),
        (SIMULATED, GPU, True),
        (SIMULATED, GPU | {"trustRoot": SIMULATED}, True),
    ],
)
def test_simulated_gpus_are_for_simulated_domains(policy_document: dict[str, Any], root: Any, gpu: Any, good: bool) -> None:
    document = policy_document | {"trustRoot": root, "brokerPlacement": ["External"], "gpu": gpu}
    if good:
        AttestationPolicySpec.model_validate(document)
    else:
        with pytest.raises(ValidationError, match="would pass for real"):
            AttestationPolicySpec.model_validate(document)


@pytest.mark.parametrize(
    ("root", "placements", "good"),
    [
        ("Intel", ["External", "InTD"], True),
        ("Intel", [], True),
        ("Intel", ["Development"], False),
        ("Intel", ["External", "Development"], False),
        (SIMULATED, ["Development"], True),
        (SIMULATED, ["External"], True),
    ],
)
def test_a_development_broker_is_for_simulated_domains(
    policy_document: dict[str, Any], root: Any, placements: list[str], good: bool
) -> None:
    document = policy_document | {"trustRoot": root, "brokerPlacement": placements}
    if good:
        AttestationPolicySpec.model_validate(document)
    else:
        with pytest.raises(ValidationError, match="for simulated evidence only"):
            AttestationPolicySpec.model_validate(document)


SIGNATURE = {"keyid": "0" * 64, "sig": "A" * 128}
ENVELOPE: dict[str, Any] = {"payloadType": "t" * 128, "payload": "A" * (512 * 1024), "signatures": [SIGNATURE] * 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"payloadType": "t" * 129},
        {"payload": "A" * (512 * 1024 + 1)},
        {"signatures": []},
        {"signatures": [SIGNATURE] * 5},
        {"signatures": [SIGNATURE | {"keyid": "0" * 65}]},
        {"signatures": [SIGNATURE | {"sig": "A" * 129}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_envelopes_at_their_largest(changes: dict[str, Any]) -> None:
    Envelope.model_validate(ENVELOPE)
    Envelope.model_validate(ENVELOPE | {"signatures": [SIGNATURE]})
    with pytest.raises(ValidationError):
        Envelope.model_validate(ENVELOPE | changes)


@pytest.mark.parametrize("length", [7, 11, 30, 31, 32])
def test_intels_root_is_known_with_and_without_padding(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    der = bytes(range(length))
    text = base64.b64encode(der).decode()
    forms = {text, text.rstrip("=")}
    for form in forms:
        assert DerRoot(der=form).der == form
    monkeypatch.setattr(policy, "INTEL_ROOT_SHA256", hashlib.sha256(der).hexdigest())
    for form in forms:
        with pytest.raises(ValidationError, match="Intel's own root"):
            DerRoot(der=form)


def test_every_other_root_may_be_named() -> None:
    others = [bytes([number]) * 3 for number in range(64)]
    digests = sorted(hashlib.sha256(other).hexdigest() for other in others)
    assert digests[0] < policy.INTEL_ROOT_SHA256 < digests[-1]
    for other in others:
        DerRoot(der=base64.b64encode(other).decode())
