"""Releasing a key: every condition is checked again at that moment, and every answer is in the chain."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from chrysalis.broker import audit
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.sealing import hpke
from chrysalis.sealing.reasons import SealingError

World = Any
Reasons = Callable[[Any], list[str]]


def events(world: World) -> list[str]:
    return [record.event for record in world.deps.store.audit_log()]


def accepted(world: World, tenant: Any = None) -> str:
    answer = world.attest(world.domain(tenant or world.acme))
    assert answer.status_code == 200
    return str(answer.json()["resultId"])


def _expired(world: World, result: str) -> Any:
    world.clock.advance(600)
    return world.release("acme", result)


def _revoked(world: World, result: str) -> Any:
    token = world.token(world.acme)
    answer = world.http.post(f"/v1/results/{result}:revoke", headers={"authorization": f"Bearer {token}"})
    assert answer.json()["revokedAt"]
    return world.release("acme", result)


def _new_policy(world: World, result: str) -> Any:
    assert world.put_policy(world.acme, version=2).status_code == 201
    return world.release("acme", result)


def _record(**changes: Any) -> Callable[[World, str], Any]:
    def change(world: World, result: str) -> Any:
        assert world.put_key(world.acme, version=2, **changes).status_code == 201
        return world.release("acme", result)

    return change


def _second_tenant(world: World, result: str) -> Any:
    """The second tenant's worker is accepted under its own policy; its result opens nothing of the first."""
    return world.release("acme", accepted(world, world.rival))


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        pytest.param(_expired, 403, "ResultExpired", id="expired"),
        pytest.param(_revoked, 403, "ResultRevoked", id="revoked"),
        pytest.param(_new_policy, 403, "PolicyChanged", id="policy changed"),
        pytest.param(_record(policy_name="other"), 403, "PolicyChanged", id="another policy"),
        pytest.param(_record(min_policy_version=2), 403, "PolicyTooOld", id="policy too old"),
        pytest.param(_record(model_digest="sha256:" + "9" * 64), 403, "ModelMismatch", id="another model"),
        pytest.param(_record(isolation=["NodeTD"]), 403, "IsolationNotAllowed", id="isolation"),
        pytest.param(_record(evidence_class=["Hardware"]), 403, "EvidenceClassNotAllowed", id="evidence class"),
        pytest.param(_second_tenant, 403, "ResultForAnotherKey", id="second tenant"),
    ],
)
def test_refusals_are_recorded(world: World, reasons: Reasons, change: Callable[[World, str], Any], status: int, reason: str) -> None:
    result = accepted(world)
    assert world.release("acme", result).status_code == 200  # the twin
    answer = change(world, result)
    assert (answer.status_code, reasons(answer)) == (status, [reason])
    last = list(world.deps.store.audit_log())[-1]
    assert (last.event, last.document["reason"]) == ("ReleaseRefused", reason)
    assert audit.verify(world.deps.store.audit_log()) == len(events(world))


def test_unknown_names_are_refused_and_fill_no_log(world: World, reasons: Reasons) -> None:
    result, before = accepted(world), events(world)
    for name in ("unknown", "rival", "another"):
        assert reasons(world.release(name, result)) == ["ResultForAnotherKey"]
    assert events(world) == [*before, "ReleaseRefused"]  # once, for the result and its own key
    last = list(world.deps.store.audit_log())[-1]
    assert (last.document["keyId"], last.document["owner"]) == ("acme", world.acme.public.hex())
    before = events(world)
    answer = world.release("acme", "nothing")
    assert (answer.status_code, reasons(answer)) == (404, ["ResultUnknown"])
    assert events(world) == before


def test_a_release_may_be_repeated_and_is_recorded_once_and_counted(world: World) -> None:
    result = accepted(world)
    one, two = (world.release("acme", result).json()["wrapped"] for _ in range(2))
    assert one != two
    assert events(world) == ["PolicyStored", "KeyStored"] * 2 + ["KeyReleased"]
    assert world.deps.store.release_counts(result) == {("acme", 1, "Released"): 2}
    stored = list(world.deps.store.audit_log())[-1]
    assert stored.document["resultId"] == result
    assert world.acme.identity not in str(stored.document)


def test_a_new_version_of_the_key_is_a_new_record(world: World) -> None:
    result = accepted(world)
    assert world.release("acme", result).status_code == 200
    assert world.put_key(world.acme, version=2).status_code == 201
    assert world.release("acme", result).status_code == 200
    assert events(world)[-3:] == ["KeyReleased", "KeyStored", "KeyReleased"]
    assert world.deps.store.release_counts(result) == {("acme", 1, "Released"): 1, ("acme", 2, "Released"): 1}


def test_a_change_in_the_last_moment_counts(world: World, reasons: Reasons) -> None:
    """What changes between the check and the record in the audit log is seen: nothing leaves under what has ended."""
    for change, reason in (
        (_revoked, "ResultRevoked"),
        (_new_policy, "PolicyChanged"),
        (_record(isolation=["NodeTD"]), "IsolationNotAllowed"),
    ):
        result = accepted(world)
        results = world.deps.results
        decrypt = results._encryption.decrypt
        world_release, done = world.release, []

        def late(*arguments: Any, change: Any = change, result: str = result, done: list[int] = done, decrypt: Any = decrypt) -> Any:
            if not done:
                done.append(1)
                world.release = lambda *_: None  # the change's own last step is not wanted here
                change(world, result)
            return decrypt(*arguments)

        results._encryption.decrypt = late
        answer = world_release("acme", result)
        results._encryption.decrypt, world.release = decrypt, world_release
        assert reasons(answer) == [reason]
        assert world.deps.store.result(result).released_at is None


