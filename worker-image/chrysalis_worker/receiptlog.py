"""The worker's receipt chain on memory-backed storage: survives the kill of any process, ends with the domain.

One compact JWS a line, in order of `seq`; a line is written whole before the response's last byte leaves.  A line that a
kill cut short was never sent to anybody: it is removed at the next start, and its seq is used again.  Where a contract
settles (`set` is not "none"), receipts are kept until the domain ends, and when the storage is full no further job starts;
an in-house pool bills nothing, so there the oldest half makes room.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.receipts import jws, worker_id
from chrysalis.receipts.chain import Head, advance
from chrysalis.receipts.objects import Receipt, Status, Use
from chrysalis.receipts.reasons import ReceiptError
from chrysalis_worker.reasons import WorkerError, WorkerReason

FILE = "receipts.jws"
MAX_BYTES = 40 * 1024 * 1024
"""The volume holds 64 MiB: room for keys, offers, the list of clients, and a rewritten half."""
RESERVE_BYTES = 64 * 1024
"""A job starts only while this much is free: more than the receipts of the jobs that may be in flight at its side."""


@dataclass(frozen=True)
class Outcome:
    """What a finished job's receipt says, apart from its place in the chain."""

    offer: str  # hash
    ticket: str  # compact, or "" without settlement
    use: Use
    amt: int  # nanoton
    status: Status
    rsp: str  # salted hash
    t: int  # Unix seconds


class ReceiptLog:
    """Append-only for its callers; not safe for use from several threads."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, set_name: str, *, max_bytes: int = MAX_BYTES) -> None:
        """Open or create; raises WorkerError when what is there is not this key's chain."""
        self._path = folder / FILE
        self._key = key
        self._set = set_name
        self._max_bytes = max_bytes
        self._public = key.public_key().public_bytes_raw()
        self.wrk = worker_id(self._public)
        self._tokens: list[str] = []
        self._first = 1  # the seq of _tokens[0]
        self._head = Head.start(self.wrk)
        self._size = 0
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.restored = self._restore()
        """The receipts of an earlier run of the agent in this domain."""

    @property
    def last(self) -> int:
        """The highest seq; 0 before the first receipt."""
        return self._head.seq

    def check_room(self) -> None:
        """Before a job starts; raises WorkerError: ReceiptStoreFull."""
        if self._set != "none" and self._size + RESERVE_BYTES > self._max_bytes:
            raise _full()

    def append(self, outcome: Outcome) -> str:
        """Sign and store the next receipt; returns it.  Raises WorkerError: ReceiptStoreFull, and then the job must not be answered."""
        receipt = Receipt(
            set=self._set,
            wrk=self.wrk,
            seq=self._head.seq + 1,
            prev=self._head.hash,
            offer=outcome.offer,
            ticket=outcome.ticket,
            use=outcome.use,
            amt=outcome.amt,
            status=outcome.status,
            rsp=outcome.rsp,
            t=outcome.t,
        )
        token = receipt.sign(self._key)
        line = token.encode("ascii") + b"\n"
        if self._size + len(line) > self._max_bytes:
            if self._set != "none":
                raise _full()
            self._make_room()
        self._write(line)
        self._tokens.append(token)
        self._head = Head(wrk=self.wrk, seq=receipt.seq, hash=jws.identity(token))
        return token

    def after(self, seq: int, limit: int, max_bytes: int) -> list[str]:
        """Receipts with a higher seq, in order, as many as both limits allow (at least one, if there is one)."""
        start = max(0, seq + 1 - self._first)
        page: list[str] = []
        size = 0
        for token in self._tokens[start : start + limit]:
            size += len(token)
            if page and size > max_bytes:
                break
            page.append(token)
        return page

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        """All of it or nothing, also when the volume is full."""
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise _full(str(error)) from error
        if written != len(line):
            os.ftruncate(self._descriptor, self._size)
            raise _full(f"{written} of {len(line)} bytes fitted")
        self._size += written

    def _make_room(self) -> None:
        keep = self._tokens[len(self._tokens) // 2 :]
        self._first += len(self._tokens) - len(keep)
        data = b"".join(t.encode("ascii") + b"\n" for t in keep)
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(data)
        partial.rename(self._path)
        os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._tokens, self._size = keep, len(data)

    def _restore(self) -> list[Receipt]:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.ftruncate(self._descriptor, len(whole))
        self._size = len(whole)
        receipts: list[Receipt] = []
        try:
            for line in whole.decode("ascii").splitlines():
                receipt = Receipt.parse(line, self._public)
                if not receipts and self._set == "none":  # older ones may have made room
                    self._first = receipt.seq
                    self._head = Head(wrk=self.wrk, seq=receipt.seq - 1, hash=receipt.prev)
                self._head = advance(self._head, receipt, line)
                self._tokens.append(line)
                receipts.append(receipt)
        except (ReceiptError, UnicodeDecodeError) as error:
            raise WorkerError(
                WorkerReason.RECEIPTS_DAMAGED,
                "the stored receipts are not this domain's chain",
                "delete the pod: a new domain starts a new chain; pull the receipts first if they can be read",
                f"after receipt {self._head.seq}: {error}",
            ) from error
        return receipts


def _full(detail: str = "") -> WorkerError:
    return WorkerError(
        WorkerReason.RECEIPT_STORE_FULL,
        "no room for another receipt, so no further job is taken",
        "see that the settler pulls and settles this worker's receipts, or drain the worker",
        detail,
    )
