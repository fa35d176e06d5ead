"""An older database is not mistaken for the newest one."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chrysalis.broker import anchors, audit_store
from chrysalis.broker.anchors import FileAnchor, Keeper, State
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import unix

World = Any


@pytest.fixture
def anchor(world: World, tmp_path: Path) -> FileAnchor:
    """An anchor that has noted the world's state."""
    (tmp_path / "elsewhere").mkdir()
    made = FileAnchor(tmp_path / "elsewhere" / "anchor.json")
    made.advance(anchors.state_of(world.deps.store.database))
    return made


def database_file(world: World) -> Path:
    return Path(world.deps.settings.state_dir / "broker.db")


@pytest.fixture
def older(world: World, tmp_path: Path) -> Callable[[], None]:
    """Puts the database back to what it was when the test began."""
    copy = tmp_path / "older.db"
    with sqlite3.connect(database_file(world)) as source, sqlite3.connect(copy) as target:
        source.backup(target)

    def put_back() -> None:
        world.deps.store.close()
        for leftover in database_file(world).parent.glob("broker.db-*"):
            leftover.unlink()
        shutil.copy(copy, database_file(world))

    return put_back


def start(world: World, path: Path) -> Any:
    settings = world.deps.settings.model_copy(update={"anchor": anchors.AnchorSettings(file=path)})
    return assemble(settings, clock=world.clock, fetcher=world.pccs)


def refusal(world: World, path: Path) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        start(world, path)
    assert caught.value.remedy
    return caught.value


def test_a_database_ahead_of_its_anchor_starts(world: World, anchor: FileAnchor, tmp_path: Path) -> None:
    world.put_policy(world.acme, version=2)
    noted = anchor.read()
    assert noted is not None
    start(world, tmp_path / "elsewhere" / "anchor.json").store.close()
    now = anchor.read()
    assert now is not None
    assert now.audit_seq == noted.audit_seq + 1
    assert now.policies[f"{world.acme.public.hex()}/workers"] == 2


def test_an_older_database_is_refused(world: World, anchor: FileAnchor, older: Callable[[], None], tmp_path: Path) -> None:
    assert world.put_policy(world.acme, version=2).status_code == 201
    assert world.put_key(world.acme, version=5).status_code == 201
    anchor.advance(anchors.state_of(world.deps.store.database))
    older()
    error = refusal(world, tmp_path / "elsewhere" / "anchor.json")
    assert error.reason == "StateRolledBack"
    for word in ("audit log ends", "policy ", "/acme has version 1; version 5"):
        assert word in error.detail


def test_another_history_of_the_same_length_is_refused(world: World, anchor: FileAnchor, older: Callable[[], None], tmp_path: Path) -> None:
    world.put_policy(world.acme, version=2)
    anchor.advance(anchors.state_of(world.deps.store.database))
    older()
    deps = assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs)
    world.clock.advance(1)
    document = {"name": "workers", "owner": "another", "version": 2}
    deps.store.database.transact(lambda db: audit_store.append(db, unix(world.clock.now()), AuditEvent.POLICY_STORED, document))
    assert deps.store.audit_head()[0] >= 5
    deps.store.close()
    error = refusal(world, tmp_path / "elsewhere" / "anchor.json")
    assert error.reason == "StateRolledBack"
    assert "is another one" in error.detail


@pytest.mark.parametrize("statement", ["DELETE FROM policies", "UPDATE key_records SET version = 1", "DELETE FROM key_records"])
def test_what_the_log_does_not_show_is_found(world: World, tmp_path: Path, statement: str) -> None:
    world.put_key(world.acme, version=3)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    start(world, path).store.close()  # the twin
    world.deps.store.close()
    with sqlite3.connect(database_file(world)) as db:
        db.execute(statement)
    assert refusal(world, path).reason == "StateRolledBack"


def test_a_rollback_is_accepted_explicitly_and_audited(world: World, anchor: FileAnchor, older: Callable[[], None], tmp_path: Path) -> None:
    world.put_policy(world.acme, version=2)
    anchor.advance(anchors.state_of(world.deps.store.database))
    older()
    path = tmp_path / "elsewhere" / "anchor.json"
    refusal(world, path)
    deps = assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs)
    found = anchors.accept(deps.store.database, anchor, unix(world.clock.now()), "the disk is lost")
    assert len(found) == 2
    last = list(deps.store.audit_log())[-1]
    assert (last.event, last.document["reason"]) == ("RollbackAccepted", "the disk is lost")
    assert anchors.accept(deps.store.database, anchor, unix(world.clock.now()), "again") == []
    deps.store.close()
    start(world, path).store.close()


