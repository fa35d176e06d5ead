"""The table of recalled signing keys.  A recall is never taken back, and never forgotten: what a key signed outlives the key."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, select

from chrysalis.broker.rooms import insert_new
from chrysalis.broker.tables import ear_keys, recalled_keys
from chrysalis.wire.recalls import RecalledKey


def put(db: Connection, kids: Iterable[str], now: int, reason: str) -> list[str]:
    """Recall keys, each once; none of them signs any more.  Returns those that were not recalled before."""
    new = [kid for kid in kids if insert_new(db, recalled_keys, {"kid": kid, "recalled_at": now, "reason": reason[:256]})]
    if new:
        db.execute(delete(ear_keys).where(ear_keys.c.kid.in_(new)))
    return new


def read(db: Connection) -> list[RecalledKey]:
    """All of them, in order of their recall."""
    rows = db.execute(select(recalled_keys).order_by(recalled_keys.c.recalled_at, recalled_keys.c.kid)).all()
    return [RecalledKey(kid=row.kid, recalled_at=row.recalled_at) for row in rows]
