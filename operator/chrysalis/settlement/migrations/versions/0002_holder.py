"""Whose contract this is: the SettlementAccount (NAMESPACE/NAME) that the ledger was first used for."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("account", Column("holder", String(320), nullable=False, server_default=""))


def downgrade() -> None:
    raise NotImplementedError("a ledger of money is never taken back to an older form; restore a back-up")
