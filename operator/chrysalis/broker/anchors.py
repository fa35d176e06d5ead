"""What the broker remembers outside of its database, so that an older database is not mistaken for the newest.

An anchor holds number and hash of the audit log's newest record and the newest version of every policy and key record.  The order is
always: the database commits, then the anchor follows, so that at a start the database may be ahead of its anchor and is never behind.
A database from behind its anchor (restored, truncated, exchanged) is refused: StateRolledBack; a broker that runs over one ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field, ValidationError
from sqlalchemy import func, select

from chrysalis.api.base import Hex32, Model
from chrysalis.broker import audit, audit_store
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.state_keys import replace_file
from chrysalis.broker.tables import audit as audit_table
from chrysalis.broker.tables import key_records, policies

log = logging.getLogger(__name__)

MAX_ANCHOR_BYTES = 16 * 1024 * 1024
Version = Annotated[int, Field(ge=1)]
"""Thousands of policies fit."""


class AnchorSettings(Model):
    """Where the anchor is kept.

    file: a file that is not on the database's volume (another volume, another machine's share); its directory must exist.
    maxStalenessSeconds: how long the anchor may lag behind a commit.
    """

    file: Path
    max_staleness_seconds: Annotated[int, Field(ge=1, le=300)] = 2


class State(Model):
    """The newest state that was seen."""

    schema_version: Literal["chrysalis/v1"] = "chrysalis/v1"
    audit_seq: Annotated[int, Field(ge=0)]
    audit_hash: Hex32
    policies: dict[str, Version] = {}  # "OWNER/NAME": version
    keys: dict[str, Version] = {}  # key id: version of its record


class Anchor(Protocol):
    """A place outside of the database.  Other places implement this: a ConfigMap, a ledger, another machine."""

    def read(self) -> State | None:
        """What was noted last, None where nothing was; raises BrokerError (AnchorUnusable)."""

    def advance(self, state: State) -> None:
        """Note a state, durably, unless a newer one is there; raises BrokerError (AnchorUnusable)."""

    def replace(self, state: State) -> None:
        """Note a state whatever is there: a rollback that was accepted; raises BrokerError (AnchorUnusable)."""


class FileAnchor:
    """An anchor in a file; replicas that share it take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> State | None:
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_ANCHOR_BYTES + 1)
            if len(raw) > MAX_ANCHOR_BYTES:
                raise ValueError(f"over {MAX_ANCHOR_BYTES} bytes")
            return State.model_validate_json(raw)
        except FileNotFoundError:
            if self._path.parent.is_dir():
                return None
            raise _unusable(self._path, "its directory is not there") from None
        except (OSError, ValueError, ValidationError) as error:
            raise _unusable(self._path, str(error)[:512]) from error

    def advance(self, state: State) -> None:
        with self._turn():
            held = self.read()
            if held is None or held.audit_seq < state.audit_seq:
                self._write(state)

    def replace(self, state: State) -> None:
        with self._turn():
            self._write(state)

    def _write(self, state: State) -> None:
        try:
            replace_file(self._path, state.model_dump_json(by_alias=True).encode() + b"\n")
        except OSError as error:
            raise _unusable(self._path, str(error)) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self._path, str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def state_of(database: Database) -> State:
    """The database's newest state, in one transaction."""
    with database.reading() as db:
        seq, digest = audit_store.head(db)
        newest = select(policies.c.owner, policies.c.name, func.max(policies.c.version).label("version"))
        rows = db.execute(newest.group_by(policies.c.owner, policies.c.name)).all()
        keys = db.execute(select(key_records.c.owner, key_records.c.key_id, key_records.c.version)).all()
    return State(
        audit_seq=seq,
        audit_hash=digest,
        policies={f"{row.owner}/{row.name}": row.version for row in rows},
        keys={f"{row.owner}/{row.key_id}": row.version for row in keys},
    )


def behind(database: Database, noted: State) -> list[str]:
    """In which ways the database is behind what was noted, or another one; empty when it is not."""
    current = state_of(database)
    found: list[str] = []
    if current.audit_seq < noted.audit_seq:
        found.append(f"the audit log ends at record {current.audit_seq}; record {noted.audit_seq} was there")
    elif noted.audit_seq:
        with database.reading() as db:
            digest = db.execute(select(audit_table.c.hash).where(audit_table.c.seq == noted.audit_seq)).scalar_one_or_none()
        if digest != noted.audit_hash.lower():
            found.append(f"record {noted.audit_seq} of the audit log is another one")
    for what, now, before in (("policy", current.policies, noted.policies), ("key record", current.keys, noted.keys)):
        for name, version in before.items():
            current_version = _version(now, name)
            if current_version < version:
                found.append(f"{what} {name} has version {current_version}; version {version} was there")
    return found


