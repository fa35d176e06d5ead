"""After a restore and after an accepted rollback nothing from before counts: results, challenges, older policies, recalls."""

from __future__ import annotations

import base64
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from chrysalis.broker import anchors, backup, database_settings, fresh_start, secret_keys, state_keys
from chrysalis.broker.anchor_places import FilePlace
from chrysalis.broker.anchors import Anchor
from chrysalis.broker.app import create_app
from chrysalis.broker.callers import Caller
from chrysalis.broker.database import Database
from chrysalis.broker.encryption import RootKeyEncryption
from chrysalis.broker.main import assemble
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.settings import Settings
from chrysalis.broker.store import Store, StoredResult
from chrysalis.clock import ManualClock, unix

World = Any
Reasons = Callable[[Any], list[str]]


# Behaviour of a whole broker


@pytest.fixture
def restored(world: World, tmp_path: Path) -> Callable[[], Callable[[], World]]:
    """Makes a backup when it is asked for, and gives a function that restores it elsewhere and goes on there."""

    def save() -> Callable[[], World]:
        encryption = secret_keys.keyring(world.deps.settings, world.clock)
        file = tmp_path / "backup.tar"
        backup.write(file, database=world.deps.store.database, keys=world.deps.keys, encryption=encryption, clock=world.clock)

        def go_on() -> World:
            root = tmp_path / "root.key"
            root.write_bytes((world.deps.settings.state_dir / "root.key").read_bytes())
            members = world.deps.settings.model_dump() | {"state_dir": tmp_path / "new", "root_key_file": root}
            settings = Settings.model_validate(members)
            secret_keys.prepare(settings)
            database = Database(database_settings.url_of(settings.database, settings.state_dir))
            backup.restore(
                file,
                anchor=world.deps.keys.ear_public,
                database=database,
                directory=settings.state_dir,
                keyring=secret_keys.keyring(settings, world.clock),
                clock=world.clock,
                shared=False,
            )
            database.close()
            return going_on(world, settings)

        return go_on

    return save


def going_on(world: World, settings: Settings) -> World:
    """The same world around a broker over these settings."""
    deps = assemble(settings, clock=world.clock, fetcher=world.pccs, reviewer=world.deps.callers._reviewer)
    return type(world)(deps, TestClient(create_app(deps)), world.clock, world.platform, world.pccs, world.acme, world.rival)


def test_a_restore_revives_no_result(world: World, restored: Any, reasons: Reasons) -> None:
    domain = world.domain(world.acme)
    revoked = world.attest(domain).json()["resultId"]
    living = world.attest(domain).json()["resultId"]
    go_on = restored()
    owner = world.acme.public.hex()
    world.deps.results.revoke(Caller("o", owner=owner, readable=frozenset({owner}), changeable=frozenset({owner})), revoked)
    assert reasons(world.release("acme", revoked)) == ["ResultRevoked"]
    assert world.release("acme", living).status_code == 200  # the twin
    world.attest(world.domain(world.rival))
    seen = world.deps.store.change_number()
    new = go_on()
    for result in (revoked, living):
        assert reasons(new.release("acme", result)) == ["ResultRevoked"]
        view = new.reading(f"/v1/results/{result}").json()
        assert view["revokedReason"] == "StateRestored"
        told = new.http.get(f"/v1/results/{result}:standing").json()
        assert (told["living"], told["reason"]) == (False, "StateRestored")
    # Whoever watched the old broker goes on at the new one and sees both ends.
    changes = new.reading(f"/v1/results?wait=1&after={seen}").json()["results"]
    assert {change["resultId"]: change["revokedReason"] for change in changes} == {revoked: "StateRestored", living: "StateRestored"}
    log = [(record.event, record.document.get("resultId")) for record in new.deps.store.audit_log()]
    restored_at = log.index(("StateRestored", None))
    assert log[restored_at : restored_at + 3] == [("StateRestored", None), ("ResultRevoked", revoked), ("ResultRevoked", living)]
    fresh = new.attest(new.domain(new.acme)).json()["resultId"]
    assert new.release("acme", fresh).status_code == 200
    new.deps.store.close()


def test_challenges_from_before_a_restore_are_nobodys(world: World, restored: Any, reasons: Reasons) -> None:
    """One that was spent after the backup would count again."""
    domain = world.domain(world.acme)
    go_on = restored()
    evidence = domain.evidence()
    assert world.post("/v1/attest", evidence).status_code == 200
    new = go_on()
    assert reasons(new.post("/v1/attest", evidence)) == ["NonceInvalid"]
    assert new.attest(new.domain(new.acme)).status_code == 200  # the twin
    new.deps.store.close()


