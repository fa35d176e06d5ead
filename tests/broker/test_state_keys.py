"""The broker's own keys: made once, whole or not at all, and shared by replicas."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chrysalis.broker import state_keys
from chrysalis.broker.database import Database
from chrysalis.broker.encryption import RootKeyEncryption
from chrysalis.broker.reasons import BrokerError
from chrysalis.clock import ManualClock

ROOT = RootKeyEncryption(b"r" * 32)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'broker.db'}")
    yield opened
    opened.close()


def test_files_are_made_once(tmp_path: Path, clock: ManualClock) -> None:
    one, two = (state_keys.load_or_make(tmp_path / "state", clock) for _ in range(2))
    assert one.material() == two.material()
    for file in (tmp_path / "state").iterdir():
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", state_keys.NAMES)
@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xfe"])
def test_a_damaged_file_is_refused(tmp_path: Path, clock: ManualClock, name: str, content: bytes) -> None:
    state_keys.load_or_make(tmp_path, clock)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokerError) as caught:
        state_keys.load_or_make(tmp_path, clock)
    assert caught.value.reason == "StateUnusable"


def test_another_certificate_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    state_keys.load_or_make(tmp_path / "a", clock)
    state_keys.load_or_make(tmp_path / "b", clock)
    (tmp_path / "a" / "tls.crt").write_bytes((tmp_path / "b" / "tls.crt").read_bytes())
    with pytest.raises(BrokerError):
        state_keys.load_or_make(tmp_path / "a", clock)


def test_replicas_share_what_the_first_one_made(tmp_path: Path, database: Database, clock: ManualClock) -> None:
    found: list[dict[str, bytes]] = []

    def replica(number: int) -> None:
        found.append(state_keys.load_or_share(tmp_path / str(number), database, ROOT, clock).material())

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(material == found[0] for material in found)
    assert sorted(file.name for file in (tmp_path / "0").iterdir()) == ["tls.crt", "tls.key"], "the others never lie in a file"
    for value in found[0].values():
        assert value.strip() not in (tmp_path / "broker.db").read_bytes()


def test_a_broker_takes_its_files_along(tmp_path: Path, database: Database, clock: ManualClock) -> None:
    before = state_keys.load_or_make(tmp_path / "state", clock)
    after = state_keys.load_or_share(tmp_path / "state", database, ROOT, clock)
    assert after.material() == before.material()
    assert state_keys.load_or_share(tmp_path / "other", database, ROOT, clock).material() == before.material()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM state_keys WHERE name = 'ear.key'",
        "UPDATE state_keys SET sealed = (SELECT sealed FROM state_keys WHERE name = 'nonce.key') WHERE name = 'ear.key'",
        "UPDATE state_keys SET sealed = x'00'",
    ],
)
def test_changed_rows_are_refused(tmp_path: Path, database: Database, clock: ManualClock, statement: str) -> None:
    state_keys.load_or_share(tmp_path / "a", database, ROOT, clock)
    state_keys.load_or_share(tmp_path / "a", database, ROOT, clock)  # the twin
    with database.writing() as db:
        db.execute(text(statement))
    with pytest.raises(BrokerError) as caught:
        state_keys.load_or_share(tmp_path / "a", database, ROOT, clock)
    assert caught.value.reason == "StateUnusable"


def test_another_root_key_is_refused(tmp_path: Path, database: Database, clock: ManualClock) -> None:
    state_keys.load_or_share(tmp_path / "a", database, ROOT, clock)
    with pytest.raises(BrokerError) as caught:
        state_keys.load_or_share(tmp_path / "a", database, RootKeyEncryption(b"o" * 32), clock)
    assert caught.value.reason == "StateUnusable"


def test_a_root_key_is_made_once(tmp_path: Path) -> None:
    assert state_keys.root_key(tmp_path) == state_keys.root_key(tmp_path)
    (tmp_path / "root.key").write_text("00")
    with pytest.raises(BrokerError):
        state_keys.root_key(tmp_path)
