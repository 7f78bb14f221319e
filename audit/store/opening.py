"""Opens the leaf store of a data directory for appending, wherever its leaves lie."""

from __future__ import annotations

from pathlib import Path

from audit.store.leaves import LeafStore
from audit.store.place import postgres_place
from audit.store.staging import Staging


def open_leaves(data_dir: Path) -> Staging:
    """Open the store as its one recorder.

    Raises:
        StoreError: As `LeafStore.open` and `PostgresLeafStore.open`.
    """
    place = postgres_place(data_dir)
    if place is None:
        return LeafStore.open(data_dir)
    from audit.store.postgres_leaves import PostgresLeafStore  # noqa: PLC0415 - only where the store is PostgreSQL

    return PostgresLeafStore.open(data_dir, place)
