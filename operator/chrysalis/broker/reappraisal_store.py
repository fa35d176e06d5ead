"""Which stored evidence is to be judged again: requests that are written together with what causes them.

A request stays until its sweep has gone over every living result of its scope, batch by batch; a replica holds it for a
while at a time, so that another one goes on where a killed one stopped.  A result that is judged while an input changes is
caught when it is stored (chrysalis.broker.results_store.Basis), so a sweep has to look only at what was stored before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, and_, bindparam, case, delete, insert, or_, select, update

from chrysalis.broker.nonces import SKEW_SECONDS
from chrysalis.broker.prepared import Prepared
from chrysalis.broker.rooms import Counter, Room, count, mark
from chrysalis.broker.tables import reappraisals, results


class Cause(StrEnum):
    """Why stored evidence is judged again.  Stable words: they stand in the audit log."""

    POLICY_CHANGED = "PolicyChanged"
    KEY_RECORD_CHANGED = "KeyRecordChanged"
    COLLATERAL_CHANGED = "CollateralChanged"
    REFERENCE_VALUE_WITHDRAWN = "ReferenceValueWithdrawn"
    GPU_CERTIFICATE_REVOKED = "GpuCertificateRevoked"


@dataclass(frozen=True)
class Sweep:
    """A request that a replica holds; empty members of the scope mean every one."""

    id: int
    cause: Cause
    owner: str
    policy_name: str
    key_id: str
    requested_at: int
    cursor: int


_AWAITED = Prepared(
    select(reappraisals.c.id, reappraisals.c.cause)
    .join(
        results,
        and_(
            *(
                or_(wanted == "", wanted == has)
                for wanted, has in (
                    (reappraisals.c.owner, results.c.owner),
                    (reappraisals.c.policy_name, results.c.policy_name),
                    (reappraisals.c.key_id, results.c.key_id),
                )
            ),
            results.c.seq > reappraisals.c.cursor,
        ),
    )
    .where(results.c.result_id == bindparam("result_id"))
    .order_by(reappraisals.c.id)
)


def request(db: Connection, cause: Cause, now: int, *, owner: str = "", policy_name: str = "", key_id: str = "") -> None:
    """Have all living results of a scope judged again; db is the writing transaction that changes what they rest on.

    It takes the place of an owner's earlier request of the same scope: all of these are judged after both changes.
    """
    number = count(db, Counter.INPUTS)
    if not (owner or policy_name or key_id):
        mark(db, Counter.SHARED)
    scope = {"owner": owner, "policy_name": policy_name, "key_id": key_id}
    if owner:
        db.execute(delete(reappraisals).where(*(reappraisals.c[name] == value for name, value in scope.items())))
    db.execute(insert(reappraisals).values(id=number, cause=cause.value, **scope, requested_at=now, cursor=0, holder="", held_until=0))


class ReappraisalRoom(Room):
    """The requests, and the living results that they concern."""

    def request_reappraisal(self, cause: Cause, now: int, *, owner: str = "", policy_name: str = "", key_id: str = "") -> None:
        """Have all living results of a scope judged again."""
        self.database.transact(lambda db: request(db, cause, now, owner=owner, policy_name=policy_name, key_id=key_id))

    def pending_sweeps(self) -> int:
        """How many requests are not finished."""
        with self.database.reading() as db:
            return len(db.execute(select(reappraisals.c.id)).all())

    def awaited_sweeps(self, result_id: str) -> dict[int, Cause]:
        """The requests that concern a result and whose sweep has not come to it yet."""
        with self.database.reading() as db:
            return awaited(db, result_id)

    def hold_sweep(self, holder: str, now: int, seconds: int, after: str = "") -> Sweep | None:
        """Take a request that nobody holds for some seconds, or None: of the owner who comes after another one, the oldest.

        Owners come by turns, and what concerns everybody is one of them: none can keep the others' revocations waiting.
        A hold that ends later than any could is of before the clock was set back: nobody keeps it.
        """
        c = reappraisals.c
        free = or_(c.held_until <= now, c.held_until > now + seconds + SKEW_SECONDS, c.holder == holder)
        with self.database.reading() as db:  # the usual answer, without the writers' lock
            if db.execute(select(c.id).where(free).limit(1)).one_or_none() is None:
                return None

        def hold(db: Connection) -> Sweep | None:
            turns = (case((c.owner > after, 0), else_=1), c.owner, c.id)
            row = db.execute(select(reappraisals).where(free).order_by(*turns).limit(1)).one_or_none()
            if row is None:
                return None
            db.execute(update(reappraisals).where(c.id == row.id).values(holder=holder, held_until=now + seconds))
            return Sweep(row.id, Cause(row.cause), row.owner, row.policy_name, row.key_id, row.requested_at, row.cursor)

        return self.database.transact(hold)

    def others_wait(self, sweep: Sweep) -> bool:
        """Whether there is a request of another owner than this one's."""
        with self.database.reading() as db:
            return db.execute(select(reappraisals.c.id).where(reappraisals.c.owner != sweep.owner).limit(1)).one_or_none() is not None

    def living(self, sweep: Sweep, after: int, now: int, limit: int) -> list[tuple[int, str]]:
        """Number and id of the next living results of a sweep's scope, in order."""
        c = results.c
        scope = [
            column == value
            for column, value in ((c.owner, sweep.owner), (c.policy_name, sweep.policy_name), (c.key_id, sweep.key_id))
            if value
        ]
        alive = and_(c.verdict == "Accepted", c.revoked_at.is_(None), c.expires_at > now)
        query = select(c.seq, c.result_id).where(c.seq > after, alive, *scope).order_by(c.seq).limit(limit)
        with self.database.reading() as db:
            return [(row.seq, row.result_id) for row in db.execute(query)]

    def latest_attempts(self, owner: str, policy_name: str, now: int, limit: int) -> list[str]:
        """Ids of an owner's living results under a policy, and of the last attempt of each pod where that was refused."""
        c, newer = results.c, results.alias("newer")
        mine = and_(c.owner == owner, c.policy_name == policy_name)
        alive = and_(c.verdict == "Accepted", c.revoked_at.is_(None), c.expires_at > now)
        later = select(newer.c.seq).where(newer.c.namespace == c.namespace, newer.c.pod_uid == c.pod_uid, newer.c.seq > c.seq)
        last_refused = and_(c.verdict == "Refused", ~later.exists())
        query = select(c.result_id).where(mine, or_(alive, last_refused)).order_by(c.seq.desc()).limit(limit)
        with self.database.reading() as db:
            return list(db.execute(query).scalars())

    def finish_sweep(self, sweep: Sweep, holder: str) -> None:
        """The sweep has come to its end, unless another replica holds it by now."""
        c = reappraisals.c
        self.database.transact(lambda db: db.execute(delete(reappraisals).where(c.id == sweep.id, c.holder == holder)))


def advance(db: Connection, sweep: Sweep, holder: str, cursor: int, held_until: int) -> bool:
    """A batch is done, in the transaction that marks its results; False when another replica holds the sweep by now."""
    c = reappraisals.c
    moved = update(reappraisals).where(c.id == sweep.id, c.holder == holder).values(cursor=cursor, held_until=held_until)
    return db.execute(moved).rowcount == 1


def awaited(db: Connection, result_id: str) -> dict[int, Cause]:
    """The requests that concern a result and whose sweep has not come to it yet, as this transaction sees them."""
    return {number: Cause(cause) for number, cause in _AWAITED.rows(db, {"result_id": result_id})}
