"""The control file: who leads, what was signed, which configuration is in force.

Rules:
- One controller leads. It holds a lock on this machine, and a *term*: a number that every new leader raises. A row is only inserted while its term
  is the newest, so a leader that was stopped and comes back late cannot sign.
- A checkpoint row is inserted only if it is larger than all before it. The statement that inserts is the statement that checks.

Example:
    control = ControlStore.open(data_dir)
    control.lead("n1.controller", now_us)
    control.add_checkpoint(size, root, note)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

import msgspec

from audit.store import layout
from audit.store.errors import CheckpointRefused, StoreDamaged, StoreInUse, TermLost
from audit.store.migrate import CONTROL, ensure_schema
from audit.store.sqlite import checkpoint_wal, open_reader, open_writer, sync_directory, transaction, translated


class Head(msgspec.Struct, frozen=True, gc=False):
    """A signed tree head as stored: number of leaves, 32-byte root, the signed note."""

    size: int
    root: bytes
    note: bytes
    term: int


class ControlStore:
    """The control file, open for writing. Owned by the controller's thread."""

    def __init__(self, data_dir: Path, connection: sqlite3.Connection) -> None:
        """Take over an open connection; use `open`."""
        self._path = layout.control_path(data_dir)
        self._lock_path = layout.controller_lock_path(data_dir)
        self._connection = connection
        self._lock_fd = -1  # held while leading; set by `lead`, closed by `close`
        self.term = 0  # this process's term, 0 before it leads; set by `lead`

    @classmethod
    def open(cls, data_dir: Path) -> ControlStore:
        """Create or upgrade the control file and open it.

        Raises:
            SchemaError, StoreFull, StoreBroken: As in `audit.store.migrate`.
        """
        path = layout.control_path(data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        ensure_schema(path, CONTROL)
        if is_new:
            with translated(path):
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

    def require_term(self) -> None:
        """Check that this process still leads.

        Raises:
            TermLost: another controller has taken over; this one must act no more.
        """
        with translated(self._path):
            self._check_term()

    def _check_term(self) -> None:
        (newest,) = self._connection.execute("SELECT max(term) FROM term").fetchone()
        if newest != self.term:
            raise TermLost(f"this controller has term `{self.term}`, the newest is `{newest}`\nhint: another controller leads; this one must end")


def latest_head(data_dir: Path) -> Head | None:
    """Return the largest signed head of a data directory, reading only; None if nothing was ever signed."""
    path = layout.control_path(data_dir)
    try:
        connection = open_reader(path)
    except FileNotFoundError:
        return None
    with contextlib.closing(connection), translated(path):
        has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'checkpoint'").fetchone()
        return _head(connection) if has_table else None


def signed_size(data_dir: Path) -> tuple[int, str]:
    """Return the largest size that was ever signed here, and the file that says so.

    Both the control file and the published checkpoint are asked, so that restoring an older copy of one of them is noticed.

    Raises:
        StoreDamaged: The published checkpoint cannot be read as one.
    """
    head = latest_head(data_dir)
    size, where = (head.size if head else 0), str(layout.control_path(data_dir))
    path = layout.checkpoint_path(data_dir)
    try:
        lines = path.read_bytes().split(b"\n", 3)
    except FileNotFoundError:
        return size, where
    if len(lines) < 4 or not lines[1].isdigit() or len(lines[1]) > 19:
        raise StoreDamaged(f"`{path}` is not a checkpoint\nhint: put back the published file; it is compared with the store before anything is added")
    published = int(lines[1])
    return (published, str(path)) if published > size else (size, where)


def _head(connection: sqlite3.Connection) -> Head | None:
    row = connection.execute("SELECT size, root, note, term FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    return None if row is None else Head(*row)
