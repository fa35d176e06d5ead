"""GPU rules: what is required, what is refused when it is written, and what lint says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.api.policy_gpu import GpuReferenceValues, GpuRules, gpu_concerns, gpu_denials

REFERENCE = {
    "id": "driver-590",
    "kind": "Driver",
    "architecture": "Hopper",
    "version": "590.12",
    "expires": "2027-01-01T00:00:00Z",
    "values": [{"index": 7, "digests": ["AB" * 48]}],
}
VBIOS = REFERENCE | {"id": "vbios-96", "kind": "Vbios", "version": "96.00.A5.00.01", "values": [{"index": 0, "digests": ["00" * 48]}]}
SWITCH = VBIOS | {"id": "switch-96", "architecture": "LS10", "version": "96.10.6D.00.01"}
AT = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
LEAST = {"field": 37, "name": "FSP_UCODE_MIN_SVN", "minimum": 5}
BLACKWELL = REFERENCE | {"id": "driver-b", "architecture": "Blackwell"}
RULES: dict[str, Any] = {
    "count": 1,
    "architectures": ["Hopper"],
    "driverVersions": ["590.12"],
    "vbiosVersions": ["96.00.A5.00.01"],
    "ccMode": ["On"],
    "measurements": [REFERENCE, VBIOS],
    "revocation": "Required",
}


def _rules(**changes: Any) -> GpuRules:
    return GpuRules.model_validate(RULES | changes)


def test_complete_rules_leave_nothing_to_say() -> None:
    assert list(gpu_denials(_rules(), AT)) == []
    assert list(gpu_concerns(_rules())) == []
    assert _rules().measurements[0].values[0].digests == ["ab" * 48]


@pytest.mark.parametrize("name", ["count", "architectures", "driverVersions", "vbiosVersions", "ccMode", "measurements"])
def test_required(name: str) -> None:
    with pytest.raises(ValidationError):
        GpuRules.model_validate({member: value for member, value in RULES.items() if member != name})


@pytest.mark.parametrize(
    "changes",
    [
        {"ccMode": ["Devtools"]},
        {"ccMode": ["Off"]},
        {"architectures": ["LS10"]},
        {"architectures": ["Ampere"]},
        {"count": 0},
        {"count": 17},
        {"backend": "Remote"},
        {"trustRoot": "Intel"},
        {"nvswitch": {"count": 0, "biosVersions": []}},
        {"measurements": [REFERENCE | {"values": []}]},
        {"measurements": [REFERENCE | {"values": [{"index": 7, "digests": []}]}]},
        {"measurements": [REFERENCE | {"values": [{"index": 7, "digests": ["ab"]}]}]},
        {"measurements": [REFERENCE | {"values": [{"index": 7, "digests": ["ab" * 48]}] * 2}]},
        {"measurements": [REFERENCE | {"expires": "2027-01-01T00:00:00"}]},
        {"measurements": [REFERENCE | {"securityVersions": []}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST | {"minimum": -1}]}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST | {"minimum": 65536}]}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST | {"field": 65536}]}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST | {"name": ""}]}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST, LEAST | {"name": "OTHER"}]}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST, LEAST | {"field": 38}]}]},
        {"measurements": [REFERENCE | {"securityVersions": [LEAST, LEAST | {"field": 36, "name": "OTHER"}]}]},
        {"more": 1},
    ],
)
def test_refused_when_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _rules(**changes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"architectures": []}, "architectures is empty"),
        ({"driverVersions": []}, "driverVersions is empty"),
        ({"vbiosVersions": []}, "vbiosVersions is empty"),
        ({"ccMode": []}, "ccMode is empty"),
        ({"measurements": []}, "measurements is empty"),
        ({"nvswitch": {"count": 4, "biosVersions": []}, "measurements": [REFERENCE, VBIOS, SWITCH]}, "biosVersions is empty"),
        ({"nvswitch": {"count": 4, "biosVersions": ["96.10.6D.00.01"]}}, "no reference values of NVSwitches"),
        ({"nvswitch": {"count": 4, "biosVersions": ["96.10.6D.00.01"]}, "backend": "NRAS"}, "no reference values of NVSwitches"),
        ({"driverVersions": ["1.1"]}, "no Driver reference values"),
        ({"measurements": [REFERENCE]}, "no Vbios reference values"),
        ({"architectures": ["Blackwell"], "measurements": [REFERENCE, VBIOS, BLACKWELL]}, "no Vbios reference values"),
        ({"architectures": ["Hopper", "Blackwell"], "measurements": [BLACKWELL, VBIOS]}, "for no architecture together"),
        ({"measurements": [REFERENCE, VBIOS | {"expires": "2026-11-01T00:00:00Z"}]}, "no Vbios reference values that are current"),
        (
            {
                "nvswitch": {"count": 4, "biosVersions": ["96.10.6D.00.01"]},
                "measurements": [REFERENCE, VBIOS, SWITCH | {"expires": "2026-11-01T00:00:00Z"}],
            },
            "NVSwitches that are current",
        ),
    ],
)
def test_denials(changes: dict[str, Any], word: str) -> None:
    [line] = gpu_denials(_rules(**changes), AT)
    assert word in line


def test_reference_values_count_until_their_end() -> None:
    """Beside those of another architecture, which need not be complete."""
    rules = _rules(architectures=["Hopper", "Blackwell"], measurements=[REFERENCE, VBIOS, BLACKWELL])
    assert list(gpu_denials(rules, END - timedelta(seconds=1))) == []
    assert len(list(gpu_denials(rules, END))) == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"required": False}, "required is false"),
        ({"trustRoot": {"der": "AAAA"}}, "simulated"),
        ({"revocation": "Optional"}, "revocation is Optional"),
        ({"ccMode": ["ProtectedPCIe"]}, "ProtectedPCIe without"),
        ({"backend": "NRAS"}, "backend is NRAS"),
        ({"measurements": [{name: value for name, value in REFERENCE.items() if name != "expires"}, VBIOS]}, "for ever"),
    ],
)
def test_concerns(changes: dict[str, Any], word: str) -> None:
    [line] = gpu_concerns(_rules(**changes))
    assert word in line


def test_the_remote_service_needs_no_measurements_here() -> None:
    assert list(gpu_denials(_rules(backend="NRAS", measurements=[]), AT)) == []


def test_simulated_gpus_do_not_pass_for_real() -> None:
    register = "Any"
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrconfigid", "mrowner", "mrownerconfig")
    measurement = {"name": "any", **dict.fromkeys(names, register)}
    bits = {"value": "00" * 8, "mask": "00" * 8}
    tdx = {"tcb": {"allowedStatuses": ["UpToDate"]}, "measurements": [measurement], "tdAttributes": bits, "xfam": bits}
    spec = {"version": 1, "trustRoot": "Intel", "tdx": tdx, "gpu": RULES}
    assert AttestationPolicySpec.model_validate(spec).gpu is not None
    simulated = RULES | {"trustRoot": {"der": "AAAA"}}
    with pytest.raises(ValidationError, match=r"gpu\.trustRoot must be Nvidia"):
        AttestationPolicySpec.model_validate(spec | {"gpu": simulated})
    development = {"trustRoot": {"der": "AAAA"}, "gpu": simulated}
    assert AttestationPolicySpec.model_validate(spec | development).gpu is not None


def test_reference_values_are_one_document() -> None:
    for written in (REFERENCE, REFERENCE | {"securityVersions": [LEAST, LEAST | {"field": 38, "name": "OTHER"}]}):
        values = GpuReferenceValues.model_validate(written)
        assert GpuReferenceValues.model_validate(values.to_json_dict()) == values
