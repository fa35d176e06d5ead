"""What the settler publishes: the latest epoch, and receipts for their own parties."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chrysalis.api.account import NanotonText
from chrysalis.api.base import Hex32
from chrysalis.wire.broker import Versioned

PATH_LATEST = "/latest.json"
PATH_RECEIPTS = "/v1/receipts"
FILE_CONTENT = "content.boc"
FILE_EARNED = "earned.boc"
FILE_LEAVES = "leaves.bin"
MAX_FILE_BYTES = 256 * 1024 * 1024


class LatestEpoch(Versioned):
    """GET /latest.json: the newest epoch whose commit is proven, and where its files are (/epochs/N/…)."""

    set: str
    epoch: int
    content_hash: Hex32  # representation hash of CommitContent = the contract's lastHash
    root: Hex32
    earned_nanoton: NanotonText
    fees_nanoton: NanotonText
    log_root: Hex32
    log_size: int


class PartyReceipts(Versioned):
    """GET /v1/receipts?after=POSITION&limit=N[&wrk=]: the caller's receipts, in the order of the ledger.

    The caller shows a bearer JWS (typ "chrysalis-party+jwt", members {aud: set, iat, exp}): signed by a client's key it gives the
    receipts of that client's tickets, signed by a reservation key those of the whole account.
    """

    lines: Annotated[list[str], Field(max_length=1000)]  # receipts.records.Record, one JSON text each
    next: int  # ask again after this position
    more: bool
