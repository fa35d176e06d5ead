"""reconcile, row by row: one thing differs from a worker that is well, and exactly that is said and done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.api.conditions import status_of
from chrysalis.controller.actions import Announce, ApplyChildren, OpenGate, Plan, SetAttested, WriteStatus
from chrysalis.controller.observed import AccountView, BrokerView, DeploymentView, Observed, PodView, PolicyView, Problem
from chrysalis.controller.reconcile import Cadence, reconcile
from chrysalis.wire.broker import ResultView

Factory = Callable[..., Any]
CADENCE = Cadence(pending=0.5, steady=10)


def status(plan: Plan) -> dict[str, Any]:
    """The status that a plan writes."""
    return next(dict(action.status) for action in plan.actions if isinstance(action, WriteStatus))


def condition(plan: Plan, kind: str) -> dict[str, Any]:
    """One condition that a plan writes."""
    return next(c for c in status(plan)["conditions"] if c["type"] == kind)


def of(plan: Plan, kind: type) -> list[Any]:
    """The actions of one kind."""
    return [action for action in plan.actions if isinstance(action, kind)]


def carried_out(observed: Observed, plan: Plan) -> Observed:
    """The same observation after the plan's status and conditions were written."""
    pods = list(observed.pods)
    for action in plan.actions:
        if isinstance(action, SetAttested):
            pods = [replace(p, attested=str(action.value), attested_reason=action.reason) if p.uid == action.uid else p for p in pods]
        elif isinstance(action, OpenGate):
            pods = [replace(p, gate=None, admitted=p.uid) if p.uid == action.uid else p for p in pods]
    worker = observed.worker
    for action in of(plan, WriteStatus):
        written = dict(action.status)
        worker = replace(worker, conditions=tuple(written.pop("conditions")), status=written)
    return replace(observed, pods=tuple(pods), worker=worker)


def test_a_worker_that_is_well(observed: Factory) -> None:
    plan = reconcile(observed(), CADENCE)
    assert condition(plan, "Ready")["status"] == "True"
    assert condition(plan, "Attested")["reason"] == "EvidenceAccepted"
    assert condition(plan, "KeyReleased")["status"] == "True"
    assert condition(plan, "Serving")["status"] == "True"
    assert condition(plan, "Reconciling")["status"] == "False"
    assert condition(plan, "Stalled")["status"] == "False"
    written = status(plan)
    assert (written["replicas"], written["readyReplicas"], written["observedGeneration"]) == (1, 1, 2)
    assert written["selector"] == "chrysalis.dev/worker=embedder"
    assert (written["tcbStatus"], written["evidenceClass"]) == ("UpToDate", "Simulated")
    assert written["expiresAt"] == "2026-11-01T12:30:00Z"
    assert all(c["observedGeneration"] == 2 for c in written["conditions"])
    assert plan.again_in_seconds == 10


def test_a_second_look_does_nothing(observed: Factory) -> None:
    first = observed()
    plan = reconcile(carried_out(first, reconcile(first)), CADENCE)
    assert [type(action) for action in plan.actions] == [ApplyChildren]


def test_a_renewal_costs_one_write_for_the_worker_and_none_for_the_pod(observed: Factory, result: Factory) -> None:
    first = observed()
    known = carried_out(first, reconcile(first))
    renewed = result(result_id="r-2", issued_at=known.at, expires_at=known.at + timedelta(hours=1), key_released_at=None)
    plan = reconcile(replace(known, broker=BrokerView(True, results=(renewed, *known.broker.results))))
    assert [type(action) for action in plan.actions] == [ApplyChildren, WriteStatus]
    alone = reconcile(replace(known, broker=BrokerView(True, results=(renewed,))))  # the first result is no longer listed
    assert not of(alone, SetAttested)
    assert condition(alone, "KeyReleased")["status"] == "True"


