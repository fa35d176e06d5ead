"""Each field of a policy refuses by itself: one change of an accepted case, exactly one reason."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.api.initdata import mrconfigid
from chrysalis.api.policy import Placement
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.verdict import Verdict
from e2e.simtd.pki import TD_ATTRIBUTES, XFAM, CollateralShape, SimulatedPlatform

Appraise = Callable[..., Verdict]
Reasons = Callable[[Verdict], list[str]]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
OTHER48 = "ab" * 48
ABSENT = object()


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a policy with one field set, or removed where the value is ABSENT."""
    copied = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: Any = copied
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return copied


def test_the_base_case_is_accepted(judge: Appraise) -> None:
    verdict = judge()
    assert verdict.reasons == []
    assert verdict.accepted
    assert verdict.measurement_name == "simulated"
    assert verdict.scope == "Policy"
    assert verdict.evidence_class == "Simulated"


def test_a_wallet_that_cannot_be_read_allows_none(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, initdata: bytes, policy_document: dict[str, Any]
) -> None:
    """Whatever stands for an unreadable entry inside, no worker may have it as its wallet."""
    document = changed(policy_document, "tdx.measurements.0.initdata.wallets", ["not a wallet"])
    for wallet in ("unreadable", "not a wallet", "None", ""):
        toml = initdata.replace(b"0:" + b"5" * 64, wallet.encode())
        verdict = judge(document=document, initdata=toml, quote=platform.quote(bytes(range(64)), mrconfigid=mrconfigid(toml)))
        assert reasons(verdict) == ["InitdataNotAllowed"], wallet


REFUSING = [
    ("tdx.tcb.allowedStatuses", [], "TcbStatus", "TcbStatusNotAllowed"),
    ("tdx.tcb.allowedStatuses", ["OutOfDate"], "another status", "TcbStatusNotAllowed"),
    ("tdx.tcb.minEvaluationDataNumber", 21, "evaluation number", "TcbEvaluationTooOld"),
    ("tdx.tcb.allowSmt", False, "hyper-threading", "SmtNotAllowed"),
    ("tdx.tcb.allowDynamicPlatform", False, "dynamic platform", "DynamicPlatformNotAllowed"),
    ("tdx.fmspcs", ["00906ED50000"], "another platform", "FmspcNotAllowed"),
    ("tdx.fmspcs", [], "no platform", "FmspcNotAllowed"),
    ("tdx.ppids", ["00" * 16], "another machine", "PpidNotAllowed"),
    ("tdx.ppids", [], "no machine", "PpidNotAllowed"),
    ("tdx.tdAttributes.value", "0000001040000000", "attributes", "TdAttributesNotAllowed"),
    ("tdx.xfam.value", "e703060000000000", "features", "XfamNotAllowed"),
    ("tdx.measurements", [], "no tuple", "MeasurementNotAllowed"),
    *(
        (f"tdx.measurements.0.{register}", OTHER48, register, "MeasurementNotAllowed")
        for register in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
    ),
    ("tdx.measurements.0.expires", "2026-11-01T12:00:00Z", "expired tuple", "MeasurementExpired"),
    ("tdx.measurements.0.expires", "2026-10-31T12:00:00", "expired tuple without offset", "MeasurementExpired"),
    ("tdx.measurements.0.initdata.policyDigests", ["sha256:" + "f" * 64], "container policy", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.policyDigests", [], "no container policy", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.templateVersions", [2], "template", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.templateVersions", [], "no template", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.imageDigests", ["sha256:" + "f" * 64], "image", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.imageDigests", [], "no image", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.wallets", ["0:" + "6" * 64], "wallet", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.wallets", ["not a wallet"], "unreadable wallet", "InitdataNotAllowed"),
    ("tdx.measurements.0.initdata.wallets", [], "no wallet", "InitdataNotAllowed"),
    ("isolation", ["NodeTD"], "isolation", "IsolationNotAllowed"),
    ("isolation", [], "no isolation", "IsolationNotAllowed"),
]


@pytest.mark.parametrize(("path", "value", "what", "reason"), REFUSING, ids=[f"{row[0]}: {row[2]}" for row in REFUSING])
def test_a_field_refuses(
    judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], path: str, value: Any, what: str, reason: str
) -> None:
    verdict = judge(document=changed(policy_document, path, value))
    assert reasons(verdict) == [reason], what
    assert all(item.message and item.remedy for item in verdict.reasons)
    assert verdict.expires_at is None


