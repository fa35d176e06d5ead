"""An older database is not mistaken for the newest one."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.broker import anchor_settings, anchors, audit_store
from chrysalis.broker.anchor_keeper import LOOK_SECONDS, Keeper
from chrysalis.broker.anchor_places import FilePlace
from chrysalis.broker.anchors import Anchor, State
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import unix

World = Any
KEY = Ed25519PrivateKey.generate()


def anchor_at(world: World, path: Path) -> Anchor:
    return Anchor(FilePlace(path), world.deps.keys.ear_key)


@pytest.fixture
def anchor(world: World, tmp_path: Path) -> Anchor:
    """An anchor that has noted the world's state."""
    (tmp_path / "elsewhere").mkdir()
    made = anchor_at(world, tmp_path / "elsewhere" / "anchor.json")
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
    settings = world.deps.settings.model_copy(update={"anchor": anchor_settings.AnchorSettings(file=path)})
    return assemble(settings, clock=world.clock, fetcher=world.pccs)


def refusal(world: World, path: Path) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        start(world, path)
    assert caught.value.remedy
    return caught.value


def test_a_database_ahead_of_its_anchor_starts(world: World, anchor: Anchor, tmp_path: Path) -> None:
    world.put_policy(world.acme, version=2)
    noted = anchor.read()
    assert noted is not None
    start(world, tmp_path / "elsewhere" / "anchor.json").store.close()
    now = anchor.read()
    assert now is not None
    assert now.audit_seq == noted.audit_seq + 2  # the policy, and that the anchor begins
    assert now.policies[f"{world.acme.public.hex()}/workers"] == 2


def test_an_older_database_is_refused(world: World, anchor: Anchor, older: Callable[[], None], tmp_path: Path) -> None:
    assert world.put_policy(world.acme, version=2).status_code == 201
    assert world.put_key(world.acme, version=5).status_code == 201
    anchor.advance(anchors.state_of(world.deps.store.database))
    older()
    error = refusal(world, tmp_path / "elsewhere" / "anchor.json")
    assert error.reason == "StateRolledBack"
    for word in ("audit log ends", "policy ", f"key record {world.acme.public.hex()}/acme has version 1; version 5"):
        assert word in error.detail


def test_another_history_of_the_same_length_is_refused(world: World, anchor: Anchor, older: Callable[[], None], tmp_path: Path) -> None:
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


def test_a_rollback_is_accepted_explicitly_and_audited(world: World, anchor: Anchor, older: Callable[[], None], tmp_path: Path) -> None:
    world.put_policy(world.acme, version=2)
    anchor.advance(anchors.state_of(world.deps.store.database))
    older()
    path = tmp_path / "elsewhere" / "anchor.json"
    refusal(world, path)
    deps = assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs)
    found = anchors.accept(deps.store.database, anchor, unix(world.clock.now()), "the disk is lost")
    assert len(found) == 2
    accepted, started = list(deps.store.audit_log())[-2:]
    assert (accepted.event, accepted.document["reason"]) == ("RollbackAccepted", "the disk is lost")
    assert started.event == "AnchorStarted"
    assert anchors.accept(deps.store.database, anchor, unix(world.clock.now()), "again") == []
    deps.store.close()
    start(world, path).store.close()


def events(deps: Any) -> list[str]:
    return [record.event for record in deps.store.audit_log()]


def accept(world: World, path: Path | None, reason: str = "lost") -> list[str]:
    """What `chrysalis broker accept-rollback` does."""
    deps = assemble_without(world)
    found = anchors.accept(deps, None if path is None else anchor_at(world, path), unix(world.clock.now()), reason)
    deps.close()
    return found


def assemble_without(world: World) -> Database:
    world.deps.store.close()
    return Database(f"sqlite:///{database_file(world)}")


