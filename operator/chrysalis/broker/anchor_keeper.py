"""Lets the anchor follow the database while the broker runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from chrysalis.broker import anchors, audit_store
from chrysalis.broker.anchors import Anchor, State
from chrysalis.broker.database import Database
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.clock import Clock

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""How often the anchor is looked for where nothing has changed: one that was taken away is put back by who still knows it, and is not
missed by the next start."""


class Keeper:
    """Follows within the staleness of its settings, until it is stopped."""

    def __init__(
        self,
        database: Database,
        anchor: Anchor,
        staleness_seconds: float,
        clock: Clock,
        rolled_back: Callable[[], None] = lambda: None,
        noted: State | None = None,
    ) -> None:
        """rolled_back: called when the database is found behind its anchor while the broker runs; it should end then.

        noted: what this process has noted at its start.
        """
        self._database = database
        self._anchor = anchor
        self._rolled_back = rolled_back
        self._seconds = staleness_seconds / 2
        self._clock = clock
        self._end = threading.Event()
        self._noted = noted
        self._looked = clock.monotonic()
        self._failing_since: float | None = None
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

    @property
    def stale(self) -> bool:
        """Whether the anchor lags behind for longer than its settings allow: then the broker is not ready.

        A place that does not answer for a moment refuses nobody; a rollback counts at once.
        """
        failure, since = self.failure, self._failing_since
        if failure is None or since is None:
            return False
        if isinstance(failure, BrokerError) and failure.reason == BrokerReason.STATE_ROLLED_BACK:
            return True
        return self._clock.monotonic() - since >= self._seconds  # the commit was up to one round before the first failure

    def follow(self, look: bool = False) -> None:
        """Note the newest state if it is not noted; a failure is kept and logged, and the next round tries again.

        look: see also whether what was noted is still there, as is done every LOOK_SECONDS.
        """
        try:
            with self._database.reading() as db:
                seq, digest = audit_store.head(db)
            if self._noted is None or (seq, digest) != (self._noted.audit_seq, self._noted.audit_hash):
                self._advance()
            elif look or self._clock.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            self.failure, self._failing_since = None, None
        except Exception as error:  # a database or a place that does not answer now
            reason = error.reason if isinstance(error, BrokerError) else ""
            log.error("the anchor does not follow", extra={"event": "AnchorBehind", "reason": reason, "error": type(error).__name__})
            if self._failing_since is None:
                self._failing_since = self._clock.monotonic()
            self.failure = error
            if reason == BrokerReason.STATE_ROLLED_BACK:  # a restored snapshot, a standby that was behind: its history is not noted
                self._rolled_back()

    def _look(self) -> None:
        """See whether the anchor is there; a place that does not answer is no failure where nothing lags behind."""
        try:
            self._advance()
        except BrokerError as error:
            if error.reason != BrokerReason.ANCHOR_UNUSABLE:
                raise
            log.warning("the anchor is not looked for", extra={"event": "AnchorNotSeen", "error": error.detail})

    def _advance(self) -> None:
        self._looked = self._clock.monotonic()
        there = self._anchor.read()
        if there is None and self._noted is not None:
            # This process knows what was noted, and looks whether the database still goes on from there: so it is put back.
            log.error("the anchor was taken away and is put back", extra={"event": "AnchorMissing"})
        for noted in (there, self._noted):
            if noted is not None and (found := anchors.behind(self._database, noted)):
                raise anchors.rolled_back(found)
        state = anchors.state_of(self._database)
        self._anchor.advance(state)
        self._noted = state

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.follow()
        self.follow(look=True)
