"""GPUs through the whole broker: bound to the session, judged under the policy, in use by one domain at a time."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from chrysalis.attestation import binding
from chrysalis.wire import ear
from chrysalis.wire import gpu as gpus
from chrysalis.wire.broker import AttestResult, ClaimedIdentity, Evidence
from e2e.simtd.gpu import ReportShape, SimulatedGpus
from tests.broker.gpu_sessions import VENDOR, accepting, reference_values, session_evidence, session_parts

DEVICE = VENDOR.device()
OTHER_POD = ClaimedIdentity(pod_uid="uid-2", pod_name="w-1", namespace="pool", worker_name="w", node_name="n2")
World = Any
"""The conftest's, as Domain is."""
Domain = Any
Reasons = Callable[[Any], list[str]]


@pytest.fixture(scope="session")
def references() -> list[dict[str, Any]]:
    return reference_values()


@pytest.fixture
def rules(references: list[dict[str, Any]]) -> dict[str, Any]:
    return accepting(references)


@pytest.fixture
def with_gpus(world: World, rules: dict[str, Any]) -> World:
    """A broker whose tenant demands a GPU."""
    assert world.put_policy(world.acme, version=2, gpu=rules).status_code == 201
    return world


def _attest(world: World, evidence: Evidence) -> Any:
    return world.post("/v1/attest", evidence)


def test_accepted_and_named_in_the_result(with_gpus: World) -> None:
    domain = with_gpus.domain(with_gpus.acme)
    answer = _attest(with_gpus, session_evidence(domain, DEVICE))
    assert answer.status_code == 200, answer.text
    result = AttestResult.model_validate_json(answer.content)
    token = ear.verify(result.ear, with_gpus.deps.keys.ear_public, with_gpus.clock.now())
    assert sorted(token.submods) == ["gpu0", "tdx"]
    assert token.submods["gpu0"].vector["executables"] == 3
    assert token.submods["gpu0"].status == "contraindicated"  # simulated
    found = token.result.gpu
    assert found is not None
    assert (found.bound, found.revocation, found.evidence_class, len(found.device_ids)) == ("Unknown", "NotChecked", "Simulated", 1)
    assert with_gpus.release("acme", result.result_id).status_code == 200


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        ("GpuEvidenceMissing", lambda domain: session_evidence(domain)),
        ("GpuCountMismatch", lambda domain: session_evidence(domain, DEVICE, VENDOR.device())),
        ("GpuMeasurementMismatch", lambda domain: session_evidence(domain, DEVICE, shape=ReportShape(devtools=True))),
        ("GpuModeNotAllowed", lambda domain: session_evidence(domain, DEVICE, shape=ReportShape(feature_flag=2, protected_pcie=0xAA))),
        ("GpuNonceMismatch", lambda domain: session_evidence(domain, DEVICE, gpu_nonce=bytes(32))),
        ("GpuTrustRootMismatch", lambda domain: session_evidence(domain, SimulatedGpus.create().device())),
        ("ReportDataMismatch", lambda domain: session_evidence(domain, DEVICE, bound=False)),
    ],
)
def test_refused_for_this_alone(with_gpus: World, reasons: Reasons, expected: str, make: Callable[[Domain], Evidence]) -> None:
    answer = _attest(with_gpus, make(with_gpus.domain(with_gpus.acme)))
    assert answer.status_code == 403
    assert reasons(answer) == [expected]


def test_a_gpu_taken_out_or_exchanged_on_the_way(with_gpus: World, reasons: Reasons) -> None:
    domain = with_gpus.domain(with_gpus.acme)
    evidence = session_evidence(domain, DEVICE)
    assert reasons(_attest(with_gpus, evidence.model_copy(update={"gpu": []}))) == ["ReportDataMismatch", "GpuEvidenceMissing"]
    other = session_evidence(with_gpus.domain(with_gpus.acme), DEVICE)
    evidence = session_evidence(domain, DEVICE)
    assert reasons(_attest(with_gpus, evidence.model_copy(update={"gpu": other.gpu}))) == ["ReportDataMismatch", "GpuNonceMismatch"]


