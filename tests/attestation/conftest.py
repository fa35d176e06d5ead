"""A simulated platform, its collateral, and a policy that accepts its evidence."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from chrysalis.api import initdata as initdata_form
from chrysalis.api.policy import AttestationPolicySpec
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.verdict import Verdict
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
Appraise = Callable[..., Verdict]


@pytest.fixture(scope="session")
def at() -> datetime:
    return AT


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create()


@pytest.fixture(scope="session")
def collateral(platform: SimulatedPlatform) -> Collateral:
    return Collateral.from_json(platform.collateral(AT))


@pytest.fixture(scope="session")
def initdata() -> bytes:
    """The measured configuration of a worker."""
    containers = [{"name": "gateway", "image": "chrysalis.local/worker@sha256:" + "2" * 64, "args": ["agent"]}]
    identity = {
        "templateVersion": 1,
        "isolation": "PodTD",
        "imageDigest": "sha256:" + "2" * 64,
        "model": {
            "name": "minilm",
            "package": {"url": "http://models/minilm", "digest": "sha256:" + "0" * 64, "sizeBytes": 5},
            "digest": "sha256:" + "1" * 64,
            "keyId": "minilm-key",
        },
        "policyName": "minilm",
        "broker": {"url": "https://broker:8443", "spkiSha256": "3" * 64, "earKey": "4" * 64},
        "wallet": "0:" + "5" * 64,
    }
    return initdata_form.Initdata.model_validate({"containers": containers, "identity": identity}).to_toml()


@pytest.fixture
def policy_document(platform: SimulatedPlatform, initdata: bytes) -> dict[str, Any]:
    """A policy that names every rule and accepts the platform's evidence; tests change one field of it."""
    values = platform.reference_values()
    measurement = {name: values[name] for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")}
    rule = {
        "policyDigests": [initdata_form.policy_digest(initdata)],
        "templateVersions": [1],
        "imageDigests": ["sha256:" + "2" * 64],
        "wallets": ["0:" + "5" * 64],
    }
    return {
        "version": 1,
        "trustRoot": {"der": base64.b64encode(platform.root_der).decode()},
        "isolation": ["PodTD"],
        "brokerPlacement": ["External", "Development"],
        "tdx": {
            "tcb": {
                "allowedStatuses": ["UpToDate"],
                "advisories": {"allow": ["INTEL-SA-00001"], "deny": ["INTEL-SA-00002"]},
                "minEvaluationDataNumber": 20,
                "allowSmt": True,
                "allowCachedKeys": False,
                "allowDynamicPlatform": True,
            },
            "measurements": [{"name": "simulated", **measurement, "initdata": rule}],
            "tdAttributes": values["tdAttributes"],
            "xfam": values["xfam"],
            "fmspcs": ["51d000000000"],
            "ppids": [platform.ppid],
        },
        "eventLog": {"required": True},
        "freshness": {"maxResultAgeSeconds": 3600},
    }


@pytest.fixture
def judge(platform: SimulatedPlatform, collateral: Collateral, initdata: bytes, policy_document: dict[str, Any]) -> Appraise:
    """appraise() over evidence that the policy accepts; keyword arguments replace parts of it."""

    def run(**changes: Any) -> Verdict:
        document = changes.pop("document", policy_document)
        evidence: dict[str, Any] = {
            "quote": platform.quote(bytes(range(64)), mrconfigid=initdata_form.mrconfigid(initdata)),
            "collateral": collateral,
            "policy": AttestationPolicySpec.model_validate(document) if document is not None else None,
            "at": AT,
            "event_log": platform.event_log,
            "initdata": initdata,
            "report_data": bytes(range(64)),
        }
        if document is None:
            evidence["roots"] = [platform.root_der]
        return appraise(**(evidence | changes))

    return run


@pytest.fixture
def reasons() -> Callable[[Verdict], list[str]]:
    return lambda verdict: [reason.reason.value for reason in verdict.reasons]
