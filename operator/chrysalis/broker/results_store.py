"""The tables of results, spent nonces and releases.

An attestation is one transaction: the nonce is spent, and the result stored with its evidence, or nothing is.  Every change
of a result takes the next number of the change sequence; a result's `seq` is the number of the change that made it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any

import jwt
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from chrysalis.attestation.gpu.reasons import GpuReason
from chrysalis.broker import audit_store, evidence_store, gpu_store, quota_store, reappraisal_store
from chrysalis.broker.audit import AuditEvent
from chrysalis.broker.database import Database
from chrysalis.broker.evidence_store import NewEvidence, PackedEvidence, trim_evidence
from chrysalis.broker.gpu_store import Holder
from chrysalis.broker.prepared import Prepared, Together
from chrysalis.broker.quota_store import Allowance
from chrysalis.broker.reappraisal_store import Sweep
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records_store import VERSIONS
from chrysalis.broker.rooms import INPUTS, Counter, Inputs, Room, count, counted, insert_new
from chrysalis.broker.tables import counters, reappraisals, releases, results, spent_nonces

MAX_REFUSED_RESULTS = 10_000
"""Refusals beyond these are forgotten, oldest first: whoever can reach the broker can cause them."""
MAX_REFUSED_OF_A_POD = 8
RELEASED = "Released"
_SPENT = Prepared(
    select(spent_nonces.c.nonce).where(spent_nonces.c.nonce == bindparam("nonce"), spent_nonces.c.expires_at > bindparam("now"))
)
_SPENT_EVER = select(spent_nonces.c.nonce).where(spent_nonces.c.nonce == bindparam("nonce")).scalar_subquery()
_ATTEMPT = Prepared(
    select(
        select(spent_nonces.c.nonce)
        .where(spent_nonces.c.nonce == bindparam("nonce"), spent_nonces.c.expires_at > bindparam("now"))
        .scalar_subquery(),
        *INPUTS,
    )
)
_INPUTS = Prepared(select(*INPUTS))
_EXPIRED_NONCES = Prepared(delete(spent_nonces).where(spent_nonces.c.expires_at <= bindparam("now")))
_CHANGES = select(counters.c.value).where(counters.c.name == Counter.CHANGES.value).scalar_subquery()
_STANDING = Prepared(select(_SPENT_EVER, _CHANGES, *VERSIONS, INPUTS[0]))
"""What an attestation looks at before it is stored; the writers' lock keeps it so until then."""
_RELEASABLE = Prepared(
    select(
        results.c.released_at,
        results.c.revoked_at,
        *VERSIONS,
        INPUTS[0],
        select(func.count()).select_from(reappraisals).scalar_subquery(),
        select(releases.c.times)
        .where(*(releases.c[name] == bindparam(name) for name in ("result_id", "key_id", "key_version", "outcome")))
        .scalar_subquery(),
        _CHANGES,
        *audit_store.HEAD,
    ).where(results.c.result_id == bindparam("result_id"))
)
_NUMBERED = update(counters).where(counters.c.name == Counter.CHANGES.value).values(value=bindparam("changed"))
_RELEASED = (
    update(results).where(results.c.result_id == bindparam("result_id")).values(released_at=bindparam("now"), changed=bindparam("changed"))
)
_ANSWERED = (
    insert(releases)
    .inline()
    .values(
        **{name: bindparam(name) for name in ("result_id", "key_id", "key_version", "outcome")},
        first_at=bindparam("now"),
        last_at=bindparam("now"),
        times=1,
    )
)
_FIRST_RELEASE = Together(_NUMBERED, _RELEASED, _ANSWERED, audit_store.RECORD)
_MARK_RELEASED = Together(_NUMBERED, _RELEASED)
_REVOKED = Prepared(
    update(results)
    .where(results.c.result_id == bindparam("id"), results.c.revoked_at.is_(None))
    .values(
        revoked_at=bindparam("at"), revoked_reason=bindparam("reason"), revoked_message=bindparam("message"), changed=bindparam("number")
    )
)


