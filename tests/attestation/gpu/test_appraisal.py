"""appraise_gpus: one row for each way to be wrong; the twin of all rows is the evidence that is accepted."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.attestation.gpu.evidence import GpuEvidence, Stated
from chrysalis.attestation.gpu.verdict import GpuVerdict
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import ReportShape, SimulatedGpus

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
World = Any
"""The conftest's."""
Reasons = Callable[[GpuVerdict], list[str]]
Row = Callable[[World], GpuVerdict]


def _shaped(**shape: Any) -> Row:
    return lambda world: world.judge([world.evidence(shape=ReportShape(**shape))])


def _ruled(**changes: Any) -> Row:
    return lambda world: world.judge(rules=world.rules(**changes))


def _stated(**stated: Any) -> Row:
    return lambda world: world.judge([dataclasses.replace(world.evidence(), stated=Stated(**stated))])


def _flipped(position: int) -> Row:
    def run(world: World) -> GpuVerdict:
        found = world.evidence()
        report = bytearray(found.report)
        report[position] ^= 1
        return world.judge([GpuEvidence(bytes(report), found.chain)])

    return run


def _measurements(keep: Callable[[Any], bool], change: Callable[[Any], Any] = lambda one: one) -> Row:
    return lambda world: world.judge(rules=world.rules(measurements=[change(one).to_json_dict() for one in world.references if keep(one)]))


def _edited(fields: dict[int, bytes]) -> Row:
    return _shaped(edit_opaque=lambda opaque: opaque.update(fields))


def _conflicting(one: Any) -> Any:
    if one.kind != "Vbios":
        return one
    extra = {"index": 7, "digests": [simulated.measured(7).hex()]}
    values = sorted([*one.to_json_dict()["values"], extra], key=lambda value: value["index"])
    return one.model_validate(one.to_json_dict() | {"values": values})


def _least(stated: dict[int, bytes], *, vbios: dict[int, int] | None = None, names: dict[int, str] | None = None, **shape: Any) -> Row:
    """A report that states these security versions, where the driver's reference values want at least 5 of field 37."""

    def with_least(one: Any) -> Any:
        least = {"Driver": {37: 5}, "Vbios": vbios or {}}[one.kind]
        versions = [{"field": kind, "name": (names or {}).get(kind, f"{one.kind}_{kind}"), "minimum": low} for kind, low in least.items()]
        return one.model_validate(one.to_json_dict() | {"securityVersions": versions or None})

    def run(world: World) -> GpuVerdict:
        rules = world.rules(measurements=[with_least(one).to_json_dict() for one in world.references])
        found = world.evidence(shape=ReportShape(**{"versioned": True, "security_versions": stated, **shape}))
        return world.judge([found], rules=rules)

    return run


