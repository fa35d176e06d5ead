"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "spent_nonces",
        sa.Column("nonce", sa.String(64), primary_key=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_spent_nonces_expires_at", "spent_nonces", ["expires_at"])
    op.create_table(
        "key_records",
        sa.Column("key_id", sa.String(63), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("payload_sha256", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("version >= 1", name="ck_key_records_version"),
    )
    op.create_table(
        "policies",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("version >= 1", name="ck_policies_version"),
    )
    op.create_table(
        "collateral",
        sa.Column("fmspc", sa.String(12), primary_key=True),
        sa.Column("ca", sa.String(16), primary_key=True),
        sa.Column("update_channel", sa.String(16), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "results",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("result_id", sa.String(36), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("worker", sa.String(63), nullable=False),
        sa.Column("pod_uid", sa.String(63), nullable=False),
        sa.Column("key_id", sa.String(63), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("released_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("document", sa.Text, nullable=False),
        sa.UniqueConstraint("result_id", name="uq_results_result_id"),
        sa.CheckConstraint("verdict IN ('Accepted', 'Refused')", name="ck_results_verdict"),
        sa.CheckConstraint("(verdict = 'Accepted') = (expires_at IS NOT NULL)", name="ck_results_accepted_expires"),
        sa.CheckConstraint("verdict = 'Accepted' OR released_at IS NULL", name="ck_results_refused_releases_nothing"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_results_namespace", "results", ["namespace", "worker", "seq"])
    op.create_index("ix_results_pod_uid", "results", ["pod_uid", "seq"])
    op.create_index("ix_results_owner", "results", ["owner", "seq"])
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.UniqueConstraint("hash", name="uq_audit_hash"),
        sa.CheckConstraint("seq >= 1", name="ck_audit_seq"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{action.lower()} BEFORE {action} ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END"
            )
