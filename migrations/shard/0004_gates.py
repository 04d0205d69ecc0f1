"""Jobs wait in order where a gate holds them, and those of a concurrency key can be counted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HELD = sa.text("status = 'scheduled' AND held_by IS NOT NULL")
ALIVE = sa.text("concurrency_key IS NOT NULL AND status IN ('pending', 'scheduled', 'processing')")


def upgrade() -> None:
    op.drop_index("ix_fila_held", "fila")
    op.create_index(
        "ix_fila_held",
        "fila",
        ["held_by", sa.text("priority DESC"), "id"],
        sqlite_where=HELD,
        postgresql_where=HELD,
    )
    op.create_index(
        "ix_fila_concurrency_key",
        "fila",
        ["concurrency_key", "status", "held_by"],
        sqlite_where=ALIVE,
        postgresql_where=ALIVE,
    )


def downgrade() -> None:
    op.drop_index("ix_fila_concurrency_key", "fila")
    op.drop_index("ix_fila_held", "fila")
    op.create_index("ix_fila_held", "fila", ["held_by"], sqlite_where=HELD, postgresql_where=HELD)
