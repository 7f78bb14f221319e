"""The index: rows derived from leaves in `data/index.sqlite`, so that questions need not read the whole log.

Rules:
- It is disposable and never evidence. Delete it at any time; the next `add` starts again from leaf 0. What a person is shown is read from the leaf.
- It is filled in index order without gaps and resumes at `next_index`. A batch sent twice changes nothing; a batch that would leave a gap is refused.
- Damage is noticed, not repaired: a file that is not a sound database, has another layout, misses rows, or ends in another leaf than the log does, is
  removed and rebuilt. The deletion of the file under a running indexer is noticed at the next batch.
- What many records share (model, version, status, ...) is one row of `shape`, which a record's row names: a record then costs one narrow row and four
  entries in secondary indexes instead of a wide row and seven. Shapes are few, because what they hold is configured or coded.
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
from sqlalchemy.orm import registry
from sqlalchemy.pool import NullPool
from sqlmodel import Field, Session, SQLModel, and_, col, create_engine, or_, select
from sqlmodel.sql.expression import Select

from audit.entry import CALL_TYPES
from audit.query import Page, Query, Row, page_of, row_of, start
from audit.store.errors import StoreError

Follow = Callable[[Path, int], Iterable[tuple[int, bytes]]]
"""`follow(data_dir, from_index)`: committed leaves in index order, ending at the last one committed."""

FILE_NAME = "index.sqlite"
LAYOUT = 3
"""Raised with every change of the tables; an index of another layout is rebuilt."""
BATCH_ROWS = 2048
CHECKED_BYTES = 64 << 20
"""Up to this size every page is checked when the index is opened; above, a damaged page is noticed when it is read."""
CACHE_KIB = 32 * 1024
"""Pages kept by the writer: subjects and ids fall anywhere in their indexes."""
CHECKPOINT_PAGES = 8000
"""Pages in the WAL before they are copied back, so that a page changed by many batches is copied once."""
BUSY_MS = 1000
"""How long a write waits for another process's batch."""

logger = logging.getLogger(__name__)


class _Tables(SQLModel, registry=registry()):
    """Own registry: these tables are rebuilt, never migrated, and stay out of the ledger's metadata."""


class Shape(_Tables, table=True):
    """What many records have in common. Columns as in `audit.query.Row`."""

    __tablename__ = "shape"

    id: int = Field(primary_key=True)
    digest: bytes
    """SHA-256 of the other columns, by which a shape is found; its index has nothing else in it."""
    type: str
    tenant: str
    actor: str
    model: str | None
    version: str | None
    policy: str | None
    rule: str | None
    experiment: str | None
    assigned: str | None
    served: str | None
    status: int | None
    code: str | None


class Indexed(_Tables, table=True):
    """One leaf: what is its own, and the shape it shares."""

    __tablename__ = "leaf_index"

    idx: int = Field(primary_key=True)
    shape: int
    time: str
    id: str
    decision: str | None
    """NULL where it is the record's own id: of calls."""
    subject: str | None


class Progress(_Tables, table=True):
    """One row: how far the index reaches, and the SHA-256 of the last leaf in it."""

    __tablename__ = "progress"

    id: int = Field(primary_key=True)
    layout: int
    next_index: int
    tail_sha256: str


