"""Views: what is read of objects that the API server hands out, however they look."""

from __future__ import annotations

from typing import Any

import pytest

from chrysalis.api import initdata, names
from chrysalis.controller.observed import account_view, deployment_view, pod_view, worker_view


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "embedder-1",
            "namespace": "pool",
            "uid": "u-1",
            "resourceVersion": "42",
            "labels": {names.LABEL_WORKER: "embedder"},
            "annotations": {},
            "ownerReferences": [{"kind": "ReplicaSet", "controller": True}],
        },
        "spec": {"schedulingGates": [{"name": "other"}, {"name": names.GATE_ATTESTATION}]},
        "status": status,
    }


def test_a_pod_that_was_just_born() -> None:
    view = pod_view(pod())
    assert (view.uid, view.version, view.worker, view.gate, view.owner) == ("u-1", 42, "embedder", 1, "ReplicaSet")
    assert view.gated
    assert not view.bypassed
    assert (view.attested, view.ready, view.gateway_started, view.mrconfigid) == ("Unknown", False, None, "")


def test_a_pod_that_runs() -> None:
    body = pod(
        phase="Running",
        conditions=[{"type": "Ready", "status": "True"}, {"type": names.READINESS_ATTESTED, "status": "False", "reason": "ResultExpired"}],
        initContainerStatuses=[{"name": "gateway", "state": {"running": {"startedAt": "2026-11-01T12:00:00Z"}}}],
    )
    body["spec"] = {"nodeName": "n1"}
    body["metadata"]["annotations"] = {names.ANNOTATION_ADMITTED: "u-1", names.ANNOTATION_INITDATA: initdata.to_annotation(b"x = 1\n")}
    view = pod_view(body)
    assert view.admitted_by_operator
    assert not view.bypassed
    assert (view.ready, view.attested, view.attested_reason) == (True, "False", "ResultExpired")
    assert view.gateway_started is not None
    assert view.mrconfigid == initdata.mrconfigid(b"x = 1\n").hex()


@pytest.mark.parametrize(
    ("state", "reason", "guest"),
    [
        ({"state": {"waiting": {"reason": "CreateContainerError", "message": "simtd: not allowed"}}}, "CreateContainerError", True),
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}, "ImagePullBackOff", False),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"reason": "StartError", "message": "simtd: not allowed"}},
            },
            "StartError",
            True,
        ),
        (
            {
                "state": {"waiting": {"reason": "CreateContainerError", "message": "runtime create failed: simtd: not allowed"}},
            },
            "CreateContainerError",
            True,
        ),
        ({"state": {"terminated": {"reason": "StartError", "message": "simtd: not allowed"}}}, "StartError", True),
    ],
)
def test_problems_of_containers(state: dict[str, Any], reason: str, guest: bool) -> None:
    problem = pod_view(pod(containerStatuses=[{"name": "triton", **state}])).problem
    assert problem is not None
    assert (problem.container, problem.reason, problem.from_guest) == ("triton", reason, guest)
    assert not guest or problem.message == "simtd: not allowed"


def test_a_container_that_runs_or_starts_is_no_problem() -> None:
    ended = {"state": {"running": {}}, "lastState": {"terminated": {"reason": "StartError", "message": "simtd: not allowed"}}}
    assert pod_view(pod(containerStatuses=[{"name": "triton", **ended}])).problem is None
    waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert pod_view(pod(containerStatuses=[{"name": "triton", **waiting}])).problem is None


@pytest.mark.parametrize("text", ["", "not base64", "AAAA", "H4sI"])
def test_initdata_that_cannot_be_read_matches_nothing(text: str) -> None:
    body = pod()
    body["metadata"]["annotations"] = {names.ANNOTATION_INITDATA: text}
    assert pod_view(body).mrconfigid == ""


def test_other_objects() -> None:
    worker = worker_view(
        {
            "metadata": {"name": "w", "namespace": "n", "uid": "u", "generation": 3, "deletionTimestamp": "x"},
            "spec": {"a": [{"b": 1}]},
            "status": {"conditions": [{"type": "Ready"}], "replicas": 1},
        }
    )
    assert (worker.generation, worker.deleting, worker.status, worker.version) == (3, True, {"replicas": 1}, 0)
    deployment = deployment_view(
        {
            "metadata": {"uid": "d", "generation": 2, "ownerReferences": [{"uid": "w", "controller": True}]},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]},
        }
    )
    assert (deployment.owner_uid, deployment.failure, deployment.updated_replicas) == ("w", "quota", 0)
    account = account_view({"metadata": {}, "status": {"workers": [{"name": "w", "earnedNanoton": "5"}], "conditions": []}})
    assert (account.ready, dict(account.earned)) == ("Unknown", {"w": "5"})
