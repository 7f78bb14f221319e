"""The index: rows derived from leaves in `data/index.sqlite`, so that questions need not read the whole log.

Rules:
- It is disposable and never evidence. Delete it at any time; the next `add` starts again from leaf 0. What a person is shown is read from the leaf.
- It is filled in index order without gaps and resumes at `next_index`. A batch sent twice changes nothing; a batch that would leave a gap is refused.
- Damage is noticed, not repaired: a file that is not a sound database, has another layout, misses rows, or ends in another leaf than the log does, is
  removed and rebuilt. The deletion of the file under a running indexer is noticed at the next batch.
- What many records share (model, version, status, ...) is one row of `shape`, which a record's row names. Shapes are few, because what they hold is
  configured or coded.
- Everything is written in the order of the log: no record changes a page that holds old ones, so that a record costs the same however many there
  are. A full block of rows gets, once: its records by shape, by id, decision and subject (`audit/postings.py`), and its earliest and latest time.
  The postings of a full run of blocks are sorted together. What follows the last full block is read row by row.
- Postings, shapes and times only say where to look. Whether a row answers is asked of the row (`Query.matches`), and a row that should be there
  and is not is damage.
- Rows edited in place so that counts still agree are found by `damage(deep=...)` or avoided by `--full-scan`.

Example:
    with Indexer(Path("data"), follow) as indexer:
        indexer.catch_up()
        page = indexer.page(Query(model="credit-risk"), limit=50)
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import create_engine

from audit.entry import CALL_TYPES
from audit.index_tables import LAYOUT, METADATA, OWN, SHARED
from audit.lookup import Lookup, OwnRow, Span, missing
from audit.postings import PARTS, Sizes, block_entries, run_parts, shape_places
from audit.query import Page, Query, Row, page_of, row_of, start
from audit.store.errors import StoreError

Follow = Callable[[Path, int], Iterable[tuple[int, bytes]]]
"""`follow(data_dir, from_index)`: committed leaves in index order, ending at the last one committed."""

FILE_NAME = "index.sqlite"
BATCH_ROWS = 2048
CHECKED_BYTES = 64 << 20
"""Up to this size every page is checked and every row counted when the index is opened; above, what is missing is noticed when it is asked for."""
CACHE_KIB = 8 * 1024
CHECKPOINT_PAGES = 1000
"""Pages in the WAL before they are copied back."""
BUSY_MS = 1000
"""How long a write waits for another process's batch."""

logger = logging.getLogger(__name__)

_INSERT = f"INSERT INTO leaf_index ({', '.join(OWN)}) VALUES ({', '.join('?' * len(OWN))})"  # noqa: S608 - column names of a constant
_FIND_SHAPE = "SELECT id FROM shape WHERE digest = ?"
_INSERT_SHAPE = f"INSERT INTO shape (digest, {', '.join(SHARED)}) VALUES (?, {', '.join('?' * len(SHARED))})"  # noqa: S608 - as above
_SHAPES_REMEMBERED = 65_536
_shape_of = attrgetter(*SHARED)
ShapeKey = tuple[str | int | None, ...]


class IndexUnavailable(StoreError):  # noqa: N818 - reads as the state it is
    """The index cannot be written now: locked for too long, read-only, or no space. The log is unharmed; try again."""


class GapError(Exception):
    """A batch starts past the end of the index; feed from `next_index`."""


INDEX_FAULTS = (OSError, sqlite3.Error, SQLAlchemyError, GapError)
"""What can befall whoever opens, feeds or asks an index, beside a `StoreError`: the file is disposable, and anyone may remove it."""