ACCEPTING = [
    ("tdx.tcb.allowedStatuses", ["OutOfDate", "UpToDate"]),
    ("tdx.tcb.minEvaluationDataNumber", 20),
    ("tdx.tcb.minEvaluationDataNumber", ABSENT),
    ("tdx.tcb.advisories", {"allow": []}),
    ("tdx.fmspcs", ABSENT),
    ("tdx.ppids", ABSENT),
    ("tdx.fmspcs", ["00906ED50000", "51D000000000"]),
    ("tdx.tdAttributes", {"value": "ffffff10ffffffff", "mask": "000000ff00000000"}),
    ("tdx.xfam", {"value": "0000000000000000", "mask": "0000000000000000"}),
    ("tdx.measurements.0.mrtd", "Any"),
    ("tdx.measurements.0.rtmr3", "Any"),
    ("tdx.measurements.0.expires", "2026-11-01T12:00:01Z"),
    ("tdx.measurements.0.initdata.wallets", "Any"),
    ("tdx.measurements.0.initdata.wallets", ["0:" + "6" * 64, "0:" + "5" * 64]),
    ("tdx.measurements.0.initdata.templateVersions", [1, 2]),
    ("isolation", ["PodTD", "NodeTD"]),
    ("eventLog", ABSENT),
]


@pytest.mark.parametrize(("path", "value"), ACCEPTING, ids=[row[0] for row in ACCEPTING])
def test_the_twin_of_a_refusal_is_accepted(judge: Appraise, policy_document: dict[str, Any], path: str, value: Any) -> None:
    verdict = judge(document=changed(policy_document, path, value))
    assert verdict.accepted, verdict.reasons


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("OutOfDate", "TcbOutOfDate"),
        ("OutOfDateConfigurationNeeded", "TcbOutOfDate"),
        ("ConfigurationNeeded", "TcbConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "TcbConfigurationNeeded"),
        ("SWHardeningNeeded", "TcbSwHardeningNeeded"),
    ],
)
def test_a_status_is_refused_unless_it_is_listed(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any], status: str, reason: str
) -> None:
    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(status=status)))
    verdict = judge(collateral=bent)
    assert reasons(verdict) == [reason]
    assert verdict.tcb_status == status
    assert verdict.evidence_class == "Simulated"
    assert reasons(judge(collateral=bent, document=None, initdata=None)) == [reason]
    listed = changed(policy_document, "tdx.tcb.allowedStatuses", ["UpToDate", status])
    assert judge(collateral=bent, document=listed).accepted


@pytest.mark.parametrize("where", ["status", "module_status", "qe_status"])
def test_a_revoked_level_is_refused_always(judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, where: str) -> None:
    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(**{where: "Revoked"})))
    verdict = judge(collateral=bent)
    assert reasons(verdict) == ["TcbRevoked"]
    assert verdict.tcb_status == "Revoked"


@pytest.mark.parametrize("where", ["module_status", "qe_status"])
def test_an_old_module_or_enclave_makes_the_platform_out_of_date(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, where: str
) -> None:
    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(**{where: "OutOfDate"})))
    assert reasons(judge(collateral=bent)) == ["TcbOutOfDate"]


def test_grace_lets_an_old_level_pass_for_a_stated_time(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any]
) -> None:
    shape = CollateralShape(status="OutOfDate", tcb_date="2026-10-01T00:00:00Z")
    bent = Collateral.from_json(platform.collateral(AT, shape))
    until_now = int((AT - datetime(2026, 10, 1, tzinfo=UTC)).total_seconds())
    enough = judge(collateral=bent, document=changed(policy_document, "tdx.tcb.graceSeconds", until_now + 60))
    assert enough.accepted
    assert (enough.expires_at, enough.limited_by) == (AT + timedelta(seconds=60), "tcb.graceSeconds")
    assert reasons(judge(collateral=bent, document=changed(policy_document, "tdx.tcb.graceSeconds", until_now))) == ["TcbOutOfDate"]