ROWS: dict[str, tuple[str, Row]] = {
    "no evidence": ("GpuEvidenceMissing", lambda world: world.judge([])),
    "too many devices": ("GpuEvidenceTooLarge", lambda world: world.judge([world.evidence()] * 25)),
    "cut report": ("GpuReportMalformed", lambda world: world.judge([GpuEvidence(world.evidence().report[:-1], world.evidence().chain)])),
    "trailing data": (
        "GpuReportTrailingData",
        lambda world: world.judge([GpuEvidence(world.evidence().report + b"\1", world.evidence().chain)]),
    ),
    "flipped measurement": ("GpuSignatureInvalid", _flipped(60)),
    "flipped signature": ("GpuSignatureInvalid", _flipped(-1)),
    "chain of another device": (
        "GpuSignatureInvalid",
        lambda world: world.judge([GpuEvidence(world.evidence().report, world.hopper[1].chain)]),
    ),
    "no chain": ("GpuChainUnreadable", lambda world: world.judge([GpuEvidence(world.evidence().report, b"")])),
    "nonce": ("GpuNonceMismatch", lambda world: world.judge(nonce=bytes(32))),
    "NVIDIA's root": ("GpuTrustRootMismatch", _ruled(trustRoot="Nvidia")),
    "another vendor's root": (
        "GpuTrustRootMismatch",
        _ruled(trustRoot={"der": base64.b64encode(SimulatedGpus.create().root_der).decode()}),
    ),
    "rules' root unreadable": ("GpuTrustRootMismatch", _ruled(trustRoot={"der": "A"})),
    "before its time": ("GpuCertificateExpired", lambda world: world.judge(at=datetime(2019, 1, 1, tzinfo=UTC))),
    "after its time": (
        "GpuCertificateExpired",
        lambda world: world.judge(
            at=datetime(2050, 1, 1, tzinfo=UTC),
            rules=world.rules(measurements=[one.to_json_dict() | {"expires": None} for one in world.references]),
        ),
    ),
    "firmware identifier": ("GpuFirmwareIdMismatch", _shaped(fwid=bytes(48))),
    "stated architecture": ("GpuClaimMismatch", _stated(architecture="Blackwell")),
    "stated nonce": ("GpuClaimMismatch", _stated(nonce=bytes(32))),
    "stated driver": ("GpuClaimMismatch", _stated(driver_version="591.0")),
    "stated VBIOS": ("GpuClaimMismatch", _stated(vbios_version="96.00.A5.00.02")),
    "devtools, says the driver": ("GpuDevtoolsMode", _stated(devtools=True)),
    "devtools, say the measurements": ("GpuMeasurementMismatch", _shaped(devtools=True)),
    "architecture unknown": (
        "GpuArchitectureNotAllowed",
        lambda world: world.judge([dataclasses.replace(world.evidence(world.vendor.device(chip="TU102")), stated=Stated())]),
    ),
    "architecture": ("GpuArchitectureNotAllowed", _ruled(architectures=["Blackwell"])),
    "no architecture": ("GpuArchitectureNotAllowed", _ruled(architectures=[])),
    "driver": ("GpuDriverNotAllowed", _ruled(driverVersions=["590.13"])),
    "no driver": ("GpuDriverNotAllowed", _ruled(driverVersions=[])),
    "VBIOS": ("GpuVbiosNotAllowed", _ruled(vbiosVersions=["96.00.A5.00.02"])),
    "no VBIOS": ("GpuVbiosNotAllowed", _ruled(vbiosVersions=[])),
    "mode": ("GpuModeNotAllowed", _shaped(feature_flag=2, protected_pcie=0xAA)),
    "no mode": ("GpuModeNotAllowed", _ruled(ccMode=[])),
    "mode unknown": ("GpuModeNotAllowed", _shaped(feature_flag=3)),
    "mode contradicts itself": ("GpuModeNotAllowed", _shaped(feature_flag=0, protected_pcie=0xAA)),
    "status is no status": ("GpuReportMalformed", _shaped(protected_pcie=0x01)),
    "decoder's status is no status": ("GpuReportMalformed", _shaped(nvdec0=0x00)),
    "driver version is no text": ("GpuReportMalformed", _edited({3: b"590\n12\0"})),
    "VBIOS version has another size": ("GpuReportMalformed", _edited({6: b"\0\xa5\0\x96"})),
    "links are no identifiers": ("GpuReportMalformed", _edited({22: bytes(7)})),
    "measurement": ("GpuMeasurementMismatch", _shaped(changed={21: bytes(48)})),
    "security version too low": ("GpuSecurityVersionTooLow", _least({37: b"\4\0"})),
    "security version absent": ("GpuSecurityVersionTooLow", _least({38: b"\x09\0"})),
    "security version of another type": ("GpuSecurityVersionTooLow", _least({37: b"\5\0"}, security_type=0x86)),
    "security version of another size": ("GpuSecurityVersionTooLow", _least({37: b"\5\0\0\0"})),
    "security version in the layout without types": ("GpuSecurityVersionTooLow", _least({37: b"\5\0"}, versioned=False)),
    "security version of the VBIOS": ("GpuSecurityVersionTooLow", _least({37: b"\5\0", 40: b"\0\0"}, vbios={40: 1})),
    "security version claimed twice": ("GpuReferenceConflict", _least({37: b"\5\0"}, vbios={37: 5})),
    "security version's name claimed twice": (
        "GpuReferenceConflict",
        _least({37: b"\5\0", 40: b"\5\0"}, vbios={40: 5}, names={37: "X", 40: "X"}),
    ),
    "measurement left out": ("GpuMeasurementMissing", _shaped(left_out=[40])),
    "decoder's measurement, decoder on": ("GpuMeasurementMismatch", _shaped(changed={35: bytes(48)}, nvdec0=0xAA)),
    "no driver reference": ("GpuReferenceMissing", _measurements(lambda one: one.kind == "Vbios")),
    "no VBIOS reference": ("GpuReferenceMissing", _measurements(lambda one: one.kind == "Driver")),
    "references of another architecture": (
        "GpuReferenceMissing",
        _measurements(lambda one: (one.architecture, one.kind) != ("Hopper", "Driver")),
    ),
    "references of another version": (
        "GpuReferenceMissing",
        _measurements(lambda one: True, lambda one: one.model_copy(update={"version": "1.1"}) if one.kind == "Driver" else one),
    ),
    "reference expired": (
        "GpuReferenceExpired",
        _measurements(lambda one: True, lambda one: one.model_copy(update={"expires": AT}) if one.kind == "Driver" else one),
    ),
    "references conflict": ("GpuReferenceConflict", _measurements(lambda one: one.architecture == "Hopper", _conflicting)),
    "too few": ("GpuCountMismatch", _ruled(count=2)),
    "too many": ("GpuCountMismatch", lambda world: world.judge([world.evidence(device) for device in world.hopper])),
    "the same twice": ("GpuNotUnique", lambda world: world.judge([world.evidence(), world.evidence()], rules=world.rules(count=2))),
    "the same UUID twice": (
        "GpuNotUnique",
        lambda world: world.judge(
            [dataclasses.replace(world.evidence(device), stated=Stated(uuid="GPU-1")) for device in world.hopper],
            rules=world.rules(count=2),
        ),
    ),
    "in use": ("GpuInUse", lambda world: world.judge(in_use={world.judge().gpus[0].device_id})),
    "revocation not checked": ("GpuRevocationNotChecked", _ruled(revocation="Required")),
    "remote answer missing": ("NrasAnswerMissing", _ruled(backend="NRAS")),
}


