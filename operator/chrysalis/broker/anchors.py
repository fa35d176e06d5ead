"""What the broker remembers outside of its database, so that an older database is not mistaken for the newest.

An anchor holds number and hash of the audit log's newest record, the newest version of every policy, key record and publisher's
reference values, and the recalled signing keys.  It is signed by the broker's own key (`ear.key`), so one that was edited, or is of
another broker, is no anchor.  The order is always: the database commits, then the anchor follows, so that at a start the database may
be ahead of its anchor and is never behind.  A database from behind its anchor (restored, truncated, exchanged) is refused:
StateRolledBack; so is one that had an anchor and has none now: AnchorMissing.  A broker that runs over such a database ends.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError
from sqlalchemy import Connection, func, select, text

from chrysalis.api.base import Hex32, Model
from chrysalis.broker import audit, audit_store, fresh_start, recalls_store, version_floors
from chrysalis.broker.anchor_places import CONFIG_MAP_NAMES, FILE_NAMES, ConfigMapPlace, FilePlace, Place
from chrysalis.broker.anchor_settings import AnchorSettings
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.rooms import Counter, counted, put_counter
from chrysalis.broker.settings import Settings
from chrysalis.broker.tables import ANCHORED, key_records, policies, recalled_keys, reference_values
from chrysalis.broker.tables import audit as audit_table
from chrysalis.broker.version_floors import Kind
from chrysalis.clock import Clock
from chrysalis.receipts import jws
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire.recalls import Kid

TYP = "chrysalis-anchor+jwt"
Version = Annotated[int, Field(ge=1)]


class State(Model):
    """The newest state that was seen."""

    schema_version: Literal["chrysalis/v1"] = "chrysalis/v1"
    audit_seq: Annotated[int, Field(ge=0)]
    audit_hash: Hex32
    policies: dict[str, Version] = {}  # "OWNER/NAME": version
    keys: dict[str, Version] = {}  # "OWNER/KEYID": version of its record
    references: dict[str, Version] = {}  # "PUBLISHER/": version
    recalled: list[Kid] = []  # signing keys, in order

    def versions(self) -> dict[tuple[Kind, str], int]:
        """Every version by what it is of."""
        each = ((Kind.POLICY, self.policies), (Kind.KEY_RECORD, self.keys), (Kind.REFERENCE_VALUES, self.references))
        return {(kind, name): version for kind, found in each for name, version in found.items()}


class Anchor:
    """A state at a place, signed."""

    def __init__(self, place: Place, key: Ed25519PrivateKey) -> None:
        """key: the broker's own, which makes the anchor this broker's and nobody else's."""
        self._place = place
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    def read(self) -> State | None:
        """What was noted last, None where nothing was; raises BrokerError (AnchorUnusable, AnchorInvalid)."""
        raw = self._place.read()
        return None if raw is None else self._open(raw)

    def advance(self, state: State) -> None:
        """Note a state, durably, unless a newer one is there; raises BrokerError (AnchorUnusable, AnchorInvalid)."""
        self._place.update(lambda held: None if held is not None and self._open(held).audit_seq >= state.audit_seq else self._seal(state))

    def replace(self, state: State) -> None:
        """Note a state whatever is there: a rollback that was accepted; raises BrokerError (AnchorUnusable)."""
        self._place.update(lambda _held: self._seal(state))

    def _seal(self, state: State) -> bytes:
        members = state.to_json_dict()
        document = {"state": members, "signature": jws.sign(TYP, {"digest": _digest(members)}, self._key)}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    def _open(self, raw: bytes) -> State:
        try:
            document = json.loads(raw)
            if set(document) != {"state", "signature"}:
                raise ValueError("not a signed state")
            claims = jws.verify(str(document["signature"]), TYP, self._public)
            if claims != {"digest": _digest(document["state"])}:
                raise ValueError("the signature is of another state")
            return State.model_validate(document["state"])
        except (ReceiptError, ValidationError, ValueError, TypeError, RecursionError) as error:
            raise BrokerError(
                BrokerReason.ANCHOR_INVALID,
                "what lies at the anchor's place was not written by this broker",
                "find out who could write there; put the anchor back as it was, or, where it is lost for good or of a broker that is "
                "gone, run `chrysalis broker accept-rollback --reason …`",
                str(error)[:512],
            ) from error