BAD_WALLET = {"payout": {"wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKA"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec": BAD_WALLET}, "WalletAddressInvalid"),
        ({"spec": {"isolation": "NodeTD"}}, "IsolationNotSupported"),
        ({"spec": {"colour": "red"}}, "SpecInvalid"),
        ({"taken": "Service 'embedder'"}, "ChildNameTaken"),
    ],
)
def test_what_stalls_a_worker(observed: Factory, pod: Factory, change: dict[str, Any], reason: str) -> None:
    born = pod(gate=0, admitted="", node="", ready=False, attested="Unknown", gateway_started=None, phase="Pending")
    plan = reconcile(observed(pods=(born,), **change), CADENCE)
    assert (condition(plan, "Stalled")["status"], condition(plan, "Stalled")["reason"]) == ("True", reason)
    assert (condition(plan, "Ready")["status"], condition(plan, "Ready")["reason"]) == ("False", reason)
    assert condition(plan, "Reconciling")["status"] == "False"
    assert condition(plan, "Stalled")["message"]
    assert not of(plan, OpenGate)
    assert not of(plan, ApplyChildren), "no pod comes into being"
    assert any(action.warning and action.reason == reason for action in of(plan, Announce))
    assert plan.again_in_seconds == 10
    twin = reconcile(observed(pods=(born,)), CADENCE)
    assert of(twin, OpenGate)
    assert of(twin, ApplyChildren)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"policy": None}, "PolicyNotFound"),
        ({"policy": PolicyView(False, "PolicyInvalid", "spec.version: missing")}, "PolicyInvalid"),
        ({"broker": BrokerView(False, "BrokerUnreachable", "no answer")}, "BrokerUnreachable"),
        ({"broker": BrokerView(False, "BrokerPinMismatch", "another key")}, "BrokerPinMismatch"),
        ({"spec": {"settlementAccountRef": {"name": "pool"}, "payout": {"wallet": "0:" + "00" * 32}}}, "AccountNotFound"),
    ],
)
def test_what_keeps_the_gate_closed(observed: Factory, pod: Factory, change: dict[str, Any], reason: str) -> None:
    born = pod(gate=0, admitted="", node="", ready=False, attested="Unknown", gateway_started=None, phase="Pending")
    plan = reconcile(observed(pods=(born,), **change), CADENCE)
    assert not of(plan, OpenGate)
    assert condition(plan, "Ready")["reason"] == reason
    assert condition(plan, "Stalled")["status"] == "False"
    assert condition(plan, "Reconciling")["status"] == "True"
    assert plan.again_in_seconds == 0.5
    assert of(reconcile(observed(pods=(born,))), OpenGate) == [OpenGate(born.name, born.uid, 0)]


@pytest.mark.parametrize(
    "members",
    [
        {"owner": ""},
        {"owner": "Job"},
        {"mrconfigid": "00" * 48},
        {"mrconfigid": ""},
        {"node": "n1"},
        {"deleting": True},
        {"phase": "Failed"},
    ],
)
def test_pods_whose_gate_is_never_opened(observed: Factory, pod: Factory, members: dict[str, Any]) -> None:
    born = pod(**{"gate": 0, "admitted": "", "node": "", "ready": False, "attested": "Unknown", "phase": "Pending", **members})
    assert not of(reconcile(observed(pods=(born,))), OpenGate)


@pytest.mark.parametrize(
    "members", [{"admitted": ""}, {"admitted": "another-uid"}, {"admitted": "", "gate": 0}, {"admitted": "", "node": ""}]
)
def test_a_pod_that_somebody_else_started_is_never_ready(observed: Factory, pod: Factory, members: dict[str, Any]) -> None:
    plan = reconcile(observed(pods=(pod(**members),)))
    assert condition(plan, "Ready")["reason"] == "BypassDetected"
    assert [(a.value, a.reason) for a in of(plan, SetAttested)] == [(False, "BypassDetected")], "a forged condition is taken back"
    assert any(a.warning and a.reason == "BypassDetected" for a in of(plan, Announce))
    assert status(plan)["readyReplicas"] == 0
    honest = reconcile(observed(pods=(pod(attested="Unknown", **members),)))
    assert not of(honest, SetAttested)


@pytest.mark.parametrize("reason", ["MeasurementNotAllowed", "TcbOutOfDate", "NonceSpent"])
def test_refused_evidence_is_shown_with_its_reason_and_remedy(observed: Factory, pod: Factory, refusal: Factory, reason: str) -> None:
    fresh = pod(ready=False, attested="Unknown", attested_reason="")
    plan = reconcile(observed(pods=(fresh,), broker=BrokerView(True, results=(refusal(reason=reason),))))
    for kind in ("Attested", "Ready"):
        found = condition(plan, kind)
        assert (found["status"], found["reason"]) == ("False", reason)
        assert "measure the worker again" in found["message"]
    assert [(a.value, a.reason) for a in of(plan, SetAttested)] == [(False, reason)]
    assert [a.reason for a in of(plan, Announce) if a.warning] == [reason]