def test_the_twin_of_every_row_is_accepted(world: World) -> None:
    verdict = world.judge()
    assert (verdict.accepted, verdict.reasons, verdict.scope) == (True, [], "Policy")
    assert (verdict.evidence_class, verdict.revocation, verdict.bound, verdict.nonce_checked) == (
        "Simulated",
        "NotChecked",
        "Unknown",
        True,
    )
    facts = verdict.gpus[0]
    assert (facts.signature, facts.comparison, facts.compared, facts.secure_boot, facts.debug) == ("Valid", "Matched", 33, True, "Disabled")
    assert (facts.driver_version, facts.vbios_version, facts.mode, facts.architecture) == (
        simulated.DRIVER,
        simulated.VBIOS,
        "On",
        "Hopper",
    )
    assert (facts.firmware_id, facts.firmware_id_matched) == (world.hopper[0].fwid.hex(), True)
    assert verdict.limited_by == "gpuCertificate.notAfter"


@pytest.mark.parametrize("name", ROWS)
def test_refused_for_this_reason_alone(world: World, reasons: Reasons, name: str) -> None:
    expected, run = ROWS[name]
    verdict = run(world)
    assert reasons(verdict) == [expected]
    assert not verdict.accepted
    assert verdict.expires_at is None
    assert all(finding.remedy for finding in verdict.reasons)
    assert not any("+00:00" in finding.detail for finding in verdict.reasons)  # times end with Z