@pytest.fixture
def rolled_back(world: World, tmp_path: Path) -> Callable[[], Callable[..., World]]:
    """Keeps the database as it is when it is asked for; what it gives puts that back, accepts the rollback and goes on."""
    (tmp_path / "elsewhere").mkdir()
    anchor = Anchor(FilePlace(tmp_path / "elsewhere" / "anchor.json"), world.deps.keys.ear_key)
    file = world.deps.settings.state_dir / "broker.db"
    settings = Settings.model_validate(world.deps.settings.model_dump() | {"anchor": {"file": tmp_path / "elsewhere" / "anchor.json"}})
    now = unix(world.clock.now())

    def save() -> Callable[..., World]:
        anchors.begin(world.deps.store.database, anchor, now)
        with sqlite3.connect(file) as source, sqlite3.connect(tmp_path / "older.db") as target:
            source.backup(target)

        def go_on(**changes: Any) -> World:
            anchor.advance(anchors.state_of(world.deps.store.database))
            world.deps.store.close()
            for leftover in file.parent.glob("broker.db-*"):
                leftover.unlink()
            shutil.copy(tmp_path / "older.db", file)
            with pytest.raises(BrokerError) as caught:
                assemble(settings, clock=world.clock, fetcher=world.pccs)
            assert caught.value.reason == "StateRolledBack"
            database = Database(f"sqlite:///{file}")
            assert anchors.accept(database, anchor, now, "the disk is lost")
            database.close()
            return going_on(world, Settings.model_validate(settings.model_dump() | changes))

        return go_on

    return save


def test_an_accepted_rollback_revives_nothing(world: World, rolled_back: Any, reasons: Reasons) -> None:
    domain = world.domain(world.acme)
    result = world.attest(domain).json()["resultId"]
    go_on = rolled_back()
    evidence = domain.evidence()
    assert world.post("/v1/attest", evidence).status_code == 200
    assert world.release("acme", result).status_code == 200
    seen = world.deps.store.change_number()
    new = go_on()
    assert reasons(new.release("acme", result)) == ["ResultRevoked"]
    assert reasons(new.post("/v1/attest", evidence)) == ["NonceInvalid"]
    changes = new.reading(f"/v1/results?wait=1&after={seen}").json()["results"]
    assert [(change["resultId"], change["revokedReason"]) for change in changes] == [(result, "StateRestored")]
    fresh = new.attest(new.domain(new.acme)).json()["resultId"]  # no version was lost: workers attest again at once
    assert new.release("acme", fresh).status_code == 200
    new.deps.store.close()


def test_a_policy_that_was_tightened_is_not_undone_by_a_rollback(world: World, rolled_back: Any, reasons: Reasons) -> None:
    """The owner had stored version 4; the broker has 1 again.  Neither it nor the owner's own 2 and 3, kept by somebody, count."""
    go_on = rolled_back()
    for version in (2, 3, 4):
        assert world.put_policy(world.acme, version=version).status_code == 201
    new = go_on()
    assert reasons(new.attest(new.domain(new.acme))) == ["VersionLost"]
    assert new.attest(new.domain(new.rival)).status_code == 200  # the twin: nothing of this tenant's was lost
    for version in (2, 3):
        assert reasons(new.put_policy(new.acme, version=version)) == ["VersionNotHigher"]
    assert new.put_policy(new.acme, version=4).status_code == 201
    assert new.attest(new.domain(new.acme)).status_code == 200
    new.deps.store.close()


def test_a_key_record_that_was_replaced_is_not_undone_by_a_rollback(world: World, rolled_back: Any, reasons: Reasons) -> None:
    go_on = rolled_back()
    assert world.put_key(world.acme, version=5).status_code == 201
    new = go_on()
    assert reasons(new.attest(new.domain(new.acme))) == ["VersionLost"]
    assert reasons(new.put_key(new.acme, version=4)) == ["VersionNotHigher"]
    assert new.put_key(new.acme, version=5).status_code == 201
    fresh = new.attest(new.domain(new.acme)).json()["resultId"]
    assert new.release("acme", fresh).status_code == 200
    new.deps.store.close()


def test_a_key_record_that_a_rollback_has_lost_altogether_is_not_stored_again_in_an_older_version(
    empty: World, tmp_path: Path, reasons: Reasons
) -> None:
    world = empty
    anchor = Anchor(FilePlace(tmp_path / "anchor.json"), world.deps.keys.ear_key)
    now = unix(world.clock.now())
    state = anchors.begin(world.deps.store.database, anchor, now)
    lost = state.model_copy(update={"audit_seq": state.audit_seq + 1, "keys": {f"{world.acme.public.hex()}/acme": 3}})
    anchor.advance(lost)
    assert len(anchors.accept(world.deps.store.database, anchor, now, "lost")) == 2
    settings = Settings.model_validate(world.deps.settings.model_dump() | {"anchor": {"file": tmp_path / "anchor.json"}})
    world.deps.store.close()
    new = going_on(world, settings)
    assert reasons(new.put_key(new.acme, version=2)) == ["VersionNotHigher"]
    assert new.put_key(new.acme, version=3).status_code == 201
    assert new.put_key(new.rival).status_code == 201  # another owner's was not lost
    new.deps.store.close()


def test_the_floors_outlive_a_second_rollback(world: World, rolled_back: Any, tmp_path: Path) -> None:
    go_on = rolled_back()
    assert world.put_policy(world.acme, version=4).status_code == 201
    new = go_on()
    name = f"{world.acme.public.hex()}/workers"
    assert anchors.state_of(new.deps.store.database).policies[name] == 4
    noted = Anchor(FilePlace(tmp_path / "elsewhere" / "anchor.json"), new.deps.keys.ear_key).read()
    assert noted is not None
    assert noted.policies[name] == 4
    new.deps.store.close()


