"""What anyone may see of an epoch, as static files: content.boc, earned.boc, leaves.bin, and latest.json.

The files follow from the ledger alone, so they can be written again at any time.  An epoch's files are there before its commit
is sent; latest.json names an epoch only once its commit is proven.
"""

from __future__ import annotations

import os
from pathlib import Path

from chrysalis.chain import contract
from chrysalis.settlement.epoch_store import EpochStore
from chrysalis.wire.settler import FILE_CONTENT, FILE_EARNED, FILE_LEAVES, LatestEpoch

LATEST = "latest.json"


class Publisher:
    """Writes one contract's files into a folder; each appears whole or not at all."""

    def __init__(self, folder: Path, epochs: EpochStore, set_name: str) -> None:
        self.folder = folder
        self._epochs = epochs
        self._set = set_name
        folder.mkdir(parents=True, exist_ok=True)

    def epoch(self, content: contract.CommitContent) -> None:
        """Write an epoch's three files, unless they are there."""
        target = self.folder / "epochs" / str(content.epoch)
        files = {
            FILE_EARNED: lambda: contract.earned_boc(contract.earned_cell(self._epochs.earned(content.epoch))),
            FILE_LEAVES: lambda: b"".join(self._epochs.log_entries(content.epoch)),
            FILE_CONTENT: content.to_boc,
        }
        held = target / FILE_CONTENT
        if held.is_file() and held.read_bytes() == content.to_boc():  # it is written last, so the others are there too
            return
        target.mkdir(parents=True, exist_ok=True)
        for name, make in files.items():
            _write(target / name, make())

    def latest(self, content: contract.CommitContent) -> None:
        """Name the newest proven epoch."""
        statement = LatestEpoch(
            set=self._set,
            epoch=content.epoch,
            content_hash=content.hash.hex(),
            root=content.root.hex(),
            earned_nanoton=str(content.earned_nanoton),
            fees_nanoton=str(content.fees_nanoton),
            log_root=content.log_root.hex(),
            log_size=content.log_size,
        )
        data = (statement.model_dump_json(by_alias=True) + "\n").encode()
        path = self.folder / LATEST
        if not path.is_file() or path.read_bytes() != data:
            _write(path, data)

    def missing(self, epoch: int) -> list[str]:
        """Which of an epoch's files are not there."""
        target = self.folder / "epochs" / str(epoch)
        return [name for name in (FILE_CONTENT, FILE_EARNED, FILE_LEAVES) if not (target / name).is_file()]


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
