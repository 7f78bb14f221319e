"""First schema of a shared log: leaves and their order, writers, signed sizes, leadership."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "p0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and the two rows that order and leadership are kept in."""
    op.create_table(
        "leaf",
        sa.Column("idx", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("node", "epoch", "seq"),
    )
    # Leaves are random to the compressor's eye and short: trying costs more than it gives.
    op.execute("ALTER TABLE leaf ALTER COLUMN bytes SET STORAGE EXTERNAL")
    head = op.create_table(
        "head",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("next_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1"),
    )
    op.create_table(
        "writer",
        sa.Column("node", sa.Text(), primary_key=True),
        sa.Column("epoch", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
    )
    op.create_table(
        "claim",
        sa.Column("node", sa.Text(), primary_key=True),
        sa.Column("instance", sa.Text(), nullable=False),
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
    )
    leader = op.create_table(
        "leader",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1"),
    )
    op.create_table(
        "term",
        sa.Column("term", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "bundle",
        sa.Column("serial", sa.BigInteger(), sa.Identity(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("installed_us", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "object",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "next_index": 0}])
    op.bulk_insert(leader, [{"id": 1, "term": 0, "instance": "", "renewed_at": None}])
