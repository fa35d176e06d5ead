"""What was accepted is judged again when policy, key record or collateral change; and what a policy would change."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.attestation.collateral import Collateral
from chrysalis.broker import audit, reappraisal
from chrysalis.broker.store import Cause
from chrysalis.wire.broker import Evidence
from e2e.simtd.pki import CollateralShape

World = Any
Reasons = Callable[[Any], list[str]]


def accepted(world: World, tenant: Any = None) -> str:
    answer = world.attest(world.domain(tenant or world.acme))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["resultId"])


def view(world: World, result: str) -> dict[str, Any]:
    found: dict[str, Any] = world.reading(f"/v1/results/{result}").json()
    return found


def no_measurement(world: World) -> dict[str, Any]:
    """The policy's tdx rule with a measurement that no worker has."""
    tdx: dict[str, Any] = world.policy(world.acme)["tdx"]
    return tdx | {"measurements": [tdx["measurements"][0] | {"mrtd": "ab" * 48}]}


def test_a_tightened_policy_revokes_at_once(world: World, reasons: Reasons) -> None:
    mine, others = accepted(world), accepted(world, world.rival)
    assert world.put_policy(world.acme, version=2, tdx=no_measurement(world)).status_code == 201
    assert world.deps.reappraiser.work() == 1
    found = view(world, mine)
    assert (found["verdict"], found["revokedReason"]) == ("Accepted", "MeasurementNotAllowed")
    assert found["revokedAt"]
    assert found["revokedMessage"]
    assert "revokedAt" not in view(world, others)
    last = list(world.deps.store.audit_log())[-1]
    assert (last.event, last.document["cause"], last.document["reason"], last.document["resultId"]) == (
        "ResultRevoked",
        "PolicyChanged",
        "MeasurementNotAllowed",
        mine,
    )
    assert audit.verify(world.deps.store.audit_log()) == last.seq
    assert reasons(world.release("acme", mine)) == ["ResultRevoked"]


def test_a_policy_that_still_accepts_revokes_nothing(world: World) -> None:
    mine = accepted(world)
    assert world.put_policy(world.acme, version=2).status_code == 201
    assert world.deps.reappraiser.work() == 0
    assert "revokedAt" not in view(world, mine)
    assert world.deps.store.pending_sweeps() == 0


def test_a_shorter_life_ends_what_is_older(world: World) -> None:
    old = accepted(world)
    world.clock.advance(120)
    young = accepted(world)
    assert world.put_policy(world.acme, version=2, freshness={"maxResultAgeSeconds": 60}).status_code == 201
    assert world.deps.reappraiser.work() == 1
    assert view(world, old)["revokedReason"] == "ResultTooOld"
    assert "revokedAt" not in view(world, young)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_digest": "sha256:" + "9" * 64}, "ModelMismatch"),
        ({"isolation": ["NodeTD"]}, "IsolationNotAllowed"),
        ({"evidence_class": ["Hardware"]}, "EvidenceClassNotAllowed"),
        ({"min_policy_version": 2}, "PolicyTooOld"),
        ({"policy_name": "other"}, "PolicyMissing"),
    ],
)
def test_a_changed_key_record_revokes(world: World, changes: dict[str, Any], reason: str) -> None:
    mine, others = accepted(world), accepted(world, world.rival)
    assert world.put_key(world.acme, version=2, **changes).status_code == 201
    assert world.deps.reappraiser.work() == 1
    assert view(world, mine)["revokedReason"] == reason
    assert "revokedAt" not in view(world, others)


def test_new_collateral_revokes_what_it_condemns(world: World) -> None:
    mine = accepted(world)
    assert world.deps.reappraiser.work() == 0
    world.clock.advance(60)
    out_of_date = CollateralShape(status="OutOfDate", evaluation_data_number=99)
    world.pccs.shown = Collateral.from_json(world.platform.collateral(world.clock.now(), out_of_date))
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE collateral_documents SET next_attempt_at = 0"))
    world.deps.collateral.refresh()
    assert world.deps.reappraiser.work() == 1
    assert view(world, mine)["revokedReason"] == "TcbOutOfDate"


def test_a_withdrawn_reference_value_judges_everybody_again(world: World) -> None:
    accepted(world), accepted(world, world.rival)
    world.deps.store.request_reappraisal(Cause.REFERENCE_VALUE_WITHDRAWN, 0)
    judged: list[str] = []
    judge = world.deps.reappraiser._judge.judge
    world.deps.reappraiser._judge.judge = lambda evidence, at, **more: judged.append(evidence.nonce) or judge(evidence, at, **more)
    assert world.deps.reappraiser.work() == 0
    assert len(judged) == 2


