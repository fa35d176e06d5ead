"""Backups: one file with everything that a broker needs to go on elsewhere, and with no secret in plain.

A tar archive of manifest.jws (first), state-keys.json and one TABLE.jsonl for each table.  The rows are read in one transaction, so
they belong together; the form is the same for SQLite and PostgreSQL.  The manifest is a compact JWS of typ `chrysalis-backup+jwt`,
signed by the broker's anchor, with the SHA-256 of every other member: whoever knows the broker's pinned key knows that the backup is
its own.  Model keys lie in it as they lie in the database, sealed; the broker's own keys are sealed for it; the root key is not in it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, ValidationError
from sqlalchemy import BigInteger, Connection, Integer, LargeBinary, Table, func, insert, select, text

from chrysalis.api.base import Hex32, Model
from chrysalis.broker import audit, audit_store, fresh_start, state_keys, tables
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import POSTGRESQL, Database
from chrysalis.broker.encryption import KeyEncryption
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.rooms import Counter, counted
from chrysalis.broker.state_keys import StateKeys
from chrysalis.clock import Clock, unix
from chrysalis.receipts import jws
from chrysalis.receipts.reasons import ReceiptError

TYP = "chrysalis-backup+jwt"
MANIFEST = "manifest.jws"
STATE = "state-keys.json"
MAX_MEMBER_BYTES = 8 * 1024**3
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_MANIFEST_BYTES = 256 * 1024
ROWS = 200
"""Rows that are written or read at once."""
LEFT_OUT = frozenset({"spent_nonces", "ocsp_answers"})
"""A restore chooses the key of challenges anew, so that none from before counts (chrysalis.broker.fresh_start).  OCSP answers are asked
for again: a good one in a backup may be of before a revocation."""
WITH_FIRST_ROWS = frozenset({"counters"})
"""Their rows are made with the tables; a restore replaces them."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Model):
    """What a backup holds."""

    schema_version: Literal["chrysalis/v1"] = "chrysalis/v1"
    created_at: int
    anchor: Hex32  # the broker's EAR key, raw Ed25519
    members: Annotated[dict[str, Digest], Field(max_length=64)]  # name: SHA-256
    rows: Annotated[dict[str, int], Field(max_length=64)]
    audit_seq: int
    audit_hash: Hex32
    anchored: bool = False  # whether an anchor followed the database


