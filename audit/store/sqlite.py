"""How SQLite files are opened, and which of its errors means what.

Rules:
- WAL with `synchronous=FULL`: COMMIT returns after the flush of the log, so the commit is the acknowledgement.
- No automatic checkpoint of the WAL: SQLite ignores a failed flush there, and a second flush would then falsely succeed. `checkpoint_wal` is called
  between commits and its errors count.
- SQLITE_FULL is the one error that can be waited out. Every other failed write ends the process (`StoreBroken`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audit.store.errors import StoreBroken, StoreDamaged, StoreFull, StoreInUse

_FULL_CODES: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
BUSY_TIMEOUT_MS: Final = 5_000


def open_writer(path: Path) -> sqlite3.Connection:
    """Open an existing or new file for writing, in WAL mode with full flushes. Transactions are begun explicitly.

    Raises:
        StoreFull, StoreBroken: As `translated` says.
    """
    with translated(path):
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=64)
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open an existing file for reading only.

    Raises:
        FileNotFoundError: There is no such file.
        StoreBroken: It cannot be opened.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with translated(path):
        connection = sqlite3.connect(read_only_uri(path), uri=True, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA query_only=ON")
        return connection


def read_only_uri(path: Path) -> str:
    """Return the URI by which SQLite reads a file beside its writer, or where nothing can be written and nothing is left to be moved into it.

    Without write access to the folder SQLite cannot make the index of a write-ahead log. Where there is such a log a writer has made the index too;
    where there is none the file is read as it stands. Taken so while somebody writes, it would lack what was committed last, or be half a page old.
    """
    has_wal = path.with_name(path.name + "-wal").exists()
    is_settled = not has_wal and not os.access(path.parent, os.W_OK)
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_settled else ''}"


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Run the block in one write transaction; whatever goes wrong, nothing of it remains.

    Raises:
        StoreFull, StoreBroken: As `translated` says.
    """
    with translated(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the first error is the one to report
                    connection.execute("ROLLBACK")
            raise


def checkpoint_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Move committed pages from the WAL into the file, as far as readers allow. Never waits for them.

    Raises:
        StoreFull, StoreBroken: As `translated` says.
    """
    with translated(path):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def settle_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Move the whole WAL into the file and flush it; to be done before anything in it is trusted after a restart.

    After a failed flush the system keeps the pages and calls them clean: they read well, a second flush succeeds, and they are not on disk. Moving
    them writes them anew, to another file, and that flush is a true one.

    Raises:
        StoreInUse: A reader held the file for longer than the busy timeout.
        StoreFull, StoreBroken: As `translated` says.
    """
    with translated(path):
        busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    if busy or frames != moved:
        raise StoreInUse(f"a reader holds `{path}`: `{moved}` of `{frames}` pages could be moved\nhint: end the reading process, then restart")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the system in the block into ours.

    Raises:
        StoreFull: No space; nothing was stored, the same can be tried later.
        StoreDamaged: The file holds what SQLite cannot even name.
        StoreBroken: Anything else.
    """
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _FULL_CODES:
            raise StoreFull(f"no space left to write `{path}`: {error}\nhint: free space on this disk; appending resumes by itself") from error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise StoreBroken(f"`{path}` failed with `{name}`: {error}\nhint: check the disk (`dmesg`), then restart") from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged schema in its own message
        raise StoreDamaged(f"`{path}` is damaged: {error}\nhint: restore it from a copy that verifies") from error
    except OSError as error:
        if error.errno in _FULL_ERRNOS:
            raise StoreFull(f"no space left to write `{path}`: {error}\nhint: free space on this disk; appending resumes by itself") from error
        raise StoreBroken(f"`{path}` failed: {error}\nhint: check the disk (`dmesg`), then restart") from error


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