# Few and chosen: each costs time per record. Partial ones hold only the rows that have the value.
_INDEXES = (("shape", "shape"), ("time", "time"), ("id", "id"), ("decision", "decision"), ("subject", "subject"))
_SHAPE = tuple(name for name in Shape.model_fields if name not in ("id", "digest"))
_OWN = ("idx", "shape", "time", "id", "decision", "subject")
_INSERT = f"INSERT OR IGNORE INTO leaf_index ({', '.join(_OWN)}) VALUES ({', '.join('?' * len(_OWN))})"  # noqa: S608 - column names of a constant
_FIND_SHAPE = "SELECT id FROM shape WHERE digest = ?"
_INSERT_SHAPE = f"INSERT INTO shape (digest, {', '.join(_SHAPE)}) VALUES (?, {', '.join('?' * len(_SHAPE))})"  # noqa: S608 - as above
_SHAPES_MERGED = 64
"""Up to so many shapes a page is merged from one short walk for each; past it the rows are walked in index order."""
_SHAPES_REMEMBERED = 65_536
_shape_of = attrgetter(*_SHAPE)
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

    def __init__(self, data_dir: Path, follow: Follow) -> None:
        """Open the index, removing it first if it is damaged or belongs to another log.

        Args:
            data_dir: the data directory.
            follow: reads committed leaves from an index on.
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
        self._shapes: dict[ShapeKey, int] = {}  # of this file; forgotten with it, and when a batch is rolled back
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
        """
        indexed = self.next_index
        position = start(query, cursor, indexed if size is None else min(size, indexed))
        first, end = position.bounds(query)
        shapes = self._matching_shapes(query)
        statement = _statement(query).where(col(Indexed.idx) >= first, col(Indexed.idx) < end).limit(limit + 1)
        if shapes is None or query.id or query.decision or query.subject or len(shapes) > _SHAPES_MERGED:
            statements = [statement if shapes is None else statement.where(col(Indexed.shape).in_(shapes))]
        else:
            # In `by_shape` the rows of a shape lie in index order: no sort, and never more than a page of each is read.
            statements = [statement.where(col(Indexed.shape) == shape) for shape in shapes]
        with Session(self._connection) as session:
            found = [_row(indexed, shape) for statement in statements for indexed, shape in session.exec(statement)]
        found.sort(key=lambda row: row.idx, reverse=not query.oldest_first)
        del found[limit + 1 :]
        return page_of(query, position, found, limit)

    def related(self, decision_id: str, limit: int = 1000) -> tuple[Row, ...]:
        """Rows of every record about one decision, oldest first: the decision, its outcome, its feedback."""
        return self.page(Query(decision=decision_id, oldest_first=True), limit=limit).rows

    def _matching_shapes(self, query: Query) -> list[int] | None:
        """Return the shapes that answer the question; None when it asks for nothing that shapes hold."""
        wanted = {name: value for name, value in query.equals().items() if name in _SHAPE}
        if not wanted and query.arm is None:
            return None
        statement = select(Shape.id)
        for name, value in wanted.items():
            statement = statement.where(getattr(Shape, name) == value)
        if query.arm is not None:
            statement = statement.where(or_(col(Shape.assigned) == query.arm, col(Shape.served) == query.arm))
        with Session(self._connection) as session:
            return list(session.exec(statement))

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
        is_small = self.path.stat().st_size <= CHECKED_BYTES
        (found,) = raw.execute("PRAGMA quick_check(1)").fetchone() if is_small else ("ok",)
        layout, wanted, tail = self._progress()
        counted = raw.execute("SELECT count(*), coalesce(max(idx), -1) FROM leaf_index").fetchone()
        if found != "ok":
            return f"quick_check says `{found}`"
        if layout != LAYOUT:
            return f"layout `{layout}`, expected `{LAYOUT}`"
        if counted != (wanted, wanted - 1):
            return f"`{counted[0]}` rows up to index `{counted[1]}`, expected `{wanted}`"
        if wanted and _sha256_of_first(self._follow(self._data_dir, wanted - 1), wanted - 1) != tail:
            return "the log ends in another leaf"
        return None

    def _first_difference(self) -> str | None:
        with Session(self._connection) as session:
            rows = session.exec(_statement(Query(oldest_first=True)))
            place = -1
            for (indexed, shape), (place, leaf) in zip(rows, self._follow(self._data_dir, 0), strict=False):
                if _row(indexed, shape) != row_of(place, leaf):
                    return f"row `{place}` differs from its leaf"
        return None if place + 1 == self.next_index else f"row `{place + 1}` names no shape"

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
                raw.executemany(_INSERT, [self._own(raw, row_of(idx, leaf)) for idx, leaf in fresh])
                wanted += len(fresh)
                tail = hashlib.sha256(fresh[-1][1]).hexdigest()
                raw.execute("UPDATE progress SET next_index = ?, tail_sha256 = ?", (wanted, tail))
            raw.execute("COMMIT")
        except BaseException:
            self._shapes.clear()
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise
        return int(wanted)

    def _own(self, raw: sqlite3.Connection, row: Row) -> tuple[int, int, str, str, str | None, str | None]:
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

    def _create_tables(self) -> None:
        raw = self._driver()
        raw.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        raw.execute("PRAGMA synchronous = OFF")  # lost at power loss, then noticed and rebuilt: it is derived
        _Tables.metadata.create_all(self._connection)
        self._connection.commit()
        for name, column in _INDEXES:
            raw.execute(f"CREATE INDEX IF NOT EXISTS by_{name} ON leaf_index ({column}) WHERE {column} IS NOT NULL")
        raw.execute("CREATE UNIQUE INDEX IF NOT EXISTS shape_by_digest ON shape (digest)")
        raw.execute("CREATE INDEX IF NOT EXISTS shape_by_type ON shape (type, actor, model)")
        raw.execute("INSERT OR IGNORE INTO progress VALUES (1, ?, 0, '')", (LAYOUT,))

    def _rebuild(self, fault: str) -> None:
        self._connection.close()
        self._shapes.clear()
        self._remove(fault)
        self._open()

    def _remove(self, fault: str) -> None:
        logger.warning("the index `%s` is rebuilt: %s", self.path, fault)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def _refuse_gap(fresh: Sequence[tuple[int, bytes]], wanted: int) -> None:
    if any(idx != wanted + place for place, (idx, _) in enumerate(fresh)):
        raise GapError(f"leaves `{fresh[0][0]}` to `{fresh[-1][0]}` offered, but `{wanted}` is next, without gaps")