LISTS = {
    "isolation": "IsolationNotAllowed",
    "brokerPlacement": "PlacementNotAllowed",
    "tdx.tcb.allowedStatuses": "TcbOutOfDate",
    "tdx.tcb.advisories.allow": "AdvisoryNotAllowed",
    "tdx.measurements": "MeasurementNotAllowed",
    "tdx.fmspcs": "FmspcNotAllowed",
    "tdx.ppids": "PpidNotAllowed",
    "eventLog.rules": "EventNotAllowed",
}


@pytest.mark.parametrize("placement", [None, Placement.EXTERNAL])
@pytest.mark.parametrize("path", LISTS)
def test_an_empty_list_denies_whatever_else_widens_the_policy(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any], path: str, placement: Placement | None
) -> None:
    """Also for an outdated platform within its grace, and where no broker judges."""
    shape = CollateralShape(status="OutOfDate", advisories=["INTEL-SA-00001"], tcb_date="2026-10-31T00:00:00Z")
    bent = Collateral.from_json(platform.collateral(AT, shape))
    wide = changed(policy_document, "tdx.tcb.graceSeconds", 365 * 86400)
    assert judge(collateral=bent, document=wide, placement=placement).accepted
    assert reasons(judge(collateral=bent, document=changed(wide, path, []), placement=placement)) == [LISTS[path]]


def test_grace_is_for_out_of_date_only(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any]
) -> None:
    shape = CollateralShape(status="ConfigurationNeeded", tcb_date="2026-10-31T00:00:00Z")
    bent = Collateral.from_json(platform.collateral(AT, shape))
    document = changed(policy_document, "tdx.tcb.graceSeconds", 365 * 86400)
    assert reasons(judge(collateral=bent, document=document)) == ["TcbConfigurationNeeded"]


@pytest.mark.parametrize(
    ("advisories", "rule", "reason"),
    [
        (["INTEL-SA-00001"], {"allow": ["INTEL-SA-00001"]}, ""),
        (["INTEL-SA-00001"], {"allow": []}, "AdvisoryNotAllowed"),
        (["INTEL-SA-00001", "INTEL-SA-00003"], {"allow": ["INTEL-SA-00001"]}, "AdvisoryNotAllowed"),
        (["INTEL-SA-00001"], {"deny": ["INTEL-SA-00001"]}, "AdvisoryDenied"),
        (["INTEL-SA-00001"], {"deny": ["intel-sa-00001"]}, "AdvisoryDenied"),
        (["INTEL-SA-00001"], {"allow": ["Intel-SA-00001"]}, ""),
        (["INTEL-SA-00001"], {"deny": ["INTEL-SA-00002"]}, ""),
        (["INTEL-SA-00001"], {}, ""),
    ],
)
def test_advisories(
    judge: Appraise,
    reasons: Reasons,
    platform: SimulatedPlatform,
    policy_document: dict[str, Any],
    advisories: list[str],
    rule: dict[str, list[str]],
    reason: str,
) -> None:
    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(status="SWHardeningNeeded", advisories=advisories)))
    document = changed(policy_document, "tdx.tcb.allowedStatuses", ["SWHardeningNeeded"])
    verdict = judge(collateral=bent, document=changed(document, "tdx.tcb.advisories", rule))
    assert reasons(verdict) == ([reason] if reason else [])
    assert verdict.advisory_ids == advisories