def test_without_rules_gpus_are_bound_and_not_judged(world: World, reasons: Reasons) -> None:
    domain = world.domain(world.acme)
    answer = _attest(world, session_evidence(domain, SimulatedGpus.create().device()))
    assert answer.status_code == 200
    token = ear.verify(answer.json()["ear"], world.deps.keys.ear_public, world.clock.now())
    assert (sorted(token.submods), token.result.gpu) == (["tdx"], None)
    assert reasons(_attest(world, session_evidence(domain, DEVICE, bound=False))) == ["ReportDataMismatch"]


def test_one_gpu_serves_one_domain(with_gpus: World, reasons: Reasons) -> None:
    first = with_gpus.domain(with_gpus.acme)
    assert _attest(with_gpus, session_evidence(first, DEVICE)).status_code == 200
    second = with_gpus.domain(with_gpus.acme)
    second.claimed = OTHER_POD
    assert reasons(_attest(with_gpus, session_evidence(second, DEVICE))) == ["GpuInUse"]
    assert _attest(with_gpus, session_evidence(second, VENDOR.device())).status_code == 200  # the twin: another GPU
    assert _attest(with_gpus, session_evidence(first, DEVICE)).status_code == 200  # the domain itself renews
    with_gpus.clock.advance(601)
    assert _attest(with_gpus, session_evidence(second, DEVICE)).status_code == 200  # after the first one's end


def test_a_new_domain_of_the_same_pod_takes_the_gpu_over(with_gpus: World) -> None:
    old = _attest(with_gpus, session_evidence(with_gpus.domain(with_gpus.acme), DEVICE)).json()["resultId"]
    new = _attest(with_gpus, session_evidence(with_gpus.domain(with_gpus.acme), DEVICE))
    assert new.status_code == 200
    ended = with_gpus.reading(f"/v1/results/{old}").json()
    assert ended["revokedReason"] == "GpuInUse"
    assert with_gpus.release("acme", old).status_code == 403
    assert with_gpus.release("acme", new.json()["resultId"]).status_code == 200


def test_a_reference_that_ends_sooner_ends_the_result(world: World, rules: dict[str, Any]) -> None:
    soon = world.clock.now() + timedelta(seconds=100)
    sooner = [one | {"expires": soon.isoformat()} for one in rules["measurements"]]
    assert world.put_policy(world.acme, version=2, gpu=rules | {"measurements": sooner}).status_code == 201
    answer = _attest(world, session_evidence(world.domain(world.acme), DEVICE)).json()
    assert answer["limitedBy"] == "gpuReference.expires"
    assert answer["expiresAt"] == soon.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_tightened_policy_revokes(with_gpus: World, rules: dict[str, Any]) -> None:
    result = _attest(with_gpus, session_evidence(with_gpus.domain(with_gpus.acme), DEVICE)).json()["resultId"]
    assert with_gpus.put_policy(with_gpus.acme, version=3, gpu=rules | {"driverVersions": ["591.0"]}).status_code == 201
    with_gpus.deps.reappraiser.work()
    assert with_gpus.reading(f"/v1/results/{result}").json()["revokedReason"] == "GpuDriverNotAllowed"


def test_evidence_that_is_nosession_evidence(with_gpus: World, reasons: Reasons) -> None:
    domain = with_gpus.domain(with_gpus.acme)
    for report, chain in ((b"junk", DEVICE.chain), (DEVICE.report(bytes(32)), b"junk")):
        nonce = with_gpus.challenge()
        listed = [gpus.GpuDevice(report=base64.b64encode(report).decode(), chain=base64.b64encode(chain).decode())]
        report_data = binding.bind(**session_parts(domain, nonce), gpu_digest=gpus.digest(listed)).report_data
        evidence = domain.evidence(nonce=nonce, report_data=report_data).model_copy(update={"gpu": listed})
        answer = _attest(with_gpus, evidence)
        assert answer.status_code == 403
        assert reasons(answer)[0] in ("GpuReportMalformed", "GpuChainUnreadable")
    too_many = domain.evidence().model_copy(update={"gpu": listed * 25})
    assert _attest(with_gpus, too_many).status_code in (400, 413, 422)
