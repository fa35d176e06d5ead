"""The audit log is verified from where it was verified last, and only the broker can say where that is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from chrysalis.broker import audit, audit_check, audit_store
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.audit_check import AuditCheck
from chrysalis.broker.database import POSTGRESQL, Database
from chrysalis.broker.main import assemble, plain_paths
from chrysalis.broker.reasons import BrokerError

World = Any
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def database(database_url: str) -> Any:
    opened = Database(database_url)
    yield opened
    opened.close()


def write(database: Database, records: int) -> None:
    documents = [{"n": number} for number in range(records)]
    database.transact(lambda db: audit_store.append(db, 1, AuditEvent.KEY_RELEASED, *documents))


def falsify(database: Database, seq: int) -> None:
    """What somebody does who may do everything with the database."""
    with database.writing() as db:
        if database.engine.dialect.name == POSTGRESQL:
            db.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        else:
            db.execute(text("DROP TRIGGER IF EXISTS audit_no_update"))
        db.execute(text("UPDATE audit SET document = '{\"n\":-1}' WHERE seq = :seq"), {"seq": seq})


def pages_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    read = audit_store.AuditRoom.audit_page

    def page(self: audit_store.AuditRoom, after: int, limit: int) -> Any:
        asked.append(after)
        return read(self, after, limit)

    monkeypatch.setattr(audit_store.AuditRoom, "audit_page", page)
    return asked


def broken(action: Callable[[], Any]) -> bool:
    try:
        action()
    except BrokerError as error:
        return str(error.reason) == "AuditBroken" and bool(error.remedy)
    return False


def test_a_start_reads_only_what_is_new(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    write(database, 2500)
    assert AuditCheck(database, KEY).verify().seq == 2500
    write(database, 3)
    asked = pages_read(monkeypatch)
    assert AuditCheck(database, KEY).verify().seq == 2503
    assert asked == [2500, 2503]
    del asked[:]
    assert AuditCheck(database, KEY).verify_whole().seq == 2503
    assert asked == [0, 1000, 2000, 2503]


def test_what_is_new_is_found_changed_and_what_is_old_by_a_whole_verification(database: Database) -> None:
    write(database, 20)
    check = AuditCheck(database, KEY)
    check.verify()
    write(database, 5)
    assert not broken(check.verify_whole)  # the twin
    falsify(database, 3)
    assert not broken(check.verify)
    assert broken(check.verify_whole)


@pytest.mark.parametrize("seq", [20, 21, 24])
def test_a_change_at_or_after_the_checkpoint_is_found(database: Database, seq: int) -> None:
    write(database, 20)
    AuditCheck(database, KEY).verify()
    write(database, 5)
    falsify(database, seq)
    check = AuditCheck(database, KEY)
    assert broken(check.verify) == (seq > 20)  # the checkpoint's own record is held to its hash, which its content is not part of
    assert broken(check.verify_whole)


def test_a_log_that_ends_before_its_checkpoint_is_refused(database: Database) -> None:
    write(database, 20)
    AuditCheck(database, KEY).verify()
    with database.writing() as db:
        if database.engine.dialect.name == POSTGRESQL:
            db.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        else:
            db.execute(text("DROP TRIGGER audit_no_delete"))
        db.execute(text("DELETE FROM audit WHERE seq > 10"))
    check = AuditCheck(database, KEY)
    assert broken(check.verify)
    assert check.failure is not None


@pytest.mark.parametrize("forged", ["", "x.y.z", "stranger", "old"])
def test_a_checkpoint_that_is_not_the_brokers_saves_nothing(database: Database, forged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes to the database changes a record and says that it was verified: the whole log is read again."""
    write(database, 20)
    AuditCheck(database, KEY).verify()
    if forged == "stranger":
        AuditCheck(database, Ed25519PrivateKey.generate()).verify_whole()
    elif forged != "old":
        with database.writing() as db:
            db.execute(text("UPDATE audit_checkpoints SET token = :token"), {"token": forged})
    asked = pages_read(monkeypatch)
    AuditCheck(database, KEY).verify()
    assert asked[0] == (20 if forged == "old" else 0)
    if forged != "old":
        with database.writing() as db:
            db.execute(text("UPDATE audit_checkpoints SET token = 'x'"))
        falsify(database, 3)
        assert broken(AuditCheck(database, KEY).verify)


def test_what_the_anchor_has_noted_bounds_the_checkpoint(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    write(database, 10)
    noted = (10, AuditCheck(database, KEY).verify().hash)
    write(database, 10)
    AuditCheck(database, KEY).verify()
    asked = pages_read(monkeypatch)
    assert AuditCheck(database, KEY).verify(noted).seq == 20
    assert asked[0] == 10
    assert broken(lambda: AuditCheck(database, KEY).verify((10, "ab" * 32)))


def test_memory_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    write(database, 12_000)
    monkeypatch.setattr(audit_check, "STEP", 4000)
    check = AuditCheck(database, KEY)
    check.verify_whole()
    tracemalloc.start()
    check.verify_whole()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 1024 * 1024, f"{peak} bytes for 12,000 records read a thousand at a time"


def test_a_running_broker_whose_log_is_changed_is_not_ready(world: World) -> None:
    health, _ = plain_paths(world.deps)
    world.clock.advance(1)
    world.deps.beat.at = world.deps.clock.monotonic()
    world.deps.audit_check.verify()
    assert health["/readyz"]()[0] == 200
    assert world.put_policy(world.acme, version=2).status_code == 201
    falsify(world.deps.store.database, world.deps.store.audit_head()[0])
    with pytest.raises(BrokerError):
        world.deps.audit_check.verify()
    assert health["/readyz"]() == (503, "text/plain", b"the audit log was changed\n")


def test_a_changed_log_stops_the_next_start(world: World) -> None:
    assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs).store.close()  # the twin, which notes how far it is verified
    assert world.put_policy(world.acme, version=2).status_code == 201
    falsify(world.deps.store.database, world.deps.store.audit_head()[0])
    with pytest.raises(BrokerError) as caught:
        assemble(world.deps.settings, clock=world.clock, fetcher=world.pccs)
    assert caught.value.reason == "AuditBroken"


def test_a_hash_tells_nothing_of_another_tenants_record(world: World) -> None:
    """Every tenant sees the whole chain: a guess at another's record, right in every word, must not show by its hash."""
    links = world.http.get("/v1/audit", headers={"authorization": f"Bearer {world.token(world.acme)}"}).json()["links"]
    records = list(world.deps.store.audit_log())
    for record, shown in zip(records, links, strict=True):
        guessed = {name: value for name, value in record.document.items() if name != "blind"}
        assert audit.link(record.seq, record.at, record.event, guessed, record.previous).hash != shown["hash"]
        own = record.document["owner"] == world.acme.public.hex()
        assert ("document" in shown) == own
        if own:  # the twin: whoever is shown a record can check its hash
            assert audit.link(shown["seq"], shown["at"], shown["event"], shown["document"], record.previous).hash == shown["hash"]
    assert len({record.document["blind"] for record in records}) == len(records) == 4
