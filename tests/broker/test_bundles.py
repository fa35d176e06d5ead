"""GET /v1/bundles/{id}: what a broker gives out is what `verify --bundle` accepts, and only to whoever may read the result."""

from __future__ import annotations

from typing import Any

import pytest

from chrysalis.attestation.freshness import FreshnessMode
from chrysalis.clock import ManualClock
from chrysalis.wire.bundle import MEDIA_TYPE, BundleFile, to_bytes
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations, Signature
from tests.broker import test_gpu as gpu_world

references, rules, with_gpus = gpu_world.references, gpu_world.rules, gpu_world.with_gpus


def result_of(answer: Any) -> str:
    if answer.status_code == 200:
        return str(answer.json()["resultId"])
    return str(answer.json()["title"].split("result ")[1].rstrip(")"))


def pins(world: Any) -> Expectations:
    return Expectations(owner=world.acme.public, ear_key=world.deps.keys.ear_public)


def test_an_accepted_result_is_accepted_again(world: Any) -> None:
    result = result_of(world.attest(world.domain(world.acme)))
    answer = world.reading(f"/v1/bundles/{result}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    judgement = judge(BundleFile.read(answer.content), pins(world))
    assert judgement.accepted, judgement.to_json()
    assert (judgement.mode, judgement.placement) == (FreshnessMode.EAR, "Development")
    assert (judgement.policy_signature, judgement.ear, judgement.statement) == (Signature.PINNED,) * 3


@pytest.mark.parametrize(
    ("quote", "reason"),
    [
        ({"mrtd": b"\xee" * 48}, "MeasurementNotAllowed"),
        ({"report_data": bytes(64)}, "ReportDataMismatch"),
        ({"mrconfigid": bytes(48)}, "InitdataMismatch"),
    ],
)
def test_a_refused_attempt_is_refused_again_for_the_same_reasons(world: Any, quote: dict[str, Any], reason: str) -> None:
    result = result_of(world.attest(world.domain(world.acme), **quote))
    judgement = judge(BundleFile.read(world.reading(f"/v1/bundles/{result}").content), Expectations(owner=world.acme.public))
    assert not judgement.accepted
    assert reason in {r.reason for r in judgement.verdict.reasons}
    assert not judgement.differences, judgement.differences


def test_a_refusal_for_the_brokers_own_reason_says_so(world: Any) -> None:
    world.put_key(world.acme, version=2, evidence_class=["Hardware"])
    result = result_of(world.attest(world.domain(world.acme)))
    judgement = judge(BundleFile.read(world.reading(f"/v1/bundles/{result}").content))
    assert [r.reason for r in judgement.not_rejudged] == ["EvidenceClassNotAllowed"]
    assert not judgement.accepted
    assert not judgement.differences


def test_a_revoked_result_says_so(world: Any, clock: ManualClock) -> None:
    result = result_of(world.attest(world.domain(world.acme)))
    clock.advance(5)
    token = world.token(world.acme)
    assert world.http.post(f"/v1/results/{result}:revoke", headers={"authorization": f"Bearer {token}"}).status_code == 200
    file = BundleFile.read(world.reading(f"/v1/bundles/{result}").content)
    assert judge(file, pins(world)).accepted  # at its own time
    later = judge(file, Expectations(at=clock.now()))
    assert [r.reason for r in later.reasons] == ["ResultRevoked"]


def test_only_whoever_may_read_the_result_gets_its_bundle(world: Any, clock: ManualClock) -> None:
    result = result_of(world.attest(world.domain(world.acme)))
    assert world.http.get(f"/v1/bundles/{result}").status_code == 401
    own, other = (world.token(tenant) for tenant in (world.acme, world.rival))
    assert world.reading(f"/v1/bundles/{result}", own).status_code == 200
    refused = world.reading(f"/v1/bundles/{result}", other)
    assert (refused.status_code, refused.json()["reason"]) == (404, "ResultUnknown")
    assert world.reading("/v1/bundles/nothing").status_code == 404


def test_a_policy_that_came_later_is_not_the_one_in_the_bundle(world: Any) -> None:
    result = result_of(world.attest(world.domain(world.acme)))
    assert world.put_policy(world.acme, version=2, isolation=["NodeTD"]).status_code == 201
    judgement = judge(BundleFile.read(world.reading(f"/v1/bundles/{result}").content), pins(world))
    assert judgement.accepted
    assert judgement.policy_version == 1


def test_gpus_are_judged_again(with_gpus: Any) -> None:
    domain = with_gpus.domain(with_gpus.acme)
    result = result_of(with_gpus.post("/v1/attest", gpu_world.session_evidence(domain, gpu_world.DEVICE)))
    file = BundleFile.read(with_gpus.reading(f"/v1/bundles/{result}").content)
    judgement = judge(file, pins(with_gpus))
    assert judgement.accepted, judgement.to_json()["reasons"]
    assert judgement.gpu is not None
    assert judgement.to_json()["gpu"]["verdict"] == "Accepted"
    without = file.bundle.model_copy(update={"evidence": file.bundle.evidence.model_copy(update={"gpu": []}), "source": "Files"})
    changed = judge(BundleFile.read(to_bytes(without)), pins(with_gpus))
    assert {"ReportDataMismatch", "GpuEvidenceMissing"} <= {reason["reason"] for reason in changed.to_json()["reasons"]}


def test_refused_gpus_are_refused_again(with_gpus: Any) -> None:
    domain = with_gpus.domain(with_gpus.acme)
    shape = gpu_world.ReportShape(devtools=True)
    result = result_of(with_gpus.post("/v1/attest", gpu_world.session_evidence(domain, gpu_world.DEVICE, shape=shape)))
    judgement = judge(BundleFile.read(with_gpus.reading(f"/v1/bundles/{result}").content), Expectations(owner=with_gpus.acme.public))
    assert not judgement.accepted
    assert judgement.gpu is not None
    assert not judgement.gpu.accepted
    assert not judgement.differences, judgement.differences
