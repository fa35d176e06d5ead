"""What a database that comes from behind must not do again: after a restore, and after a rollback that was accepted.

What happened after the backup is not in it: a result that was revoked since lives again, a challenge that was answered since is
unanswered, a change that watchers have seen has not happened.  So everything of that kind ends, in the transaction that restores or
accepts: every living result is revoked (StateRestored) and its worker attests again, under the policies and reference values of now;
no challenge from before is this broker's any more; the numbers of changes go on far above any that a watcher has seen, so that
whoever watches on sees all these ends.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import Connection, and_, select, update

from chrysalis.broker import results_store
from chrysalis.broker.results_store import Revocation
from chrysalis.broker.rooms import Counter, count, counted, mark, put_counter
from chrysalis.broker.tables import collateral_documents, results

STATE_RESTORED = "StateRestored"
"""The word that stands in a result which ended so."""
JUMP = 1 << 32
"""More changes than there can have been since the backup; numbers stay below 2^53 for a million restores."""
LEEWAY_SECONDS = 3600
"""Results that have just expired by this machine's clock end, too: it may be ahead."""
PAGE = 500


def begin(db: Connection, now: int, why: str) -> int:
    """End what is from before; db is the writing transaction that restores or accepts.  Returns how many results ended."""
    count(db, Counter.CHANGES, JUMP)
    mark(db, Counter.SHARED)  # what another replica is judging at this moment is judged again
    mark(db, Counter.RECORDS)
    put_counter(db, Counter.NONCES, secrets.randbits(62) | 1)
    db.execute(update(collateral_documents).where(collateral_documents.c.digest != "").values(next_attempt_at=0))
    return end_living(db, now, STATE_RESTORED, f"{why}: what was revoked since then is not known; attest again", by="recovery")


def end_living(db: Connection, now: int, reason: str, message: str, by: str, signed_by: frozenset[str] | None = None) -> int:
    """Revoke every living result, or those that one of some keys has signed (kids); returns how many."""
    c, last, ended = results.c, 0, 0
    alive = and_(c.verdict == "Accepted", c.revoked_at.is_(None), c.expires_at > now - LEEWAY_SECONDS)
    columns = (c.seq, c.result_id, c.key_id, c.owner, c.document)
    while rows := db.execute(select(*columns).where(c.seq > last, alive).order_by(c.seq).limit(PAGE)).all():
        last = rows[-1].seq
        chosen = [row for row in rows if signed_by is None or results_store.signer_of(row.document) in signed_by]
        revocations = [
            Revocation(
                row.result_id,
                reason,
                message,
                {"resultId": row.result_id, "keyId": row.key_id, "owner": row.owner, "by": by, "cause": reason, "reason": reason},
            )
            for row in chosen
        ]
        if revocations:
            ended += results_store.end(db, revocations, now)
    return ended


def nonce_key(db: Connection, key: bytes) -> bytes:
    """The key of this database's challenges: the broker's own, or one made of it at the last fresh start."""
    chosen = counted(db, Counter.NONCES)
    if not chosen:
        return key
    return hmac.digest(key, b"chrysalis/v1/nonce-key\0" + chosen.to_bytes(8, "big"), hashlib.sha256)
