"""The database: its migrations make what the tables say, and it keeps its promises by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from chrysalis.broker import results_store
from chrysalis.broker.audit import verify
from chrysalis.broker.store import Store, StoredPolicy, StoredResult
from chrysalis.broker.tables import metadata


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def result(number: int, **changes: object) -> StoredResult:
    members: dict[str, object] = {
        "result_id": f"r{number}",
        "verdict": "Accepted",
        "namespace": "n",
        "worker": "w",
        "pod_uid": "u",
        "key_id": "k",
        "owner": "o",
        "issued_at": number,
        "expires_at": number + 100,
        "document": "{}",
    }
    return StoredResult(**(members | changes))  # type: ignore[arg-type]


def test_migrations_make_the_tables(store: Store) -> None:
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_key_records_from_before_belong_to_their_owners(database_url: str) -> None:
    """Of version 2 of the tables: ids of their own, and no model beside the record."""
    Store(database_url).close()
    engine = create_engine(database_url)
    record = '{"keyId": "%s", "modelDigest": "sha256:%s"}'
    with engine.begin() as db:
        for table in ("key_records", "recalled_keys", "version_floors", "audit_checkpoints"):
            db.execute(text(f"DROP TABLE {table}"))
        db.execute(text("DROP INDEX ix_audit_anchored"))
        db.execute(text("DELETE FROM counters WHERE name IN ('nonces', 'anchored')"))
        db.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        columns = "owner VARCHAR(64), version BIGINT, payload_sha256 VARCHAR(64), record TEXT, key_since BIGINT, updated_at BIGINT"
        binary = "BYTEA" if engine.dialect.name == "postgresql" else "BLOB"
        db.execute(text(f"CREATE TABLE key_records (key_id VARCHAR(63) PRIMARY KEY, {columns}, sealed_key {binary}, recovery {binary})"))
        for key_id, owner, digit in (("b", "aa" * 32, "1"), ("a", "bb" * 32, "2")):
            values = {"k": key_id, "o": owner, "r": record % (key_id, digit * 64), "s": key_id.encode()}
            db.execute(text("INSERT INTO key_records VALUES (:k, :o, 3, 'ff', :r, 2, 9, :s, :s)"), values)
    engine.dispose()
    store = Store(database_url)
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    for key_id, owner, digit in (("b", "aa" * 32, "1"), ("a", "bb" * 32, "2")):
        found = store.key(owner, key_id)
        assert found is not None
        assert (found.version, found.key_since, found.sealed_key, found.recovery) == (3, 2, key_id.encode(), key_id.encode())
        assert store.key_named(key_id, "sha256:" + digit * 64) == found
        assert store.key_named(key_id, "sha256:" + "9" * 64) is None
    assert store.key("aa" * 32, "a") is None
    store.close()


def test_opening_again_keeps_everything(database_url: str) -> None:
    first = Store(database_url)
    first.add_result(result(1))
    first.close()
    again = Store(database_url)
    found = again.result("r1")
    again.close()
    assert found is not None
    assert found.key_id == "k"


def test_many_that_open_it_at_once_make_it_once(database_url: str) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(Store(database_url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        assert store.change_number() == 0
        store.close()


def test_the_journal_is_durable(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'broker.db'}")
    with store.database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("accepted without an end", {"expires_at": None}),
        ("refused with an end", {"verdict": "Refused"}),
        ("refused and released", {"verdict": "Refused", "expires_at": None, "released_at": 1}),
        ("another verdict", {"verdict": "Perhaps"}),
    ],
)
def test_impossible_results(store: Store, name: str, changes: dict[str, object]) -> None:
    store.add_result(result(1))
    with pytest.raises(IntegrityError):
        store.add_result(result(2, **changes))
    with pytest.raises(IntegrityError):
        store.add_result(result(1))


def test_a_nonce_is_spent_once_until_it_expires(store: Store) -> None:
    assert store.spend_nonce("a", 100, 10)
    assert not store.spend_nonce("a", 100, 99)
    assert store.spend_nonce("b", 200, 100)  # sweeps
    assert store.spend_nonce("a", 300, 100)


def test_one_of_many_at_once_spends_it(store: Store) -> None:
    won: list[bool] = []
    threads = [threading.Thread(target=lambda: won.append(store.spend_nonce("n", 100, 1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_the_audit_chain_holds_under_concurrency(store: Store) -> None:
    def write(number: int) -> None:
        for version in range(1, 6):
            store.put_policy(StoredPolicy(f"o{number}", "p", version, "{}", "{}"), version)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(store.audit_log()) == 20


def test_trimming(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        store.add_result(result(number))
    store.add_result(result(9, verdict="Refused", expires_at=None))
    assert store.trim(before=102) == 3  # r0, r1 by their end, r9 by when it was issued
    assert [r.result_id for r in store.results()] == ["r4", "r3", "r2"]
    monkeypatch.setattr(results_store, "MAX_REFUSED_RESULTS", 2)
    for number in range(200, 205):
        store.add_result(result(number, verdict="Refused", expires_at=None, pod_uid=f"u{number}"))
    assert store.trim(before=0) == 3
    assert [r.result_id for r in store.results()] == ["r204", "r203", "r4", "r3", "r2"]


def test_one_pod_does_not_fill_the_table(store: Store) -> None:
    store.add_result(result(1))
    store.add_result(result(2, verdict="Refused", expires_at=None, pod_uid="other"))
    for number in range(10, 40):
        store.add_result(result(number, verdict="Refused", expires_at=None))
    kept = [r.result_id for r in store.results()]
    assert kept == [f"r{number}" for number in range(39, 31, -1)] + ["r2", "r1"]
