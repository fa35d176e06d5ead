"""What owners and administrators read of a broker: key records without their keys, policies, the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from chrysalis.api.base import DnsLabel, Hex32, Model
from chrysalis.api.policy import Envelope
from chrysalis.wire.broker import KeyRecordTerms, Versioned


class KeyRecordView(KeyRecordTerms):
    """GET /v1/keys/{id}: the record as the owner signed it, without the key.

    meantWithoutOwner: whether workers that do not name their owner (spec.model.keyOwner) mean this record; no, where another owner
    has stored a key of this id for this model before.
    """

    meant_without_owner: bool = True


class PolicyView(Versioned):
    """GET /v1/policies/{name}[?owner=]: the newest version that is stored, which is the one that is in force.

    envelope: as its owner signed it; verify it with the owner's key, which is pinned elsewhere, and read the payload.
    """

    owner: Hex32
    name: DnsLabel
    version: Annotated[int, Field(ge=1)]
    envelope: Envelope


class AuditLink(Model):
    """One link of the audit log's chain of hashes.

    hash is SHA-256("chrysalis/v1/audit" ‖ 0x00 ‖ hash of the link before ‖ canonical JSON of {seq, at, event, document}).
    at, event, document: absent where the record is another tenant's; its hash still holds the chain together, and does not confirm a
    guess at the record, since `blind` in the document is random.
    """

    seq: Annotated[int, Field(ge=1)]
    hash: Hex32
    at: Annotated[int, Field(ge=0)] | None = None  # Unix seconds
    event: Annotated[str, Field(max_length=32)] | None = None
    document: dict[str, Any] | None = None


class AuditList(Versioned):
    """GET /v1/audit?after=&limit=: the next links, in order, without a gap.

    previous: the hash before the first link; for after=0, 32 zero bytes.
    head, headHash: the newest link at this time; keep them elsewhere, and the log before them cannot be changed unseen.
    """

    previous: Hex32
    links: Annotated[list[AuditLink], Field(max_length=1000)]
    head: Annotated[int, Field(ge=0)]
    head_hash: Hex32
    read_at: datetime