def write(path: Path, *, database: Database, keys: StateKeys, encryption: KeyEncryption, clock: Clock) -> Manifest:
    """Make a backup in a new file; it appears when it is complete.  Raises BrokerError (BackupFileUnusable, AuditBroken)."""
    audit.verify(audit_store.AuditRoom(database).audit_log())
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists():
            raise FileExistsError(f"{path} is there")
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb+") as file:
            manifest = _write(file, path.parent, database, keys, encryption, clock)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        state_keys.sync_directory(path.parent)
    except (OSError, tarfile.TarError) as error:
        raise BrokerError(
            BrokerReason.BACKUP_FILE_UNUSABLE, f"{path} cannot be written", "name a new file on a volume with space", str(error)
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def read(path: Path, anchor: bytes | None) -> Manifest:
    """Check a whole backup: signature, and the digest of every member.

    anchor: the pinned key of the broker that made it; None trusts the key that the backup itself names, which protects against
    damage and not against an attacker.  Raises BrokerError (BackupInvalid, BackupFileUnusable).
    """
    with _opened(path) as archive:
        manifest = _manifest(archive, anchor)
        found: dict[str, str] = {}
        for member in archive:
            if member.name != MANIFEST:
                found[member.name] = _digest(archive, member)
        if found != manifest.members:
            raise _invalid(path, "its members are not those that the manifest names")
    return manifest


def restore(
    path: Path, *, anchor: bytes | None, database: Database, directory: Path, keyring: KeyEncryption, clock: Clock, shared: bool
) -> Manifest:
    """Fill an empty database and state directory from a backup; all of it or nothing.

    shared: the broker's own keys stay in the database (stateKeys: Database), else they become files of the directory.  The restore
    stands in the audit log, and nothing from before counts any more (chrysalis.broker.fresh_start).
    Raises BrokerError: BackupInvalid, StateNotEmpty, StateUnusable where the root key does not open it.
    """
    manifest = read(path, anchor)
    with _opened(path) as archive:
        sealed = _state(archive, manifest)
        material = {name: keyring.decrypt(sealed[name], _context(name)) for name in state_keys.NAMES}  # before anything is changed
    for name in state_keys.NAMES:
        file = directory / name
        if file.exists() and file.read_bytes() != material[name]:
            raise _not_empty(f"{file} is of another broker")
    now = unix(clock.now())

    def fill(db: Connection) -> None:
        for table in _tables():
            if table.name not in WITH_FIRST_ROWS and db.execute(select(func.count()).select_from(table)).scalar_one():
                raise _not_empty(f"the table {table.name} has rows")
        with _opened(path) as members:
            for table in _tables():
                _load(db, members, table, manifest)
        if shared:
            db.execute(tables.state_keys.delete())
            rows = [{"name": name, "sealed": keyring.encrypt(value, state_keys.context(name))} for name, value in material.items()]
            db.execute(insert(tables.state_keys), rows)
        if audit_store.head(db) != (manifest.audit_seq, manifest.audit_hash):
            raise _invalid(path, "its audit log does not end where the manifest says")
        if manifest.anchored and not counted(db, Counter.ANCHORED):
            raise _invalid(path, "its database has no mark of the anchor that the manifest names")
        document = {"createdAt": manifest.created_at, "auditSeq": manifest.audit_seq, "manifest": manifest.members[STATE]}
        audit_store.append(db, now, AuditEvent.STATE_RESTORED, document)
        fresh_start.begin(db, now, "the broker was restored from a backup")

    # The keys first: over a full database without them a start would make others; over them alone the restore is run again.
    made = [] if shared else [directory / name for name in material if not (directory / name).exists()]
    try:
        for file in made:
            state_keys.replace_file(file, material[file.name])
        database.transact(fill)
    except Exception:
        for file in made:
            file.unlink(missing_ok=True)
        raise
    audit.verify(audit_store.AuditRoom(database).audit_log())
    return manifest


def recovery_copies(path: Path, anchor: bytes | None) -> Iterator[tuple[str, int, bytes]]:
    """Key id, version and recovery copy of every key record that has one; raises BrokerError (BackupInvalid)."""
    manifest = read(path, anchor)
    with _opened(path) as archive:
        rows = list(_lines(archive, tables.key_records, manifest))  # whole, so that nothing is used before it is known to be right
    for row in rows:
        copy = base64.b64decode(row["recovery"])
        if copy:
            yield str(row["key_id"]), int(row["version"]), copy


def _write(file: BinaryIO, beside: Path, database: Database, keys: StateKeys, encryption: KeyEncryption, clock: Clock) -> Manifest:
    members: dict[str, str] = {}
    counts: dict[str, int] = {}
    pieces: list[tuple[str, bytes | Path]] = []
    own = keys.material()
    sealed = {name: base64.b64encode(encryption.encrypt(own[name], _context(name))).decode() for name in state_keys.NAMES}
    pieces.append((STATE, json.dumps(sealed).encode()))
    with tempfile.TemporaryDirectory(dir=beside, prefix=".backup-") as spool:
        folder = Path(spool)
        with database.snapshot() as db:
            seq, head = audit_store.head(db)
            anchored = counted(db, Counter.ANCHORED) > 0
            for table in _tables():
                name = f"{table.name}.jsonl"
                counts[table.name] = _dump(db, table, folder / name)
                pieces.append((name, folder / name))
        for name, piece in pieces:
            with io.BytesIO(piece) if isinstance(piece, bytes) else piece.open("rb") as source:
                members[name] = hashlib.file_digest(source, "sha256").hexdigest()
        manifest = Manifest(
            created_at=unix(clock.now()),
            anchor=keys.ear_public.hex(),
            members=members,
            rows=counts,
            audit_seq=seq,
            audit_hash=head,
            anchored=anchored,
        )
        token = jws.sign(TYP, manifest.to_json_dict(), keys.ear_key).encode()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, piece in [(MANIFEST, token), *pieces]:
                entry = tarfile.TarInfo(name)
                entry.mode, entry.mtime = 0o600, manifest.created_at
                if isinstance(piece, bytes):
                    entry.size = len(piece)
                    archive.addfile(entry, io.BytesIO(piece))
                else:
                    entry.size = piece.stat().st_size
                    with piece.open("rb") as source:
                        archive.addfile(entry, source)
    return manifest


def _tables() -> list[Table]:
    """In an order in which each row comes after what it refers to."""
    return [table for table in tables.metadata.sorted_tables if table.name not in LEFT_OUT]


def _dump(db: Connection, table: Table, path: Path) -> int:
    count = 0
    rows = db.execution_options(yield_per=ROWS).execute(select(table).order_by(*table.primary_key.columns))
    with path.open("x", encoding="utf-8") as file:
        for row in rows.mappings():
            members = {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in row.items()}
            file.write(json.dumps(members, separators=(",", ":")) + "\n")
            count += 1
    return count


def _load(db: Connection, archive: tarfile.TarFile, table: Table, manifest: Manifest) -> None:
    """manifest: as it was checked; the file may have been exchanged since.  Raises BrokerError (BackupInvalid)."""
    if table.name in WITH_FIRST_ROWS:
        db.execute(table.delete())
    rows: list[dict[str, Any]] = []
    for members in _lines(archive, table, manifest):
        rows.append({name: _value(table, name, value) for name, value in members.items()})
        if len(rows) == ROWS:
            db.execute(insert(table), rows)
            rows = []
    if rows:
        db.execute(insert(table), rows)
    if db.dialect.name == POSTGRESQL:
        for column in table.primary_key.columns:
            if column.autoincrement is True and isinstance(column.type, Integer | BigInteger):
                # Numbers that were given out are not given out again.
                newest = f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'), GREATEST(MAX({column.name}), 1))"
                db.execute(text(f"{newest} FROM {table.name}"))


def _value(table: Table, name: str, value: Any) -> Any:
    if isinstance(table.c[name].type, LargeBinary) and value is not None:
        return base64.b64decode(value, validate=True)
    return value


def _lines(archive: tarfile.TarFile, table: Table, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """A table's rows; raises BrokerError (BackupInvalid), after the last one where they are not those that the manifest names."""
    names = set(table.c.keys())
    source = archive.extractfile(f"{table.name}.jsonl")
    if source is None:
        raise BrokerError(BrokerReason.BACKUP_INVALID, f"the backup lacks {table.name}", "use a backup of this version")
    state = hashlib.sha256()
    while line := source.readline(MAX_LINE_BYTES):
        state.update(line)
        members = json.loads(line)
        if not isinstance(members, dict) or set(members) != names:
            raise BrokerError(
                BrokerReason.BACKUP_INVALID, f"a row of {table.name} is not of this version", "restore it with its own version"
            )
        yield members
    if state.hexdigest() != manifest.members.get(f"{table.name}.jsonl"):
        raise _changed(table.name)


def _changed(what: str) -> BrokerError:
    words = "copy it to where nobody else writes, and restore it from there"
    return BrokerError(BrokerReason.BACKUP_INVALID, f"the backup's {what} was exchanged while it was read", words)


def _state(archive: tarfile.TarFile, manifest: Manifest) -> dict[str, bytes]:
    source = archive.extractfile(STATE)
    raw = source.read(MAX_MANIFEST_BYTES) if source is not None else b"{}"
    if source is not None and hashlib.sha256(raw).hexdigest() != manifest.members.get(STATE):
        raise _changed(STATE)
    members = json.loads(raw)
    if set(members) != set(state_keys.NAMES):
        raise BrokerError(BrokerReason.BACKUP_INVALID, "the backup lacks the broker's own keys", "use a backup of this version")
    return {name: base64.b64decode(value, validate=True) for name, value in members.items()}


def _manifest(archive: tarfile.TarFile, anchor: bytes | None) -> Manifest:
    first = archive.next()
    source = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if source is None:
        raise BrokerError(BrokerReason.BACKUP_INVALID, "this is no backup of a broker", "name a file that `chrysalis broker backup` made")
    token = source.read(MAX_MANIFEST_BYTES).decode("ascii", "replace")
    try:
        stated = Manifest.model_validate(jws.peek(token).claims)
        expected = bytes.fromhex(stated.anchor) if anchor is None else anchor
        manifest = Manifest.model_validate(jws.verify(token, TYP, expected))
    except (ReceiptError, ValidationError, ValueError) as error:
        raise BrokerError(
            BrokerReason.BACKUP_INVALID,
            "the backup is not signed by this broker",
            "compare --ear-key with the EAR key that workers pin",
            str(error)[:512],
        ) from error
    if manifest.anchor.lower() != expected.hex():
        raise BrokerError(BrokerReason.BACKUP_INVALID, "the backup names another broker than its signer", "use another backup")
    return manifest


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    source = archive.extractfile(member) if member.isreg() and member.size <= MAX_MEMBER_BYTES else None
    if source is None:
        raise BrokerError(BrokerReason.BACKUP_INVALID, f"{member.name[:64]!r} is no plain file", "use another backup")
    state = hashlib.sha256()
    while piece := source.read(1 << 20):
        state.update(piece)
    return state.hexdigest()


class _opened:
    """The archive; a file that cannot be opened is BackupFileUnusable, and every other way of being unreadable BackupInvalid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: tarfile.TarFile | None = None

    def __enter__(self) -> tarfile.TarFile:
        try:
            self._archive = tarfile.open(self._path, "r:")
        except OSError as error:
            raise BrokerError(
                BrokerReason.BACKUP_FILE_UNUSABLE,
                f"{self._path} cannot be read",
                "name a file that `chrysalis broker backup` made",
                str(error),
            ) from error
        except tarfile.TarError as error:
            raise _invalid(self._path, str(error)) from error
        return self._archive

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._archive is not None:
            self._archive.close()
        if isinstance(error, OSError | tarfile.TarError | ValueError | KeyError | TypeError | RecursionError):
            raise _invalid(self._path, f"{type(error).__name__}: {error}"[:512]) from error


def _context(name: str) -> bytes:
    return f"chrysalis/v1/backup-state-key\0{name}".encode()


def _invalid(path: Path, detail: str) -> BrokerError:
    return BrokerError(BrokerReason.BACKUP_INVALID, f"{path} is no whole backup", "use another one: it is damaged or was changed", detail)


def _not_empty(detail: str) -> BrokerError:
    return BrokerError(
        BrokerReason.STATE_NOT_EMPTY,
        "a backup is restored into an empty database and state directory only",
        "name a new stateDir or database in the settings; nothing was changed",
        detail,
    )