class Indexer:
    """Fills and asks the index of one data directory.

    Owner: one thread of one process; several processes may each have one. It may be handed from one thread to another, never used by two at once.
    """

    def __init__(self, data_dir: Path, follow: Follow, sizes: Sizes = Sizes()) -> None:  # noqa: B008 - immutable
        """Open the index, removing it first if it is damaged or belongs to another log.

        Args:
            data_dir: the data directory.
            follow: reads committed leaves from an index on.
            sizes: rows of blocks and runs; the same for whoever opens the same file.
        """
        self.path = data_dir / FILE_NAME
        self._data_dir = data_dir
        self._follow = follow
        self._inode: int | None = None  # of the open file; owner: _open
        # Driver in autocommit: a read sees the newest state, a write says BEGIN IMMEDIATE itself.
        self._engine: Engine = create_engine(
            f"sqlite:///{self.path}", poolclass=NullPool, connect_args={"isolation_level": None, "check_same_thread": False}
        )
        self._connection: Connection  # owner: _open, close
        self._sizes = sizes
        self._lookup: Lookup  # owner: _open
        self._shapes: dict[ShapeKey, int] = {}  # of this file; forgotten with it, and when a batch is rolled back
        self._young: list[OwnRow] = []  # rows after the last full block, where this process knows them; changed and forgotten likewise
        self._open()
        fault = self.damage()
        if fault is not None:
            self._rebuild(fault)

    def __enter__(self) -> Self:
        """The indexer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._connection.close()
        self._engine.dispose()

    @property
    def next_index(self) -> int:
        """Index of the first leaf not yet in the index; what to feed next."""
        return self._progress()[1]

    def add(self, batch: Sequence[tuple[int, bytes]]) -> int:
        """Index a batch of consecutive leaves and return the next index wanted, which is 0 after a rebuild.

        Raises:
            GapError: when the batch starts past `next_index` of a sound index.
            IndexUnavailable: when the file cannot be written now.
        """
        if self._is_gone():
            self._rebuild("the file was deleted or replaced")
            return 0
        try:
            return self._insert(batch)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise IndexUnavailable(f"`{self.path}`: {error}") from error
            self._rebuild(str(error))
            return 0

    def catch_up(self) -> int:
        """Index every committed leaf that is missing; returns the number of leaves indexed in all."""
        wanted = self.next_index
        leaves = iter(self._follow(self._data_dir, wanted))
        while batch := list(islice(leaves, BATCH_ROWS)):
            wanted = self.add(batch)
            if wanted != batch[-1][0] + 1:
                leaves = iter(self._follow(self._data_dir, wanted))
        return wanted

    def page(self, query: Query, *, limit: int, cursor: str | None = None, size: int | None = None) -> Page:
        """Answer a question from the index; the same rows as `audit.query.full_scan`.

        Args:
            query: the question.
            limit: most rows on the page, at least 1.
            cursor: of the page before, or None.
            size: tree size to pin a fresh walk to; at most, and by default, what is indexed.

        Raises:
            QueryError: on a cursor that does not fit.
            IndexUnavailable: it cannot be read now, or was found damaged and is being made anew.
        """
        try:
            return self._page(query, limit=limit, cursor=cursor, size=size)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise IndexUnavailable(f"`{self.path}`: {error}") from error
            self._rebuild(str(error))
            raise IndexUnavailable(f"`{self.path}` was damaged ({error}) and is made anew from the log; ask again") from error

    def _page(self, query: Query, *, limit: int, cursor: str | None, size: int | None) -> Page:
        raw = self._driver()
        raw.execute("BEGIN")
        try:
            indexed = self.next_index
            position = start(query, cursor, indexed if size is None else min(size, indexed))
            span = Span(*position.bounds(query), query.oldest_first)
            found = list(islice(self._lookup.find(query, span, indexed), limit + 1))
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
        return page_of(query, position, found, limit)

    def related(self, decision_id: str, limit: int = 1000) -> tuple[Row, ...]:
        """Rows of every record about one decision, oldest first: the decision, its outcome, its feedback."""
        return self.page(Query(decision=decision_id, oldest_first=True), limit=limit).rows

    def damage(self, *, deep: bool = False) -> str | None:
        """Say what is wrong with the index, or None.

        Args:
            deep: also compare every row with its leaf; reads the whole log.
        """
        try:
            return self._fault() or (self._first_difference() if deep else None)
        except (sqlite3.DatabaseError, DatabaseError) as error:
            return str(error)

    def _fault(self) -> str | None:
        raw = self._driver()
        layout, wanted, tail = self._progress()
        if layout != LAYOUT:
            return f"layout `{layout}`, expected `{LAYOUT}`"
        if self.path.stat().st_size <= CHECKED_BYTES:
            (found,) = raw.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                return f"quick_check says `{found}`"
            fault = self._miscounted(wanted)
            if fault is not None:
                return fault
        (highest,) = raw.execute("SELECT coalesce(max(idx), -1) FROM leaf_index").fetchone()
        if highest != wanted - 1:
            return f"rows up to index `{highest}`, expected `{wanted - 1}`"
        if wanted and _sha256_of_first(self._follow(self._data_dir, wanted - 1), wanted - 1) != tail:
            return "the log ends in another leaf"
        return None

    def _miscounted(self, rows: int) -> str | None:
        """Say which table has not as many rows as the index must have."""
        blocks = rows // self._sizes.block
        runs = blocks // self._sizes.blocks_a_run
        raw = self._driver()
        (placed,) = raw.execute("SELECT coalesce(sum(length(places)), 0) / 2 FROM shape_block").fetchone()
        counts = {
            "rows": (raw.execute("SELECT count(*) FROM leaf_index").fetchone()[0], rows),
            "blocks": (raw.execute("SELECT count(*) FROM block").fetchone()[0], blocks),
            "places by shape": (placed, blocks * self._sizes.block),
            "postings of blocks": (
                raw.execute("SELECT count(*) FROM block_postings").fetchone()[0],
                blocks - runs * self._sizes.blocks_a_run,
            ),
            "postings of runs": (raw.execute("SELECT count(*) FROM run_postings").fetchone()[0], runs * PARTS),
        }
        return next((f"`{found}` {what}, expected `{expected}`" for what, (found, expected) in counts.items() if found != expected), None)

    def _first_difference(self) -> str | None:
        """Compare every row with its leaf, and all that is derived from rows with what they give."""
        young: list[OwnRow] = []
        block = self._sizes.block
        rows = self._lookup.own_rows(0, self.next_index)
        place, postings = -1, []
        for own, (place, leaf) in zip(rows, self._follow(self._data_dir, 0), strict=False):
            if self._lookup.row(own) != row_of(place, leaf):
                return f"row `{place}` differs from its leaf"
            young.append(own)
            if len(young) == block:
                postings.append(block_entries(_keys(young), self._sizes.run))
                fault = self._derived_fault(place // block, young, postings)
                if fault is not None:
                    return fault
                young = []
                if len(postings) == self._sizes.blocks_a_run:
                    postings = []
        return None if place + 1 == self.next_index else f"row `{place + 1}` is missing"

    def _derived_fault(self, number: int, rows: list[OwnRow], postings: list[bytes]) -> str | None:
        """Say what is wrong with what is derived from a full block's rows; `postings` are those of its run so far."""
        raw = self._driver()
        if raw.execute("SELECT low_time, high_time FROM block WHERE number = ?", (number,)).fetchone() != _times(rows):
            return f"the times of block `{number}` are others than its rows'"
        places = dict(raw.execute("SELECT shape, places FROM shape_block WHERE block = ?", (number,)).fetchall())
        if places != shape_places([row[:2] for row in rows], self._sizes.block):
            return f"the shapes of block `{number}` are others than its rows'"
        run = number // self._sizes.blocks_a_run
        if run >= self.next_index // self._sizes.run:
            found = raw.execute("SELECT entries FROM block_postings WHERE block = ?", (number,)).fetchone()
            return None if found == (postings[-1],) else f"the postings of block `{number}` are others than its rows'"
        if len(postings) < self._sizes.blocks_a_run:
            return None
        parts = raw.execute("SELECT entries FROM run_postings WHERE place >= ? AND place < ? ORDER BY place", (run * PARTS, (run + 1) * PARTS))
        return None if [part for (part,) in parts] == run_parts(postings) else f"the postings of run `{run}` are others than its rows'"

    def _progress(self) -> tuple[int, int, str]:
        found = self._driver().execute("SELECT layout, next_index, tail_sha256 FROM progress").fetchone()
        return (0, 0, "") if found is None else (found[0], found[1], found[2])

    def _insert(self, batch: Sequence[tuple[int, bytes]]) -> int:
        raw = self._driver()
        raw.execute("BEGIN IMMEDIATE")  # two processes may index the same log; the second sees the first one's progress
        try:
            (wanted,) = raw.execute("SELECT next_index FROM progress").fetchone()
            fresh = [pair for pair in batch if pair[0] >= wanted]
            if fresh:
                _refuse_gap(fresh, wanted)
                self._append(raw, wanted, [self._own(raw, row_of(idx, leaf)) for idx, leaf in fresh])
                wanted += len(fresh)
                tail = hashlib.sha256(fresh[-1][1]).hexdigest()
                raw.execute("UPDATE progress SET next_index = ?, tail_sha256 = ?", (wanted, tail))
            raw.execute("COMMIT")
        except BaseException:
            self._forget()
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise
        return int(wanted)

    def _append(self, raw: sqlite3.Connection, wanted: int, fresh: list[OwnRow]) -> None:
        """Insert rows from `wanted` on, and close the blocks they fill."""
        raw.executemany(_INSERT, fresh)
        block, first = self._sizes.block, wanted - wanted % self._sizes.block
        if len(self._young) != wanted - first or (self._young and self._young[0][0] != first):
            self._young = list(self._lookup.own_rows(first, wanted))  # another process has indexed since, or this one has just begun
        rows = self._young + fresh
        for at in range(0, len(rows) - len(rows) % block, block):
            self._close_block(raw, (first + at) // block, rows[at : at + block])
        self._young = rows[len(rows) - len(rows) % block :]

    def _close_block(self, raw: sqlite3.Connection, number: int, rows: list[OwnRow]) -> None:
        """Derive what is asked of a full block, once; and of a full run."""
        raw.execute("INSERT INTO block (number, low_time, high_time) VALUES (?, ?, ?)", (number, *_times(rows)))
        places = shape_places([row[:2] for row in rows], self._sizes.block)
        raw.executemany(
            "INSERT INTO shape_block (shape, block, places) VALUES (?, ?, ?)", [(shape, number, packed) for shape, packed in places.items()]
        )
        raw.execute("INSERT INTO block_postings (block, entries) VALUES (?, ?)", (number, block_entries(_keys(rows), self._sizes.run)))
        run, last = divmod(number + 1, self._sizes.blocks_a_run)
        if last:
            return
        blocks = [entries for (entries,) in raw.execute("SELECT entries FROM block_postings ORDER BY block")]
        if len(blocks) != self._sizes.blocks_a_run:
            raise missing(f"postings of every block of run `{run - 1}`")
        parts = enumerate(run_parts(blocks), (run - 1) * PARTS)
        raw.executemany("INSERT INTO run_postings (place, entries) VALUES (?, ?)", parts)
        raw.execute("DELETE FROM block_postings")

    def _forget(self) -> None:
        """Forget what is known of the file."""
        self._shapes.clear()
        self._young = []

    def _own(self, raw: sqlite3.Connection, row: Row) -> OwnRow:
        """Return the columns of a record's row, its shape found or made within the batch's transaction."""
        key: ShapeKey = _shape_of(row)
        shape = self._shapes.get(key)
        if shape is None:
            digest = hashlib.sha256(msgspec.json.encode(key)).digest()
            found = raw.execute(_FIND_SHAPE, (digest,)).fetchone()
            shape = int(found[0] if found is not None else raw.execute(_INSERT_SHAPE, (digest, *key)).lastrowid or 0)
            if len(self._shapes) >= _SHAPES_REMEMBERED:
                self._shapes.clear()
            self._shapes[key] = shape
        return row.idx, shape, row.time, row.id, None if row.type in CALL_TYPES else row.decision, row.subject

    def _driver(self) -> sqlite3.Connection:
        driver = self._connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection):
            raise TypeError(f"the index needs the sqlite3 driver, not `{type(driver).__name__}`")
        return driver

    def _is_gone(self) -> bool:
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def _open(self) -> None:
        for attempt in (0, 1):
            self._connection = self._engine.connect()
            try:
                self._create_tables()
                break
            except (sqlite3.DatabaseError, DatabaseError) as error:
                self._connection.close()
                if attempt or _is_unavailable(error):
                    raise IndexUnavailable(f"`{self.path}`: {error}") from error
                self._remove(str(error))
        self._inode = self.path.stat().st_ino
        self._lookup = Lookup(self._driver(), self._sizes)

    def _create_tables(self) -> None:
        raw = self._driver()
        raw.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        raw.execute("PRAGMA synchronous = OFF")  # lost at power loss, then noticed and rebuilt: it is derived
        METADATA.create_all(self._connection)
        self._connection.commit()
        raw.execute("CREATE UNIQUE INDEX IF NOT EXISTS shape_by_digest ON shape (digest)")
        raw.execute("CREATE INDEX IF NOT EXISTS shape_by_type ON shape (type, actor, model)")
        raw.execute("INSERT OR IGNORE INTO progress VALUES (1, ?, 0, '')", (LAYOUT,))

    def _rebuild(self, fault: str) -> None:
        self._connection.close()
        self._forget()
        self._remove(fault)
        self._open()

    def _remove(self, fault: str) -> None:
        logger.warning("the index `%s` is rebuilt: %s", self.path, fault)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def _refuse_gap(fresh: Sequence[tuple[int, bytes]], wanted: int) -> None:
    if any(idx != wanted + place for place, (idx, _) in enumerate(fresh)):
        raise GapError(f"leaves `{fresh[0][0]}` to `{fresh[-1][0]}` offered, but `{wanted}` is next, without gaps")


def _keys(rows: Iterable[OwnRow]) -> Iterable[tuple[int, str, str | None, str | None]]:
    return ((index, own, decision, subject) for index, _, _, own, decision, subject in rows)


def _times(rows: Iterable[OwnRow]) -> tuple[str, str]:
    times = [row[2] for row in rows]
    return min(times), max(times)


def _is_unavailable(error: Exception) -> bool:
    return any(words in str(error) for words in ("locked", "readonly", "unable to open", "disk is full", "disk I/O"))


def _is_damage(error: sqlite3.OperationalError) -> bool:
    return any(words in str(error) for words in ("no such table", "no such column", "has no column"))


def _sha256_of_first(leaves: Iterable[tuple[int, bytes]], wanted: int) -> str | None:
    for idx, leaf in leaves:
        return hashlib.sha256(leaf).hexdigest() if idx == wanted else None
    return None
