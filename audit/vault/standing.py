"""Whether what was captured of a call is still there: told without the master key, for whoever reads the record. Nothing of it is opened.

Example:
    standing("019a...", data_dir, now_us)     # "It was erased (erasure `5f0c...`): ..."
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audit.entry import time_text
from audit.store import layout
from audit.store.errors import StoreError
from audit.store.place import postgres_place
from audit.store.sqlite import open_reader, translated

_ASKED = "SELECT box IS NULL, erasure, expires_us FROM vault_entry WHERE record = "


def captured_of(record: Mapping[str, Any], related: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the decision a record belongs to, and what it commits to: of a `decision`, what its `outcome` says too."""
    name, payload = str(record.get("id", "")), _payload(record)
    if record.get("type") == "outcome":
        parents = record.get("parents")
        return (str(parents[0]) if isinstance(parents, list) and parents else name), payload
    for other in related:
        if other.get("type") == "outcome" and name in (other.get("parents") or ()):
            payload |= _payload(other)
    return name, payload


def standing(record: Mapping[str, Any], related: Sequence[Mapping[str, Any]], data_dir: Path, now_us: int) -> list[str]:
    """Return sentences on what was captured of a call; none where nothing was to be."""
    decision, payload = captured_of(record, related)
    if payload.get("vault_lost"):
        return ["Fields were to be captured and found no room on their way to the vault: they and the salts of the commitments are lost."]
    if not payload.get("vault"):
        return []
    return [_words(data_dir, decision, now_us)]


def _words(data_dir: Path, decision: str, now_us: int) -> str:
    try:
        row = _row(data_dir, decision)
    except (StoreError, OSError):
        return "Fields were captured; the vault cannot be read from here."
    if row is None:
        return "Fields were captured; they are not in the vault: their time is over, or their worker was killed before they were committed."
    is_erased, erasure, expires_us = row
    if is_erased:
        return f"Fields were captured and have been erased (erasure `{erasure}`), with the salts: the commitments can be opened by nobody."
    if expires_us <= now_us:
        return "Fields were captured; their time is over, and they are about to be deleted."
    return f"Fields were captured; the vault keeps them until {time_text(expires_us)}. `assay audit show ID --payload` shows them."


def _payload(record: Mapping[str, Any]) -> dict[str, Any]:
    payload = record.get("payload")
    return dict(payload) if isinstance(payload, dict) else {}


def _row(data_dir: Path, decision: str) -> tuple[bool, str | None, int] | None:
    place = postgres_place(data_dir)
    if place is None:
        path = layout.vault_path(data_dir)
        with contextlib.closing(open_reader(path)) as reader, translated(path):
            row = reader.execute(f"{_ASKED}?", (decision,)).fetchone()
    else:
        from audit.store import postgres  # noqa: PLC0415 - only where the store is PostgreSQL

        with contextlib.closing(postgres.connect(place.connection_string(), "assay show", wait_s=5.0)) as connection, postgres.translated():
            row = connection.execute(f"{_ASKED}%s", (decision,)).fetchone()
    return None if row is None else (bool(row[0]), row[1], int(row[2]))
