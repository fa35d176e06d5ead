"""The tables of evidence: what every result was judged from, so that it can be judged again, at once or years later.

The Evidence is kept as it was sent, compressed; its event log and initdata, and the collateral, are kept once for all
results that share them, by the SHA-256 of their text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Insert, Row, String, bindparam, delete, func, insert, select, union_all

from chrysalis.broker.prepared import Prepared
from chrysalis.broker.rooms import Room, insert_new
from chrysalis.broker.tables import documents, evidence, evidence_documents, policies, results
from chrysalis.wire.gpu import GpuAnswers

log = logging.getLogger(__name__)

COLLATERAL, ANSWERS, NRAS_KEYS = "collateral", "gpuAnswers", "nrasKeys"
"""Documents beside the Evidence: a key set is the same for many answers."""
SHARED_MEMBERS = ("eventLog", "initdata")
"""The members of the Evidence that many results have in common."""
_ADD = insert(evidence).inline().values({name: bindparam(name) for name in ("result_id", "message", "at", "key_version", "size")})
_UNLINK = Prepared(delete(evidence_documents).where(evidence_documents.c.result_id == bindparam("result_id")))
LEVEL = 1  # of zlib: it runs in every attestation, and most of a quote does not get smaller
MAX_BYTES = 8 * 1024 * 1024
"""No stored part is larger when it is unpacked: the HTTP edge takes 2 MiB, collateral is below 1 MiB."""
CACHED, MAX_CACHED = 64, 128 * 1024
"""How many documents of at most how many characters are remembered, packed and unpacked."""
MAX_REFUSED_BYTES = 256 * 1024 * 1024
"""The evidence of refusals beyond this is forgotten, oldest first: whoever reaches the broker can cause it."""


@dataclass(frozen=True)
class NewEvidence:
    """What a result was judged from; message is the Evidence's JSON, collateral None where none was found genuine, answers what
    NVIDIA's services said, None where they were not asked."""

    message: str
    collateral: str | None
    at: int
    key_version: int
    answers: GpuAnswers | None = None


@dataclass(frozen=True)
class PackedEvidence:
    """The same as it is stored; documents: name in the Evidence, SHA-256 of the text, compressed text."""

    message: bytes
    at: int
    key_version: int
    documents: tuple[tuple[str, str, bytes], ...]

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of `storing`, result_id apart."""
        values: dict[str, Any] = {"message": self.message, "at": self.at, "key_version": self.key_version}
        for number, (name, digest, _) in enumerate(self.documents):
            values |= {f"name{number}": name, f"digest{number}": digest}
        return values | {"size": len(self.message) + sum(len(body) for _, _, body in self.documents)}


@dataclass(frozen=True)
class StoredEvidence:
    """What a result was judged from, whole: message is the Evidence's JSON with every member that was sent.

    collateral is the QuoteCollateralV3 JSON that was used, policy the signed payload and envelope the owner's signature of
    it; None where the attempt was refused before there was one.  at is the time of the judgement, in Unix seconds.
    """

    result_id: str
    message: str
    collateral: str | None
    policy: str | None
    envelope: str | None
    policy_name: str
    policy_version: int
    key_id: str
    key_version: int
    owner: str
    at: int
    document: str
    """The ResultView as it was issued."""
    answers: GpuAnswers | None = None
    """What NVIDIA's services said."""


class EvidenceRoom(Room):
    """Reading evidence back."""

    def evidence(self, result_id: str) -> StoredEvidence | None:
        """What a result was judged from; None when it is not known, or was forgotten."""
        found = self.evidence_of([result_id])
        return found[0] if found else None

    def evidence_of(self, result_ids: Sequence[str]) -> list[StoredEvidence]:
        """The evidence of some results, in no order; those without any, or whose evidence was damaged, are left out."""
        e, r, d, p = evidence.c, results.c, evidence_documents.c, policies.c
        rows = (
            select(evidence, r.policy_name, r.policy_version, r.key_id, r.owner, r.document, p.payload, p.envelope)
            .join(results, r.result_id == e.result_id)
            .outerjoin(policies, (p.owner == r.owner) & (p.name == r.policy_name) & (p.version == r.policy_version))
            .where(e.result_id.in_(result_ids))
        )
        links = (
            select(d.result_id, d.name, d.digest, documents.c.body)
            .join(documents, documents.c.digest == d.digest)
            .where(d.result_id.in_(result_ids))
        )
        with self.database.reading() as db:
            found = db.execute(rows).all()
            parts: dict[str, dict[str, tuple[str, bytes]]] = {}
            for row in db.execute(links):
                parts.setdefault(row.result_id, {})[row.name] = (row.digest, row.body)
        return [stored for row in found if (stored := _readable(row, parts.get(row.result_id, {}))) is not None]