def test_the_first_start_makes_the_anchor_and_says_so(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    for _ in range(2):
        deps = start(world, path)
        assert events(deps).count("AnchorStarted") == 1
        assert anchors.anchored(deps.store.database)
        deps.store.close()
    assert anchor_at(world, path).read() is not None


def test_a_start_that_is_killed_between_anchor_and_database_is_repeated(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    anchor_at(world, path).advance(anchors.state_of(world.deps.store.database))  # and no mark
    deps = start(world, path)
    assert events(deps)[-1] == "AnchorStarted"
    deps.store.close()


def test_a_missing_anchor_is_refused_until_it_is_accepted(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    start(world, path).store.close()  # the twin
    path.unlink()
    assert refusal(world, path).reason == "AnchorMissing"
    assert accept(world, path) == ["nothing lies at the anchor's place"]
    deps = start(world, path)
    assert events(deps)[-2:] == ["RollbackAccepted", "AnchorStarted"]
    deps.store.close()
    assert accept(world, path) == []


@pytest.mark.parametrize("left", ["mark", "audit"])
def test_who_takes_one_trace_of_the_anchor_leaves_the_other(world: World, tmp_path: Path, left: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    path.unlink()
    world.deps.store.close()
    with sqlite3.connect(database_file(world)) as db:
        if left == "audit":
            db.execute("UPDATE counters SET value = 0 WHERE name = 'anchored'")
        else:
            db.execute("DROP TRIGGER audit_no_delete")
            db.execute("DELETE FROM audit WHERE event = 'AnchorStarted'")
    assert refusal(world, path).reason == "AnchorMissing"


def test_who_takes_both_traces_has_broken_the_log(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    world.put_policy(world.acme, version=2)
    start(world, path).store.close()  # the twin; and the log is verified far beyond that record
    path.unlink()
    world.deps.store.close()
    with sqlite3.connect(database_file(world)) as db:
        db.execute("UPDATE counters SET value = 0 WHERE name = 'anchored'")
        db.execute("DROP TRIGGER audit_no_delete")
        db.execute("DELETE FROM audit WHERE event = 'AnchorStarted'")
    assert refusal(world, path).reason == "AuditBroken"


def test_settings_without_the_anchor_are_refused_until_it_is_given_up(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()

    def bare() -> Any:
        return assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs)

    with pytest.raises(BrokerError) as caught:
        bare()
    assert caught.value.reason == "AnchorMissing"
    assert accept(world, None, "no more") == ["the settings name no anchor"]
    deps = bare()
    assert events(deps)[-1] == "AnchorForgotten"
    deps.store.close()
    path.unlink()
    start(world, path).store.close()  # and it may begin again


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"auditSeq": -1, "auditHash": "00"}', b"[" * 5000])
def test_a_damaged_anchor_is_refused(world: World, anchor: Anchor, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    path.write_bytes(content)
    assert refusal(world, path).reason == "AnchorInvalid"
    assert len(accept(world, path)) == 1
    start(world, path).store.close()


def test_an_edited_anchor_is_refused(world: World, anchor: Anchor, tmp_path: Path) -> None:
    """Whoever may write there lowers what was noted: to what an older database still has."""
    path = tmp_path / "elsewhere" / "anchor.json"
    start(world, path).store.close()
    document = json.loads(path.read_bytes())
    for change in ({"auditSeq": 1}, {"policies": {}}, {"keys": {}}, {"auditHash": "00" * 32}, {"recalled": ["A" * 43]}):
        path.write_text(json.dumps(document | {"state": document["state"] | change}))
        assert refusal(world, path).reason == "AnchorInvalid"
    path.write_text(json.dumps(document, indent=1))  # the twin: the same content in another form
    start(world, path).store.close()


def test_an_anchor_of_another_broker_is_refused(world: World, anchor: Anchor, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "anchor.json"
    Anchor(FilePlace(path), KEY).replace(anchors.state_of(world.deps.store.database))
    assert refusal(world, path).reason == "AnchorInvalid"
    anchor.replace(anchors.state_of(world.deps.store.database))
    start(world, path).store.close()  # the twin


def test_a_volume_that_is_not_mounted_is_no_first_start(world: World, tmp_path: Path) -> None:
    assert refusal(world, tmp_path / "nowhere" / "anchor.json").reason == "AnchorUnusable"


def test_an_anchor_never_goes_back_by_itself(tmp_path: Path) -> None:
    anchor = Anchor(FilePlace(tmp_path / "anchor.json"), KEY)
    for seq in (3, 9, 5):
        anchor.advance(State(audit_seq=seq, audit_hash=f"{seq:064x}"))
    found = anchor.read()
    assert found is not None
    assert found.audit_seq == 9


def test_replicas_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "anchor.json"

    def note(start: int) -> None:
        for seq in range(start, 60, 3):
            Anchor(FilePlace(path), KEY).advance(State(audit_seq=seq, audit_hash=f"{seq:064x}"))

    threads = [threading.Thread(target=note, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Anchor(FilePlace(path), KEY).read()
    assert found is not None
    assert found.audit_seq == 59
    assert sorted(file.name for file in tmp_path.iterdir()) == [".anchor.json.lock", "anchor.json"]


@pytest.fixture
def keeper(world: World, anchor: Anchor) -> Iterator[Keeper]:
    made = Keeper(world.deps.store.database, anchor, 0.1, world.clock)
    made.start()
    yield made
    made.stop()


def test_the_anchor_follows_within_its_staleness(world: World, anchor: Anchor, keeper: Keeper) -> None:
    world.put_policy(world.acme, version=2)
    ended = threading.Event()
    for _ in range(3000):
        noted = anchor.read()
        if noted is not None and noted.policies[f"{world.acme.public.hex()}/workers"] == 2:
            break
        ended.wait(0.02)
    else:
        pytest.fail("the anchor did not follow")
    assert keeper.failure is None


def test_the_last_state_is_noted_at_the_end(world: World, anchor: Anchor) -> None:
    keeper = Keeper(world.deps.store.database, anchor, 600, world.clock)
    keeper.start()
    world.put_policy(world.acme, version=2)
    keeper.stop()
    noted = anchor.read()
    assert noted is not None
    assert noted.audit_seq == world.deps.store.audit_head()[0]


def test_a_database_that_goes_back_under_a_running_broker_ends_it(world: World, anchor: Anchor) -> None:
    """A standby that lagged behind was promoted: what it goes on with must not become the noted history."""
    ended: list[int] = []
    keeper = Keeper(world.deps.store.database, anchor, 600, world.clock, lambda: ended.append(1))
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
    """For a moment it refuses nobody; past the bound the broker is not ready."""
    (tmp_path / "elsewhere").mkdir()
    keeper = Keeper(world.deps.store.database, anchor_at(world, tmp_path / "elsewhere" / "anchor.json"), 10, world.clock)
    keeper.follow()
    assert keeper.failure is None
    shutil.rmtree(tmp_path / "elsewhere")
    world.put_policy(world.acme, version=2)
    keeper.follow()
    assert isinstance(keeper.failure, BrokerError)
    assert not keeper.stale
    world.clock.advance(4.9)
    keeper.follow()
    assert not keeper.stale
    world.clock.advance(0.1)
    assert keeper.stale
    (tmp_path / "elsewhere").mkdir()
    keeper.follow()
    assert keeper.failure is None
    assert not keeper.stale


def test_an_anchor_that_is_taken_away_under_a_running_broker_is_put_back(world: World, anchor: Anchor, tmp_path: Path) -> None:
    """It knows what was noted; a database that went back meanwhile ends it all the same."""
    path = tmp_path / "elsewhere" / "anchor.json"
    noted = anchors.begin(world.deps.store.database, anchor, unix(world.clock.now()))
    keeper = Keeper(world.deps.store.database, anchor, 600, world.clock, noted=noted)
    path.unlink()
    world.put_policy(world.acme, version=2)
    keeper.follow()
    assert keeper.failure is None
    again = anchor.read()
    assert again is not None
    assert again.audit_seq == world.deps.store.audit_head()[0]
    ended: list[int] = []
    ahead = noted.model_copy(update={"audit_seq": noted.audit_seq + 100})
    keeper = Keeper(world.deps.store.database, anchor, 600, world.clock, lambda: ended.append(1), ahead)
    path.unlink()
    world.put_policy(world.acme, version=3)
    keeper.follow()
    assert ended == [1]
    assert keeper.stale
    assert not path.exists()


def test_an_anchor_that_is_taken_away_while_nothing_changes_is_put_back(world: World, anchor: Anchor, tmp_path: Path) -> None:
    """Every minute, and at the end at the latest: else the next start would miss it, and nobody would know any more."""
    path = tmp_path / "elsewhere" / "anchor.json"
    noted = anchors.begin(world.deps.store.database, anchor, unix(world.clock.now()))
    keeper = Keeper(world.deps.store.database, anchor, 600, world.clock, noted=noted)
    path.unlink()
    keeper.follow()
    assert not path.exists()  # a quiet broker asks for nothing at each round
    world.clock.advance(LOOK_SECONDS)
    keeper.follow()
    assert anchor.read() == noted
    path.unlink()
    keeper.start()
    keeper.stop()
    assert anchor.read() == noted
    path.unlink()
    path.parent.rename(tmp_path / "away")  # the place does not answer: nothing lags, so the broker stays ready
    keeper.follow(look=True)
    assert keeper.failure is None
    (tmp_path / "away").rename(path.parent)
    path.write_text("{}")
    keeper.follow(look=True)
    assert isinstance(keeper.failure, BrokerError)
    assert keeper.failure.reason == BrokerReason.ANCHOR_INVALID


@pytest.mark.parametrize("settings", [{}, {"file": "/x", "configMap": {"namespace": "n", "name": "m"}}])
def test_settings_name_exactly_one_place(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        anchor_settings.AnchorSettings.model_validate(settings)
    anchor_settings.AnchorSettings.model_validate({"file": "/x"})  # the twin