def of(configuration: Settings, key: Ed25519PrivateKey, clock: Clock) -> Anchor | None:
    """The anchor of some settings; None where they name none."""
    settings = configuration.anchor
    if settings is None:
        return None
    if settings.file is not None:
        return Anchor(FilePlace(settings.file), key)
    if settings.config_map is None or configuration.kubernetes is None:
        raise AssertionError("the settings name one place, and the cluster of a ConfigMap")
    return Anchor(ConfigMapPlace(settings.config_map, configuration.kubernetes, clock), key)


def room(settings: AnchorSettings) -> int:
    """How many names of policies and keys an anchor of these settings holds, however they are chosen."""
    return CONFIG_MAP_NAMES if settings.file is None else FILE_NAMES


def state_of(database: Database) -> State:
    """The database's newest state, in one transaction; versions that were there before an accepted rollback count as its own."""
    with database.snapshot() as db:
        seq, digest = audit_store.head(db)
        newest = select(policies.c.owner, policies.c.name, func.max(policies.c.version).label("version"))
        rows = db.execute(newest.group_by(policies.c.owner, policies.c.name)).all()
        keys = db.execute(select(key_records.c.owner, key_records.c.key_id, key_records.c.version)).all()
        publishers = db.execute(
            select(reference_values.c.publisher, func.max(reference_values.c.version)).group_by(reference_values.c.publisher)
        ).all()
        floors = version_floors.read(db)
        recalled = db.execute(select(recalled_keys.c.kid).order_by(recalled_keys.c.kid)).scalars().all()
    found: dict[Kind, dict[str, int]] = {
        Kind.POLICY: {f"{owner}/{name}": version for owner, name, version in rows},
        Kind.KEY_RECORD: {f"{owner}/{key_id}": version for owner, key_id, version in keys},
        Kind.REFERENCE_VALUES: {f"{publisher}/": version for publisher, version in publishers},
    }
    for (kind, owner, name), version in floors.items():
        key = f"{owner}/{name}"
        found[kind][key] = max(version, found[kind].get(key, 0))
    return State(
        audit_seq=seq,
        audit_hash=digest,
        policies=found[Kind.POLICY],
        keys=found[Kind.KEY_RECORD],
        references=found[Kind.REFERENCE_VALUES],
        recalled=list(recalled),
    )


def behind(database: Database, noted: State) -> list[str]:
    """In which ways the database is behind what was noted, or another one; empty when it is not."""
    current = state_of(database)
    found: list[str] = []
    if current.audit_seq < noted.audit_seq:
        found.append(f"the audit log ends at record {current.audit_seq}; record {noted.audit_seq} was there")
    else:
        with database.reading() as db:
            digest = audit_store.hash_of(db, noted.audit_seq)
        if digest != noted.audit_hash.lower():
            found.append(f"record {noted.audit_seq} of the audit log is another one")
    now = current.versions()
    for (kind, name), version in noted.versions().items():
        if now.get((kind, name), 0) < version:
            found.append(f"{kind.words} {name} has version {now.get((kind, name), 0)}; version {version} was there")
    found += [f"signing key {kid} was recalled" for kid in noted.recalled if kid not in set(current.recalled)]
    return found


def anchored(database: Database) -> bool:
    """Whether an anchor has followed this database, by its mark or by the audit log: who takes one away leaves the other."""
    newest = select(audit_table.c.event).where(text(ANCHORED)).order_by(audit_table.c.seq.desc()).limit(1)
    with database.reading() as db:
        event = db.execute(newest).scalar_one_or_none()
        return event == AuditEvent.ANCHOR_STARTED.value or counted(db, Counter.ANCHORED) > 0


def check(database: Database, anchor: Anchor | None) -> State | None:
    """Refuse a database from behind its anchor, and one that has lost it; returns what was noted, None where nothing was yet.

    Raises BrokerError: StateRolledBack, AnchorMissing, AnchorInvalid, AnchorUnusable.
    """
    before = anchored(database)  # first: another replica may begin the anchor and mark the database in this order
    noted = None if anchor is None else anchor.read()
    if noted is None:
        if before:
            raise _missing("the settings name no anchor" if anchor is None else "nothing lies at the anchor's place")
        return None
    if found := behind(database, noted):
        raise rolled_back(found)
    return noted


