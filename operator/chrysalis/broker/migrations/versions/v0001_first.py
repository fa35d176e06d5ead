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
        sa.Column("key_since", sa.BigInteger, nullable=False),
        sa.Column("recovery", sa.LargeBinary, nullable=False),
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
        "collateral_documents",
        sa.Column("root", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("channel", sa.String(16), primary_key=True),
        sa.Column("body", sa.LargeBinary),
        sa.Column("signature", sa.LargeBinary),
        sa.Column("issuers", sa.Text),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("checked_at", sa.BigInteger, nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("failed_at", sa.BigInteger, nullable=False),
        sa.Column("claimed_by", sa.String(16), nullable=False),
        sa.Column("claimed_until", sa.BigInteger, nullable=False),
        sa.CheckConstraint("(body IS NULL) = (digest = '')", name="ck_collateral_documents_document_has_a_digest"),
    )
    op.create_table(
        "results",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("result_id", sa.String(36), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("worker", sa.String(63), nullable=False),
        sa.Column("pod_uid", sa.String(63), nullable=False),
        sa.Column("key_id", sa.String(63), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("policy_name", sa.String(63), nullable=False),
        sa.Column("policy_version", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("released_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("revoked_reason", sa.String(64)),
        sa.Column("revoked_message", sa.Text),
        sa.Column("document", sa.Text, nullable=False),
        sa.UniqueConstraint("changed", name="uq_results_changed"),
        sa.UniqueConstraint("result_id", name="uq_results_result_id"),
        sa.CheckConstraint("verdict IN ('Accepted', 'Refused')", name="ck_results_verdict"),
        sa.CheckConstraint("(verdict = 'Accepted') = (expires_at IS NOT NULL)", name="ck_results_accepted_expires"),
        sa.CheckConstraint("verdict = 'Accepted' OR released_at IS NULL", name="ck_results_refused_releases_nothing"),
        sa.CheckConstraint("(revoked_at IS NULL) = (revoked_reason IS NULL)", name="ck_results_revoked_for_a_reason"),
    )
    op.create_index("ix_results_namespace", "results", ["namespace", "worker", "seq"])
    op.create_index("ix_results_pod_uid", "results", ["pod_uid", "seq"])
    op.create_index("ix_results_owner", "results", ["owner", "seq"])
    op.create_index("ix_results_living", "results", ["owner", "verdict", "expires_at"])
    op.create_index("ix_results_recent", "results", ["owner", "verdict", "issued_at"])
    op.create_index("ix_results_key_id", "results", ["key_id", "seq"])
    op.create_table(
        "gpu_devices",
        sa.Column("result_id", sa.String(36), sa.ForeignKey("results.result_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("device_id", sa.String(64), primary_key=True),
        sa.Column("receipt_key", sa.String(64), nullable=False),
    )
    op.create_index("ix_gpu_devices_device_id", "gpu_devices", ["device_id"])
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": name, "value": 0} for name in ("changes", "inputs", "shared", "records")])
    op.create_table(
        "releases",
        sa.Column("result_id", sa.String(36), sa.ForeignKey("results.result_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("key_id", sa.String(63), primary_key=True),
        sa.Column("key_version", sa.BigInteger, primary_key=True),
        sa.Column("outcome", sa.String(64), primary_key=True),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("times", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "evidence",
        sa.Column("result_id", sa.String(36), sa.ForeignKey("results.result_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("key_version", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "documents",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "evidence_documents",
        sa.Column("result_id", sa.String(36), sa.ForeignKey("evidence.result_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("digest", sa.String(64), sa.ForeignKey("documents.digest"), nullable=False),
    )
    op.create_index("ix_evidence_documents_digest", "evidence_documents", ["digest"])
    op.create_table(
        "reappraisals",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("policy_name", sa.String(63), nullable=False),
        sa.Column("key_id", sa.String(63), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("held_until", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ear_keys",
        sa.Column("kid", sa.String(64), primary_key=True),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("signs_until", sa.BigInteger, nullable=False),
        sa.Column("verifies_until", sa.BigInteger, nullable=False),
        sa.CheckConstraint("not_before <= signs_until AND signs_until <= verifies_until", name="ck_ear_keys_times"),
    )
    op.create_table(
        "state_keys",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "reference_values",
        sa.Column("publisher", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("version >= 1", name="ck_reference_values_version"),
    )
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
    _append_only("audit")


def _append_only(table: str) -> None:
    """Let the database itself refuse to change or delete this table's rows."""
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
    )
    for action in ("UPDATE", "DELETE", "TRUNCATE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )
