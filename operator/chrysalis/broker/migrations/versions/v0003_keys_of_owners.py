"""Key ids belong to their owners: the key of `key_records` is owner and key id; beside it the model, and the order of first coming."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    made = op.create_table(
        "key_records_of_owners",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(63), primary_key=True),
        sa.Column("model_digest", sa.String(71), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("payload_sha256", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary, nullable=False),
        sa.Column("key_since", sa.BigInteger, nullable=False),
        sa.Column("recovery", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("version >= 1", name="ck_key_records_version"),
    )
    before = sa.table(
        "key_records",
        *(
            sa.column(name)
            for name in ("key_id", "owner", "version", "payload_sha256", "record", "sealed_key", "key_since", "recovery", "updated_at")
        ),
    )
    db = op.get_bind()
    # No id stood twice, so every record was the first of its name.
    for number, row in enumerate(db.execute(sa.select(before).order_by(before.c.key_id)).mappings().all(), 1):
        db.execute(sa.insert(made).values(dict(row) | {"model_digest": json.loads(row["record"])["modelDigest"], "number": number}))
    op.drop_table("key_records")
    op.rename_table("key_records_of_owners", "key_records")
    op.create_index("ix_key_records_key_id", "key_records", ["key_id", "model_digest", "number"])
    counters = sa.table("counters", sa.column("name"), sa.column("value"))
    if db.execute(sa.select(counters.c.name).where(counters.c.name == "records")).first() is None:
        op.bulk_insert(counters, [{"name": "records", "value": 0}])  # a database of before has none
