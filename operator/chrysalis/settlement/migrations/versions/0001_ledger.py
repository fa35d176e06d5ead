"""The first ledger: account, client keys, workers, offers, receipts, spent tickets, forks, epochs, signed bodies, losses."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def amount(name: str) -> Column[int]:
    """A column of nanoton; SQLite and PostgreSQL both hold 64-bit signed integers."""
    return Column(name, BigInteger, CheckConstraint(f"{name} >= 0"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "account",
        Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
        Column("set_name", String(80), nullable=False),
        Column("fee_bps", Integer, CheckConstraint("fee_bps BETWEEN 0 AND 10000"), nullable=False),
    )
    op.create_table(
        "client_keys",
        Column("id", Integer, primary_key=True),
        Column("kid", String(43), nullable=False),
        Column("public_key", String(64), nullable=False),
        amount("cap"),
        Column("since", BigInteger, nullable=False),
        Column("until", BigInteger),
        CheckConstraint("until IS NULL OR until >= since"),
    )
    op.create_index(
        "client_keys_current",
        "client_keys",
        ["kid"],
        unique=True,
        sqlite_where=text("until IS NULL"),
        postgresql_where=text("until IS NULL"),
    )
    op.create_table(
        "workers",
        Column("wrk", String(64), primary_key=True),
        Column("receipt_key", String(64), nullable=False, unique=True),
        Column("wallet", String(66), nullable=False),
        Column("certificate", String, nullable=False),
        Column("name", String(63), nullable=False),
        Column("registered_at", BigInteger, nullable=False),
        Column("head_seq", BigInteger, CheckConstraint("head_seq >= 0"), nullable=False),
        Column("head_hash", String(64), nullable=False),
        Column("closed_reason", String(64)),
        Column("closed_at", BigInteger),
        CheckConstraint("(closed_reason IS NULL) = (closed_at IS NULL)"),
    )
    op.create_table(
        "offers",
        Column("hash", String(64), primary_key=True),
        Column("wrk", String(64), ForeignKey("workers.wrk"), nullable=False),
        Column("token", String, nullable=False),
    )
    op.create_table(
        "receipts",
        Column("position", BigInteger, CheckConstraint("position >= 0"), primary_key=True, autoincrement=False),
        Column("hash", String(64), nullable=False, unique=True),
        Column("wrk", String(64), ForeignKey("workers.wrk"), nullable=False),
        Column("seq", BigInteger, CheckConstraint("seq >= 1"), nullable=False),
        Column("token", String, nullable=False),
        Column("offer", String(64), ForeignKey("offers.hash"), nullable=False),
        Column("wallet", String(66), nullable=False),
        Column("kid", String(43), nullable=False),
        Column("day", Integer, nullable=False),
        amount("amt"),
        amount("fee"),
        amount("net"),
        Column("refusal", String(64), nullable=False),
        Column("received_at", BigInteger, nullable=False),
        UniqueConstraint("wrk", "seq"),
        CheckConstraint("fee + net = amt OR (refusal <> '' AND fee = 0 AND net = 0)"),
    )
    op.create_index("receipts_kid", "receipts", ["kid", "wrk", "day"])
    op.create_index("receipts_wallet", "receipts", ["wallet"])
    op.create_table(
        "spent_tickets",
        Column("kid", String(43), primary_key=True),
        Column("res", String(64), primary_key=True),
        Column("nonce", String(22), primary_key=True),
        Column("receipt", String(64), ForeignKey("receipts.hash"), nullable=False),
    )
    op.create_table(
        "forks",
        Column("hash", String(64), primary_key=True),
        Column("wrk", String(64), ForeignKey("workers.wrk"), nullable=False),
        Column("seq", BigInteger, nullable=False),
        Column("token", String, nullable=False),
        Column("received_at", BigInteger, nullable=False),
    )
    op.create_table(
        "epochs",
        Column("epoch", BigInteger, CheckConstraint("epoch >= 1"), primary_key=True, autoincrement=False),
        Column("prev", LargeBinary(32), nullable=False),
        Column("hash", LargeBinary(32), nullable=False, unique=True),
        Column("root", LargeBinary(32), nullable=False),
        amount("earned"),
        amount("fees"),
        Column("log_root", LargeBinary(32), nullable=False),
        Column("log_size", BigInteger, CheckConstraint("log_size >= 0"), nullable=False),
        Column("state", String(16), CheckConstraint("state IN ('frozen', 'committed', 'cancelled', 'adopted')"), nullable=False),
        Column("frozen_at", BigInteger, nullable=False),
        Column("committed_at", BigInteger),
    )
    op.create_index(
        "epochs_one_frozen",
        "epochs",
        ["state"],
        unique=True,
        sqlite_where=text("state = 'frozen'"),
        postgresql_where=text("state = 'frozen'"),
    )
    op.create_table(
        "bodies",
        Column("epoch", BigInteger, nullable=False),
        Column("valid_until", BigInteger, nullable=False),
        Column("signer_key", String(64), nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("signed_at", BigInteger, nullable=False),
        UniqueConstraint("epoch", "valid_until"),
        ForeignKeyConstraint(["epoch"], ["epochs.epoch"]),
    )
    op.create_table(
        "losses",
        Column("epoch", BigInteger, ForeignKey("epochs.epoch"), primary_key=True),
        amount("earned"),
        amount("fees"),
    )


def downgrade() -> None:
    raise NotImplementedError("a ledger of money is never taken back to an older form; restore a back-up")
