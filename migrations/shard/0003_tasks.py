"""Jobs that no worker can run are held aside, and dead letters know their task."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

HELD = sa.text("status = 'scheduled' AND held_by IS NOT NULL")


def upgrade() -> None:
    op.add_column("dead_letter_queue", sa.Column("task", sa.Text(), nullable=True))
    op.create_index("ix_fila_held", "fila", ["held_by"], sqlite_where=HELD, postgresql_where=HELD)


def downgrade() -> None:
    op.drop_index("ix_fila_held", "fila")
    op.drop_column("dead_letter_queue", "task")
