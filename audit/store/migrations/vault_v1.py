"""The vault's tables as first released: the same in a SQLite file of their own (`v0001`) and in the log's PostgreSQL (`p0002`). Never edited."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Create the tables."""
    op.create_table(
        "vault_key",
        sa.Column("id", sa.LargeBinary(), primary_key=True),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("handle", sa.LargeBinary(), nullable=False),
        sa.Column("master", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("tenant", "subject"),
    )
    op.create_index("vault_key_handle", "vault_key", ["handle"])
    op.create_table(
        "vault_entry",
        sa.Column("record", sa.Text(), primary_key=True),
        sa.Column("key_id", sa.LargeBinary(), nullable=False),
        sa.Column("kept_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("box", sa.LargeBinary(), nullable=True),
        sa.Column("erasure", sa.Text(), nullable=True),
    )
    op.create_index("vault_entry_key", "vault_entry", ["key_id"])
    op.create_index("vault_entry_expires", "vault_entry", ["expires_us"])
    op.create_table(
        "vault_tombstone",
        sa.Column("key_id", sa.LargeBinary(), primary_key=True),
        sa.Column("erasure", sa.Text(), nullable=False),
        sa.Column("erased_us", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
    )
