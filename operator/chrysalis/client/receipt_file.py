"""Where a client keeps its receipts: JSON Lines, one `receipts.records.Record` each, readable by its owner alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from chrysalis.receipts.objects import Receipt
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.receipts.records import Record, read_lines

MAX_FILE_BYTES = 1 << 30


class ReceiptFile:
    """An append-only file of records; each is on the disk before `keep` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, record: Record) -> None:
        """Append one record and flush it to the disk."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (record.to_line() + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def records(self) -> list[Record]:
        """All records, in the order in which they were kept; raises ReceiptError; an absent file has none."""
        return load([self.path]) if self.path.exists() else []

    def heads(self) -> dict[str, tuple[int, str]]:
        """The last receipt of each worker: wrk -> (seq, compact token)."""
        heads: dict[str, tuple[int, str]] = {}
        for record in self.records():
            receipt = Receipt.parse_unverified(record.receipt)
            if receipt.seq > heads.get(receipt.wrk, (0, ""))[0]:
                heads[receipt.wrk] = (receipt.seq, record.receipt)
        return heads


def load(paths: Iterable[Path]) -> list[Record]:
    """The records of several files; raises ReceiptError that names the file, OSError for one that cannot be read."""
    records: list[Record] = []
    for path in paths:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OSError(f"{path} is over {MAX_FILE_BYTES} bytes")
        with path.open(encoding="utf-8", errors="replace") as lines:
            try:
                records += read_lines(lines)
            except ReceiptError as error:
                raise ReceiptError(error.reason, f"{path}: {error.message}", error.remedy, error.detail) from error
    return records