def test_an_expired_result_ends_readiness(observed: Factory, result: Factory) -> None:
    ended = BrokerView(True, results=(result(expires_at=observed().at),))
    plan = reconcile(observed(broker=ended))
    assert [(a.value, a.reason) for a in of(plan, SetAttested)] == [(False, "ResultExpired")]
    assert condition(plan, "Attested")["reason"] == "ResultExpired"
    later = BrokerView(True, results=(result(expires_at=observed().at + timedelta(seconds=1)),))
    twin = reconcile(observed(broker=later), CADENCE)
    assert not of(twin, SetAttested)
    assert twin.again_in_seconds == pytest.approx(1.05), "looks again when it ends"


def test_a_revoked_result_says_why(observed: Factory, result: Factory) -> None:
    revoked = result(revoked_at=observed().at, revoked_reason="TcbEvaluationTooOld", revoked_message="the policy asks for 30 or more")
    plan = reconcile(observed(broker=BrokerView(True, results=(revoked,))))
    attested = condition(plan, "Attested")
    assert attested["reason"] == "ResultRevoked"
    assert "TcbEvaluationTooOld" in attested["message"]
    assert "the policy asks for 30 or more" in attested["message"]


def test_a_revoked_result_ends_readiness(observed: Factory, result: Factory) -> None:
    plan = reconcile(observed(broker=BrokerView(True, results=(result(revoked_at=observed().at),))))
    assert [(a.value, a.reason) for a in of(plan, SetAttested)] == [(False, "ResultRevoked")]


def test_expiry_is_noticed_while_the_broker_is_down(observed: Factory, result: Factory) -> None:
    down = BrokerView(False, "BrokerUnreachable", "no answer", results=(result(expires_at=observed().at),))
    assert of(reconcile(observed(broker=down)), SetAttested)[0].reason == "ResultExpired"


def test_admitted_workers_go_on_while_the_broker_is_down(observed: Factory, result: Factory) -> None:
    for remembered in ((result(),), ()):
        plan = reconcile(observed(broker=BrokerView(False, "BrokerUnreachable", "no answer", results=remembered)))
        assert not of(plan, SetAttested)
        assert condition(plan, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    "members", [{"key_id": "another-key"}, {"policy_name": "another-policy"}, {"key_released_at": None}, {"claimed": {"pod_uid": "u-2"}}]
)
def test_results_that_do_not_make_a_pod_ready(observed: Factory, pod: Factory, result: Factory, members: dict[str, Any]) -> None:
    fresh = pod(ready=False, attested="Unknown", attested_reason="")
    plan = reconcile(observed(pods=(fresh,), broker=BrokerView(True, results=(result(**members),))))
    assert not of(plan, SetAttested)
    assert condition(plan, "Ready")["status"] == "False"
    twin = reconcile(observed(pods=(fresh,)))
    assert [(a.value, a.reason) for a in of(twin, SetAttested)] == [(True, "EvidenceAccepted")]


def test_two_domains_that_claim_one_pod(observed: Factory, result: Factory) -> None:
    other = result(result_id="r-2", keys={"tls_spki_sha256": "11" * 32, "hpke": "12" * 32, "receipt": "13" * 32})
    plan = reconcile(observed(broker=BrokerView(True, results=(other, result()))))
    assert [(a.value, a.reason) for a in of(plan, SetAttested)] == [(False, "IdentityConflict")]
    assert condition(plan, "Ready")["reason"] == "IdentityConflict"
    same = result(result_id="r-2", keys={"tls_spki_sha256": "11" * 32, "hpke": "02" * 32, "receipt": "03" * 32})
    assert not of(reconcile(observed(broker=BrokerView(True, results=(same, result())))), SetAttested), "a renewal is no conflict"
    before = result(keys=other.keys.model_dump(), issued_at=observed().pods[0].gateway_started - timedelta(seconds=30))
    assert not of(reconcile(observed(broker=BrokerView(True, results=(result(), before)))), SetAttested), "nor is a restart"


