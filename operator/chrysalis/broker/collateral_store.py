"""The collateral's table."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from chrysalis.broker import reappraisal_store
from chrysalis.broker.reappraisal_store import Cause
from chrysalis.broker.rooms import Room
from chrysalis.broker.tables import collateral


class CollateralRoom(Room):
    """Intel's documents by (FMSPC, PCK authority, update channel)."""

    def collateral(self, fmspc: str, ca: str, update_channel: str) -> tuple[str, int] | None:
        """The document and when it was stored, or None."""
        c = collateral.c
        query = select(c.document, c.stored_at).where(c.fmspc == fmspc, c.ca == ca, c.update_channel == update_channel)
        with self.database.reading() as db:
            row = db.execute(query).one_or_none()
        return None if row is None else (row.document, row.stored_at)

    def collateral_keys(self) -> list[tuple[str, str, str]]:
        """Every (fmspc, ca, update channel) that is stored."""
        c = collateral.c
        with self.database.reading() as db:
            return [(row.fmspc, row.ca, row.update_channel) for row in db.execute(select(c.fmspc, c.ca, c.update_channel))]

    def put_collateral(self, fmspc: str, ca: str, update_channel: str, document: str, now: int) -> None:
        """Replace the document; the caller has checked that it does not go back.

        Where there was another one, all living results are judged again: the new one may revoke what they rest on.
        """
        c = collateral.c
        with self.database.writing() as db:
            replaced = db.execute(delete(collateral).where(c.fmspc == fmspc, c.ca == ca, c.update_channel == update_channel)).rowcount
            db.execute(insert(collateral).values(fmspc=fmspc, ca=ca, update_channel=update_channel, document=document, stored_at=now))
            if replaced:
                reappraisal_store.request(db, Cause.COLLATERAL_CHANGED, now)
