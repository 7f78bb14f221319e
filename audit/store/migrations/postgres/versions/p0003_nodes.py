"""What the nodes of a shared log tell each other: the leader's statement, the live states it names, and pseudonym keys under seal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "p0003"
down_revision = "p0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let the leader's row say what is in force; create the tables beside it."""
    op.add_column("leader", sa.Column("node", sa.Text(), nullable=False, server_default=""))
    op.add_column("leader", sa.Column("manifest", sa.Text(), nullable=True))
    op.add_column("leader", sa.Column("live", sa.Text(), nullable=True))
    op.add_column("leader", sa.Column("stated_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("leader", sa.Column("shown", sa.LargeBinary(), nullable=True))
    op.create_table(
        "live",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("put_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "pseudonym",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1"),
    )