def test_a_killed_sweep_goes_on_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [accepted(world) for _ in range(5)]
    monkeypatch.setattr(reappraisal, "BATCH", 2)
    assert world.put_policy(world.acme, version=2, tdx=no_measurement(world)).status_code == 201
    store, killed = world.deps.store, world.deps.reappraiser
    batches = 0
    write = store.revoke_batch

    def dies(*arguments: Any, **more: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return write(*arguments, **more)

    store.revoke_batch = dies
    with pytest.raises(KeyboardInterrupt):
        killed.work()
    store.revoke_batch = write
    other = reappraisal.Reappraiser(store=store, judge=killed._judge, clock=world.clock, metrics=world.deps.metrics)
    assert [bool(view(world, result).get("revokedAt")) for result in results] == [True, True, False, False, False]
    assert other.work() == 0  # the killed one still holds it
    world.clock.advance(reappraisal.HOLD_SECONDS)
    assert other.work() == 3
    assert all(view(world, result)["revokedReason"] == "MeasurementNotAllowed" for result in results)
    revoked = [record.document["resultId"] for record in store.audit_log() if record.event == "ResultRevoked"]
    assert revoked == results


def test_two_replicas_do_not_work_on_one_sweep(world: World) -> None:
    accepted(world)
    assert world.put_policy(world.acme, version=2).status_code == 201
    store = world.deps.store
    now = int(world.clock.now().timestamp())
    held = store.hold_sweep("one", now, 15)
    assert held is not None
    assert store.hold_sweep("two", now, 15) is None
    taken = store.hold_sweep("two", now + 15, 15)
    assert taken is not None
    assert store.revoke_batch(held, "one", [], cursor=1, held_until=now + 30, now=now) is None
    store.finish_sweep(held, "one")
    assert store.pending_sweeps() == 1


def test_owners_come_by_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has ten thousand results does not keep another one's revocation waiting, however often it changes its policy."""
    monkeypatch.setattr(reappraisal, "BATCH", 1)
    many = [accepted(world) for _ in range(6)]
    other = accepted(world, world.rival)
    assert world.put_policy(world.acme, version=2, tdx=no_measurement(world)).status_code == 201
    world.deps.store.request_reappraisal(Cause.COLLATERAL_CHANGED, 0)  # concerns everybody
    rivals = world.policy(world.rival)["tdx"]
    refused = rivals | {"measurements": [rivals["measurements"][0] | {"mrtd": "ab" * 48}]}
    assert world.put_policy(world.rival, version=2, tdx=refused).status_code == 201
    before = world.deps.store.change_number()
    assert world.deps.reappraiser.work() == 7
    order = [result.result_id for _, result in world.deps.store.changes(before)]
    assert order.index(other) < 4  # each turn of the others has ended one of acme's at most
    assert set(order) == {*many, other}
    assert world.deps.store.pending_sweeps() == 0


def test_a_policy_that_changes_again_is_judged_once(world: World) -> None:
    mine = accepted(world)
    for version in (2, 3, 4):
        assert world.put_policy(world.acme, version=version, tdx=no_measurement(world)).status_code == 201
    assert world.put_key(world.acme, version=2).status_code == 201  # another scope
    world.deps.store.request_reappraisal(Cause.COLLATERAL_CHANGED, 0)
    assert world.deps.store.pending_sweeps() == 3
    held = world.deps.store.hold_sweep("one", 0, 15, "a" * 64)
    assert world.put_policy(world.acme, version=5, tdx=no_measurement(world)).status_code == 201
    assert world.deps.store.pending_sweeps() == 3
    world.clock.advance(reappraisal.HOLD_SECONDS)
    assert held is not None
    assert world.deps.reappraiser.work() == 1
    assert view(world, mine)["revokedReason"] == "MeasurementNotAllowed"


def test_what_cannot_be_judged_for_want_of_collateral_is_left_alone(world: World) -> None:
    mine = accepted(world)
    with world.deps.store.database.writing() as db:
        db.execute(text("DELETE FROM collateral_documents"))
    world.pccs.down = True
    world.deps.store.request_reappraisal(Cause.COLLATERAL_CHANGED, 0)
    assert world.deps.reappraiser.work() == 0
    assert "revokedAt" not in view(world, mine)


def test_one_result_does_not_keep_a_sweep_from_the_others(world: World) -> None:
    first, second = accepted(world), accepted(world)
    nonce = world.deps.store.evidence(first).message
    judge = world.deps.reappraiser._judge.judge

    def fails(evidence: Evidence, *arguments: Any, **more: Any) -> Any:
        if evidence.nonce in nonce:
            raise ZeroDivisionError
        return judge(evidence, *arguments, **more)

    world.deps.reappraiser._judge.judge = fails
    assert world.put_policy(world.acme, version=2, tdx=no_measurement(world)).status_code == 201
    assert world.deps.reappraiser.work() == 2
    assert view(world, first)["revokedReason"] == "EvidenceUnusable"
    assert view(world, second)["revokedReason"] == "MeasurementNotAllowed"


def test_what_needs_no_collateral_counts_without_it(world: World) -> None:
    mine = accepted(world)
    with world.deps.store.database.writing() as db:
        db.execute(text("DELETE FROM collateral_documents"))
    world.pccs.down = True
    assert world.put_key(world.acme, version=2, model_digest="sha256:" + "9" * 64).status_code == 201
    assert world.deps.reappraiser.work() == 1
    assert view(world, mine)["revokedReason"] == "ModelMismatch"


def test_evidence_that_was_lost_or_changed_is_not_trusted(world: World) -> None:
    lost, damaged = accepted(world), accepted(world)
    with world.deps.store.database.writing() as db:
        db.execute(text("DELETE FROM evidence WHERE result_id = :id"), {"id": lost})
        db.execute(text("UPDATE evidence SET message = :junk WHERE result_id = :id"), {"id": damaged, "junk": b"junk"})
    world.deps.store.request_reappraisal(Cause.REFERENCE_VALUE_WITHDRAWN, 0)
    assert world.deps.reappraiser.work() == 2
    assert {view(world, result)["revokedReason"] for result in (lost, damaged)} == {"EvidenceUnusable"}


def test_a_policy_that_changes_while_evidence_is_judged(world: World, reasons: Reasons) -> None:
    judge = world.deps.attestor._judge.judge
    changed = False

    def slow(*arguments: Any, **more: Any) -> Any:
        nonlocal changed
        case = judge(*arguments, **more)
        if not changed:
            changed = True
            assert world.put_policy(world.acme, version=2, tdx=no_measurement(world)).status_code == 201
        return case

    world.deps.attestor._judge.judge = slow
    answer = world.attest(world.domain(world.acme))
    assert reasons(answer) == ["MeasurementNotAllowed"]  # judged again, under what is stored by now
    assert [result.verdict for result in world.deps.store.results()] == ["Refused"]


def test_evidence_is_kept_whole_and_shared_parts_once(world: World) -> None:
    domain = world.domain(world.acme)
    sent = domain.evidence()
    one = world.post("/v1/attest", sent).json()["resultId"]
    two = accepted(world)
    stored = world.deps.store.evidence(one)
    assert Evidence.model_validate_json(stored.message) == sent
    assert Collateral.from_json(stored.collateral)
    assert SignedPolicy.model_validate_json(stored.policy).name == "workers"
    assert (stored.policy_version, stored.key_id, stored.key_version, stored.owner) == (1, "acme", 1, world.acme.public.hex())
    assert world.deps.store.evidence(two).collateral == stored.collateral
    with world.deps.store.database.reading() as db:
        assert db.execute(text("SELECT count(*) FROM documents")).scalar() == 3  # event log, initdata, collateral
    assert world.deps.store.evidence("unknown") is None
    world.deps.store.trim(1 << 40)
    assert world.deps.store.evidence(one) is None
    with world.deps.store.database.reading() as db:
        assert [db.execute(text(f"SELECT count(*) FROM {name}")).scalar() for name in ("evidence", "documents", "releases")] == [0, 0, 0]


def test_refused_evidence_is_kept_within_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chrysalis.broker.evidence_store.MAX_REFUSED_BYTES", 100_000)
    good = accepted(world)
    refused = []
    for number in range(3):
        domain = world.domain(world.acme)
        domain.claimed = domain.claimed.model_copy(update={"pod_uid": f"uid-{number}"})
        evidence = domain.evidence().model_copy(update={"event_log": base64.b64encode(number.to_bytes(2, "big") * 90_000).decode()})
        answer = world.post("/v1/attest", evidence)
        assert answer.status_code == 403
        refused.append(world.deps.store.results()[0].result_id)
    assert world.deps.store.evidence(refused[0]).collateral is not None
    monkeypatch.setattr("chrysalis.broker.evidence_store.MAX_REFUSED_BYTES", 1000)
    world.deps.store.trim(0)
    assert [world.deps.store.evidence(result) for result in refused] == [None] * 3
    assert world.deps.store.evidence(good) is not None
    assert len(world.deps.store.results()) == 4


# What a policy would change


def simulate(world: World, tenant: Any = None, token: str | None = None, **changes: Any) -> Any:
    tenant = tenant or world.acme
    spec = AttestationPolicySpec.model_validate(world.policy(world.acme, **({"version": 2} | changes)))
    body = SignedPolicy(name="workers", spec=spec).model_dump_json(by_alias=True, exclude_none=True)
    token = token or world.token(tenant)
    return world.http.post("/v1/policies/workers:simulate", content=body, headers={"authorization": f"Bearer {token}"})


def test_simulating_names_who_would_lose_and_changes_nothing(world: World) -> None:
    mine, _others = accepted(world), accepted(world, world.rival)
    kept = simulate(world).json()
    assert (kept["judged"], kept["keeping"], kept["losing"], kept["complete"], kept["storedVersion"]) == (1, 1, [], True, 1)
    found = simulate(world, tdx=no_measurement(world)).json()
    (losing,) = found["losing"]
    assert (losing["resultId"], losing["when"], losing["reasons"][0]["reason"]) == (mine, "Immediately", "MeasurementNotAllowed")
    assert (losing["workerName"], losing["podUid"]) == ("w", "uid-1")
    assert found["keeping"] == 0
    assert world.deps.reappraiser.work() == 0
    assert "revokedAt" not in view(world, mine)


def test_simulating_counts_a_domain_once_however_often_it_renewed(world: World) -> None:
    domain = world.domain(world.acme)
    renewed = [world.attest(domain).json()["resultId"] for _ in range(3)]
    other = world.attest(world.domain(world.acme)).json()["resultId"]
    found = simulate(world, tdx=no_measurement(world)).json()
    assert found["judged"] == 2
    assert {losing["resultId"] for losing in found["losing"]} == {renewed[-1], other}


def test_simulating_sees_what_ends_later(world: World) -> None:
    mine = accepted(world)
    tdx = world.policy(world.acme)["tdx"]
    soon = world.clock.now().replace(minute=5).isoformat()
    expiring = tdx | {"measurements": [tdx["measurements"][0] | {"expires": soon}]}
    (losing,) = simulate(world, tdx=expiring).json()["losing"]
    assert (losing["resultId"], losing["when"]) == (mine, "AtExpiry")
    assert losing["at"] == view(world, mine)["expiresAt"]
    assert losing["reasons"][0]["reason"] == "MeasurementExpired"


def test_simulating_names_who_would_gain(world: World) -> None:
    assert world.put_policy(world.acme, version=2, tdx=no_measurement(world)).status_code == 201
    assert world.attest(world.domain(world.acme)).status_code == 403
    (gaining,) = simulate(world, version=3).json()["gaining"]
    assert (gaining["workerName"], gaining["reasons"]) == ("w", [])


def test_only_an_owner_simulates_on_its_own_evidence(world: World, reasons: Reasons) -> None:
    accepted(world)
    assert simulate(world, world.rival).json()["judged"] == 0
    assert reasons(simulate(world, token="operator")) == ["CallerNotAllowed"]
    assert simulate(world, token="nobody").status_code == 401


def test_a_new_revocation_list_revokes_at_once(world: World) -> None:
    mine = accepted(world)
    world.clock.advance(60)
    world.pccs.shown = Collateral.from_json(world.platform.collateral(world.clock.now(), CollateralShape(revoked=("pck",))))
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE collateral_documents SET next_attempt_at = 0"))
    world.deps.collateral.refresh()
    assert world.deps.reappraiser.work() == 1
    assert view(world, mine)["revokedReason"] == "CertificateRevoked"


@pytest.mark.parametrize("moment", ["before the release", "while it is checked"])
def test_no_key_leaves_between_a_change_and_its_sweep(world: World, reasons: Reasons, moment: str) -> None:
    """A new revocation list is stored; nobody has come to judge the living results again yet."""
    mine = accepted(world)
    world.clock.advance(60)
    world.pccs.shown = Collateral.from_json(world.platform.collateral(world.clock.now(), CollateralShape(revoked=("pck",))))
    with world.deps.store.database.writing() as db:
        db.execute(text("UPDATE collateral_documents SET next_attempt_at = 0"))
    decrypt = world.deps.results._encryption.decrypt
    if moment == "before the release":
        world.deps.collateral.refresh()
    else:
        world.deps.results._encryption.decrypt = lambda *arguments: world.deps.collateral.refresh() or decrypt(*arguments)
    answer = world.release("acme", mine)
    world.deps.results._encryption.decrypt = decrypt
    assert reasons(answer) == ["ResultRevoked"]
    assert "CertificateRevoked" in answer.json()["detail"]
    assert world.deps.store.result(mine).released_at is None
    assert view(world, mine)["revokedReason"] == "CertificateRevoked"
    assert world.deps.reappraiser.work() == 0


def test_a_key_leaves_before_a_sweep_that_would_change_nothing(world: World) -> None:
    mine = accepted(world)
    world.deps.store.request_reappraisal(Cause.COLLATERAL_CHANGED, 0)
    assert world.release("acme", mine).status_code == 200
    assert world.deps.store.pending_sweeps() == 1
