"""SQLite: no statement puts a record of the audit log in another's place.

`INSERT OR REPLACE` deletes what is in its way without asking the trigger that refuses deletion (sqlite.org/lang_conflict.html; only with
`recursive_triggers` would it).  PostgreSQL has no such statement: its ON CONFLICT DO UPDATE is an UPDATE, which is refused.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute(
        "CREATE TRIGGER IF NOT EXISTS audit_no_replace BEFORE INSERT ON audit "
        "WHEN EXISTS (SELECT 1 FROM audit WHERE seq >= NEW.seq) OR EXISTS (SELECT 1 FROM audit WHERE hash = NEW.hash) "
        "BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END"
    )