def _statement(query: Query) -> Select[Indexed, Shape]:
    """Return the question as far as a record's own row answers it; its shape comes with each row."""
    order = col(Indexed.idx).asc() if query.oldest_first else col(Indexed.idx).desc()
    statement = select(Indexed, Shape).where(col(Indexed.shape) == col(Shape.id)).order_by(order)
    if query.id is not None:
        statement = statement.where(col(Indexed.id) == query.id)
    if query.subject is not None:
        statement = statement.where(col(Indexed.subject) == query.subject)
    if query.decision is not None:
        own = and_(col(Indexed.id) == query.decision, col(Shape.type).in_(sorted(CALL_TYPES)))
        statement = statement.where(or_(own, col(Indexed.decision) == query.decision))
    if query.since is not None:
        statement = statement.where(col(Indexed.time) >= query.since)
    if query.until is not None:
        statement = statement.where(col(Indexed.time) < query.until)
    return statement


def _row(indexed: Indexed, shape: Shape) -> Row:
    decision = indexed.id if shape.type in CALL_TYPES else indexed.decision
    shared = {name: getattr(shape, name) for name in _SHAPE}
    return Row(idx=indexed.idx, time=indexed.time, id=indexed.id, decision=decision, subject=indexed.subject, **shared)


def _is_unavailable(error: Exception) -> bool:
    return any(words in str(error) for words in ("locked", "readonly", "unable to open", "disk is full", "disk I/O"))


def _is_damage(error: sqlite3.OperationalError) -> bool:
    return any(words in str(error) for words in ("no such table", "no such column", "has no column"))


def _sha256_of_first(leaves: Iterable[tuple[int, bytes]], wanted: int) -> str | None:
    for idx, leaf in leaves:
        return hashlib.sha256(leaf).hexdigest() if idx == wanted else None
    return None