def test_what_is_not_genuine_says_nothing_of_itself(world: World) -> None:
    verdict = ROWS["flipped measurement"][1](world)
    facts = verdict.gpus[0]
    assert (facts.signature, facts.driver_version, facts.mode, facts.secure_boot) == ("Invalid", None, None, None)
    assert verdict.evidence_class is None


def test_all_reasons_are_named(world: World, reasons: Reasons) -> None:
    rules = world.rules(driverVersions=["1.1"], ccMode=["ProtectedPCIe"], revocation="Required", count=3)
    verdict = world.judge([world.evidence(shape=ReportShape(changed={1: bytes(48)}))], rules=rules, nonce=bytes(32))
    expected = {"GpuCountMismatch", "GpuRevocationNotChecked", "GpuNonceMismatch", "GpuDriverNotAllowed", "GpuModeNotAllowed"}
    assert set(reasons(verdict)) == expected | {"GpuMeasurementMismatch"}
    assert {finding.device for finding in verdict.reasons} == {None, 0}


def test_blackwell_and_several_gpus(world: World) -> None:
    assert world.judge([world.evidence(world.blackwell)]).gpus[0].architecture == "Blackwell"
    both = world.judge([world.evidence(world.hopper[0]), world.evidence(world.blackwell)], rules=world.rules(count=2))
    assert both.accepted
    assert len({facts.device_id for facts in both.gpus}) == 2


def test_one_bad_gpu_among_good_ones_refuses_and_is_named(world: World) -> None:
    good, bad = world.evidence(world.hopper[0]), world.evidence(world.hopper[1], ReportShape(changed={5: bytes(48)}))
    verdict = world.judge([good, bad], rules=world.rules(count=2))
    assert [(finding.reason, finding.device) for finding in verdict.reasons] == [("GpuMeasurementMismatch", 1)]


@pytest.mark.parametrize(
    ("flag", "status", "mode"),
    [(0, 0x55, "On"), (1, 0x55, "On"), (2, 0xAA, "ProtectedPCIe"), (None, 0x55, "On"), (None, 0xAA, "ProtectedPCIe"), (None, None, "On")],
)
def test_modes(world: World, flag: int | None, status: int | None, mode: str) -> None:
    shape = ReportShape(feature_flag=flag, protected_pcie=status)
    verdict = world.judge([world.evidence(shape=shape)], rules=world.rules(ccMode=["On", "ProtectedPCIe"]))
    assert (verdict.accepted, verdict.gpus[0].mode) == (True, mode)


def test_a_report_of_the_boot_processor_states_no_mode(world: World, reasons: Reasons) -> None:
    alone = ReportShape(feature_flag=None, protected_pcie=None, edit_opaque=dict.clear)
    verdict = world.judge([world.evidence(shape=alone)])
    assert verdict.gpus[0].mode is None
    assert "GpuModeNotAllowed" in reasons(verdict)
    unstated = dataclasses.replace(world.evidence(shape=alone), stated=Stated())
    genuine = world.judge([unstated], rules=None, root=world.vendor.root_der)
    assert (genuine.accepted, genuine.gpus[0].signature, genuine.gpus[0].mode) == (True, "Valid", None)


@pytest.mark.parametrize("of", ["hopper", "blackwell"])
def test_opaque_data_that_states_its_version(world: World, of: str) -> None:
    device = world.blackwell if of == "blackwell" else world.hopper[0]
    verdict = world.judge([world.evidence(device, ReportShape(versioned=True))])
    assert (verdict.accepted, verdict.gpus[0].comparison, verdict.gpus[0].mode) == (True, "Matched", "On")
    assert verdict.gpus[0].firmware_id_matched


def test_the_decoders_measurement_does_not_count_where_the_decoder_is_off(world: World) -> None:
    assert world.judge([world.evidence(shape=ReportShape(changed={35: bytes(48)}))]).accepted


def test_older_firmware_states_no_identifier(world: World) -> None:
    verdict = world.judge([world.evidence(shape=ReportShape(fwid=None))])
    assert (verdict.accepted, verdict.gpus[0].firmware_id_matched) == (True, None)


