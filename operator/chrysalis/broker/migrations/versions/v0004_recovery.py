"""What outlives a rollback: recalled signing keys, versions that are known to have been there, how far the audit log was verified."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recalled_keys",
        sa.Column("kid", sa.String(64), primary_key=True),
        sa.Column("recalled_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(256), nullable=False),
    )
    op.create_table(
        "version_floors",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("version >= 1", name="ck_version_floors_version"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
    )
    anchored = sa.text("event IN ('AnchorStarted', 'AnchorForgotten')")
    op.create_index("ix_audit_anchored", "audit", ["seq"], sqlite_where=anchored, postgresql_where=anchored)
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "nonces", "value": 0}, {"name": "anchored", "value": 0}])