# The transaction itself, on both databases


def result(number: int, now: int, **changes: Any) -> StoredResult:
    members: dict[str, Any] = {
        "result_id": f"r{number}",
        "verdict": "Accepted",
        "namespace": "n",
        "worker": "w",
        "pod_uid": f"u{number}",
        "key_id": "k",
        "owner": "o",
        "issued_at": now,
        "expires_at": now + 600,
        "document": "{}",
    }
    return StoredResult(**(members | changes))


def living(store: Store) -> set[str]:
    """Ids of the results that are not revoked."""
    return {found.result_id for found in store.results(limit=1000) if found.revoked_at is None}


@pytest.fixture
def now(clock: ManualClock) -> int:
    return unix(clock.now())


def test_everything_that_lives_ends_and_is_seen(database_url: str, now: int) -> None:
    store = Store(database_url)
    for number in range(fresh_start.PAGE + 3):
        store.add_result(result(number, now))
    store.add_result(result(9001, now, verdict="Refused", expires_at=None))
    store.add_result(result(9002, now, expires_at=now - 2 * fresh_start.LEEWAY_SECONDS, issued_at=now - 90_000))
    before = store.change_number()
    with store.database.reading() as db:
        assert fresh_start.nonce_key(db, b"k" * 32) == b"k" * 32
    keys = set()
    for expected in (fresh_start.PAGE + 3, 0):
        assert store.database.transact(lambda db: fresh_start.begin(db, now, "why")) == expected
        with store.database.reading() as db:
            keys.add(fresh_start.nonce_key(db, b"k" * 32))
    assert len(keys) == 2
    seen = store.changes(before, limit=5000)
    assert len(seen) == fresh_start.PAGE + 3
    assert {found.revoked_reason for _, found in seen} == {"StateRestored"}
    assert min(number for number, _ in seen) > before + fresh_start.JUMP
    assert "r9001" in living(store)
    store.close()


def test_a_restore_into_either_database_ends_what_lived(database_url: str, tmp_path: Path, clock: ManualClock, now: int) -> None:
    encryption = RootKeyEncryption(b"r" * 32)
    source = Store(f"sqlite:///{tmp_path / 'source.db'}")
    keys = state_keys.load_or_make(tmp_path / "state", clock)
    source.add_result(result(1, now))
    backup.write(tmp_path / "b.tar", database=source.database, keys=keys, encryption=encryption, clock=clock)
    assert "r1" in living(source)
    source.close()
    target = Store(database_url)
    backup.restore(
        tmp_path / "b.tar",
        anchor=keys.ear_public,
        database=target.database,
        directory=tmp_path / "new",
        keyring=encryption,
        clock=clock,
        shared=True,
    )
    found = target.result("r1")
    assert found is not None
    assert (found.revoked_reason, found.revoked_at) == ("StateRestored", now)
    assert not target.database.transact(lambda db: fresh_start.end_living(db, now, "x", "y", "z"))
    target.close()


def test_an_accepted_rollback_on_either_database(database_url: str, tmp_path: Path, clock: ManualClock, now: int) -> None:
    store = Store(database_url)
    keys = state_keys.load_or_make(tmp_path / "state", clock)
    anchor = Anchor(FilePlace(tmp_path / "anchor.json"), keys.ear_key)
    state = anchors.begin(store.database, anchor, now)
    store.add_result(result(1, now))
    kid = base64.urlsafe_b64encode(b"k" * 32).rstrip(b"=").decode()
    publisher = "ab" * 32
    ahead = {"audit_seq": state.audit_seq + 5, "references": {f"{publisher}/": 7}, "policies": {"cd/p": 3}, "recalled": [kid]}
    anchor.advance(state.model_copy(update=ahead))
    found = anchors.accept(store.database, anchor, now, "lost")
    assert len(found) == 4
    ended = store.result("r1")
    assert ended is not None
    assert ended.revoked_reason == "StateRestored"
    after = anchors.state_of(store.database)
    assert (after.references, after.policies, after.recalled) == ({f"{publisher}/": 7}, {"cd/p": 3}, [kid])
    assert anchors.check(store.database, anchor) == after
    assert anchors.accept(store.database, anchor, now, "again") == []
    store.close()


def test_without_a_change_of_heart_nothing_is_accepted(database_url: str, tmp_path: Path, clock: ManualClock, now: int) -> None:
    store = Store(database_url)
    keys = state_keys.load_or_make(tmp_path / "state", clock)
    anchor = Anchor(FilePlace(tmp_path / "anchor.json"), keys.ear_key)
    store.add_result(result(1, now))
    assert anchors.accept(store.database, anchor, now, "never anchored") == []
    anchors.begin(store.database, anchor, now)
    assert anchors.accept(store.database, anchor, now, "not behind") == []
    assert "r1" in living(store)
    store.close()
