"""A database of every older version is brought to this one with what it holds, and keeps its promises afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DatabaseError

from chrysalis.broker import audit, audit_store, database
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.store import Store
from chrysalis.broker.tables import metadata

CONFIG = Config()
CONFIG.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
REVISIONS = sorted(script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions())
OWNER = "aa" * 32
PAYLOAD = '{"spec":{"version":3}}'


def fill(db: Connection, revision: str) -> None:
    """A policy, a key record, a refused result, a spent nonce and three records of the log, as that version stored them."""
    db.execute(
        text("INSERT INTO policies (owner, name, version, payload, envelope, stored_at) VALUES (:o, 'workers', 3, :p, '{}', 1)"),
        {"o": OWNER, "p": PAYLOAD},
    )
    columns = {"owner": OWNER, "key_id": "llama", "version": 2, "payload_sha256": "ff", "record": '{"modelDigest":"sha256:1"}'}
    columns |= {"sealed_key": b"sealed", "key_since": 1, "recovery": b"age", "updated_at": 1}
    if revision >= "0003":
        columns |= {"model_digest": "sha256:1", "number": 1}
    db.execute(text(f"INSERT INTO key_records ({', '.join(columns)}) VALUES ({', '.join(':' + name for name in columns)})"), columns)
    result = {
        "seq": 1,
        "changed": 1,
        "result_id": "r",
        "verdict": "Refused",
        "namespace": "n",
        "worker": "w",
        "pod_uid": "u",
        "key_id": "llama",
    }
    result |= {"key_id": "llama", "owner": OWNER, "policy_name": "workers", "policy_version": 3, "issued_at": 1, "document": "{}"}
    db.execute(text(f"INSERT INTO results ({', '.join(result)}) VALUES ({', '.join(':' + name for name in result)})"), result)
    db.execute(text("INSERT INTO spent_nonces VALUES ('00', 50)"))
    seq, previous = 0, audit.GENESIS
    for number in range(3):
        link = audit.link(seq + 1, number, "KeyStored", {"n": number}, previous)
        db.execute(
            text("INSERT INTO audit (seq, at, event, document, previous, hash) VALUES (:seq, :at, :event, :document, :previous, :hash)"),
            vars(link) | {"document": f'{{"n":{number}}}'},
        )
        seq, previous = link.seq, link.hash


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_version_is_migrated_with_what_it_holds(database_url: str, revision: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as db:
        CONFIG.attributes["connection"] = db
        command.upgrade(CONFIG, revision)
        fill(db, revision)
    engine.dispose()
    store = Store(database_url)
    with store.database.engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    policy, key, result = store.policy(OWNER, "workers"), store.key(OWNER, "llama"), store.result("r")
    assert policy is not None
    assert (policy.version, policy.payload) == (3, PAYLOAD)
    assert key is not None
    assert (key.version, key.model_digest, key.sealed_key, key.recovery) == (2, "sha256:1", b"sealed", b"age")
    assert result is not None
    assert (result.verdict, result.policy_version) == ("Refused", 3)
    assert store.nonce_spent("00", 49)
    assert not store.spend_nonce("00", 60, 49)
    store.database.transact(lambda db: audit_store.append(db, 9, AuditEvent.KEY_STORED, {"n": 3}))
    assert audit.verify(store.audit_log()) == 4
    store.close()


def replacing(seq: str, digest: str) -> str:
    return (
        "INSERT OR REPLACE INTO audit (seq, at, event, document, previous, hash) "
        f"SELECT {seq}, 0, event, document, previous, {digest} FROM audit WHERE seq = 2"
    )


@pytest.mark.parametrize("revision", ["0001", REVISIONS[-1]])
@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        pytest.param(replacing("seq", "'forged'"), True, id="in the place of its number"),
        pytest.param(replacing("4", "hash"), True, id="in the place of its hash"),
        pytest.param(replacing("0", "'forged'"), True, id="before the first"),
        pytest.param(replacing("4", "'forged'"), False, id="at the end"),  # the twin: the chain finds it, appending is no change
    ],
)
def test_sqlite_lets_nothing_take_a_records_place(tmp_path: Path, revision: str, statement: str, refused: bool) -> None:
    engine: Any = create_engine(f"sqlite:///{tmp_path / 'broker.db'}")
    with engine.begin() as db:
        CONFIG.attributes["connection"] = db
        command.upgrade(CONFIG, revision)
        fill(db, revision)
    engine.dispose()
    store = Store(f"sqlite:///{tmp_path / 'broker.db'}")
    if refused:
        with pytest.raises(DatabaseError, match="append-only"), store.database.writing() as db:
            db.execute(text(statement))
        assert audit.verify(store.audit_log()) == 3
    else:
        with store.database.writing() as db:
            db.execute(text(statement))
        assert len(list(store.audit_log())) == 4
    store.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement", ["TRUNCATE audit", "INSERT INTO audit SELECT * FROM audit WHERE seq = 2 ON CONFLICT (seq) DO UPDATE SET at = 0"]
)
def test_postgresql_lets_nothing_take_a_records_place(postgres_url: str, statement: str) -> None:
    store = Store(postgres_url)
    store.database.transact(lambda db: audit_store.append(db, 9, AuditEvent.KEY_STORED, {"n": 1}, {"n": 2}))
    with pytest.raises(DatabaseError, match="append-only"), store.database.writing() as db:
        db.execute(text(statement))
    assert audit.verify(store.audit_log()) == 2
    store.close()
