"""Where a log is read from: a directory, an HTTP server, and the rows of a log that is still being written.

Rules:

- A source reads `checkpoint` and tile paths, nothing else: a path that is not in its one spelling is refused before anything is opened.
- A directory source follows no link, neither for the file nor for a folder on the way; it reads regular files of bounded size.
- An HTTP source follows no redirect, takes no compressed reply, and stops reading at the bound.
- "Not there" is None; "there, but cannot or must not be read" is `SourceError`.

Example:
    log = open_directory(Path("data"))
    log.entries(0, 256)
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import httpx

from audit.store.errors import StoreError
from audit.store.layout import RANGE_LEAVES
from audit.store.place import PostgresPlace, postgres_place
from audit.store.sqlite import read_only_uri
from audit.tiles import ENTRY_LIMIT_BYTES, WIDTH, TileError, decode_bundle, entries_path, limit_bytes, parse_path

CHECKPOINT: Final = "checkpoint"


class SourceError(Exception):
    """A file of the log cannot be read. `is_refused` when it must not be: a link, an over-long file, a malformed path."""

    def __init__(self, path: str, message: str, *, is_refused: bool = False) -> None:
        """Name the file and what is wrong."""
        super().__init__(f"`{path}`: {message}")
        self.path = path
        self.is_refused = is_refused


class Source(Protocol):
    """Reads files of a log by their C2SP paths."""

    def read(self, path: str) -> bytes | None:
        """Return the file, None when there is none; raises `SourceError`."""


def _checked(path: str) -> str:
    """Return `path` if a log can have such a file."""
    if path != CHECKPOINT:
        try:
            parse_path(path)
        except TileError as error:
            raise SourceError(path[:80], str(error), is_refused=True) from error
    return path


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A log in a directory."""

    root: Path

    def read(self, path: str) -> bytes | None:
        """Return the file, None when there is none; raises `SourceError`."""
        *folders, name = _checked(path).split("/")
        limit = limit_bytes(path)
        try:
            directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for folder in folders:
                    inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                    os.close(directory)
                    directory = inner
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            finally:
                os.close(directory)
        except FileNotFoundError:
            return None
        except OSError as error:  # ELOOP and ENOTDIR are links in the way
            is_link = error.errno in {40, 20}
            raise SourceError(path, f"is a link or not a file: {error.strerror}" if is_link else str(error.strerror), is_refused=is_link) from error
        with contextlib.closing(_Descriptor(descriptor)):
            return _read_regular(descriptor, path, limit)


@dataclass(slots=True)
class _Descriptor:
    """Closes a file descriptor once."""

    number: int

    def close(self) -> None:
        os.close(self.number)