@dataclass(frozen=True)
class StoredResult:
    """An attempt to attest; document is the ResultView as it was issued."""

    result_id: str
    verdict: str
    namespace: str
    worker: str
    pod_uid: str
    key_id: str
    owner: str
    issued_at: int
    expires_at: int | None
    document: str
    policy_name: str = ""
    policy_version: int = 0
    released_at: int | None = None
    revoked_at: int | None = None
    revoked_reason: str | None = None
    revoked_message: str | None = None


_MEMBERS = tuple(member.name for member in fields(StoredResult))
_RESULT = Prepared(select(*(results.c[name] for name in _MEMBERS)).where(results.c.result_id == bindparam("result_id")))
_ONE_STANDING = Prepared(
    select(results.c.verdict, results.c.expires_at, results.c.revoked_reason).where(results.c.result_id == bindparam("result_id"))
)
_LIVING = Prepared(
    select(func.count()).select_from(results).where(results.c.verdict == bindparam("verdict"), results.c.expires_at > bindparam("now"))
)
_SWEEPS = select(func.count()).select_from(reappraisals).scalar_subquery()
_RELEASING = Prepared(
    select(*INPUTS, _SWEEPS, *(results.c[name] for name in _MEMBERS)).where(results.c.result_id == bindparam("result_id"))
)
_SPEND = insert(spent_nonces).inline().values(nonce=bindparam("nonce"), expires_at=bindparam("nonce_expires_at"))
_ADD = insert(results).inline().values({name: bindparam(name) for name in ("seq", "changed", *_MEMBERS)})


@lru_cache
def _storing(documents: int | None, *, spends: bool) -> Together:
    """The statements that store a result with its evidence in so many documents (None: without), and its nonce."""
    of_evidence = () if documents is None else evidence_store.storing(documents)
    return Together(_NUMBERED, *((_SPEND,) if spends else ()), _ADD, *of_evidence)


@dataclass(frozen=True)
class Basis:
    """What a judgement rests on; a result is stored only while all of it is current."""

    key_id: str
    key_version: int
    owner: str
    policy_name: str
    policy_version: int
    shared: int
    """How often what concerns everybody (collateral, reference values) had changed."""
    allowance: Allowance | None = None
    """What the owner's tenant may use."""
    gpus: tuple[str, ...] = ()
    """Device ids of the GPUs, and whose they are."""
    holder: Holder | None = None


@dataclass(frozen=True)
class Checked:
    """What a release was checked against; it is written down only while all of it is current.

    versions: of the key record and of the owner's policy.  shared: `Inputs.shared`, which a recall of a signing key changes, too.
    judged: the requests to judge the evidence again that the release has satisfied by itself.
    """

    versions: tuple[int, int]
    shared: int
    judged: Collection[int] = ()


class Kept(StrEnum):
    """What came of storing a result."""

    STORED = "Stored"
    REPLAYED = "Replayed"  # the nonce was spent before; nothing is stored
    OUTDATED = "Outdated"  # policy, key record or collateral have changed since it was judged; nothing is stored


@dataclass(frozen=True)
class Revocation:
    """A result that ends before its time, and why."""

    result_id: str
    reason: str
    message: str
    document: dict[str, Any]
    """For the audit log."""


@dataclass(frozen=True)
class _Counted:
    """How many results a tenant had at most, by any of its quotas, when they were counted last."""

    at: int
    changes: int
    most: int