def test_cached_keys(policy_document: dict[str, Any], judge: Appraise, reasons: Reasons, initdata: bytes) -> None:
    other = SimulatedPlatform.create(cached_keys=True)
    document = changed(policy_document, "trustRoot", {"der": base64.b64encode(other.root_der).decode()})
    document = changed(document, "tdx.ppids", ABSENT)
    quote = other.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata))
    bundle = Collateral.from_json(other.collateral(AT))
    assert reasons(judge(quote=quote, collateral=bundle, document=document)) == ["CachedKeysNotAllowed"]
    assert judge(quote=quote, collateral=bundle, document=changed(document, "tdx.tcb.allowCachedKeys", True)).accepted


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"td_attributes": bytes.fromhex("0000005000000000")}, "TdAttributesNotAllowed"),  # PKS, which the library accepts
        ({"xfam": bytes.fromhex("e703060000000000")}, "XfamNotAllowed"),
        ({"mrtd": bytes(48)}, "MeasurementNotAllowed"),
        ({"mrseam": bytes(48)}, "MeasurementNotAllowed"),
        ({"mrowner": b"\1" * 48}, "MeasurementNotAllowed"),
        ({"mrownerconfig": b"\1" * 48}, "MeasurementNotAllowed"),
        ({"td_attributes": TD_ATTRIBUTES, "xfam": XFAM}, ""),
    ],
)
def test_a_domain_that_differs(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, initdata: bytes, fields: dict[str, Any], reason: str
) -> None:
    quote = platform.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata), **fields)
    assert reasons(judge(quote=quote)) == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("listed", "actual", "accepted"),
    [
        (["External", "InTD"], Placement.DEVELOPMENT, False),
        (["External", "InTD"], Placement.IN_TD, True),
        (["Development"], Placement.DEVELOPMENT, True),
        ([], Placement.EXTERNAL, False),
        ([], None, False),  # an empty list denies, whoever judges
        (["InTD"], None, True),
    ],
)
def test_placement(
    judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], listed: list[str], actual: Placement | None, accepted: bool
) -> None:
    verdict = judge(document=changed(policy_document, "brokerPlacement", listed), placement=actual)
    assert reasons(verdict) == ([] if accepted else ["PlacementNotAllowed"])


def test_the_nearest_tuple_is_named(judge: Appraise, policy_document: dict[str, Any]) -> None:
    tuples = policy_document["tdx"]["measurements"]
    far = {**tuples[0], "name": "far", "rtmr0": OTHER48, "rtmr1": OTHER48}
    near = {**tuples[0], "name": "near", "rtmr2": OTHER48}
    verdict = judge(document=changed(policy_document, "tdx.measurements", [far, near]))
    assert "'near', differs in rtmr2" in verdict.reasons[0].message


def test_of_several_tuples_the_one_that_lives_longest_counts(judge: Appraise, policy_document: dict[str, Any]) -> None:
    tuples = policy_document["tdx"]["measurements"]
    soon = {**tuples[0], "name": "soon", "expires": "2026-11-01T12:01:00Z"}
    later = {**tuples[0], "name": "later", "expires": "2026-11-01T12:02:00Z"}
    for order in ([soon, later], [later, soon]):
        verdict = judge(document=changed(policy_document, "tdx.measurements", order))
        assert (verdict.measurement_name, verdict.limited_by) == ("later", "measurement.expires")
        assert verdict.expires_at == AT + timedelta(minutes=2)


def test_an_exact_mrconfigid(judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], initdata: bytes) -> None:
    exact = {key: value for key, value in policy_document["tdx"]["measurements"][0].items() if key != "initdata"}
    right = changed(policy_document, "tdx.measurements", [{**exact, "mrconfigid": mrconfigid(initdata).hex()}])
    assert judge(document=right).accepted
    assert judge(document=right, initdata=None).accepted
    assert judge(document=right).isolation == "PodTD"
    wrong = changed(policy_document, "tdx.measurements", [{**exact, "mrconfigid": OTHER48}])
    assert reasons(judge(document=wrong)) == ["MeasurementNotAllowed"]