def _read_regular(descriptor: int, path: str, limit: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(path, "is not a regular file", is_refused=True)
    if status.st_size > limit:
        raise SourceError(path, f"has `{status.st_size}` bytes, at most {limit} are possible", is_refused=True)
    parts, total = [], 0
    while chunk := os.read(descriptor, limit + 1 - total):
        parts.append(chunk)
        total += len(chunk)
        if total > limit:
            raise SourceError(path, f"grew beyond {limit} bytes while it was read", is_refused=True)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A log behind a URL prefix. The client's timeouts are the caller's to set."""

    prefix: str
    client: httpx.Client

    def read(self, path: str) -> bytes | None:
        """Return the file, None on 404 and 410; raises `SourceError` otherwise."""
        limit = limit_bytes(_checked(path))
        url = f"{self.prefix.rstrip('/')}/{quote(path)}"
        try:
            with self.client.stream("GET", url, follow_redirects=False, headers={"accept-encoding": "identity"}) as reply:
                if reply.status_code in {404, 410}:
                    return None
                if reply.status_code != 200:
                    raise SourceError(path, f"`{url}` answered {reply.status_code}")
                if reply.headers.get("content-encoding", "identity").lower() != "identity":
                    # A few kilobytes of it may be hundreds of megabytes before anything can be counted.
                    raise SourceError(path, f"`{url}` answers in a coding that was not asked for", is_refused=True)
                parts, total = [], 0
                for chunk in reply.iter_bytes(65_536):
                    total += len(chunk)
                    if total > limit:
                        raise SourceError(path, f"`{url}` sent more than {limit} bytes", is_refused=True)
                    parts.append(chunk)
                return b"".join(parts)
        except httpx.HTTPError as error:
            raise SourceError(path, f"`{url}`: {type(error).__name__}: {error}") from error


class Rows(Protocol):
    """Reads entries that are not files yet."""

    def read(self, start: int, count: int) -> list[bytes] | None:
        """Return leaves [start, start + count) of one range; None when one of them is not here."""


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Leaves in the database of a shared log."""

    place: PostgresPlace

    def read(self, start: int, count: int) -> list[bytes] | None:
        """Return leaves [start, start + count); None when the database lacks one of them."""
        from audit.store.postgres_rows import PostgresRows  # noqa: PLC0415 - only where the store is PostgreSQL

        with contextlib.closing(PostgresRows(self.place)) as shared:
            try:
                rows = shared.read(start, count)
            except StoreError as error:
                raise SourceError("the database", str(error)) from error
        return [data for _, data in rows] if [index for index, _ in rows] == list(range(start, start + count)) else None


@dataclass(frozen=True, slots=True)
class RangeRows:
    """Leaves that are still rows of `data/ranges/NNNNNNNN.sqlite`, table `leaf`; read only."""

    ranges: Path

    def read(self, start: int, count: int) -> list[bytes] | None:
        """Return leaves [start, start + count) of one range; None when the range file is absent or lacks one of them."""
        path = self.ranges / f"{start // RANGE_LEAVES:08d}.sqlite"
        if path.is_symlink():
            raise SourceError(str(path), "is a link", is_refused=True)
        if not path.is_file():
            return None
        try:
            with contextlib.closing(_open_rows(path)) as connection:
                if connection.execute("SELECT type FROM sqlite_master WHERE name = 'leaf'").fetchone() != ("table",):
                    raise SourceError(str(path), "has no table `leaf`", is_refused=True)  # a view could compute for ever
                rows = connection.execute(
                    "SELECT idx, bytes FROM leaf WHERE idx >= ? AND idx < ? AND typeof(bytes) = 'blob' AND length(bytes) <= ? ORDER BY idx LIMIT ?",
                    (start, start + count, ENTRY_LIMIT_BYTES, count),
                ).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite quotes a damaged schema in its own message
            raise SourceError(str(path), f"cannot be read as SQLite: {error}") from error
        if [index for index, _ in rows] != list(range(start, start + count)):
            return None
        return [data for _, data in rows]


def _open_rows(path: Path) -> sqlite3.Connection:
    """Open a range file read-only; beside a running recorder, and also where the folder is not writable and no WAL is left."""
    connection = sqlite3.connect(read_only_uri(path), uri=True, timeout=5.0)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


@dataclass(frozen=True, slots=True)
class LogSource:
    """A log: its files, and rows for the entries that are not files yet."""

    files: Source
    rows: Rows | None = None

    def read(self, path: str) -> bytes | None:
        """Return a file of the log, None when there is none."""
        return self.files.read(path)

    def bundle(self, index: int, width: int) -> list[bytes] | None:
        """Return the first `width` entries of bundle `index`: from its file, from the full bundle, or from rows. None when nowhere.

        Raises:
            SourceError, TileError: What is there is unreadable or malformed.
        """
        for wide in dict.fromkeys((width, WIDTH)):  # the exact one first
            path = entries_path(index, wide)
            data = self.read(path)
            if data is not None:
                return decode_bundle(data, wide, path)[:width]
        return None if self.rows is None else self.rows.read(index * WIDTH, width)

    def bundles(self, size: int) -> Iterator[tuple[int, list[bytes] | None]]:
        """Give (index, entries) of every bundle of a log of `size` entries, in order; rows are fetched a few thousand at a time."""
        ahead: list[bytes] = []
        for index in range(-(-size // WIDTH)):
            width = min(WIDTH, size - index * WIDTH)
            if ahead:
                yield index, ahead[:width]
                ahead = ahead[width:]
                continue
            entries = LogSource(self.files).bundle(index, width)
            if entries is None and self.rows is not None:
                start = index * WIDTH
                count = min(size - start, 16 * WIDTH, RANGE_LEAVES - start % RANGE_LEAVES)
                found = self.rows.read(start, count)
                if found is not None:
                    entries, ahead = found[:width], found[width:]
                else:  # a row is missing, or the range was sealed to files a moment ago
                    entries = self.rows.read(start, width) or LogSource(self.files).bundle(index, width)
            yield index, entries

    def entry(self, index: int, size: int) -> bytes | None:
        """Return one entry of a log of `size` entries."""
        number, at = divmod(index, WIDTH)
        entries = self.bundle(number, min(WIDTH, size - number * WIDTH))
        return None if entries is None else entries[at]


def open_directory(path: Path) -> LogSource:
    """Return the log in `path`: a directory with `checkpoint` and `tile/`, or an Assay data directory with `log/` and `ranges/`."""
    if (path / "log").is_dir() and not (path / CHECKPOINT).exists():
        place = postgres_place(path)
        return LogSource(DirectorySource(path / "log"), RangeRows(path / "ranges") if place is None else SharedRows(place))
    return LogSource(DirectorySource(path))


def open_url(url: str, client: httpx.Client) -> LogSource:
    """Return the log behind a URL prefix."""
    return LogSource(HttpSource(url, client))
