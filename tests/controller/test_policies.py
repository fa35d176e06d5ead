"""AttestationPolicy: its fields, and the envelope that they must be a copy of."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.controller import policies
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ANY = dict.fromkeys(["rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrconfigid", "mrowner", "mrownerconfig"], "Any")
SPEC: dict[str, Any] = {
    "version": 3,
    "trustRoot": {"der": base64.b64encode(SimulatedPlatform.create().root_der).decode()},
    "brokerPlacement": ["Development"],
    "tdx": {
        "tcb": {"allowedStatuses": ["UpToDate"]},
        "measurements": [{"name": "a", "mrtd": "AB" * 48, **ANY}],
        "tdAttributes": {"value": "0000001000000000", "mask": "ff" * 8},
        "xfam": {"value": "00" * 8, "mask": "ff" * 8},
    },
}


def signed(key: Ed25519PrivateKey, name: str = "p", kind: str = PAYLOAD_POLICY, **members: Any) -> dict[str, Any]:
    """The carrier's spec with an envelope over it; members change only the readable copy."""
    document = SignedPolicy(name=name, spec=AttestationPolicySpec.model_validate(SPEC))
    envelope = dsse.sign(kind, document.model_dump_json(by_alias=True, exclude_none=True).encode(), key)
    return {
        **AttestationPolicySpec.model_validate(SPEC).to_json_dict(),
        "envelope": envelope.to_json_dict(),
        "ownerPublicKey": key.public_key().public_bytes_raw().hex(),
        **members,
    }


def test_a_signed_policy() -> None:
    view, is_signed = policies.judge("p", signed(Ed25519PrivateKey.generate()))
    assert (view.valid, view.reason, is_signed) == (True, "PolicySigned", True)


def test_an_unsigned_policy_is_said_to_be_one() -> None:
    view, is_signed = policies.judge("p", SPEC)
    assert (view.valid, view.reason, is_signed) == (True, "PolicyUnsigned", False)


@pytest.mark.parametrize(
    ("change", "reason", "word"),
    [
        ({"version": 4}, "EnvelopeDiffers", "spec.version"),
        ({"isolation": ["NodeTD"]}, "EnvelopeDiffers", "spec.isolation"),
        ({"trustRoot": "Intel"}, "PolicyInvalid", "Development"),
        ({"colour": "red"}, "PolicyInvalid", "spec.colour"),
        ({"ownerPublicKey": "00" * 32}, "EnvelopeInvalid", "sign"),
    ],
)
def test_what_is_not_valid(change: dict[str, Any], reason: str, word: str) -> None:
    view, _ = policies.judge("p", signed(Ed25519PrivateKey.generate(), **change))
    assert (view.valid, view.reason) == (False, reason)
    assert word in view.message


def test_an_envelope_of_another_policy_or_kind() -> None:
    key = Ed25519PrivateKey.generate()
    assert policies.judge("p", signed(key, name="q"))[0].reason == "EnvelopeDiffers"
    assert policies.judge("p", signed(key, kind=PAYLOAD_KEY_RECORD))[0].reason == "EnvelopeInvalid"


def test_an_envelope_in_which_a_member_stands_twice() -> None:
    key, spec = Ed25519PrivateKey.generate(), AttestationPolicySpec.model_validate(SPEC)
    payload = SignedPolicy(name="p", spec=spec).model_dump_json(by_alias=True, exclude_none=True)
    twice = dsse.sign(PAYLOAD_POLICY, payload.replace('"name"', '"name":"q","name"', 1).encode(), key)
    public = key.public_key().public_bytes_raw().hex()
    view, _ = policies.judge("p", spec.to_json_dict() | {"envelope": twice.to_json_dict(), "ownerPublicKey": public})
    assert (view.valid, view.reason) == (False, "EnvelopeInvalid")


def test_status_is_written_once() -> None:
    body: dict[str, Any] = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2, "resourceVersion": "7"},
        "spec": signed(Ed25519PrivateKey.generate()),
    }
    written = policies.status(policies.record(body), AT)
    assert written is not None
    assert (written["version"], written["signed"], written["conditions"][0]["status"]) == (3, True, "True")
    assert policies.status(policies.record({**body, "status": written}), AT) is None


@pytest.mark.parametrize(
    ("change", "status", "reason", "word"),
    [
        ({}, "True", "PolicyHasWarnings", "TrustRootSimulated"),
        ({"trustRoot": {"der": "MAAA"}}, "False", "PolicyUnusable", "TrustRootUnreadable"),
        ({"isolation": []}, "False", "PolicyUnusable", "ListEmpty: spec.isolation is empty"),
        ({"tdx": {**SPEC["tdx"], "measurements": []}}, "False", "PolicyUnusable", "spec.tdx.measurements is empty"),
    ],
)
def test_what_is_wrong_stands_in_the_status(change: dict[str, Any], status: str, reason: str, word: str) -> None:
    body = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "7"}, "spec": SPEC | change}
    written = policies.status(policies.record(body), AT)
    assert written is not None
    condition = next(item for item in written["conditions"] if item["type"] == "Usable")
    assert (condition["status"], condition["reason"]) == (status, reason)
    assert word in condition["message"]


def test_reference_values_expire_by_themselves() -> None:
    measurement = {**SPEC["tdx"]["measurements"][0], "expires": "2026-11-01T12:00:00Z"}
    spec = AttestationPolicySpec.model_validate(SPEC | {"tdx": {**SPEC["tdx"], "measurements": [measurement]}})
    assert policies.usable(spec, AT - timedelta(seconds=1)).status == "True"
    late = policies.usable(spec, AT)
    assert (late.status, late.reason) == ("False", "PolicyUnusable")
    assert "AllExpired" in late.message


def test_a_policy_that_does_not_parse_is_not_linted() -> None:
    body = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "7"}, "spec": {"version": 1}}
    written = policies.status(policies.record(body), AT)
    assert written is not None
    assert [item["type"] for item in written["conditions"]] == ["Valid"]
