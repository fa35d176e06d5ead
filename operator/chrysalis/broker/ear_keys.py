"""The keys that sign results: several at once, each in its time, certified by the anchor that workers pin.

    notBefore ─── signs ─── signsUntil ─── still verifies ─── verifiesUntil
                            next key signs ───────…

There is always a key that signs and, in the key set, the one that comes after it, so that readers know it before it signs.  Keys are
shared by replicas through the database, sealed.  A result that would outlive its key is signed by the anchor itself.
A key that was stolen is recalled: the anchor says so in a list (chrysalis.wire.recalls), and what it signed ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field
from sqlalchemy import Connection, delete, select, update

from chrysalis.api.base import Model
from chrysalis.broker import audit_store, fresh_start, recalls_store
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.encryption import KeyEncryption
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.rooms import Counter, counted, insert_new, mark
from chrysalis.broker.tables import ear_keys
from chrysalis.clock import Clock, unix
from chrysalis.errors import ChrysalisError
from chrysalis.wire import ear_keys as form
from chrysalis.wire.ear_keys import Algorithm, CertifiedKey
from chrysalis.wire.reasons import WireReason
from chrysalis.wire.recalls import MAX_RECALLED, RecalledKey, RecallList

log = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0
"""How long a replica goes on with what it read; a rotation elsewhere is seen after this."""
WEEK = 7 * 86400


class EarKeySettings(Model):
    """How the keys that sign results rotate.

    rotateAfterSeconds: how long one signs.  overlapSeconds: how long it still verifies afterwards; at least the longest life of a
    result (a policy's freshness.maxResultAgeSeconds).  algorithm: EdDSA, or ES256 for readers that lack it.
    """

    rotate_after_seconds: Annotated[int, Field(ge=60, le=366 * 86400)] = WEEK
    overlap_seconds: Annotated[int, Field(ge=60, le=366 * 86400)] = WEEK + 3600
    algorithm: Algorithm = Algorithm.EDDSA


@dataclass(frozen=True)
class Row:
    """A key as it is stored."""

    kid: str
    certificate: str
    sealed_key: bytes
    not_before: int
    signs_until: int
    verifies_until: int


@dataclass(frozen=True)
class Recalled:
    """What a recall did: the keys that were not recalled before, and how many living results ended."""

    kids: list[str]
    ended: int


class EarKeys:
    """One broker's signing keys.  Thread-safe."""

    def __init__(
        self, *, database: Database, anchor: Ed25519PrivateKey, encryption: KeyEncryption, settings: EarKeySettings, clock: Clock
    ) -> None:
        self._database = database
        self._anchor = anchor
        self._anchor_public = anchor.public_key().public_bytes_raw()
        self._encryption = encryption
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()  # of the members below
        self._reading = threading.Lock()
        self._rows: list[Row] = []
        self._opened: dict[str, CertifiedKey] = {}  # by certificate
        self._read_at: float | None = None
        self._shared = -1  # what `Counter.SHARED` was when they were read
        self._recalled: list[RecalledKey] = []

    def check(self) -> None:
        """Refuse to go on with an anchor that did not certify the stored keys: a state directory that was lost, or is another broker's.

        Raises BrokerError (StateUnusable).
        """
        with self._database.reading() as db:
            rows = _rows(db)
        try:
            for row in rows:
                form.open_certificate(row.certificate, self._anchor_public)
        except ChrysalisError as error:
            raise BrokerError(
                BrokerReason.STATE_UNUSABLE,
                "the signing keys in the database were certified by another EAR key than this broker's",
                "put back the state directory that belongs to this database (or restore both from one backup): no worker pins a new key",
                error.detail,
            ) from error

    def signer(self, issued_at: int, expires_at: int, shared: int = -1) -> Ed25519PrivateKey | CertifiedKey:
        """What signs a result of this life (Unix seconds); the anchor where no certified key fits.

        shared: what the result rests on (Basis.shared).  A recall changes that number, so what a replica has read before is read
        again, and no result that a recalled key has signed is stored.
        Raises BrokerError (KeyServiceUnavailable, StateUnusable) and SQLAlchemyError when no key was ever read.
        """
        self._refresh(shared)
        with self._lock:
            for row in self._rows:
                if row.not_before <= issued_at < row.signs_until and expires_at <= row.verifies_until:
                    return self._open(row)
        return self._anchor

    def key_set(self) -> dict[str, list[dict[str, Any]]]:
        """The JWKS: the anchor, the keys that still verify, and the next one."""
        self._refresh()
        with self._lock:
            now = unix(self._clock.now())
            return form.key_set(self._anchor_public, [row.certificate for row in self._rows if now < row.verifies_until])

    def recalls(self, shared: int = -1) -> str:
        """The list of recalled keys, signed now by the anchor (chrysalis.wire.recalls); shared: as for `recalled`."""
        self._refresh(shared)
        with self._lock:
            found = list(self._recalled)
        return RecallList(iat=unix(self._clock.now()), keys=found).sign(self._anchor)

    def recalled(self, shared: int = -1) -> frozenset[str]:
        """Thumbprints of the recalled keys.

        shared: `Counter.SHARED` as the caller has just read it.  Each recall changes it, so one that any replica has made by then is
        known here; without it the list may be REFRESH_SECONDS old.
        """
        self._refresh(shared)
        with self._lock:
            return frozenset(key.kid for key in self._recalled)

    def recall(self, kids: Sequence[str] = (), *, every: bool = False, reason: str = "") -> Recalled:
        """Recall keys, by default the one that signs now: what they signed counts no more, and they sign nothing from now on.

        every: all that the database holds, the next one too.  The living results that they signed end in the same transaction.
        Raises BrokerError (StateUnusable) where nothing is there to recall, SettingsInvalid for the anchor itself.
        """
        now = unix(self._clock.now())
        with self._database.reading() as db:
            rows = _rows(db)
        if every:
            kids = [row.kid for row in rows]
        elif not kids:
            kids = [row.kid for row in rows if row.not_before <= now < row.signs_until]
        if not kids:
            raise BrokerError(BrokerReason.STATE_UNUSABLE, "no key signs now", "name the key with --kid, as a result's header shows it")
        if form.Jwk.of(self._anchor.public_key()).kid in kids:
            raise BrokerError(
                BrokerReason.SETTINGS_INVALID,
                "the pinned key itself cannot be recalled: its own word is all that a recall is",
                "set up a new broker, and let workers pin its keys",
            )

        def change(db: Connection) -> Recalled:
            new = recalls_store.put(db, kids, now, reason)
            if not new:
                return Recalled([], 0)
            if len(recalls_store.read(db)) > MAX_RECALLED:  # or no list could be published any more
                raise BrokerError(
                    BrokerReason.STATE_UNUSABLE,
                    f"more than {MAX_RECALLED} keys would be recalled; no list of them is read",
                    "recall only kids that were this broker's; where so many leaked, set up a new one and let workers pin its keys",
                )
            mark(db, Counter.SHARED)
            message = "the key that signed this result was recalled; attest again"
            ended = fresh_start.end_living(db, now, WireReason.KEY_RECALLED, message, by="recall", signed_by=frozenset(new))
            audit_store.append(db, now, AuditEvent.EAR_KEY_RECALLED, {"kids": new, "ended": ended, "reason": reason[:256]})
            return Recalled(new, ended)

        done = self._database.transact(change)
        self.maintain()
        with self._lock:
            self._read_at = None
        return done

    def maintain(self) -> None:
        """Forget keys whose time is over, and see that one signs now and one comes after it.  Any replica may, at any time."""
        now = unix(self._clock.now())
        for _ in range(4):  # a key for now, one after it, and two that another replica may have been faster with
            with self._database.reading() as db:
                window = self._missing(_rows(db), now)
            if window is None:
                break
            row = self._make(*window)  # before the transaction: sealing may ask a key service

            def store(db: Connection, row: Row = row, window: tuple[int, int] = window) -> None:
                if self._missing(_rows(db), now) == window:
                    insert_new(db, ear_keys, vars(row))

            self._database.transact(store)
        with self._database.reading() as db:
            over = any(row.verifies_until <= now for row in _rows(db))
        if over:
            self._database.transact(lambda db: db.execute(delete(ear_keys).where(ear_keys.c.verifies_until <= now)))

    def rotate(self, reason: str = "") -> str:
        """Let the next key sign from now on; returns its kid.  What the old one signed still verifies.

        The change stands in the audit log.
        """
        self.maintain()
        now = unix(self._clock.now())
        with self._database.reading() as db:
            rows = _rows(db)
        ahead = next((row for row in rows if row.not_before > now), None)
        if ahead is None:
            raise BrokerError(BrokerReason.STATE_UNUSABLE, "there is no next signing key", "run it again")
        signs_until = now + self._settings.rotate_after_seconds
        renewed = self._certify(self._private(ahead), now, signs_until)

        def change(db: Connection) -> None:
            c = ear_keys.c
            db.execute(update(ear_keys).where(c.not_before <= now, c.signs_until > now).values(signs_until=now))
            changed = db.execute(
                update(ear_keys)
                .where(c.kid == ahead.kid, c.not_before > now)
                .values(
                    certificate=renewed.token,
                    not_before=now,
                    signs_until=signs_until,
                    verifies_until=signs_until + self._settings.overlap_seconds,
                )
            )
            if changed.rowcount != 1:
                raise BrokerError(BrokerReason.STATE_UNUSABLE, "the signing keys were rotated by somebody else", "look at the key set")
            audit_store.append(db, now, AuditEvent.EAR_KEY_ROTATED, {"kid": ahead.kid, "reason": reason[:256]})

        self._database.transact(change)
        self.maintain()
        with self._lock:
            self._read_at = None
        return ahead.kid

    def _refresh(self, shared: int = -1) -> None:
        """Read the keys again where that is due; one thread does, and the others go on with what was read before."""
        behind = shared not in (-1, self._shared)
        if (self._fresh() and not behind) or not self._reading.acquire(blocking=behind or not self._rows):
            return
        try:
            behind = shared not in (-1, self._shared)
            if behind or not self._fresh():
                self._read(needed=behind)
        finally:
            self._reading.release()

    def _fresh(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < REFRESH_SECONDS

    def _read(self, needed: bool) -> None:
        """Make the keys that are wanting, which may ask a slow key service, and read all of them.

        needed: what was read before does not do, so failing to read is not passed over.
        """
        now, problem = self._clock.monotonic(), None
        try:
            self.maintain()
        except Exception as error:  # whatever the driver or the key service raises
            problem = error
        try:
            with self._database.reading() as db:
                shared = counted(db, Counter.SHARED)  # first: what changes after it is noticed
                rows, recalled = _rows(db), recalls_store.read(db)
        except Exception as error:
            if needed or self._read_at is None:
                raise
            problem = error
        else:
            if problem is not None and not rows and self._read_at is None:
                raise problem
            known = {row.certificate for row in rows}
            opened = self._open_ahead(rows)
            with self._lock:
                self._rows, self._recalled, self._shared = rows, recalled, shared
                self._opened = {certificate: key for certificate, key in (self._opened | opened).items() if certificate in known}
        self._read_at = now
        if problem is not None:  # what was read before is good for as long as it says
            log.warning("signing keys not read again", extra={"event": "EarKeysStale", "error": type(problem).__name__})

    def _open_ahead(self, rows: list[Row]) -> dict[str, CertifiedKey]:
        """The keys that sign or will sign and are not open yet: when its turn comes, the key service may be away.

        What cannot be opened now is tried again at the next reading, and at its first use.
        """
        now, opened = unix(self._clock.now()), {}
        for row in rows:
            if now < row.signs_until and row.certificate not in self._opened:
                try:
                    opened[row.certificate] = self._opened_from(row)
                except ChrysalisError as error:
                    log.warning("a signing key cannot be opened ahead", extra={"event": "EarKeysStale", "reason": str(error.reason)})
        return opened

    def _missing(self, rows: list[Row], now: int) -> tuple[int, int] | None:
        """The window of the key that has to be made, or None: one that covers now, then one that follows the last."""
        covering = [row for row in rows if row.not_before <= now < row.signs_until]
        ahead = [row for row in rows if row.not_before > now]
        if not covering:
            until = min((row.not_before for row in ahead), default=now + self._settings.rotate_after_seconds)
            return now, until
        if not ahead:
            begin = max(row.signs_until for row in covering)
            return begin, begin + self._settings.rotate_after_seconds
        return None

    def _make(self, not_before: int, signs_until: int) -> Row:
        private = form.generate(self._settings.algorithm)
        certified = self._certify(private, not_before, signs_until)
        return Row(
            kid=certified.kid,
            certificate=certified.token,
            sealed_key=self._encryption.encrypt(form.to_der(private), context(certified.kid)),
            not_before=not_before,
            signs_until=signs_until,
            verifies_until=certified.certificate.exp,
        )

    def _certify(self, private: form.PrivateKey, not_before: int, signs_until: int) -> CertifiedKey:
        return CertifiedKey.issue(
            private,
            self._anchor,
            not_before=not_before,
            signs_until=signs_until,
            verifies_until=signs_until + self._settings.overlap_seconds,
        )

    def _open(self, row: Row) -> CertifiedKey:
        known = self._opened.get(row.certificate)
        if known is None:
            known = self._opened[row.certificate] = self._opened_from(row)
        return known

    def _opened_from(self, row: Row) -> CertifiedKey:
        certificate = form.open_certificate(row.certificate, self._anchor_public)
        return CertifiedKey(self._private(row), certificate, row.certificate)

    def _private(self, row: Row) -> form.PrivateKey:
        secret = self._encryption.decrypt(row.sealed_key, context(row.kid))
        try:
            return form.from_der(secret)
        except (ValueError, ChrysalisError) as error:
            raise BrokerError(
                BrokerReason.STATE_UNUSABLE,
                "a stored signing key is unreadable",
                "restore the database from a backup",
                type(error).__name__,
            ) from error


def context(kid: str) -> bytes:
    """What a stored signing key's encryption is bound to."""
    return f"chrysalis/v1/ear-key\0{kid}".encode()


def _rows(db: Connection) -> list[Row]:
    return [Row(**row) for row in db.execute(select(ear_keys).order_by(ear_keys.c.not_before)).mappings()]