@pytest.mark.parametrize(
    ("allowed", "given", "outcome", "isolation"),
    [
        (["PodTD"], True, [], "PodTD"),
        (["PodTD"], False, [], "NotChecked"),
        (["NodeTD"], True, ["IsolationNotAllowed"], "PodTD"),
        (["NodeTD"], False, [], "NotChecked"),
        ([], True, ["IsolationNotAllowed"], "PodTD"),
        ([], False, ["IsolationNotAllowed"], "NotChecked"),
        (["PodTD", "NodeTD"], True, [], "PodTD"),
        (["PodTD", "NodeTD"], False, [], "NotChecked"),
    ],
)
def test_without_initdata_no_profile_is_known(
    judge: Appraise,
    reasons: Reasons,
    policy_document: dict[str, Any],
    initdata: bytes,
    allowed: list[str],
    given: bool,
    outcome: list[str],
    isolation: str,
) -> None:
    """A tuple with an exact MRCONFIGID needs no initdata; the verdict then says that the profile was not judged.  No list, no worker."""
    exact = {key: value for key, value in policy_document["tdx"]["measurements"][0].items() if key != "initdata"}
    document = changed(policy_document, "tdx.measurements", [{**exact, "mrconfigid": mrconfigid(initdata).hex()}])
    document = changed(document, "isolation", allowed)
    verdict = judge(document=document, **({} if given else {"initdata": None}))
    assert (reasons(verdict), verdict.isolation) == (outcome, isolation)
    assert all(reason.remedy for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("given", "reason"),
    [(None, "InitdataMissing"), (b"other", "InitdataMismatch"), (b"", "InitdataMismatch")],
)
def test_initdata_is_what_the_domain_was_started_with(judge: Appraise, reasons: Reasons, given: bytes | None, reason: str) -> None:
    assert reasons(judge(initdata=given)) == [reason]


def test_measured_initdata_that_is_not_ours_is_refused(judge: Appraise, reasons: Reasons, platform: SimulatedPlatform) -> None:
    toml = b'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"policy.rego" = "default"\n'
    quote = platform.quote(bytes(range(64)), mrconfigid=mrconfigid(toml))
    assert reasons(judge(initdata=toml, quote=quote)) == ["InitdataMalformed"]


def test_event_log(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any], initdata: bytes
) -> None:
    assert reasons(judge(event_log=None)) == ["EventLogMissing"]
    assert reasons(judge(event_log=b"")) == ["EventLogMissing"]
    assert reasons(judge(event_log=b"junk")) == ["EventLogMalformed"]
    assert judge(event_log=None, document=changed(policy_document, "eventLog", {"required": False})).accepted
    log = bytearray(platform.event_log)
    log[log.index(b"Simulated kernel") - 10] ^= 1  # within the digest before the data
    assert reasons(judge(event_log=bytes(log))) == ["EventLogMismatch"]
    quote = platform.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata), rtmrs=(bytes(48),) * 4)
    document = policy_document
    for index in range(4):
        document = changed(document, f"tdx.measurements.0.rtmr{index}", "Any")
    assert reasons(judge(quote=quote, document=document)) == ["EventLogMismatch"]


def test_several_reasons_are_told_at_once(judge: Appraise, reasons: Reasons, policy_document: dict[str, Any]) -> None:
    document = changed(changed(policy_document, "tdx.ppids", []), "tdx.measurements", [])
    assert reasons(judge(document=document, event_log=None, report_data=bytes(64))) == [
        "PpidNotAllowed",
        "MeasurementNotAllowed",
        "EventLogMissing",
        "ReportDataMismatch",
    ]


def test_two_tuples_of_one_name_are_judged_apart(judge: Appraise, reasons: Reasons, policy_document: dict[str, Any]) -> None:
    right = policy_document["tdx"]["measurements"][0]
    lax = right["initdata"] | {"imageDigests": ["sha256:" + "f" * 64]}
    other = {**right, "mrtd": OTHER48}
    assert judge(document=changed(policy_document, "tdx.measurements", [other, right])).accepted
    for order in ([{**right, "initdata": lax}, other], [other, {**right, "initdata": lax}]):
        assert reasons(judge(document=changed(policy_document, "tdx.measurements", order))) == ["InitdataNotAllowed"]
