"""What a policy is told about itself: each code alone, and nothing for a policy that is narrow in everything."""

from __future__ import annotations

import base64
import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.lint import LintCode, LintFinding, errors, lint
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
TUPLE = {
    "name": "m",
    "expires": "2027-11-01T00:00:00Z",
    **{name: "ab" * 48 for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig", "mrconfigid")},
}
INITDATA: dict[str, Any] = {
    "policyDigests": ["sha256:" + "1" * 64],
    "templateVersions": [1],
    "imageDigests": ["sha256:" + "2" * 64],
    "wallets": ["0:" + "5" * 64],
}
WITH_INITDATA = {name: value for name, value in TUPLE.items() if name != "mrconfigid"} | {"initdata": INITDATA}
SA = "INTEL-SA-0000"
EXPIRED = TUPLE | {"name": "expired", "expires": "2026-01-01T00:00:00Z"}
DENYING = WITH_INITDATA | {"name": "denying", "initdata": INITDATA | {"imageDigests": []}}
UNPAID = WITH_INITDATA | {"name": "unpaid", "initdata": INITDATA | {"wallets": ["no address"]}}
PLATFORM = SimulatedPlatform.create()
COLLATERAL = Collateral.from_json(PLATFORM.collateral(AT))
ROOT = base64.b64encode(PLATFORM.root_der).decode()
NARROW: dict[str, Any] = {
    "version": 1,
    "trustRoot": "Intel",
    "tdx": {
        "tcb": {"allowedStatuses": ["UpToDate"], "advisories": {"allow": []}, "minEvaluationDataNumber": 17},
        "measurements": [TUPLE],
        "tdAttributes": {"value": "0000001000000000", "mask": "ff" * 8},
        "xfam": {"value": "e702060000000000", "mask": "ff" * 8},
        "fmspcs": ["51d000000000"],
        "ppids": ["00" * 16],
    },
    "eventLog": {"required": True, "rules": [{"register": 2, "type": "EV_IPL", "text": "x"}]},
    "freshness": {"maxResultAgeSeconds": 3600},
}
VARIABLE = {"register": 0, "type": "EV_EFI_VARIABLE_DRIVER_CONFIG", "variable": {"name": "SecureBoot", "value": "01"}}
OTHER_VALUE = {**VARIABLE, "variable": {"name": "SecureBoot", "value": "00"}}
ABSENT = object()


def found(*changes: tuple[str, Any], at: datetime = AT) -> list[LintFinding]:
    document = copy.deepcopy(NARROW)
    for path, value in changes:
        *parents, last = path.split(".")
        place: Any = document
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        if value is ABSENT:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    return lint(AttestationPolicySpec.model_validate(document), at)


def test_a_narrow_policy_is_told_nothing() -> None:
    assert found() == []
    assert found(("tdx.measurements", [WITH_INITDATA])) == []


FINDINGS: list[tuple[list[tuple[str, Any]], list[str]]] = [
    # It allows nothing
    ([("isolation", [])], ["ListEmpty"]),
    ([("brokerPlacement", [])], ["ListEmpty"]),
    ([("tdx.tcb.allowedStatuses", [])], ["ListEmpty"]),
    ([("tdx.measurements", [])], ["ListEmpty"]),
    ([("tdx.fmspcs", [])], ["ListEmpty"]),
    ([("tdx.ppids", [])], ["ListEmpty"]),
    ([("eventLog.rules", [])], ["ListEmpty"]),
    ([("tdx.measurements.0.expires", "2026-11-01T12:00:00Z")], ["AllExpired", "TupleExpired"]),
    ([("tdx.measurements", [WITH_INITDATA | {"initdata": INITDATA | {"wallets": []}}])], ["AllTuplesDeny", "TupleDenies"]),
    ([("tdx.measurements", [TUPLE, WITH_INITDATA | {"name": "n", "initdata": INITDATA | {"imageDigests": []}}])], ["TupleDenies"]),
    (  # each for a reason of its own
        [("tdx.measurements", [EXPIRED, DENYING, UNPAID])],
        ["AllTuplesDeny", "TupleExpired", "TupleDenies", "WalletUnreadable"],
    ),
    ([("tdx.measurements", [EXPIRED, DENYING])], ["AllTuplesDeny", "TupleExpired", "TupleDenies"]),
    ([("tdx.measurements", [EXPIRED, DENYING, TUPLE])], ["TupleExpired", "TupleDenies"]),
    ([("tdx.measurements", [UNPAID])], ["AllTuplesDeny", "WalletUnreadable"]),
    ([("trustRoot", {"der": "AAAA"})], ["TrustRootUnreadable", "TrustRootSimulated"]),
    ([("trustRoot", {"der": "MAAA"})], ["TrustRootUnreadable", "TrustRootSimulated"]),
    ([("tdx.tdAttributes.value", "00" * 8)], ["AttributesUnreachable"]),
    ([("tdx.tdAttributes.value", "0100001000000000")], ["AttributesUnreachable"]),
    ([("tdx.tdAttributes.value", "0000003000000000")], ["AttributesUnreachable"]),
    ([("tdx.tdAttributes.value", "0000001000010000")], ["AttributesUnreachable"]),
    # It contradicts itself
    ([("tdx.tcb.advisories", {"allow": [SA + "1", SA + "2"], "deny": [SA.lower() + "2"]})], ["AdvisoryContradiction", "DenyUseless"]),
    ([("tdx.xfam", {"value": "e702060000000000", "mask": "00" + "ff" * 7})], ["MaskContradiction", "MaskOpen"]),
    ([("tdx.tdAttributes", {"value": "0000001000000001", "mask": "ff" * 7 + "00"})], ["MaskContradiction", "MaskOpen"]),
    ([("tdx.measurements", [TUPLE, TUPLE | {"mrtd": "cd" * 48}])], ["NameRepeated"]),
    ([("eventLog.rules", [VARIABLE, OTHER_VALUE])], ["EventRuleContradiction"]),
    # Parts of it do nothing
    ([("tdx.measurements", [TUPLE, TUPLE | {"name": "old", "expires": "2026-01-01T00:00:00Z"}])], ["TupleExpired"]),
    ([("tdx.measurements", [TUPLE, TUPLE | {"name": "again"}])], ["TupleRepeated"]),
    ([("tdx.tcb.allowedStatuses", ["UpToDate", "OutOfDate"]), ("tdx.tcb.graceSeconds", 60)], ["GraceUseless", "WeakStatus", "Grace"]),
    ([("tdx.tcb.minEvaluationDataNumber", 0)], ["MinimumUseless"]),
    ([("tdx.tcb.advisories", {"allow": [SA + "1"], "deny": [SA + "2"]})], ["DenyUseless"]),
    ([("tdx.measurements", [WITH_INITDATA | {"initdata": INITDATA | {"wallets": [*INITDATA["wallets"], "x"]}}])], ["WalletUnreadable"]),
    # It ends soon
    ([("tdx.measurements.0.expires", "2026-11-10T00:00:00Z")], ["ExpiresSoon"]),
    # It is wide
    ([("tdx.tcb.advisories", {"allow": ["INTEL-SA-837"]})], ["AdvisoryUnreadable"]),
    ([("tdx.tcb.advisories", {"allow": ["intel-sa-00837", "INTEL-DOC-00837"]})], []),
    ([("tdx.tcb.advisories", {"deny": ["SA-00837"]})], ["AdvisoryUnreadable", "NotConstrained"]),
    ([("trustRoot", {"der": ROOT})], ["TrustRootSimulated"]),
    ([("isolation", ["PodTD", "NodeTD"])], ["NodeIsolation"]),
    ([("tdx.tcb.allowedStatuses", ["UpToDate", "OutOfDateConfigurationNeeded"])], ["WeakStatus"]),
    ([("tdx.tcb.graceSeconds", 60)], ["Grace"]),
    ([("tdx.tcb.advisories", ABSENT)], ["NotConstrained"]),
    ([("tdx.tcb.minEvaluationDataNumber", ABSENT)], ["NotConstrained"]),
    ([("tdx.fmspcs", ABSENT)], ["NotConstrained"]),
    ([("tdx.ppids", ABSENT)], ["NotConstrained"]),
    ([("eventLog.rules", ABSENT)], ["NotConstrained"]),
    ([("tdx.measurements.0.rtmr3", "Any")], ["AnyValue"]),
    ([("tdx.measurements", [WITH_INITDATA | {"initdata": INITDATA | {"wallets": "Any"}}])], ["AnyValue"]),
    ([("tdx.measurements.0.expires", ABSENT)], ["NeverExpires"]),
    ([("tdx.xfam", {"value": "0002060000000000", "mask": "00" + "ff" * 7})], ["MaskOpen"]),
    ([("eventLog", {"required": False})], ["NotConstrained", "EventLogNotRequired"]),
    ([("freshness.maxResultAgeSeconds", 90_000)], ["LongResult"]),
]


ERRORS = {"ListEmpty", "AllExpired", "AllTuplesDeny", "NameRepeated", "TrustRootUnreadable", "AttributesUnreachable"}


@pytest.mark.parametrize(("changes", "codes"), FINDINGS, ids=[f"{row[0][0][0]}-{'-'.join(row[1])}" for row in FINDINGS])
def test_a_finding(changes: list[tuple[str, Any]], codes: list[str]) -> None:
    findings = found(*changes)
    assert [str(finding.code) for finding in findings] == codes
    for finding in findings:
        assert finding.field.startswith("spec.")
        assert finding.message.startswith(finding.field)
        assert "+00:00" not in finding.message
    wrong = [code for code in codes if code in ERRORS or code.endswith("Contradiction")]
    assert [str(finding.code) for finding in errors(findings)] == wrong
    assert all(finding.severity == "error" for finding in findings[: len(wrong)])  # errors come first


@pytest.mark.parametrize("bit", [bit for bit in range(64) if bit != 28])
def test_a_bit_is_unreachable_where_every_appraisal_refuses_it(bit: int) -> None:
    attributes = (1 << 28 | 1 << bit).to_bytes(8, "little")
    verdict = appraise(quote=PLATFORM.quote(td_attributes=attributes), collateral=COLLATERAL, policy=None, at=AT, roots=[PLATFORM.root_der])
    codes = [finding.code for finding in errors(found(("tdx.tdAttributes.value", attributes.hex())))]
    assert codes == ([] if verdict.accepted else ["AttributesUnreachable"])


def test_every_code_has_a_case() -> None:
    seen = {code for _, codes in FINDINGS for code in codes}
    assert {str(code) for code in LintCode if not code.startswith("Gpu")} == seen


def test_gpu_rules_are_read_with_the_rest() -> None:
    gpu = {"required": False, "count": 1, "architectures": [], "driverVersions": [], "vbiosVersions": [], "ccMode": [], "measurements": []}
    codes = [str(finding.code) for finding in found(("gpu", gpu))]
    assert "GpuDenies" in codes
    assert "GpuWide" in codes


REFERENCE = {"architecture": "Hopper", "expires": "2027-01-01T00:00:00Z", "values": [{"index": 0, "digests": ["ab" * 48]}]}
GPU: dict[str, Any] = {
    "count": 1,
    "architectures": ["Hopper"],
    "driverVersions": ["590.12"],
    "vbiosVersions": ["96.00.A5.00.01"],
    "ccMode": ["On"],
    "measurements": [
        REFERENCE | {"id": "driver", "kind": "Driver", "version": "590.12"},
        REFERENCE | {"id": "vbios", "kind": "Vbios", "version": "96.00.A5.00.01", "expires": "2027-03-01T00:00:00Z"},
    ],
    "revocation": "Required",
}


@pytest.mark.parametrize(
    ("at", "codes"),
    [
        ("2026-12-18T00:00:00Z", []),
        ("2026-12-18T00:00:01Z", ["ExpiresSoon"]),
        ("2026-12-31T23:59:59Z", ["ExpiresSoon"]),
        ("2027-01-01T00:00:00Z", ["GpuDenies", "TupleExpired"]),
    ],
)
def test_reference_values_of_gpus_end_too(at: str, codes: list[str]) -> None:
    assert [str(finding.code) for finding in found(("gpu", GPU), at=datetime.fromisoformat(at))] == codes


def test_a_device_root_that_nothing_chains_to() -> None:
    for der, expected in (("AAAA", ["TrustRootUnreadable"]), ("MAAA", ["TrustRootUnreadable"]), (ROOT, [])):
        findings = found(("trustRoot", {"der": ROOT}), ("gpu", GPU | {"trustRoot": {"der": der}}))
        assert [finding.code for finding in errors(findings)] == expected


@pytest.mark.parametrize(
    ("at", "codes"),
    [
        ("2027-10-01T00:00:00Z", []),
        ("2027-10-18T00:00:00Z", []),
        ("2027-10-18T00:00:01Z", ["ExpiresSoon"]),
        ("2027-10-31T23:59:59Z", ["ExpiresSoon"]),
        ("2027-11-01T00:00:00Z", ["AllExpired", "TupleExpired"]),
    ],
)
def test_time_is_given(at: str, codes: list[str]) -> None:
    assert [str(finding.code) for finding in found(at=datetime.fromisoformat(at))] == codes
