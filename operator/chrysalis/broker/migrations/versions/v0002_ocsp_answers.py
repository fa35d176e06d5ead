"""OCSP answers about devices' certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ocsp_answers",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("issuer", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("this_update", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("(body IS NULL) = (state = 'Missing')", name="ck_ocsp_answers_state"),
    )
    op.create_index("ix_ocsp_answers_next_attempt_at", "ocsp_answers", ["next_attempt_at"])
