"""Reads committed leaves in order, across range files and sealed ranges, without disturbing the recorder.

Rules:
- Only committed rows are seen, each with its index; a reader never sees a gap.
- Reads are short: no transaction outlives a batch, so the recorder's WAL can always be moved.
- Where a range's database is gone because it was sealed and removed, its entry bundles are read. They are files anyone could have changed: whoever
  needs proof checks them against a tree (`audit/publisher.py` did before the database was removed).

- Whoever looks for few leaves among all uses `search`: sealed ranges are then read as they lie on disk, 256 leaves at a time.

Example:
    for index, leaf in follow(data_dir, from_index=0): ...
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from audit.store import layout
from audit.store.durable import read_or_none
from audit.store.errors import StoreDamaged
from audit.store.layout import RANGE_LEAVES
from audit.store.place import PostgresPlace, postgres_place
from audit.store.sqlite import open_reader, translated
from audit.tiles import WIDTH, decode_bundle, entries_path, require_whole

if TYPE_CHECKING:
    from audit.store.postgres_rows import PostgresRows

BATCH_ROWS = 4096


class Follower:
    """Reads leaves from any index on; keeps one range file open. Owned by one thread."""

    __slots__ = ("_connection", "_data_dir", "_number", "_shared")

    def __init__(self, data_dir: Path) -> None:
        """Read the log in `data_dir`; nothing is opened yet."""
        self._data_dir = data_dir
        self._connection: sqlite3.Connection | None = None  # of range `_number`; replaced by `_open`
        self._number = -1
        place = postgres_place(data_dir)
        self._shared = None if place is None else _shared_rows(place)  # where the leaves lie, if not in range files

    def read(self, from_index: int, limit: int = BATCH_ROWS) -> list[tuple[int, bytes]]:
        """Return up to `limit` committed leaves from `from_index` on, in order, as (index, leaf); empty at the end of the log.

        A read stops at the end of a range file: fewer than `limit` leaves do not mean the end, an empty list does.

        Raises:
            StoreDamaged: A range is missing, or its leaves have gaps.
            StoreBroken: A file cannot be read.
        """
        if self._shared is not None:
            return self._read_shared(self._shared, from_index, limit)
        number = from_index // RANGE_LEAVES
        limit = min(limit, (number + 1) * RANGE_LEAVES - from_index)
        if self._open(number):
            return self._read_rows(from_index, limit)
        return self._read_bundle(from_index, limit)

    def bundle_at(self, from_index: int) -> bytes | None:
        """Return the entry bundle that begins at `from_index`, as it lies on disk; None where leaves are read from a database."""
        bundle, start = divmod(from_index, WIDTH)
        if start or self._shared is not None or self._open(from_index // RANGE_LEAVES):
            return None
        return read_or_none(layout.log_dir(self._data_dir) / entries_path(bundle))

    def end(self) -> int:
        """Return the number of committed leaves."""
        if self._shared is not None:
            return self._shared.end()
        for number in reversed(layout.range_numbers(self._data_dir)):
            if self._open(number):
                last = self._last_index()
                if last is not None:
                    return last + 1
        return 0

    def close(self) -> None:
        """Close what is open. The follower can be used again."""
        if self._shared is not None:
            self._shared.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._number = -1

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    def _open(self, number: int) -> bool:
        """Open range `number` unless it is; return False if it has no database."""
        if self._number == number:
            return True
        self.close()
        try:
            self._connection = open_reader(layout.range_path(self._data_dir, number))
        except FileNotFoundError:
            return False
        self._number = number
        return True

    def _last_index(self) -> int | None:
        assert self._connection is not None  # noqa: S101 - `_open` returned True
        with translated(layout.range_path(self._data_dir, self._number)):
            last: int | None = self._connection.execute("SELECT max(idx) FROM leaf").fetchone()[0]
        return last

    def _read_rows(self, from_index: int, limit: int) -> list[tuple[int, bytes]]:
        assert self._connection is not None  # noqa: S101 - `_open` returned True
        path = layout.range_path(self._data_dir, self._number)
        with translated(path):
            rows: list[tuple[int, bytes]] = self._connection.execute(
                "SELECT idx, bytes FROM leaf WHERE idx >= ? ORDER BY idx LIMIT ?", (from_index, limit)
            ).fetchall()
        if rows and (rows[0][0] != from_index or rows[-1][0] != from_index + len(rows) - 1):
            raise StoreDamaged(f"`{path}` has no leaf `{from_index}` but later ones\nhint: restore the file from a copy that verifies")
        return rows

    def _read_shared(self, shared: PostgresRows, from_index: int, limit: int) -> list[tuple[int, bytes]]:
        rows = shared.read(from_index, limit)
        if rows and rows[0][0] != from_index:
            # Sealed and removed from the database: this directory's entry bundles have them.
            return self._read_bundle(from_index, min(limit, rows[0][0] - from_index))
        if rows and rows[-1][0] != from_index + len(rows) - 1:
            raise StoreDamaged(f"the database has gaps after leaf `{from_index}`\nhint: it was altered; restore it from a copy that verifies")
        return rows

    def _read_bundle(self, from_index: int, limit: int) -> list[tuple[int, bytes]]:
        bundle, start = divmod(from_index, WIDTH)
        path = layout.log_dir(self._data_dir) / entries_path(bundle)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if self._shared is not None or any(number > from_index // RANGE_LEAVES for number in layout.range_numbers(self._data_dir)):
                raise StoreDamaged(
                    f"leaf `{from_index}` is neither in `{self._place_of(from_index)}` nor in `{path}`\nhint: put one of the two back"
                ) from None
            return []
        leaves = decode_bundle(data, WIDTH, str(path))[start : start + limit]
        return list(enumerate(leaves, from_index))

    def _place_of(self, index: int) -> str:
        return "the database" if self._shared is not None else str(layout.range_path(self._data_dir, index // RANGE_LEAVES))


def _shared_rows(place: PostgresPlace) -> PostgresRows:
    from audit.store.postgres_rows import PostgresRows  # noqa: PLC0415 - only where the store is PostgreSQL

    return PostgresRows(place)


def follow(data_dir: Path, from_index: int, *, until: int | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[tuple[int, bytes]]:
    """Yield (index, leaf) from `from_index` to the end of what is committed when the end is reached, or up to `until` (exclusive).

    Raises:
        StoreDamaged, StoreBroken: As `Follower.read`.
    """
    with Follower(data_dir) as follower:
        while until is None or from_index < until:
            rows = follower.read(from_index, batch_rows if until is None else min(batch_rows, until - from_index))
            if not rows:
                return
            yield from rows
            from_index += len(rows)


def search(data_dir: Path, pattern: re.Pattern[bytes], until: int | None = None, *, from_index: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (index, leaf) of every committed leaf in which `pattern` is found, in order; with `until`, of those before it.

    Well under a microsecond a leaf where ranges are sealed and their databases removed, one and a half elsewhere.

    Args:
        data_dir: The data directory.
        pattern: Must not match across the end of a leaf, such as something within a JSON string.
        until: Where to end, at most the number of leaves.
        from_index: Where to begin.

    Raises:
        StoreDamaged, StoreBroken: As `Follower.read`.
        TileError: An entry bundle is cut short or goes on.
    """
    at, is_found = from_index, pattern.search
    with Follower(data_dir) as follower:
        while until is None or at < until:
            data = follower.bundle_at(at) if until is None or at + WIDTH <= until else None
            if data is not None and is_found(data) is None:
                # Nothing is there to be taken out; but a file that was cut short must not pass for one without such leaves.
                require_whole(data, WIDTH, entries_path(at // WIDTH))
                at += WIDTH
                continue
            rows = follower.read(at, BATCH_ROWS if until is None else min(BATCH_ROWS, until - at))
            if not rows:
                return
            yield from [row for row in rows if is_found(row[1])]
            at += len(rows)