def test_a_guests_refusal_is_shown(observed: Factory, pod: Factory) -> None:
    text = "failed to create containerd task: simtd: the initdata's policy does not allow container 'triton'"
    broken = pod(ready=False, attested="Unknown", problem=Problem("triton", "CreateContainerError", text))
    plan = reconcile(observed(pods=(broken,)))
    assert condition(plan, "Ready")["reason"] == "GuestRefusedContainer"
    assert "does not allow container" in condition(plan, "Ready")["message"]
    crashed = pod(ready=False, problem=Problem("gateway", "CrashLoopBackOff", "back-off"))
    assert condition(reconcile(observed(pods=(crashed,))), "Ready")["reason"] == "CrashLoopBackOff"


def test_settling_follows_the_account(observed: Factory) -> None:
    paid = {"settlementAccountRef": {"name": "pool"}, "payout": {"wallet": "0:" + "00" * 32}}
    spec = {
        "funding": "OwnerFunded",
        "globalId": -217,
        "contract": "0:" + "c0" * 32,
        "liteservers": [{"host": "192.0.2.7", "port": 1, "key": "1a" * 32}],
        "reservationKeys": ["2b" * 32],
    }
    account = AccountView(spec, ready="True", earned={"embedder": "1500000000"})
    plan = reconcile(observed(spec=paid, account=account))
    assert condition(plan, "Settling")["status"] == "True"
    assert status(plan)["earned"] == "1.5 TON"
    assert status(plan)["wallet"] == "0:" + "00" * 32
    broken = reconcile(observed(spec=paid, account=AccountView(spec, ready="False", reason="ContractPaused", message="paused")))
    assert condition(broken, "Settling")["reason"] == "ContractPaused"
    forged = reconcile(observed(spec=paid, account=AccountView(spec, earned={"embedder": "-5"})))
    assert "earned" not in status(forged)
    assert not [c for c in status(reconcile(observed()))["conditions"] if c["type"] == "Settling"]


def test_ready_is_not_true_during_a_roll_out(observed: Factory) -> None:
    rolling = DeploymentView(uid="d", version=1, generation=2, observed_generation=1, owner_uid="w-1", updated_replicas=1)
    assert condition(reconcile(observed(deployment=rolling)), "Ready")["reason"] == "Progressing"
    failing = replace(rolling, observed_generation=2, failure="exceeded quota")
    assert condition(reconcile(observed(pods=(), deployment=failing)), "Ready")["reason"] == "ReplicaFailure"


def test_no_replicas(observed: Factory) -> None:
    none = DeploymentView(uid="d", version=1, generation=1, observed_generation=1, owner_uid="w-1", updated_replicas=0)
    plan = reconcile(observed(spec={"replicas": 0}, pods=(), deployment=none))
    assert (condition(plan, "Ready")["status"], condition(plan, "Ready")["reason"]) == ("True", "ScaledToZero")


def test_a_worker_that_is_being_deleted_is_left_alone(observed: Factory) -> None:
    assert reconcile(observed(worker={"deleting": True})).actions == ()


def test_a_message_names_three_pods_at_most(observed: Factory, pod: Factory, refusal: Factory) -> None:
    pods = tuple(pod(f"u-{n}", ready=False, attested="Unknown") for n in range(6))
    results = tuple(refusal(p.uid) for p in pods)
    plan = reconcile(observed(spec={"replicas": 6}, pods=pods, broker=BrokerView(True, results=results)))
    assert "and 3 more" in condition(plan, "Attested")["message"]


