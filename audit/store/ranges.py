"""One range file: 65,536 leaves and where each writer stood when the file was opened.

Rules:
- A file is prepared empty, ahead of need. It is *opened* by its first append, which stores the writers' positions in the same transaction: a file
  with leaves always has its seeds, a file without leaves has nothing.
- Rows are inserted on the driver, `ROWS_PER_STATEMENT` in one statement, which costs three quarters of one at a time; one append is one transaction.
- Pages have 8 KiB: a record of 700 bytes then costs a quarter less than in pages of 4 KiB and takes a tenth less room; 16 KiB would gain nothing
  more and make a commit of a few records dearer. A file keeps the size it was made with.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from audit.store.errors import SchemaError, StoreDamaged
from audit.store.layout import RANGE_LEAVES, range_path
from audit.store.migrate import RANGES, ensure_schema, revision
from audit.store.sqlite import checkpoint_wal, open_reader, open_writer, settle_wal, sync_directory, transaction, translated
from audit.store.staging import LeafTuple, Seed, WriterKey

PAGE_BYTES: Final = 8192
ROWS_PER_STATEMENT: Final = 32
_INSERT = "INSERT INTO leaf (idx, node, epoch, seq, bytes) VALUES "
_ROW = "(?, ?, ?, ?, ?)"
_INSERT_ONE: Final = _INSERT + _ROW
_INSERT_MANY: Final = _INSERT + ", ".join([_ROW] * ROWS_PER_STATEMENT)


class RangeFile:
    """A range open for appending. Owned by the recorder's one thread."""

    __slots__ = ("_connection", "_unflushed_bytes", "count", "first", "number", "path")

    def __init__(self, data_dir: Path, number: int) -> None:
        """Open the existing file of range `number` and count its leaves.

        Raises:
            StoreDamaged: The leaves in the file are not the beginning of the range, without gaps.
            SchemaError, StoreFull, StoreBroken: As in `audit.store.migrate`.
        """
        self.number = number
        self.first = number * RANGE_LEAVES
        self.path = range_path(data_dir, number)
        self._unflushed_bytes = 0  # leaf bytes in the WAL, about; raised by `append`, reset by `flush_wal`
        with translated(self.path):
            self._connection = open_writer(self.path)
            if revision(self._connection) != RANGES.head:
                self._connection.close()
                raise SchemaError(f"`{self.path}` is not at schema `{RANGES.head}`\nhint: open it through `LeafStore.open`, which upgrades")
            count, low, high = self._connection.execute("SELECT count(*), min(idx), max(idx) FROM leaf").fetchone()
        self.count: int = count  # leaves committed; raised by `append` alone
        if count and (low != self.first or high != self.first + count - 1 or count > RANGE_LEAVES):
            self.close()
            raise StoreDamaged(
                f"`{self.path}` holds `{count}` leaves from `{low}` to `{high}`; expected {self.first} and following without gaps\n"
                "hint: the file was altered; restore it from a copy that verifies"
            )

    @property
    def room(self) -> int:
        """Leaves that still fit."""
        return RANGE_LEAVES - self.count

    def append(self, rows: Sequence[LeafTuple], seeds: dict[WriterKey, Seed], ended: Iterable[WriterKey] = ()) -> None:
        """Commit `rows` in one transaction; on return they are durable.

        Args:
            rows: The next leaves, indices without gaps; at most `room`.
            seeds: Positions of writers before this append; stored if it is the first of the range.
            ended: Writers whose end one of the rows states.

        Raises:
            StoreFull: Nothing was stored; can be tried again.
            StoreBroken: Unknown what was stored; the process must end.
        """
        if rows[0][0] != self.first + self.count or len(rows) > self.room:
            raise ValueError(f"append of {len(rows)} rows at {rows[0][0]} does not follow {self.first + self.count} in range {self.number}")
        with transaction(self._connection, self.path):
            if self.count == 0:
                self._connection.executemany(
                    "INSERT INTO writer (node, epoch, last_seq, ended) VALUES (?, ?, ?, ?)",
                    [(node, epoch, seed.last_seq, seed.ended) for (node, epoch), seed in seeds.items()],
                )
            self._insert(rows)
            for node, epoch in ended:
                self._connection.execute(
                    "INSERT INTO writer (node, epoch, last_seq, ended) VALUES (?, ?, -1, 1) ON CONFLICT (node, epoch) DO UPDATE SET ended = 1",
                    (node, epoch),
                )
        self.count += len(rows)
        self._unflushed_bytes += sum([len(row[4]) + 64 for row in rows])

    def _insert(self, rows: Sequence[LeafTuple]) -> None:
        execute, together = self._connection.execute, len(rows) - len(rows) % ROWS_PER_STATEMENT
        for at in range(0, together, ROWS_PER_STATEMENT):
            execute(_INSERT_MANY, tuple(chain.from_iterable(rows[at : at + ROWS_PER_STATEMENT])))
        self._connection.executemany(_INSERT_ONE, rows[together:] if together else rows)

    def end_writer(self, key: WriterKey) -> None:
        """Remember that a writer's own last record ended it, so that nobody looks for it again."""
        with transaction(self._connection, self.path):
            self._connection.execute(
                "INSERT INTO writer (node, epoch, last_seq, ended) VALUES (?, ?, -1, 1) ON CONFLICT (node, epoch) DO UPDATE SET ended = 1", key
            )

    def writers(self) -> dict[WriterKey, Seed]:
        """Return where every writer known here stands now.

        Raises:
            StoreDamaged: A row is none of ours: a damaged schema shows one table's rows as another's.
        """
        with translated(self.path):
            told = self._connection.execute("SELECT node, epoch, last_seq, ended FROM writer").fetchall()
            counted = self._connection.execute("SELECT node, epoch, max(seq), NULL FROM leaf GROUP BY node, epoch").fetchall()
        known: dict[WriterKey, Seed] = {}
        for node, epoch, last_seq, ended in (*told, *counted):
            if not (isinstance(node, str) and isinstance(epoch, int) and isinstance(last_seq, int)):
                raise StoreDamaged(f"`{self.path}` names a writer `{node!r}` epoch `{epoch!r}`\nhint: restore it from a copy that verifies")
            before = known.get((node, epoch))
            known[node, epoch] = Seed(last_seq, bool(ended) or (before is not None and before.ended))
        return known

    def find(self, key: WriterKey, first_seq: int, last_seq: int) -> dict[int, tuple[int, bytes]]:
        """Return seq -> (index, leaf) of the writer's records in this file with numbers from `first_seq` to `last_seq`."""
        with translated(self.path):
            return _find(self._connection, key, first_seq, last_seq)

    def flush_wal(self, threshold_bytes: int) -> None:
        """Move the WAL into the file once more than `threshold_bytes` lie in it."""
        if self._unflushed_bytes > threshold_bytes:
            checkpoint_wal(self._connection, self.path)
            self._unflushed_bytes = 0

    def close(self) -> None:
        """Close the file. SQLite moves what is left of the WAL, unless readers still use it."""
        with translated(self.path):
            self._connection.close()

    def create_next(self, data_dir: Path) -> None:
        """Create the empty file of the following range with this file's schema, durable under its name; harmless if it exists.

        Copying the schema costs milliseconds where running the migrations costs a second of import.

        Raises:
            StoreFull, StoreBroken: As in `audit.store.sqlite`.
        """
        path = range_path(data_dir, self.number + 1)
        if path.exists():
            return
        with translated(path):
            schema = [sql for (sql,) in self._connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")]
            aside = clean_aside(path)
            _begin_file(aside)
            with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                for sql in schema:
                    connection.execute(sql)
                connection.execute("INSERT INTO alembic_version VALUES (?)", (RANGES.head,))
                connection.execute("COMMIT")
            aside.rename(path)
            sync_directory(path.parent)


def prepare_file(data_dir: Path, number: int) -> None:
    """Create the file of range `number` by its migrations, or upgrade it; and settle a WAL left by a crash.

    A new file is made aside: a reader that sees a range file sees its tables.
    """
    path = range_path(data_dir, number)
    if path.exists():
        ensure_schema(path, RANGES)
        with contextlib.closing(open_writer(path)) as connection:
            settle_wal(connection, path)
        return
    aside = clean_aside(path)
    with translated(aside):
        _begin_file(aside)
    ensure_schema(aside, RANGES)
    with translated(path):
        aside.rename(path)
        sync_directory(path.parent)


def _begin_file(path: Path) -> None:
    """Make an empty database with our pages; only such a one takes a page size."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")


def clean_aside(path: Path) -> Path:
    """Return the name under which a store file is made, free of what a crash left there."""
    aside = path.with_suffix(".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
    return aside


def has_wal(data_dir: Path, number: int) -> bool:
    """Tell whether committed pages of a range still lie outside its file."""
    path = range_path(data_dir, number)
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def find_in_earlier(data_dir: Path, number: int, key: WriterKey, first_seq: int, last_seq: int) -> dict[int, tuple[int, bytes]]:
    """Look for a writer's records in an earlier range file, for reading only; empty if the file is no longer there."""
    path = range_path(data_dir, number)
    try:
        connection = open_reader(path)
    except FileNotFoundError:
        return {}
    with contextlib.closing(connection), translated(path):
        return _find(connection, key, first_seq, last_seq)


def _find(connection: sqlite3.Connection, key: WriterKey, first_seq: int, last_seq: int) -> dict[int, tuple[int, bytes]]:
    rows = connection.execute("SELECT seq, idx, bytes FROM leaf WHERE node = ? AND epoch = ? AND seq BETWEEN ? AND ?", (*key, first_seq, last_seq))
    return {seq: (index, leaf) for seq, index, leaf in rows}
