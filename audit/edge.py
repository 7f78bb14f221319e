"""The right edge of a log's tree as it lies in a data directory: read from its tiles, or made again from the leaves of a shared log.

Used by whoever signs (`audit/publisher.py`) and by whoever follows one who signs (`audit/mirror.py`).

Example:
    edge = recover(data_dir, head)      # raises unless the tiles give the signed root
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from audit import note, tiles
from audit.follow import Follower
from audit.merkle import leaf_hashes
from audit.signer import Signer
from audit.store import layout
from audit.store.control import Head
from audit.store.durable import read_or_none, write_files
from audit.store.errors import StoreBehind, StoreDamaged
from audit.store.place import postgres_place

LEAVES_AT_ONCE: Final = 1 << 17
"""Leaves that are hashed and written together, so that memory stays bounded."""


def reader_of(log_dir: Path) -> tiles.Read:
    """Return what reads the tiles in a folder."""
    return lambda path: read_or_none(log_dir / path)


def check_head(head: Head, keys: Sequence[Signer]) -> None:
    """Check that a stored head is what its note says, signed by one of the keys.

    Raises:
        StoreDamaged: It is not.
    """
    try:
        signed = note.open_checkpoint(head.note, [key.verifier for key in keys]).checkpoint
    except note.NoteError as error:
        raise unfit(head, error) from error
    if (signed.size, signed.root, signed.origin) != (head.size, head.root, keys[0].name):
        raise StoreDamaged(
            f"the stored checkpoint of size `{head.size}` carries a note of `{signed.origin}`, size `{signed.size}`; expected `{keys[0].name}`\n"
            "hint: the control store was altered, or another key is configured"
        )


def unfit(head: Head, error: Exception) -> StoreDamaged:
    """Return the error of a head that does not fit its log."""
    return StoreDamaged(
        f"the signed head of size `{head.size}` does not fit the log: {error}\n"
        "hint: nothing is signed until the tiles of that size and the key that signed it are back"
    )


def recover(data_dir: Path, head: Head) -> tiles.HashTiles:
    """Return the right edge of the signed size: from the tiles, or where they lack in a shared log, from its leaves.

    Raises:
        StoreBehind: The database has fewer leaves.
        StoreDamaged: Neither gives the signed root.
    """
    try:
        return tiles.HashTiles.recover(reader_of(layout.log_dir(data_dir)), head.size, head.root)
    except tiles.TileError as error:
        if postgres_place(data_dir) is None:
            raise unfit(head, error) from error
    edge = extend(data_dir, tiles.HashTiles(), head.size)
    require_root(edge, head)
    return edge


def extend(data_dir: Path, edge: tiles.HashTiles, size: int) -> tiles.HashTiles:
    """Return the edge at a larger size, its tiles written from the leaves. They are nothing until `require_root` has compared them.

    Raises:
        StoreBehind: There are fewer leaves.
        StoreFull, StoreBroken: They cannot be read, or the tiles not be written.
    """
    with Follower(data_dir) as follower:
        while edge.size < size:
            rows = follower.read(edge.size, min(size - edge.size, LEAVES_AT_ONCE))
            if not rows:
                raise StoreBehind("the database", edge.size, size)
            edge, files = edge.append(leaf_hashes([leaf for _, leaf in rows]))
            write_files(layout.log_dir(data_dir), files)
    return edge


def require_root(edge: tiles.HashTiles, head: Head) -> None:
    """Check that a tree made from leaves is the signed one.

    Raises:
        StoreDamaged: It is another.
    """
    if edge.root() != head.root:
        raise StoreDamaged(
            f"the leaves of the database do not give the root signed for size `{head.size}`\nhint: they were altered; restore a copy that verifies"
        )


def prune_partial(log_dir: Path, old_size: int, new_size: int) -> None:
    """Remove the partial tiles of tiles that became full (tlog-tiles allows it once the full tile is there)."""
    level = 0
    while old_size:
        if old_size % tiles.WIDTH and old_size // tiles.WIDTH < new_size // tiles.WIDTH:
            folder = log_dir / (tiles.tile_path(level, old_size // tiles.WIDTH) + ".p")
            shutil.rmtree(folder, ignore_errors=True)  # left-overs cost space, never truth
        old_size, new_size, level = old_size // tiles.WIDTH, new_size // tiles.WIDTH, level + 1