def test_refusals_of_one_result_do_not_fill_the_log(world: World, reasons: Reasons) -> None:
    result = accepted(world)
    world.clock.advance(600)
    for _ in range(5):
        assert reasons(world.release("acme", result)) == ["ResultExpired"]
    assert events(world)[-2:] == ["KeyStored", "ReleaseRefused"]
    assert world.deps.store.release_counts(result) == {("acme", 1, "ResultExpired"): 5}


def test_a_key_is_never_given_back_nor_stored_in_the_clear(world: World) -> None:
    record = world.reading("/v1/keys/acme", world.token(world.acme))
    assert (record.status_code, record.json()["keyId"]) == (200, "acme")
    assert "key" not in record.json()
    assert world.acme.identity not in record.text
    state = world.deps.settings.state_dir
    for path in state.glob("broker.db*"):
        assert world.acme.identity.encode() not in path.read_bytes()


def test_a_wrapped_key_is_of_no_use_to_another_domain(world: World) -> None:
    domain = world.domain(world.acme)
    result = world.attest(domain).json()["resultId"]
    wrapped = base64.b64decode(world.release("acme", result).json()["wrapped"])
    info = hpke.model_key_info("acme", "sha256:" + "1" * 64, result)
    hpke.unwrap(domain.hpke, wrapped, info)
    with pytest.raises(SealingError):
        hpke.unwrap(world.domain(world.acme).hpke, wrapped, info)
    with pytest.raises(SealingError):
        hpke.unwrap(domain.hpke, wrapped, hpke.model_key_info("acme", "sha256:" + "1" * 64, accepted(world)))


@pytest.mark.parametrize("statement", ["UPDATE audit SET at = 0", "DELETE FROM audit"])
def test_the_database_refuses_to_change_the_log(world: World, statement: str) -> None:
    with world.deps.store.database.writing() as db, pytest.raises(DatabaseError, match="append-only"):
        db.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET document = '{}' WHERE seq = 2",
        "UPDATE audit SET at = at + 1 WHERE seq = 1",
        "UPDATE audit SET event = 'KeyStored' WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 2",
    ],
)
def test_a_changed_log_is_found(world: World, statement: str) -> None:
    assert audit.verify(world.deps.store.audit_log()) == 4
    with world.deps.store.database.writing() as db:
        for action in ("update", "delete"):
            db.execute(text(f"DROP TRIGGER audit_no_{action}"))
        db.execute(text(statement))
    with pytest.raises(BrokerError) as caught:
        audit.verify(world.deps.store.audit_log())
    assert caught.value.reason == BrokerReason.AUDIT_BROKEN


@pytest.mark.parametrize(
    ("table", "column", "change", "reason"),
    [
        ("results", "document", lambda mine, rivals: rivals, "ResultForAnotherKey"),
        ("policies", "payload", lambda mine, rivals: mine.replace("600", "601"), "StateUnusable"),
        ("policies", "envelope", lambda mine, rivals: rivals, "StateUnusable"),
        ("key_records", "record", lambda mine, rivals: mine.replace('"Simulated"', '"Simulated","Hardware"'), "StateUnusable"),
        ("key_records", "sealed_key", lambda mine, rivals: rivals, "StateUnusable"),
    ],
)
def test_who_writes_to_the_database_gets_no_key(
    world: World, reasons: Reasons, table: str, column: str, change: Callable[[Any, Any], Any], reason: str
) -> None:
    """What decides about a key is signed, or the key's encryption is bound to it; rows that are changed or exchanged open nothing."""
    result = accepted(world)
    accepted(world, world.rival)
    assert world.release("acme", result).status_code == 200
    with world.deps.store.database.writing() as db:
        found = {row.owner: row[0] for row in db.execute(text(f"SELECT {column}, owner FROM {table}"))}
        mine, rivals = found[world.acme.public.hex()], found[world.rival.public.hex()]
        assert change(mine, rivals) != mine
        statement = text(f"UPDATE {table} SET {column} = :new WHERE owner = :owner")
        db.execute(statement, {"new": change(mine, rivals), "owner": world.acme.public.hex()})
        db.execute(text("UPDATE counters SET value = value + 1 WHERE name = 'records'"))  # or the broker would not even look
    assert reasons(world.release("acme", result)) == [reason]


class Slow:
    """A key service that takes some seconds by the broker's clock."""

    def __init__(self, world: World, seconds: int) -> None:
        self._opens, self._clock, self._seconds = world.deps.results._encryption, world.clock, seconds

    def decrypt(self, sealed: bytes, context: bytes) -> Any:
        self._clock.advance(self._seconds)
        return self._opens.decrypt(sealed, context)


@pytest.mark.parametrize(("seconds", "found"), [(599, []), (600, ["ResultExpired"])])
def test_a_result_that_ends_while_the_key_is_fetched_releases_nothing(
    world: World, reasons: Reasons, seconds: int, found: list[str]
) -> None:
    result = accepted(world)
    world.deps.results._encryption = Slow(world, seconds)
    answer = world.release("acme", result)
    assert (answer.status_code == 200) == (not found)
    assert found == ([] if answer.status_code == 200 else reasons(answer))
    log = [record.event for record in world.deps.store.audit_log()]
    assert log[-1] == ("ReleaseRefused" if found else "KeyReleased")
