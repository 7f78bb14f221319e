"""First schema of the vault's own file: wrapped data keys, sealed entries, what was erased."""

from __future__ import annotations

from audit.store.migrations import vault_v1

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    vault_v1.create()