def _version(versions: dict[str, int], name: str) -> int:
    """Of an owner's document; a name without its owner was noted when key ids belonged to nobody."""
    if "/" in name:
        return versions.get(name, 0)
    return max((version for full, version in versions.items() if full.endswith(f"/{name}")), default=0)


def check(database: Database, anchor: Anchor, now: int) -> None:
    """Refuse a database from behind its anchor; note its state otherwise.

    The first time nothing is noted: that the anchor begins stands in the audit log, so a removed anchor leaves a trace.  Raises
    BrokerError (StateRolledBack, AnchorUnusable).
    """
    noted = anchor.read()
    if noted is None:
        seq, digest = _head(database)
        if seq:
            document = {"auditSeq": seq, "auditHash": digest}
            database.transact(lambda db: audit_store.append(db, now, AuditEvent.ANCHOR_STARTED, document))
    elif found := behind(database, noted):
        raise _rolled_back(found)
    anchor.advance(state_of(database))


def accept(database: Database, anchor: Anchor, now: int, reason: str) -> list[str]:
    """Go on from a database that is behind its anchor: audited, then noted.  Returns what was behind; empty: nothing to accept.

    A log that was changed in its middle stays refused (AuditBroken).
    """
    audit.verify(audit_store.AuditRoom(database).audit_log())
    noted = anchor.read()
    found = [] if noted is None else behind(database, noted)
    if noted is not None and found:
        document = {"notedSeq": noted.audit_seq, "notedHash": noted.audit_hash, "reason": reason[:512], "found": found[:64]}
        database.transact(lambda db: audit_store.append(db, now, AuditEvent.ROLLBACK_ACCEPTED, document))
        anchor.replace(state_of(database))
    return found


class Keeper:
    """Lets the anchor follow the database, within the staleness of its settings, until it is stopped."""

    def __init__(
        self, database: Database, anchor: Anchor, staleness_seconds: float, rolled_back: Callable[[], None] = lambda: None
    ) -> None:
        """rolled_back: called when the database is found behind its anchor while the broker runs; it should end then."""
        self._database = database
        self._anchor = anchor
        self._rolled_back = rolled_back
        self._seconds = staleness_seconds / 2
        self._end = threading.Event()
        self._noted = -1
        self._thread = threading.Thread(target=self._run, name="anchor", daemon=True)
        self.failure: Exception | None = None
        """Why the last attempt failed, None after one that did not."""

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Note the last state and end."""
        self._end.set()
        self._thread.join(30)

    def follow(self) -> None:
        """Note the newest state if it is not noted; a failure is kept and logged, and the next round tries again."""
        try:
            seq, _ = _head(self._database)
            if seq != self._noted:
                noted = self._anchor.read()
                if noted is not None and (found := behind(self._database, noted)):
                    raise _rolled_back(found)
                state = state_of(self._database)
                self._anchor.advance(state)
                self._noted = state.audit_seq
            self.failure = None
        except Exception as error:  # a database or a volume that does not answer now
            reason = error.reason if isinstance(error, BrokerError) else ""
            log.error("the anchor does not follow", extra={"event": "AnchorBehind", "reason": reason, "error": type(error).__name__})
            self.failure = error
            if reason == BrokerReason.STATE_ROLLED_BACK:  # a restored snapshot, a standby that was behind: its history is not noted
                self._rolled_back()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.follow()
        self.follow()


def of(settings: AnchorSettings) -> Anchor:
    """The anchor of some settings."""
    return FileAnchor(settings.file)


def _head(database: Database) -> tuple[int, str]:
    with database.reading() as db:
        return audit_store.head(db)


def _rolled_back(found: list[str]) -> BrokerError:
    return BrokerError(
        BrokerReason.STATE_ROLLED_BACK,
        "the database is older than what this broker has noted outside of it",
        "put the newest database back; if it is lost for good, run `chrysalis broker accept-rollback --reason …` and let owners "
        "check their policies and keys",
        "; ".join(found)[:2048],
    )


def _unusable(path: Path, detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.ANCHOR_UNUSABLE,
        f"the anchor {path} cannot be used",
        "mount the volume of anchor.file; if the anchor itself is damaged, compare the audit log with a backup before you remove it",
        detail,
    )