def pack(new: NewEvidence) -> PackedEvidence:
    """What is stored of it; compression takes a while, so it is done before the transaction begins."""
    members = json.loads(new.message)
    shared = {name: members.pop(name) for name in SHARED_MEMBERS if members.get(name)}
    if new.collateral is not None:
        shared[COLLATERAL] = new.collateral
    if new.answers is not None:
        shared |= _documents_of(new.answers)
    message = zlib.compress(json.dumps(members, separators=(",", ":")).encode(), LEVEL)
    return PackedEvidence(message, new.at, new.key_version, tuple((name, *_packed(text)) for name, text in shared.items()))


@lru_cache
def storing(links: int) -> tuple[Insert, ...]:
    """The parts of `Together` that store a result's evidence with so many documents; the last one changes a row for each of
    them that is there.  Parameters: `PackedEvidence.values` and result_id."""
    return (_ADD,) if not links else (_ADD, _linking(links))


def put_documents(db: Connection, result_id: str, packed: PackedEvidence) -> None:
    """Store a result's documents and link them, where one of them was not there yet."""
    _UNLINK.run(db, {"result_id": result_id})
    for _, digest, body in packed.documents:
        insert_new(db, documents, {"digest": digest, "body": body})
    _link(len(packed.documents)).run(db, packed.values | {"result_id": result_id})


@lru_cache
def _link(number: int) -> Prepared:
    return Prepared(_linking(number))


def _linking(number: int) -> Insert:
    """Link a result to those of its documents that are there."""
    d = documents.c
    result_id = bindparam("result_id", type_=String)
    found = [
        select(result_id, bindparam(f"name{n}", type_=String), d.digest).where(d.digest == bindparam(f"digest{n}")) for n in range(number)
    ]
    return insert(evidence_documents).inline().from_select(["result_id", "name", "digest"], union_all(*found))


def trim_evidence(db: Connection) -> None:
    """Forget refusals' evidence beyond MAX_REFUSED_BYTES, oldest first, and documents that nothing refers to."""
    r, e = results.c, evidence.c
    running = func.sum(e.size).over(order_by=r.seq.desc()).label("running")
    refused = select(e.result_id, running).join(results, r.result_id == e.result_id).where(r.verdict == "Refused").subquery()
    beyond = select(refused.c.result_id).where(refused.c.running > MAX_REFUSED_BYTES)
    db.execute(delete(evidence).where(e.result_id.in_(beyond)))
    used = select(evidence_documents.c.digest).where(evidence_documents.c.digest == documents.c.digest)
    db.execute(delete(documents).where(~used.exists()))


def _readable(row: Row[tuple[object, ...]], packed: dict[str, tuple[str, bytes]]) -> StoredEvidence | None:
    try:
        return _stored(row, {name: _unpacked(digest, body) for name, (digest, body) in packed.items()})
    except (ValueError, zlib.error) as error:
        detail = {"event": "EvidenceDamaged", "result": row.result_id, "error": type(error).__name__}
        log.error("stored evidence was damaged or changed", extra=detail)
        return None


def _stored(row: Row[tuple[object, ...]], parts: dict[str, str]) -> StoredEvidence:
    members = json.loads(_inflate(row.message)) | {name: text for name, text in parts.items() if name in SHARED_MEMBERS}
    return StoredEvidence(
        result_id=row.result_id,
        message=json.dumps(members, separators=(",", ":")),
        collateral=parts.get(COLLATERAL),
        policy=row.payload,
        envelope=row.envelope,
        policy_name=row.policy_name,
        policy_version=row.policy_version,
        key_id=row.key_id,
        key_version=row.key_version,
        owner=row.owner,
        at=row.at,
        document=row.document,
        answers=_answers(parts),
    )


def _documents_of(answers: GpuAnswers) -> dict[str, str]:
    found = {ANSWERS: answers.model_copy(update={"nras_keys": ""}).model_dump_json(by_alias=True)}
    return found | ({NRAS_KEYS: answers.nras_keys} if answers.nras_keys else {})


def _answers(parts: dict[str, str]) -> GpuAnswers | None:
    """Raises ValueError where they are not what was stored."""
    if ANSWERS not in parts:
        return None
    return GpuAnswers.model_validate_json(parts[ANSWERS]).model_copy(update={"nras_keys": parts.get(NRAS_KEYS, "")})


def _packed(text: str) -> tuple[str, bytes]:
    """Digest and compressed body; collateral and initdata are the same again and again."""
    return _packed_before(text) if len(text) <= MAX_CACHED else _pack(text)


def _pack(text: str) -> tuple[str, bytes]:
    raw = text.encode()
    return hashlib.sha256(raw).hexdigest(), zlib.compress(raw, LEVEL)


_packed_before = lru_cache(maxsize=CACHED)(_pack)


def _unpacked(digest: str, body: bytes) -> str:
    return _unpacked_before(digest, body) if len(body) <= MAX_CACHED // 4 else _unpack(digest, body)


def _unpack(digest: str, body: bytes) -> str:
    raw = _inflate(body)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise ValueError(f"the stored document {digest} was changed")
    return raw.decode()


_unpacked_before = lru_cache(maxsize=CACHED)(_unpack)


def _inflate(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(body, MAX_BYTES)
    if not unpacker.eof:
        raise ValueError(f"a stored document is damaged, or over {MAX_BYTES} bytes")
    return raw
