"""Factories of observations: each gives a good one, and tests change the member that they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.controller.observed import BrokerView, DeploymentView, Observed, PodView, PolicyView, WorkerView
from chrysalis.rendering import render
from chrysalis.wire.broker import ResultView

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
STARTED = AT - timedelta(minutes=5)
SPEC: dict[str, Any] = {
    "replicas": 1,
    "runtimeClassName": "chrysalis-simtd",
    "image": "registry.example/chrysalis-worker@sha256:" + "11" * 32,
    "model": {
        "name": "minilm",
        "package": {"url": "http://packages.example/minilm.age", "digest": "sha256:" + "22" * 32, "sizeBytes": 1},
        "digest": "sha256:" + "33" * 32,
        "keyId": "minilm-key",
    },
    "policyRef": {"name": "minilm-policy"},
    "broker": {"url": "https://broker.example:8443", "spkiSha256": "ab" * 32, "earKey": "cd" * 32},
}
MRCONFIGID = render("embedder", "pool", ConfidentialWorkerSpec.model_validate(SPEC), None).mrconfigid.hex()

ResultFactory = Callable[..., ResultView]
PodFactory = Callable[..., PodView]
ObservedFactory = Callable[..., Observed]


def make_pod(uid: str = "u-1", **members: Any) -> PodView:
    """A pod that the operator admitted and that runs."""
    pod = PodView(
        name=f"embedder-{uid}",
        uid=uid,
        version=1,
        worker="embedder",
        gate=None,
        admitted=uid,
        node="n1",
        owner="ReplicaSet",
        phase="Running",
        deleting=False,
        ready=True,
        attested="True",
        attested_reason="EvidenceAccepted",
        gateway_started=STARTED,
        mrconfigid=MRCONFIGID,
        problem=None,
    )
    return replace(pod, **members)


def make_result(uid: str = "u-1", **members: Any) -> ResultView:
    """An accepted, unexpired result with the key released."""
    base: dict[str, Any] = {
        "result_id": "r-1",
        "verdict": "Accepted",
        "claimed": {"pod_uid": uid, "namespace": "pool", "worker_name": "embedder"},
        "keys": {"tls_spki_sha256": "01" * 32, "hpke": "02" * 32, "receipt": "03" * 32},
        "key_id": "minilm-key",
        "policy_name": "minilm-policy",
        "policy_version": 1,
        "evidence_class": "Simulated",
        "tcb_status": "UpToDate",
        "issued_at": STARTED + timedelta(seconds=3),
        "expires_at": AT + timedelta(minutes=30),
        "limited_by": "policy.freshness.maxResultAgeSeconds",
        "key_released_at": STARTED + timedelta(seconds=4),
    }
    return ResultView.model_validate({**base, **members})


def make_refusal(uid: str = "u-1", reason: str = "MeasurementNotAllowed", **members: Any) -> ResultView:
    """A refused result."""
    reasons = [{"reason": reason, "message": "the measurements are not those of the policy", "remedy": "measure the worker again"}]
    refused = {"result_id": "r-9", "verdict": "Refused", "reasons": reasons, "expires_at": None, "key_released_at": None, "key_id": ""}
    return make_result(uid, **{**refused, **members})


def make_observed(**members: Any) -> Observed:
    """One replica that is up and well; `spec` and `worker` change members of the worker."""
    spec = {**SPEC, **members.pop("spec", {})}
    worker = WorkerView(
        name="embedder", namespace="pool", uid="w-1", version=1, generation=2, deleting=False, spec=spec, conditions=(), status={}
    )
    worker = replace(worker, **members.pop("worker", {}))
    base = Observed(
        worker=worker,
        policy=PolicyView(True, "PolicySigned", ""),
        account=None,
        pods=(make_pod(),),
        deployment=DeploymentView(uid="d-1", version=1, generation=1, observed_generation=1, owner_uid="w-1", updated_replicas=1),
        broker=BrokerView(True, results=(make_result(),)),
        at=AT,
    )
    return replace(base, **members)


@pytest.fixture(scope="session")
def pod() -> PodFactory:
    return make_pod


@pytest.fixture(scope="session")
def result() -> ResultFactory:
    return make_result


@pytest.fixture(scope="session")
def refusal() -> ResultFactory:
    return make_refusal


@pytest.fixture(scope="session")
def observed() -> ObservedFactory:
    return make_observed
