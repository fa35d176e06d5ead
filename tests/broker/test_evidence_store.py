"""Evidence and what is to be judged again, on either database."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from chrysalis.broker import evidence_store
from chrysalis.broker.store import Cause, NewEvidence, Revocation, Store, StoredPolicy, StoredResult

OWNER = "ab" * 32


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def evidence(number: int, *, size: int = 10) -> NewEvidence:
    message = {"nonce": f"{number}", "quote": "q", "eventLog": "shared" * size, "initdata": f"own {number}" * size}
    return NewEvidence(message=json.dumps(message), collateral="{}", at=number, key_version=3)


def add(store: Store, number: int, *, refused: bool = False, pod: str = "", size: int = 10) -> str:
    result_id = f"r{number}"
    verdict, end = ("Refused", None) if refused else ("Accepted", 1000)
    result = StoredResult(result_id, verdict, "n", "w", pod or f"u{number}", "k", OWNER, number, end, "{}", "workers", 1)
    store.add_result(result, evidence(number, size=size))
    return result_id


def count(store: Store, table: str) -> int:
    with store.database.reading() as db:
        return int(db.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_what_is_kept_comes_back(store: Store) -> None:
    store.put_policy(StoredPolicy(OWNER, "workers", 1, '{"signed": true}', "{}"), 1)
    one, two = add(store, 1), add(store, 2)
    found = store.evidence(one)
    assert found is not None
    assert json.loads(found.message) == json.loads(evidence(1).message)
    assert (found.collateral, found.policy, found.at, found.key_version, found.owner) == ("{}", '{"signed": true}', 1, 3, OWNER)
    assert {stored.result_id for stored in store.evidence_of([one, two, "none"])} == {one, two}
    assert count(store, "documents") == 4  # the event log and the collateral once, each initdata


def test_a_document_that_was_changed_is_not_given_back(store: Store) -> None:
    one = add(store, 1)
    with store.database.writing() as db:
        db.execute(text("UPDATE documents SET body = :other"), {"other": evidence_store._pack("another")[1]})
    assert store.evidence(one) is None


def test_refusals_keep_the_newest_within_the_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = add(store, 1)
    refused = [add(store, number, refused=True) for number in range(2, 7)]
    with store.database.reading() as db:
        size = int(db.execute(text("SELECT max(size) FROM evidence")).scalar_one())
    monkeypatch.setattr(evidence_store, "MAX_REFUSED_BYTES", 2 * size)
    store.trim(0)
    assert [store.evidence(result) is not None for result in (accepted, *refused)] == [True, False, False, False, True, True]
    assert len(store.results()) == 6
    assert count(store, "documents") == 2 + 3  # what nothing refers to went with it


def test_living_results_and_last_attempts(store: Store) -> None:
    first, second = add(store, 1, pod="a"), add(store, 2, pod="b")
    add(store, 3, refused=True, pod="c")
    last = add(store, 4, refused=True, pod="c")
    add(store, 5, refused=True, pod="d")
    recovered = add(store, 6, pod="d")
    assert store.latest_attempts(OWNER, "workers", 10, 100) == [recovered, last, second, first]
    assert store.latest_attempts(OWNER, "other", 10, 100) == []
    assert store.latest_attempts(OWNER, "workers", 1000, 100) == [last]  # the others have ended
    store.revoke([Revocation(first, "R", "m", {"resultId": first})], 10)
    store.request_reappraisal(Cause.POLICY_CHANGED, 10, owner=OWNER, policy_name="workers")
    store.request_reappraisal(Cause.KEY_RECORD_CHANGED, 10, key_id="other")
    sweep = store.hold_sweep("h", 10, 15)
    assert sweep is not None
    assert [result for _, result in store.living(sweep, 0, 10, 100)] == [second, recovered]
    store.finish_sweep(sweep, "h")
    other = store.hold_sweep("h", 10, 15)
    assert other is not None
    assert store.living(other, 0, 10, 100) == []


def test_changes_are_numbered_in_order(store: Store) -> None:
    one, two = add(store, 1), add(store, 2)
    assert [(number, result.result_id) for number, result in store.changes(0)] == [(1, one), (2, two)]
    store.revoke([Revocation(one, "R", "m", {"resultId": one})], 10)
    assert [(number, result.result_id) for number, result in store.changes(2)] == [(3, one)]
    assert store.revoke([Revocation(one, "R", "m", {"resultId": one})], 10) == 0
    assert store.changes(4) == []
