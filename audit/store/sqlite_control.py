"""The control store in a SQLite file beside the log: one controller on one machine.

A lock beside the file says who leads; it falls with the process. The term is raised all the same, so that a leader that lost its lock with its
file system cannot sign when it comes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from audit.store import layout
from audit.store.control import ControlStore, Head
from audit.store.errors import CheckpointRefused, StoreDamaged, StoreInUse, TermLost
from audit.store.migrate import CONTROL, ensure_schema
from audit.store.ranges import clean_aside
from audit.store.sqlite import checkpoint_wal, open_reader, open_writer, sync_directory, transaction, translated


class SqliteControlStore(ControlStore):
    """The control file, open for writing. Owned by the controller's thread."""

    def __init__(self, data_dir: Path, connection: sqlite3.Connection) -> None:
        """Take over an open connection; use `ControlStore.open`."""
        super().__init__()
        self._path = layout.control_path(data_dir)
        self._lock_path = layout.controller_lock_path(data_dir)
        self._connection = connection
        self._lock_fd = -1  # held while leading; set by `lead`, closed by `close`

    @classmethod
    def open_file(cls, data_dir: Path) -> SqliteControlStore:
        """Create or upgrade the control file and open it.

        Raises:
            SchemaError, StoreFull, StoreBroken: As in `audit.store.migrate`.
        """
        path = layout.control_path(data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            ensure_schema(path, CONTROL)
        else:
            # Made aside: the recorder reads this file, and a first migration cut short is nothing that a reader could roll back.
            aside = clean_aside(path)
            ensure_schema(aside, CONTROL)
            with translated(path):
                aside.rename(path)
                sync_directory(data_dir)
        return cls(data_dir, open_writer(path))

    def lead(self, node: str, now_us: int) -> int:
        """Become the one leading controller and return the new term.

        Raises:
            StoreInUse: Another process leads.
        """
        with translated(self._lock_path):
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreInUse(f"another controller leads (`{self._lock_path}` is locked)\nhint: stop it, or use another data directory") from error
        try:
            with transaction(self._connection, self._path):
                (term,) = self._connection.execute("SELECT coalesce(max(term), 0) + 1 FROM term").fetchone()
                self._connection.execute("INSERT INTO term (term, node, started_us) VALUES (?, ?, ?)", (term, node, now_us))
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd, self.term = fd, term
        return self.term

    def head(self) -> Head | None:
        """Return the largest signed head, None before the first."""
        with translated(self._path):
            return _head(self._connection)

    def add_checkpoint(self, size: int, root: bytes, note: bytes) -> None:
        """Store a signed head; on return it is durable.

        Raises:
            TermLost: A newer leader exists, or this process never led.
            CheckpointRefused: It is not larger than every head before.
        """
        with transaction(self._connection, self._path):
            inserted = self._connection.execute(
                "INSERT INTO checkpoint (size, root, note, term) SELECT :size, :root, :note, :term"
                " WHERE :size > (SELECT coalesce(max(size), -1) FROM checkpoint) AND :term = (SELECT max(term) FROM term)",
                {"size": size, "root": root, "note": note, "term": self.term},
            ).rowcount
        if inserted != 1:
            self._check_term()
            head = self.head()
            raise CheckpointRefused(f"checkpoint of size `{size}` does not grow the log, whose largest signed size is `{head and head.size}`")

    def install_bundle(self, digest: str, now_us: int) -> None:
        """Store that the configuration with this digest takes force.

        Raises:
            TermLost: As in `add_checkpoint`.
        """
        with transaction(self._connection, self._path):
            inserted = self._connection.execute(
                "INSERT INTO bundle (digest, term, installed_us) SELECT :digest, :term, :now_us WHERE :term = (SELECT max(term) FROM term)",
                {"digest": digest, "term": self.term, "now_us": now_us},
            ).rowcount
        if inserted != 1:
            self._check_term()

    def current_bundle(self) -> str | None:
        """Return the digest of the configuration in force, None before the first."""
        with translated(self._path):
            row = self._connection.execute("SELECT digest FROM bundle ORDER BY serial DESC LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def renew(self) -> None:
        """Check that this process still leads; the lock needs no renewal.

        Raises:
            TermLost: A newer leader exists.
        """
        self.require_term()

    def require_term(self) -> None:
        """Check that this process still leads; see `ControlStore`."""
        with translated(self._path):
            self._check_term()

    def keep_objects(self, objects: Mapping[str, bytes]) -> None:
        """Do nothing: there is one node, and its documents lie beside."""

    def object(self, digest: str) -> bytes | None:
        """Return None: there is no other node."""
        del digest
        return None

    def flush_wal(self) -> None:
        """Move the WAL into the file; to be called now and then."""
        checkpoint_wal(self._connection, self._path)

    def close(self) -> None:
        """Close the file and stop leading. Idempotent."""
        with translated(self._path):
            self._connection.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _check_term(self) -> None:
        (newest,) = self._connection.execute("SELECT max(term) FROM term").fetchone()
        if newest != self.term:
            raise TermLost(f"this controller has term `{self.term}`, the newest is `{newest}`\nhint: another controller leads; this one must end")


def read_head(data_dir: Path) -> Head | None:
    """Return the largest signed head of a control file, reading only; None if nothing was ever signed."""
    path = layout.control_path(data_dir)
    try:
        connection = open_reader(path)
    except FileNotFoundError:
        return None
    with contextlib.closing(connection), translated(path):
        has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'checkpoint'").fetchone()
        return _head(connection) if has_table else None


def _head(connection: sqlite3.Connection) -> Head | None:
    row = connection.execute("SELECT size, root, note, term FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    if row is None:
        return None
    if [type(value) for value in row] != [int, bytes, bytes, int]:  # SQLite keeps any type in any column
        raise StoreDamaged("a signed head in `control.sqlite` is not one\nhint: the file was altered; restore it from a copy that verifies")
    return Head(*row)