uids = st.sampled_from(["u-1", "u-2", "u-3"])


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    """Any mixture of pods, results and obstacles."""
    return {
        "pods": draw(
            st.lists(
                st.fixed_dictionaries(
                    {
                        "uid": uids,
                        "gate": st.sampled_from([None, 0, 1]),
                        "admitted": st.sampled_from(["", "u-1", "u-2", "u-3"]),
                        "node": st.sampled_from(["", "n1"]),
                        "owner": st.sampled_from(["", "ReplicaSet"]),
                        "attested": st.sampled_from(["True", "False", "Unknown"]),
                        "ready": st.booleans(),
                        "deleting": st.booleans(),
                        "mrconfigid": st.sampled_from(["good", "00"]),
                    }
                ),
                unique_by=lambda p: p["uid"],
                max_size=3,
            )
        ),
        "results": draw(
            st.lists(
                st.fixed_dictionaries(
                    {
                        "uid": uids,
                        "verdict": st.sampled_from(["Accepted", "Refused"]),
                        "key_id": st.sampled_from(["minilm-key", "other"]),
                        "left": st.integers(-2, 2),
                        "issued": st.integers(-120, 240),
                        "revoked": st.booleans(),
                        "released": st.booleans(),
                        "receipt": st.sampled_from(["03", "04"]),
                    }
                ),
                max_size=5,
            )
        ),
        "up": draw(st.booleans()),
        "policy": draw(st.booleans()),
        "wallet": draw(st.booleans()),
    }


@settings(max_examples=150, deadline=None)
@given(situations())
def test_invariants(observed: Factory, pod: Factory, result: Factory, found: dict[str, Any]) -> None:
    """Whatever is observed: what gates and readiness rest on, and that a second look does nothing."""
    seen = _observation(observed, pod, result, found)
    plan = reconcile(seen)
    by_uid = {p.uid: p for p in seen.pods}
    obstacle = not found["up"] or not found["policy"] or not found["wallet"]
    for gate in of(plan, OpenGate):
        p = by_uid[gate.uid]
        assert not obstacle
        assert p.gated
        assert not p.node
        assert not p.deleting
        assert p.owner == "ReplicaSet"
    for action in of(plan, SetAttested):
        p = by_uid[action.uid]
        if action.value:
            assert p.admitted == p.uid
            live = [r for r in seen.broker.results if _live(r, p, seen)]
            assert live
            assert all(r.key_id == "minilm-key" for r in live)
            assert any(r.key_released_at for r in seen.broker.results if r.claimed.pod_uid == p.uid)
    written = {c["type"]: c["status"] for c in status(plan)["conditions"]}
    if any(p.bypassed and not p.over for p in seen.pods) or not found["wallet"]:
        assert written["Ready"] == "False"
    assert not (written["Stalled"] == "True" and written["Reconciling"] == "True")
    after = carried_out(seen, plan)
    again = reconcile(after)
    if after.pods == seen.pods:
        assert not [a for a in again.actions if not isinstance(a, ApplyChildren | OpenGate)]
    assert not [a for a in of(again, SetAttested) if a.value != (by_uid[a.uid].attested == "True") and a in of(plan, SetAttested)]
    assert status_of(status(plan)["conditions"], "Ready") in {"True", "False"}


def _live(result: ResultView, pod: PodView, seen: Observed) -> bool:
    return (
        result.verdict == "Accepted"
        and result.claimed.pod_uid == pod.uid
        and result.revoked_at is None
        and result.expires_at is not None
        and result.expires_at > seen.at
        and result.key_id == "minilm-key"
    )


def _observation(observed: Factory, pod: Factory, result: Factory, found: dict[str, Any]) -> Observed:
    base = observed()
    good = base.pods[0].mrconfigid
    pods = tuple(pod(**{**p, "mrconfigid": good if p["mrconfigid"] == "good" else "00"}) for p in found["pods"])
    results = []
    for number, r in enumerate(found["results"]):
        accepted = r["verdict"] == "Accepted"
        issued = base.pods[0].gateway_started + timedelta(seconds=r["issued"])
        results.append(
            result(
                r["uid"],
                result_id=f"r-{number}",
                verdict=r["verdict"],
                key_id=r["key_id"],
                issued_at=issued,
                expires_at=base.at + timedelta(minutes=r["left"]) if accepted else None,
                revoked_at=base.at if r["revoked"] else None,
                key_released_at=issued if r["released"] and accepted else None,
                keys={"tls_spki_sha256": "01" * 32, "hpke": "02" * 32, "receipt": r["receipt"] * 32},
            )
        )
    return observed(
        spec={"replicas": 2} | ({} if found["wallet"] else BAD_WALLET),
        pods=pods,
        policy=PolicyView(True, "PolicySigned", "") if found["policy"] else None,
        broker=BrokerView(found["up"], "" if found["up"] else "BrokerUnreachable", "", tuple(results)),
    )