def test_one_of_several_boards_of_a_version_is_enough(world: World) -> None:
    other = [
        one.model_copy(update={"id": "other-board"}) for one in world.references if one.kind == "Vbios" and one.architecture == "Hopper"
    ]
    wrong = other[0].model_validate(other[0].to_json_dict() | {"values": [{"index": 0, "digests": ["11" * 48]}]})
    listed = [one.to_json_dict() for one in (wrong, *world.references)]
    assert world.judge(rules=world.rules(measurements=listed)).accepted


def test_a_reference_that_ends_sooner_limits_the_result(world: World) -> None:
    ends = AT + timedelta(days=1)
    listed = [one.to_json_dict() | {"expires": ends.isoformat()} for one in world.references]
    verdict = world.judge(rules=world.rules(measurements=listed))
    assert (verdict.accepted, verdict.expires_at, verdict.limited_by) == (True, ends, "gpuReference.expires")


def test_without_rules_genuineness_alone_is_judged_and_said(world: World) -> None:
    verdict = world.judge(rules=None, root=world.vendor.root_der, nonce=None)
    assert (verdict.accepted, verdict.scope, verdict.nonce_checked) == (True, "Genuineness", False)
    assert (verdict.gpus[0].comparison, verdict.gpus[0].secure_boot) == ("NotCompared", None)
    assert [finding.reason for finding in world.judge(rules=None).reasons] == ["GpuTrustRootMismatch"]
    assert [finding.reason for finding in world.judge([], rules=None).reasons] == ["GpuEvidenceMissing"]


def test_references_given_by_hand_are_compared_whatever_their_version(world: World, reasons: Reasons) -> None:
    known = {"rules": None, "root": world.vendor.root_der}
    assert world.judge(references=world.references, **known).scope == "GenuinenessAndReferences"
    renamed = [one.model_copy(update={"version": "1.1"}) if one.kind == "Driver" else one for one in world.references]
    verdict = world.judge(references=renamed, **known)
    assert reasons(verdict) == ["GpuReferenceVersionMismatch"]
    assert verdict.gpus[0].compared == 33


def test_gpus_that_are_not_required_may_be_absent_but_not_wrong(world: World, reasons: Reasons) -> None:
    rules = world.rules(required=False)
    assert world.judge([], rules=rules).accepted
    assert reasons(world.judge([world.evidence(shape=ReportShape(devtools=True))], rules=rules)) == ["GpuMeasurementMismatch"]


def test_given_root_and_rules_root_must_agree(world: World, reasons: Reasons) -> None:
    assert world.judge(root=world.vendor.root_der).accepted
    assert reasons(world.judge(root=SimulatedGpus.create().root_der)) == ["GpuTrustRootMismatch"]


def test_an_appraisal_needs_an_aware_time(world: World) -> None:
    with pytest.raises(ValueError, match="aware"):
        world.judge(at=AT.replace(tzinfo=None))


@pytest.mark.parametrize("stated", [b"\5\0", b"\6\0", b"\0\1"])  # little-endian
def test_security_versions_that_reach_the_least_one(world: World, stated: bytes) -> None:
    verdict = _least({37: stated, 40: b"\1\0"}, vbios={40: 1})(world)
    assert verdict.accepted
    assert verdict.gpus[0].security_versions == {"Driver_37": int.from_bytes(stated, "little"), "Vbios_40": 1}


def test_a_security_version_may_have_its_fields_number_as_its_name(world: World) -> None:
    verdict = _least({37: b"\5\0", 40: b"\1\0"}, vbios={40: 1}, names={37: "37", 40: "40"})(world)
    assert verdict.accepted


def test_a_security_version_that_is_absent_is_told(world: World) -> None:
    verdict = _least({})(world)
    assert verdict.gpus[0].security_versions == {"Driver_37": None}
    assert [finding.detail for finding in verdict.reasons] == ["Driver_37 is absent, 5 is the least"]
