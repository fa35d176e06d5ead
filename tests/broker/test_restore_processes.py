"""A broker process is lost and restored from its backup: whoever watched it, as the operator does, sees what ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from chrysalis.broker.audit_check import AuditCheck
from chrysalis.broker.database import Database
from chrysalis.broker.rooms import Counter, counted
from chrysalis.cli.broker import command
from chrysalis.wire.broker import ResultView
from chrysalis.wire.reasons import Refused
from e2e.broker_fleet import KEY_ID, NO_LIMITS, Fleet

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One broker with an anchor on another volume."""
    for folder in ("elsewhere", "fleet"):
        (tmp_path / folder).mkdir()
    (tmp_path / "root").write_text("ab" * 32)
    more = {
        "limits": NO_LIMITS,
        "rootKeyFile": str(tmp_path / "root"),
        "anchor": {"file": str(tmp_path / "elsewhere" / "anchor.json"), "maxStalenessSeconds": 1},
    }
    with Fleet(tmp_path / "fleet", "", more) as running:
        running.start(1)
        asyncio.run(running.prepare())
        yield running


def verb(fleet: Fleet, *words: str) -> str:
    """What an administrator types beside the broker."""
    (config,) = [str(path) for path in fleet.folder.glob("broker-*.yaml")][:1]
    done = CliRunner().invoke(command, [*words, "--config", config], standalone_mode=False)
    assert (done.return_value, done.exception) == (0, None), done.output
    return done.output


async def attest(fleet: Fleet, pod: int = 0) -> str:
    async with fleet.client(fleet.replicas[-1]) as client:
        return (await client.attest(fleet.evidence((await client.challenge()).nonce, pod))).result_id


async def release(fleet: Fleet, result: str) -> str:
    async with fleet.client(fleet.replicas[-1]) as client:
        try:
            return (await client.release(KEY_ID, result)).result_id
        except Refused as error:
            return error.reasons[0].reason


async def watched(fleet: Fleet, after: int, many: int) -> list[ResultView]:
    """The next changes after a number, as a watcher that goes on sees them."""
    async with fleet.client(fleet.replicas[-1]) as client:
        changes = client.watch_results(after=after)
        return [(await asyncio.wait_for(anext(changes), 60))[1] for _ in range(many)]


def newest(fleet: Fleet) -> int:
    database = Database(f"sqlite:///{fleet.folder / 'state' / 'broker.db'}")
    with database.reading() as db:
        number = counted(db, Counter.CHANGES)
    database.close()
    return number


def test_what_was_watched_ends_and_workers_attest_again(fleet: Fleet, tmp_path: Path) -> None:
    before = [asyncio.run(attest(fleet, pod)) for pod in range(2)]
    verb(fleet, "backup", str(tmp_path / "backup.tar"))
    later = asyncio.run(attest(fleet, 2))
    assert asyncio.run(release(fleet, before[0])) == before[0]
    seen = newest(fleet)
    fleet.end(fleet.replicas[-1])  # and with it the anchor has noted what was last

    (fleet.folder / "state").rename(tmp_path / "lost")
    said = verb(fleet, "restore", str(tmp_path / "backup.tar"), "--ear-key", fleet.keys.ear_public.hex())
    assert "Restored" in said
    with pytest.raises(RuntimeError, match="StateRolledBack"):
        fleet.start(1)
    assert "is another one" in verb(fleet, "accept-rollback", "--reason", "the disk is lost")
    fleet.start(1)

    ended = asyncio.run(watched(fleet, seen, len(before)))
    assert {view.result_id: view.revoked_reason for view in ended} == dict.fromkeys(before, "StateRestored")
    assert [asyncio.run(release(fleet, result)) for result in (*before, later)] == ["ResultRevoked", "ResultRevoked", "ResultUnknown"]
    fresh = asyncio.run(attest(fleet))
    assert asyncio.run(release(fleet, fresh)) == fresh
    assert int(verb(fleet, "audit-verify").split()[0]) > 0


def test_an_anchor_that_is_gone_stops_the_start_until_it_is_accepted(fleet: Fleet, tmp_path: Path) -> None:
    fleet.end(fleet.replicas[-1])
    fleet.start(1)  # the twin
    fleet.end(fleet.replicas[-1])
    (tmp_path / "elsewhere" / "anchor.json").unlink()
    with pytest.raises(RuntimeError, match="AnchorMissing"):
        fleet.start(1)
    verb(fleet, "accept-rollback", "--reason", "the volume is lost")
    fleet.start(1)
    assert yaml.safe_load(next(fleet.folder.glob("broker-*.yaml")).read_text())["anchor"]
    database = Database(f"sqlite:///{fleet.folder / 'state' / 'broker.db'}")
    assert AuditCheck(database, fleet.keys.ear_key).verify_whole().seq > 0
    database.close()


def test_a_recall_beside_a_running_broker_counts_at_once(fleet: Fleet) -> None:
    old = asyncio.run(attest(fleet))
    assert asyncio.run(release(fleet, old)) == old
    assert "1 living results ended" in verb(fleet, "recall-ear-key", "--reason", "stolen")
    assert asyncio.run(release(fleet, old)) == "ResultRevoked"
    fresh = asyncio.run(attest(fleet))
    assert asyncio.run(release(fleet, fresh)) == fresh
