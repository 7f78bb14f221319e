"""The vault in a shared log's database: wrapped data keys, sealed entries, what was erased."""

from __future__ import annotations

from audit.store.migrations import vault_v1

revision = "p0002"
down_revision = "p0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    vault_v1.create()
