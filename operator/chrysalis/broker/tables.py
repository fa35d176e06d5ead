"""The broker's tables.  Times are Unix seconds; documents are JSON texts kept byte for byte; keys and digests are hex."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
metadata = MetaData(naming_convention=NAMING)

spent_nonces = Table(
    "spent_nonces",
    metadata,
    Column("nonce", String(64), primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_spent_nonces_expires_at", "expires_at"),
)

key_records = Table(
    "key_records",
    metadata,
    Column("key_id", String(63), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("payload_sha256", String(64), nullable=False),  # of the signed payload: the same envelope again changes nothing
    Column("record", Text, nullable=False),  # the record's JSON without `key`
    Column("sealed_key", LargeBinary, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    CheckConstraint("version >= 1", name="version"),
)

policies = Table(
    "policies",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("payload", Text, nullable=False),  # the signed bytes
    Column("envelope", Text, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    CheckConstraint("version >= 1", name="version"),
)

collateral = Table(
    "collateral",
    metadata,
    Column("fmspc", String(12), primary_key=True),
    Column("ca", String(16), primary_key=True),
    Column("update_channel", String(16), primary_key=True),
    Column("document", Text, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
)

results = Table(
    "results",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("result_id", String(36), nullable=False, unique=True),
    Column("verdict", String(16), nullable=False),
    Column("namespace", String(63), nullable=False),
    Column("worker", String(63), nullable=False),
    Column("pod_uid", String(63), nullable=False),
    Column("key_id", String(63), nullable=False),
    Column("owner", String(64), nullable=False),  # of the key record; empty where there is none
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("released_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("document", Text, nullable=False),  # ResultView as it was issued
    CheckConstraint("verdict IN ('Accepted', 'Refused')", name="verdict"),
    CheckConstraint("(verdict = 'Accepted') = (expires_at IS NOT NULL)", name="accepted_expires"),
    CheckConstraint("verdict = 'Accepted' OR released_at IS NULL", name="refused_releases_nothing"),
    Index("ix_results_namespace", "namespace", "worker", "seq"),
    Index("ix_results_pod_uid", "pod_uid", "seq"),
    Index("ix_results_owner", "owner", "seq"),
    sqlite_autoincrement=True,  # a deleted row's number is never used again, or `after` would skip results
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("document", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    CheckConstraint("seq >= 1", name="seq"),
)
