"""The table of reference values on SQLite and PostgreSQL: forwards only, withdrawals and re-appraisal in one transaction."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.reference_store import StoredReference
from chrysalis.broker.store import Cause, Store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def stored(version: int, *withdrawn: str, publisher: str = "p" * 64, release: str = "1") -> StoredReference:
    entries = [{"kind": "PolicyDigest", "value": value, "why": "x", "since": "2026-01-01T00:00:00Z"} for value in withdrawn]
    members = {"version": version, "release": release, "issued": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z"}
    return StoredReference(publisher, version, json.dumps(members | {"withdrawn": entries}), "{}")


def test_versions_only_grow_for_each_publisher(store: Store) -> None:
    assert store.put_reference(stored(2), 1)
    assert not store.put_reference(stored(2), 2)  # exactly this one is stored
    for wrong in (stored(1), stored(2, release="other")):
        with pytest.raises(BrokerError) as refused:
            store.put_reference(wrong, 3)
        assert refused.value.reason == BrokerReason.VERSION_NOT_HIGHER
    assert store.put_reference(stored(1, publisher="q" * 64), 4)
    assert store.put_reference(stored(3), 5)
    assert store.reference_versions() == {"p" * 64: 3, "q" * 64: 1}
    assert store.reference("p" * 64) == stored(3)
    assert store.reference("x" * 64) is None


def test_a_new_withdrawal_asks_for_judging_again_and_cannot_be_taken_back(store: Store) -> None:
    store.put_reference(stored(1), 1)
    assert store.pending_sweeps() == 0
    store.put_reference(stored(2, "a"), 2)
    sweep = store.hold_sweep("me", 3, 10)
    assert sweep is not None
    assert (sweep.cause, sweep.owner, sweep.key_id) == (Cause.REFERENCE_VALUE_WITHDRAWN, "", "")
    store.finish_sweep(sweep, "me")
    store.put_reference(stored(3, "a"), 4)  # nothing new
    assert store.pending_sweeps() == 0
    with pytest.raises(BrokerError) as refused:
        store.put_reference(stored(4, "b"), 5)
    assert refused.value.reason == BrokerReason.WITHDRAWAL_MISSING
    assert store.reference_versions() == {"p" * 64: 3}
    assert store.pending_sweeps() == 0
    store.put_reference(stored(4, "a", "b"), 6)
    assert store.pending_sweeps() == 1


def test_of_many_at_once_one_wins(store: Store) -> None:
    outcomes: list[str] = []

    def put(release: str) -> None:
        try:
            outcomes.append(str(store.put_reference(stored(1, release=release), 1)))
        except BrokerError as error:
            outcomes.append(str(error.reason))

    threads = [threading.Thread(target=put, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["True"] + ["VersionNotHigher"] * 5