class ResultsRoom(Room):
    """Results, what was released under them, and the nonces that they spent."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._quotas: dict[str, _Counted] = {}
        self._nonces_trimmed_at = 0

    # Nonces

    def attempt(self, nonce: str, now: int) -> tuple[bool, Inputs]:
        """`nonce_spent` and `inputs`, in one look at the database."""
        with self.database.reading() as db:
            spent, shared, records = _ATTEMPT.row(db, {"nonce": nonce, "now": now}) or (None, 0, 0)
        return spent is not None, Inputs(shared, records)

    def nonce_spent(self, nonce: str, now: int) -> bool:
        """Whether a nonce is known as spent; it can be spent by another request at any moment, see `keep`."""
        with self.database.reading() as db:
            return _SPENT.row(db, {"nonce": nonce, "now": now}) is not None

    def spend_nonce(self, nonce: str, expires_at: int, now: int) -> bool:
        """Remember a nonce until it expires; False when it was spent before."""
        return self.database.transact(lambda db: self._spend(db, nonce, expires_at, now))

    def _spend(self, db: Connection, nonce: str, expires_at: int, now: int) -> bool:
        self._forget_nonces(db, now)
        return insert_new(db, spent_nonces, {"nonce": nonce, "expires_at": expires_at})

    def _forget_nonces(self, db: Connection, now: int) -> None:
        if now != self._nonces_trimmed_at:  # once a second is enough: an expired nonce is refused for its age
            _EXPIRED_NONCES.run(db, {"now": now})
            self._nonces_trimmed_at = now

    # Results

    def inputs(self) -> Inputs:
        """How often what judgements rest on has changed."""
        with self.database.reading() as db:
            return Inputs(*(_INPUTS.row(db, {}) or (0, 0)))

    def keep(
        self, result: StoredResult, *, evidence: NewEvidence, nonce: str, nonce_expires_at: int, basis: Basis | None, now: int
    ) -> Kept:
        """Spend the nonce and store the result with what it was judged from, together or not at all.

        basis: what an accepted result rests on; it is not stored when any of it has changed since.
        Raises BrokerError (QuotaExceeded).
        """

        packed = evidence_store.pack(evidence)
        wanted = ("", "", "") if basis is None else (basis.key_id, basis.owner, basis.policy_name)

        def write(db: Connection) -> Kept:
            self._forget_nonces(db, now)
            standing = dict(zip(("key_id", "owner", "name"), wanted, strict=True)) | {"nonce": nonce}
            spent, changes, key, policy, shared = _STANDING.row(db, standing) or (None, None, 0, 0, 0)
            if basis is not None:
                if (key, policy, shared) != (basis.key_version, basis.policy_version, basis.shared):
                    return Kept.OUTDATED
                if basis.holder is not None and gpu_store.held_elsewhere(db, basis.gpus, basis.holder, now):
                    return Kept.OUTDATED
                if basis.allowance is not None:
                    self._check_quota(db, basis.allowance, changes, now)
            if spent is not None:
                return Kept.REPLAYED
            _add(db, result, changes + 1, packed, {"nonce": nonce, "nonce_expires_at": nonce_expires_at})
            if basis is not None and basis.holder is not None:
                superseded = gpu_store.claim(db, result.result_id, basis.gpus, basis.holder, now)
                if superseded:
                    end(db, [_superseded(one, result) for one in superseded], now)
            return Kept.STORED

        return self.database.transact(write)

    def _check_quota(self, db: Connection, allowance: quota_store.Allowance, changes: int, now: int) -> None:
        """Count a tenant's results only when they may be too many by now; raises BrokerError (QuotaExceeded).

        Every new result is a change, on whichever replica, so the last count and the changes since are an upper bound.
        """
        last = self._quotas.get(allowance.tenant)
        if (
            last is not None
            and last.at <= now
            and last.changes <= changes  # lower: the database was set back
            and last.most + changes - last.changes < min(allowance.quotas.results, allowance.quotas.attestations_per_minute)
        ):
            return
        most = quota_store.check_result(db, allowance, now)
        self._quotas[allowance.tenant] = _Counted(now, changes, most)

    def add_result(self, result: StoredResult, evidence: NewEvidence | None = None) -> None:
        """Store a result by itself; see `keep` for an attestation."""

        packed = None if evidence is None else evidence_store.pack(evidence)
        self.database.transact(lambda db: _add(db, result, counted(db, Counter.CHANGES) + 1, packed))

    def result(self, result_id: str) -> StoredResult | None:
        """One result, or None."""
        with self.database.reading() as db:
            row = _RESULT.row(db, {"result_id": result_id})
        return None if row is None else StoredResult(*row)

    def standing(self, result_id: str) -> tuple[str, int | None, str | None] | None:
        """A result's verdict, when it expires and why it was revoked; None without it."""
        with self.database.reading() as db:
            row = _ONE_STANDING.row(db, {"result_id": result_id})
        return None if row is None else (row[0], row[1], row[2])

    def living_results(self, now: int) -> int:
        """How many accepted results are not over by their own time, revoked ones among them: their workers ask, too."""
        with self.database.reading() as db:
            row = _LIVING.row(db, {"verdict": "Accepted", "now": now})
        return 0 if row is None else int(row[0])

    def releasing(self, result_id: str) -> tuple[StoredResult, Inputs, bool] | None:
        """A result whose key is asked for, `inputs`, and whether any evidence is still to be judged again; None without it."""
        with self.database.reading() as db:
            row = _RELEASING.row(db, {"result_id": result_id})
        return None if row is None else (StoredResult(*row[3:]), Inputs(*row[:2]), row[2] > 0)

    def results(
        self,
        *,
        namespace: str = "",
        worker: str = "",
        pod_uid: str = "",
        verdict: str = "",
        owners: Collection[str] | None = None,
        namespaces: Collection[str] | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[StoredResult]:
        """Results that match every given filter, newest first; with after, the next `limit` younger ones than that.

        owners, namespaces: where given, only results of these key records' owners, that claim one of these namespaces.
        Raises BrokerError (ResultUnknown) when `after` is not known (any more), or not one of those.
        """
        c = results.c
        query = select(results).where(*_filters(namespace, worker, pod_uid, verdict, owners, namespaces)).limit(limit)
        with self.database.reading() as db:
            if not after:
                return [_to_result(row) for row in db.execute(query.order_by(c.seq.desc())).mappings()]
            visible = _filters("", "", "", "", owners, namespaces)
            seq = db.execute(select(c.seq).where(c.result_id == after, *visible)).scalar_one_or_none()
            if seq is None:
                raise BrokerError(BrokerReason.RESULT_UNKNOWN, "the result named by `after` is not known", "read again without `after`")
            rows = db.execute(query.where(c.seq > seq).order_by(c.seq)).mappings().all()
            return [_to_result(row) for row in reversed(rows)]

    # Changes

    def change_number(self) -> int:
        """The number of the newest change of any result."""
        with self.database.reading() as db:
            return counted(db, Counter.CHANGES)

    def changes(
        self,
        after: int,
        *,
        namespace: str = "",
        worker: str = "",
        pod_uid: str = "",
        verdict: str = "",
        owners: Collection[str] | None = None,
        namespaces: Collection[str] | None = None,
        limit: int = 100,
    ) -> list[tuple[int, StoredResult]]:
        """Results that changed after a number and match every given filter, in the order of their last change.

        A result that changed several times stands there once, as it is now, under the number of its last change.
        """
        c = results.c
        query = select(results).where(c.changed > after, *_filters(namespace, worker, pod_uid, verdict, owners, namespaces))
        with self.database.reading() as db:
            rows = db.execute(query.order_by(c.changed).limit(limit)).mappings().all()
        return [(int(row["changed"]), _to_result(row)) for row in rows]

    # Releases

    def record_release(
        self,
        result_id: str,
        key_id: str,
        checked: Checked,
        owner: str,
        policy_name: str,
        now: int,
        document: dict[str, Any],
    ) -> bool:
        """Mark a result as having got its key, before the key leaves; the audit log gets a record the first time.

        False, and nothing is written, when what it was checked against is not the newest any more, there is another request to judge
        the evidence again or the result was revoked: then it is to be checked again.
        The same result that asks for the same version of the key again is counted, not written down again: it can ask
        without end, and can only ever learn the same key.
        """

        def write(db: Connection) -> bool:
            key_version = checked.versions[0]
            answer = {"result_id": result_id, "key_id": key_id, "key_version": key_version, "outcome": RELEASED}
            row = _RELEASABLE.row(db, answer | {"owner": owner, "name": policy_name})
            if row is None or row[1] is not None or row[2:5] != (*checked.versions, checked.shared):
                return False
            sweeps, times, changes, *newest = row[5:]
            if sweeps and not reappraisal_store.awaited(db, result_id).keys() <= set(checked.judged):
                return False
            mark = {"now": now, "changed": changes + 1}
            if row[0] is None and times is None:
                record = audit_store.record(audit_store.known_head(*newest), now, AuditEvent.KEY_RELEASED, document)
                _FIRST_RELEASE.run(db, answer | mark | record)
                return True
            if row[0] is None:
                _MARK_RELEASED.run(db, answer | mark)
            if _count_release(db, result_id, key_id, key_version, RELEASED, now):
                audit_store.append(db, now, AuditEvent.KEY_RELEASED, document)
            return True

        return self.database.transact(write)

    def record_refusal(self, result_id: str, key_id: str, key_version: int, now: int, document: dict[str, Any]) -> None:
        """Append the audit record of a refused release, once for each result, version of a key and reason; then count."""

        def write(db: Connection) -> None:
            if _count_release(db, result_id, key_id, key_version, str(document["reason"]), now):
                audit_store.append(db, now, AuditEvent.RELEASE_REFUSED, document)

        self.database.transact(write)

    def release_counts(self, result_id: str) -> dict[tuple[str, int, str], int]:
        """How often a result was answered, by key id, version and outcome (Released or the refusal's reason)."""
        c = releases.c
        with self.database.reading() as db:
            rows = db.execute(select(c.key_id, c.key_version, c.outcome, c.times).where(c.result_id == result_id)).all()
        return {(row.key_id, row.key_version, row.outcome): row.times for row in rows}

    # Revocation

    def revoke(self, revocations: Sequence[Revocation], now: int) -> int:
        """Revoke results, each once; releases and renewals under them end here.  Returns how many were not revoked before."""
        return self.database.transact(lambda db: end(db, revocations, now))

    def revoke_batch(
        self, sweep: Sweep, holder: str, revocations: Sequence[Revocation], *, cursor: int, held_until: int, now: int
    ) -> int | None:
        """The end of a re-appraisal's batch: revoke, and remember how far the sweep has come, together.

        Returns how many were revoked; None when another replica has taken the sweep over: then nothing is written.
        """

        def write(db: Connection) -> int | None:
            if not reappraisal_store.advance(db, sweep, holder, cursor, held_until):
                return None
            return end(db, revocations, now)

        return self.database.transact(write)

    def trim(self, before: int) -> int:
        """Forget results that ended before a time, and refusals beyond the newest MAX_REFUSED_RESULTS; returns how many.

        Their evidence goes with them, and spent nonces that would be refused for their age.
        """
        c = results.c

        def write(db: Connection) -> int:
            ended = db.execute(delete(results).where(func.coalesce(c.expires_at, c.issued_at) < before)).rowcount
            newest = select(c.seq).where(c.verdict == "Refused").order_by(c.seq.desc()).offset(MAX_REFUSED_RESULTS).limit(1)
            last = db.execute(newest).scalar_one_or_none()
            if last is not None:
                ended += db.execute(delete(results).where(and_(c.verdict == "Refused", c.seq <= last))).rowcount
            trim_evidence(db)
            return ended

        return self.database.transact(write)


def _filters(
    namespace: str, worker: str, pod_uid: str, verdict: str, owners: Collection[str] | None, namespaces: Collection[str] | None
) -> list[ColumnElement[bool]]:
    c = results.c
    wanted = ((c.namespace, namespace), (c.worker, worker), (c.pod_uid, pod_uid), (c.verdict, verdict))
    among = ((c.owner, owners), (c.namespace, namespaces))
    return [column == value for column, value in wanted if value] + [column.in_(values) for column, values in among if values is not None]


def _add(
    db: Connection, result: StoredResult, number: int, packed: PackedEvidence | None, nonce: Mapping[str, str | int] | None = None
) -> None:
    """Insert a result under the next number, with its evidence and the nonce that it spends.

    Of the refusals that claim one pod, the newest MAX_REFUSED_OF_A_POD are kept: a pod that tries again and again, or a
    stranger in its name, does not fill the table or hide the others.
    """
    c = results.c
    if result.verdict == "Refused":
        of_pod = (c.verdict == "Refused", c.namespace == result.namespace, c.pod_uid == result.pod_uid)
        newest = select(c.seq).where(*of_pod).order_by(c.seq.desc()).offset(MAX_REFUSED_OF_A_POD - 1).limit(1)
        last = db.execute(newest).scalar_one_or_none()
        if last is not None:
            db.execute(delete(results).where(*of_pod, c.seq <= last))
    documents = None if packed is None else len(packed.documents)
    values = vars(result) | {"seq": number, "changed": number} | dict(nonce or {})
    linked = _storing(documents, spends=nonce is not None).run(db, values if packed is None else values | packed.values)
    if packed is not None and documents and linked != documents:  # the first result with one of these documents
        evidence_store.put_documents(db, result.result_id, packed)


def _count_release(db: Connection, result_id: str, key_id: str, key_version: int, outcome: str, now: int) -> bool:
    """Count an answer; whether it is the first of its kind."""
    key = {"result_id": result_id, "key_id": key_id, "key_version": key_version, "outcome": outcome}
    if insert_new(db, releases, key | {"first_at": now, "last_at": now, "times": 1}):
        return True
    c = releases.c
    same = (c.result_id == result_id, c.key_id == key_id, c.key_version == key_version, c.outcome == outcome)
    db.execute(update(releases).where(*same).values(last_at=now, times=c.times + 1))
    return False


def end(db: Connection, revocations: Sequence[Revocation], now: int) -> int:
    """Revoke results in a writing transaction, each once and audited; returns how many were not revoked before."""
    documents: list[dict[str, Any]] = []
    first = count(db, Counter.CHANGES, len(revocations)) - len(revocations) + 1
    for number, revocation in enumerate(revocations, first):  # a number that is not used does no harm
        ended = {"id": revocation.result_id, "at": now, "reason": revocation.reason, "message": revocation.message, "number": number}
        if _REVOKED.run(db, ended):
            documents.append(revocation.document)
    audit_store.append(db, now, AuditEvent.RESULT_REVOKED, *documents)
    return len(documents)


def signer_of(document: str) -> str:
    """The kid of the key that signed a stored result, without checking anything; empty where there is none."""
    try:
        return str(jwt.get_unverified_header(json.loads(document)["ear"])["kid"])
    except (ValueError, LookupError, TypeError, RecursionError, jwt.PyJWTError):
        return ""


def _superseded(result_id: str, by: StoredResult) -> Revocation:
    message = "a new trust domain of the same pod attested the GPU"
    document = {
        "resultId": result_id,
        "keyId": by.key_id,
        "by": by.result_id,
        "cause": "GpuTakenOver",
        "reason": GpuReason.GPU_IN_USE.value,
    }
    return Revocation(result_id, GpuReason.GPU_IN_USE, message, document)


def _to_result(row: Any) -> StoredResult:
    return StoredResult(**{name: value for name, value in row.items() if name not in ("seq", "changed")})
