"""The log in a PostgreSQL database, as one of several recorders appends to it.

Rules:
- One append is one statement in its own transaction: it takes its indices from `head` (`UPDATE ... RETURNING`), inserts the leaves, moves the
  writers. The row of `head` stays locked until the commit, so indices are in the order of commits: a reader never sees a gap.
- UNIQUE(node, epoch, seq) is what makes a repetition after an unknown outcome harmless: at worst the statement fails and this process ends.
- A data directory has one recorder: a lock beside its files, and an advisory lock by its instance, so that a statement of an earlier life that the
  server is still carrying out is over, or ended, before this one reads where the writers stand.
- A writer's name belongs to the directory that used it first. Two gateways under one node name do not share a log.

Example:
    store = PostgresLeafStore.open(data_dir, place)
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audit.store import layout, postgres
from audit.store.control import signed_size
from audit.store.errors import StoreBehind, StoreBroken, StoreDamaged, StoreInUse, WriterEnded
from audit.store.leaves import lock_directory
from audit.store.place import PostgresPlace, instance_of
from audit.store.staging import Run, Seed, Staging, WriterKey

if TYPE_CHECKING:
    import psycopg

WAIT_S: Final = 60.0
"""How long a start waits for the server: it may be starting too, or failing over."""
EARLIER_LIFE_S: Final = 2.0
"""How long a statement of this directory's earlier recorder may take to end by itself."""
_UNPLACED: Final = 1 << 60
"""Indices of staged rows until the commit says where they are; above every index of a log."""

_APPEND: Final = """
WITH placed AS (
  UPDATE head SET next_index = next_index + %(count)s WHERE id = 1 RETURNING next_index - %(count)s AS first_index
), moved AS (
  INSERT INTO writer (node, epoch, last_seq, ended, instance)
  SELECT node, epoch, last_seq, ended, %(instance)s
  FROM unnest(%(w_nodes)b::text[], %(w_epochs)b::bigint[], %(w_seqs)b::bigint[], %(w_ended)b::bool[]) AS w(node, epoch, last_seq, ended)
  ON CONFLICT (node, epoch) DO UPDATE SET last_seq = greatest(writer.last_seq, excluded.last_seq), ended = writer.ended OR excluded.ended
), added AS (
  INSERT INTO leaf (idx, node, epoch, seq, bytes)
  SELECT placed.first_index + item.at - 1, item.node, item.epoch, item.seq, item.bytes
  FROM placed, unnest(%(nodes)b::text[], %(epochs)b::bigint[], %(seqs)b::bigint[], %(leaves)b::bytea[])
    WITH ORDINALITY AS item(node, epoch, seq, bytes, at)
)
SELECT first_index FROM placed
"""
_WRITERS: Final = """
SELECT node, epoch, last_seq, ended FROM writer
WHERE instance = %s AND (NOT ended OR epoch = (SELECT max(epoch) FROM writer AS other WHERE other.node = writer.node))
"""
_END: Final = """
INSERT INTO writer (node, epoch, last_seq, ended, instance) VALUES (%s, %s, -1, true, %s)
ON CONFLICT (node, epoch) DO UPDATE SET ended = true
"""