def begin(database: Database, anchor: Anchor, now: int) -> State:
    """Note the state of a database that `check` lets pass and return it; that it has an anchor from now on stands in the audit log.

    Raises BrokerError (AnchorUnusable, AnchorInvalid).
    """
    state = state_of(database)
    anchor.advance(state)  # first: a database that is marked and has no anchor is refused
    if not anchored(database):
        database.transact(lambda db: _mark(db, now, state))
        state = state_of(database)
        anchor.advance(state)
    return state


def accept(database: Database, anchor: Anchor | None, now: int, reason: str) -> list[str]:
    """Go on from a database that is behind its anchor, or has lost it.  Returns what was found; empty: nothing to accept.

    In one transaction: the versions that were noted become floors, below which nothing counts (VersionLost) or is taken; recalled
    keys stay recalled; every result and challenge from before ends (chrysalis.broker.fresh_start); all of it is audited.
    Then the new state is noted.  Without an anchor in the settings, the database goes on without one.
    A log that was changed in its middle stays refused (AuditBroken).
    """
    audit.verify(audit_store.AuditRoom(database).audit_log())
    noted: State | None = None
    found: list[str] = []
    try:
        noted = None if anchor is None else anchor.read()
    except BrokerError as error:
        if error.reason != BrokerReason.ANCHOR_INVALID:
            raise
        found = [f"{error.message}: {error.detail}"]
    if noted is not None:
        found = behind(database, noted)
    elif not found and anchored(database):
        found = ["the settings name no anchor" if anchor is None else "nothing lies at the anchor's place"]
    if not found:
        return []

    def go_on(db: Connection) -> None:
        document: dict[str, Any] = {"reason": reason[:512], "found": found[:64]}
        if noted is not None:
            document |= {"notedSeq": noted.audit_seq, "notedHash": noted.audit_hash}
            version_floors.raise_to(
                db, {(kind, name.partition("/")[0], name.partition("/")[2]): version for (kind, name), version in noted.versions().items()}
            )
            recalls_store.put(db, noted.recalled, now, "recalled before a rollback")
        audit_store.append(db, now, AuditEvent.ROLLBACK_ACCEPTED, document)
        fresh_start.begin(db, now, "an older database was accepted")
        if anchor is None:
            put_counter(db, Counter.ANCHORED, 0)
            audit_store.append(db, now, AuditEvent.ANCHOR_FORGOTTEN, {"reason": reason[:512]})
        else:
            put_counter(db, Counter.ANCHORED, 1)
            audit_store.append(db, now, AuditEvent.ANCHOR_STARTED, {"reason": reason[:512]})

    database.transact(go_on)
    if anchor is not None:
        anchor.replace(state_of(database))
    return found


def rolled_back(found: list[str]) -> BrokerError:
    """The refusal of an older database."""
    return BrokerError(
        BrokerReason.STATE_ROLLED_BACK,
        "the database is older than what this broker has noted outside of it",
        "put the newest database back; if it is lost for good, run `chrysalis broker accept-rollback --reason …` and let owners store "
        "their newest policies and keys again",
        "; ".join(found)[:2048],
    )


def _missing(detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.ANCHOR_MISSING,
        "this database had an anchor, and there is none now",
        "put the anchor back (`anchor` in the settings, and what lay there): the database may be an older one. If it is lost for good, "
        "or is to go on without one, run `chrysalis broker accept-rollback --reason …`",
        detail,
    )


def _mark(db: Connection, now: int, state: State) -> None:
    if counted(db, Counter.ANCHORED):
        return  # another replica was faster
    put_counter(db, Counter.ANCHORED, 1)
    audit_store.append(db, now, AuditEvent.ANCHOR_STARTED, {"auditSeq": state.audit_seq, "auditHash": state.audit_hash})


def _digest(members: Any) -> str:
    text = json.dumps(members, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
