"""One writer for a process: transactions that wait at the same time are committed together.

A commit waits for the disk, and writing transactions follow one another; with one commit for each, thirty-two attestations at
once would wait for sixty-four turns of the disk.  The writer takes what is waiting, runs it in one transaction, and commits
once.  Nobody gets an answer before that commit.  Where some work fails, which is rare, all is taken back and run again, each
piece in a savepoint of its own: then what fails takes back its own changes and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy import Connection

from chrysalis.broker.reasons import BrokerError, BrokerReason

MOST = 64
"""Pieces of work in one transaction."""

T = TypeVar("T")
Work = Callable[[Connection], Any]
Outcome = tuple[Future[Any], Any, BaseException | None]


class GroupCommit:
    """The writer.  Thread-safe; its thread begins with the first work and ends with `close`."""

    def __init__(self, writing: Callable[[], AbstractContextManager[Connection]]) -> None:
        """writing: opens a transaction that commits at its end and rolls back when it is left by an exception."""
        self._writing = writing
        self._waiting: deque[tuple[Work, Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction and return what it returns once that is committed; raises what it or the commit raises.

        It may be run twice, the first time without effect.  Raises BrokerError (DatabaseUnavailable) after `close`.
        """
        done: Future[T] = Future()
        with self._wake:
            if self._closed:
                words = "try again: another replica, or the one that comes after it, answers"
                raise BrokerError(BrokerReason.DATABASE_UNAVAILABLE, "this broker is ending", words)
            self._waiting.append((work, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="database-writer", daemon=True)
                self._thread.start()
            self._wake.notify()
        return done.result()

    def close(self) -> None:
        """Finish what waits and end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if not self._waiting:
                    return
                batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            self._commit(batch)

    def _commit(self, batch: list[tuple[Work, Future[Any]]]) -> None:
        try:
            outcomes = self._together(batch) or self._each(batch)
        except BaseException as error:  # whatever it is, those who wait must hear of it
            for _, done in batch:
                done.set_exception(error)
            return
        for done, result, failure in outcomes:
            if failure is None:
                done.set_result(result)
            else:
                done.set_exception(failure)

    def _together(self, batch: list[tuple[Work, Future[Any]]]) -> list[Outcome] | None:
        """Run and commit a batch without savepoints; None, and nothing is changed, where one of several failed."""
        try:
            with self._writing() as connection:
                try:
                    return [(done, work(connection), None) for work, done in batch]
                except BaseException as error:
                    if len(batch) == 1:
                        raise
                    raise _OneFailed from error
        except _OneFailed:
            return None

    def _each(self, batch: list[tuple[Work, Future[Any]]]) -> list[Outcome]:
        """The same with a savepoint for each."""
        with self._writing() as connection:
            return [(done, *_saved(connection, work)) for work, done in batch]


class _OneFailed(Exception):
    """Takes a batch back."""


def _saved(connection: Connection, work: Work) -> tuple[Any, BaseException | None]:
    """Run work in a savepoint: its result, or what it raised after its changes were taken back."""
    savepoint = connection.begin_nested()
    try:
        result = work(connection)
    except BaseException as error:
        savepoint.rollback()  # where the connection itself is lost this raises, and the whole batch fails
        return None, error
    savepoint.commit()
    return result, None