class PostgresLeafStore(Staging):
    """One recorder's hand on the shared log. Owned by the recorder's one thread."""

    def __init__(self, lock_fd: int, instance: str, connection: psycopg.Connection[tuple[Any, ...]], committed: dict[WriterKey, Seed]) -> None:
        """Take over an opened log; use `open`."""
        super().__init__(committed)
        self._lock_fd = lock_fd
        self._instance = instance
        self._connection = connection
        self._unplaced = _UNPLACED  # provisional index of the next staged row; raised by `commit`
        self._placed: tuple[int, int, int] = (0, 0, 0)  # of the last commit: first provisional index, count, first index; set by `commit`
        self._next_index = 0  # as seen by the last commit; set by `open` and `commit`
        self._claimed = {node for node, _ in committed}  # names known to be this directory's; grown by `admit`
        self._warnings: list[str] = []  # what the server said during the statement under way; cleared by `commit`
        connection.add_notice_handler(self._note_warning)

    @classmethod
    def open(cls, data_dir: Path, place: PostgresPlace, *, wait_s: float = WAIT_S) -> PostgresLeafStore:
        """Lock the directory, reach the server, upgrade the schema, and check the log's end against what was signed.

        Raises:
            StoreInUse: Another recorder has this directory.
            StoreBehind: The log is shorter than a signed size.
            StoreDamaged, SchemaError, StoreFull, StoreBroken, audit.store.postgres.ServerUnusable: It cannot be used as it is.
        """
        layout.ranges_dir(data_dir).mkdir(parents=True, exist_ok=True)
        lock_fd = lock_directory(data_dir)
        try:
            instance = instance_of(data_dir)
            text = place.connection_string()
            connection = postgres.connect(text, f"assay recorder {instance}", wait_s=wait_s)
        except BaseException:
            os.close(lock_fd)
            raise
        try:
            postgres.ensure_schema(connection, text)
            with postgres.translated():
                _take_over(connection, instance)
                # What was signed is read first: others append and sign meanwhile, and the log must not look short for that.
                signed, where = signed_size(data_dir)
                end = _end(connection)
                committed = {(node, epoch): Seed(last_seq, ended) for node, epoch, last_seq, ended in connection.execute(_WRITERS, (instance,))}
            _check_not_behind(end, signed, where)
        except BaseException:
            connection.close()
            os.close(lock_fd)
            raise
        store = cls(lock_fd, instance, connection, committed)
        store._next_index = end
        return store

    @property
    def next_index(self) -> int:
        """Number of leaves in the log when this recorder last committed; others append too."""
        return self._next_index

    def admit(self, key: WriterKey) -> None:
        """Check that this writer may append; as `Staging.admit`, and that its name is this directory's.

        Raises:
            WriterEnded: Another directory uses the name, or as in `Staging.admit`.
        """
        super().admit(key)
        node = key[0]
        if node in self._claimed:
            return
        with postgres.translated():
            self._connection.execute("INSERT INTO claim (node, instance) VALUES (%s, %s) ON CONFLICT DO NOTHING", (node, self._instance))
            row = self._connection.execute("SELECT instance FROM claim WHERE node = %s", (node,)).fetchone()
        if row is None or row[0] != self._instance:
            raise WriterEnded(f"writer name `{node}` belongs to another gateway on this log; hint: give each gateway its own `--node`")
        self._claimed.add(node)

    def commit(self) -> None:
        """Append everything staged in one statement; see `Staging`."""
        staged, ends = self._take_staged()
        first_unplaced = self._unplaced
        self._unplaced += len(staged)
        self._placed = (0, 0, 0)
        if not staged:
            return
        ended = list(ends.values())
        moves = {(row[1], row[2]): (row[3], False) for row in staged}
        moves |= {key: (moves.get(key, (-1, False))[0], True) for key in ended}
        values = {
            "count": len(staged),
            "instance": self._instance,
            "w_nodes": [node for node, _ in moves],
            "w_epochs": [epoch for _, epoch in moves],
            "w_seqs": [seq for seq, _ in moves.values()],
            "w_ended": [is_ended for _, is_ended in moves.values()],
            "nodes": [row[1] for row in staged],
            "epochs": [row[2] for row in staged],
            "seqs": [row[3] for row in staged],
            "leaves": [row[4] for row in staged],
        }
        self._warnings.clear()
        with postgres.translated():
            row = self._connection.execute(_APPEND, values).fetchone()
        if row is None:
            raise StoreBroken("the log's `head` is missing from the database\nhint: it was altered; restore it from a copy that verifies")
        if self._warnings:
            # "The transaction has already committed locally, but might not have been replicated to the standby."
            raise StoreBroken(f"PostgreSQL committed with a warning: {self._warnings[0]}\nhint: see its standbys; the next start reads what is there")
        (first_index,) = row
        self._placed = (first_unplaced, len(staged), first_index)
        self._next_index = first_index + len(staged)
        self._note_committed(staged, ended)

    def settled(self, runs: Sequence[Run]) -> list[Run]:
        """Return what of `runs` is committed, with its indices; see `Staging`."""
        first_unplaced, count, first_index = self._placed
        settled = []
        for run in runs:
            if run.first_index < _UNPLACED:
                settled.append(run)
            elif first_unplaced <= run.first_index < first_unplaced + count:
                settled.append(Run(run.first_seq, run.count, run.first_index - first_unplaced + first_index))
        return settled

    def end_writer(self, key: WriterKey) -> None:
        """Remember that the writer ended by its own record; see `Staging`."""
        with postgres.translated():
            self._connection.execute(_END, (*key, self._instance))
        self._committed[key] = Seed(self.position(key).last_seq, ended=True)

    def housekeep(self, *, idle: bool) -> None:
        """Notice when the server has gone away while nothing is to be written, so that the end comes before the next record.

        Raises:
            StoreBroken: The connection is lost.
        """
        if idle and self._connection.broken:
            raise StoreBroken("the connection to PostgreSQL is lost\nhint: see the server's log; the next start reads what is there")

    def close(self) -> None:
        """Close the connection and let go of the lock."""
        self._connection.close()
        os.close(self._lock_fd)

    def _first_staged_index(self) -> int:
        return self._unplaced

    def _find_committed(self, key: WriterKey, first_seq: int, last_seq: int, found: dict[int, tuple[int, bytes]]) -> dict[int, tuple[int, bytes]]:
        with postgres.translated():
            rows = self._connection.execute(
                "SELECT seq, idx, bytes FROM leaf WHERE node = %s AND epoch = %s AND seq BETWEEN %s AND %s", (*key, first_seq, last_seq), binary=True
            ).fetchall()
        return found | {seq: (index, bytes(leaf)) for seq, index, leaf in rows}

    def _note_warning(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "without words")


def _take_over(connection: psycopg.Connection[tuple[Any, ...]], instance: str) -> None:
    """Hold the instance's advisory lock; end a session of an earlier life that does not let go of it."""
    key = int(instance[:15], 16)
    until_s = time.monotonic() + EARLIER_LIFE_S
    while not _is_true(connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()):
        if time.monotonic() > until_s:
            # The lock beside the files proves that no recorder of this directory lives: what holds on is a session nobody is behind.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
                " AND classid::bigint = %s AND objid::bigint = %s AND pid <> pg_backend_pid()",
                (key >> 32, key & 0xFFFFFFFF),
            )
        if time.monotonic() > until_s + WAIT_S:
            raise StoreInUse("another recorder of this data directory holds the log\nhint: was the directory copied to another machine? One may run")
        time.sleep(postgres.RETRY_S)


def _check_not_behind(end: int, signed: int, where: str) -> None:
    if end < signed:
        raise StoreBehind(where, end, signed)


def _is_true(row: tuple[Any, ...] | None) -> bool:
    return row is not None and row[0] is True


def _end(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    """Return the number of leaves, the same by `head` and by the leaves themselves."""
    row = connection.execute("SELECT (SELECT next_index FROM head), (SELECT max(idx) + 1 FROM leaf)").fetchone()
    if row is None or row[0] is None or (row[1] is not None and row[0] != row[1]):
        found = "nothing" if row is None else f"`{row[0]}` by `head` and `{row[1]}` by the leaves"
        raise StoreDamaged(f"the database says the log has {found}\nhint: it was altered; restore it from a copy that verifies")
    return int(row[0])