def test_a_missing_anchor_leaves_a_trace(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    for _ in range(2):
        deps = start(world, path)
        assert [record.event for record in deps.store.audit_log()][-1] == "AnchorStarted"
        deps.store.close()
    path.unlink()
    deps = start(world, path)
    assert [record.event for record in deps.store.audit_log()].count("AnchorStarted") == 2
    deps.store.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"auditSeq": -1, "auditHash": "00"}', b"[" * 5000])
def test_a_damaged_anchor_is_refused(world: World, anchor: FileAnchor, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    path.write_bytes(content)
    assert refusal(world, path).reason == "AnchorUnusable"


def test_a_volume_that_is_not_mounted_is_no_first_start(world: World, tmp_path: Path) -> None:
    assert refusal(world, tmp_path / "nowhere" / "anchor.json").reason == "AnchorUnusable"


def test_an_anchor_never_goes_back_by_itself(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor.json")
    for seq in (3, 9, 5):
        anchor.advance(State(audit_seq=seq, audit_hash=f"{seq:064x}"))
    found = anchor.read()
    assert found is not None
    assert found.audit_seq == 9


def test_replicas_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "anchor.json"

    def note(start: int) -> None:
        for seq in range(start, 60, 3):
            FileAnchor(path).advance(State(audit_seq=seq, audit_hash=f"{seq:064x}"))

    threads = [threading.Thread(target=note, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = FileAnchor(path).read()
    assert found is not None
    assert found.audit_seq == 59
    assert sorted(file.name for file in tmp_path.iterdir()) == [".anchor.json.lock", "anchor.json"]


@pytest.fixture
def keeper(world: World, anchor: FileAnchor) -> Iterator[Keeper]:
    made = Keeper(world.deps.store.database, anchor, 0.1)
    made.start()
    yield made
    made.stop()


def test_the_anchor_follows_within_its_staleness(world: World, anchor: FileAnchor, keeper: Keeper) -> None:
    world.put_policy(world.acme, version=2)
    ended = threading.Event()
    for _ in range(100):
        noted = anchor.read()
        if noted is not None and noted.policies[f"{world.acme.public.hex()}/workers"] == 2:
            break
        ended.wait(0.02)
    else:
        pytest.fail("the anchor did not follow")
    assert keeper.failure is None


def test_the_last_state_is_noted_at_the_end(world: World, anchor: FileAnchor) -> None:
    keeper = Keeper(world.deps.store.database, anchor, 600)
    keeper.start()
    world.put_policy(world.acme, version=2)
    keeper.stop()
    noted = anchor.read()
    assert noted is not None
    assert noted.audit_seq == world.deps.store.audit_head()[0]


def test_a_database_that_goes_back_under_a_running_broker_ends_it(world: World, anchor: FileAnchor) -> None:
    """A standby that lagged behind was promoted: what it goes on with must not become the noted history."""
    ended: list[int] = []
    keeper = Keeper(world.deps.store.database, anchor, 600, lambda: ended.append(1))
    keeper.follow()
    assert not ended
    ahead = anchors.state_of(world.deps.store.database).model_copy(update={"audit_seq": world.deps.store.audit_head()[0] + 1})
    anchor.advance(ahead)
    for version in (2, 3, 4):
        world.put_policy(world.acme, version=version)
        keeper.follow()
        assert isinstance(keeper.failure, BrokerError)
        assert keeper.failure.reason == BrokerReason.STATE_ROLLED_BACK
        assert anchor.read() == ahead
    assert len(ended) == 3


def test_a_volume_that_goes_away_is_reported(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    keeper = Keeper(world.deps.store.database, FileAnchor(tmp_path / "elsewhere" / "anchor.json"), 600)
    keeper.follow()
    assert keeper.failure is None
    shutil.rmtree(tmp_path / "elsewhere")
    world.put_policy(world.acme, version=2)
    keeper.follow()
    assert isinstance(keeper.failure, BrokerError)
    (tmp_path / "elsewhere").mkdir()
    keeper.follow()
    assert keeper.failure is None


def test_what_was_noted_when_key_ids_belonged_to_nobody_still_counts(world: World) -> None:
    current = anchors.state_of(world.deps.store.database)
    for version, found in ((1, []), (2, ["key record acme has version 1; version 2 was there"])):
        noted = current.model_copy(update={"keys": {"acme": version}})
        assert anchors.behind(world.deps.store.database, noted) == found
