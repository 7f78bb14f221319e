"""The control store: who leads, what was signed, which configuration is in force.

Rules:
- One controller leads. It has a *term*: a number that every new leader raises. A row is only inserted while its term is the newest, so a leader that
  was stopped and comes back late cannot sign.
- A checkpoint row is inserted only if it is larger than all before it. The statement that inserts is the statement that checks.

It lies where the leaves lie (`audit/store/place.py`): in a file (`sqlite_control.py`), or in the shared database (`postgres_control.py`).

Example:
    control = ControlStore.open(data_dir)
    control.lead("n1.controller", now_us)
    control.add_checkpoint(size, root, note)
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path

import msgspec

from audit.store import layout
from audit.store.errors import StoreDamaged
from audit.store.place import postgres_place


class Head(msgspec.Struct, frozen=True, gc=False):
    """A signed tree head as stored: number of leaves, 32-byte root, the signed note."""

    size: int
    root: bytes
    note: bytes
    term: int


class ControlStore(abc.ABC):
    """The control store, open for writing. Owned by the controller's thread."""

    is_leased = False
    """Whether leadership ends by itself unless `renew` is called every second."""

    def __init__(self) -> None:
        """Begin without leading."""
        self.term = 0  # this process's term, 0 before it leads; set by `lead`, and by whoever shares a leader's term

    @staticmethod
    def open(data_dir: Path) -> ControlStore:
        """Create or upgrade the control store of a data directory and open it.

        Raises:
            SchemaError, StoreFull, StoreBroken: It cannot be used.
        """
        place = postgres_place(data_dir)
        if place is not None:
            from audit.store.postgres_control import PostgresControlStore  # noqa: PLC0415 - only where the store is PostgreSQL

            return PostgresControlStore.open_database(data_dir, place)
        from audit.store.sqlite_control import SqliteControlStore  # noqa: PLC0415 - it needs this module first

        return SqliteControlStore.open_file(data_dir)

    @abc.abstractmethod
    def lead(self, node: str, now_us: int) -> int:
        """Become the one leading controller and return the new term.

        Raises:
            StoreInUse: Another process leads.
        """

    @abc.abstractmethod
    def renew(self) -> None:
        """Go on leading; to be called every second.

        Raises:
            TermLost: Another controller leads; this one must end.
        """

    @abc.abstractmethod
    def require_term(self) -> None:
        """Check that this process still leads.

        Raises:
            TermLost: another controller has taken over; this one must act no more.
        """

    @abc.abstractmethod
    def head(self) -> Head | None:
        """Return the largest signed head, None before the first."""

    @abc.abstractmethod
    def add_checkpoint(self, size: int, root: bytes, note: bytes) -> None:
        """Store a signed head; on return it is durable.

        Raises:
            TermLost: A newer leader exists, or this process never led.
            CheckpointRefused: It is not larger than every head before.
        """

    @abc.abstractmethod
    def install_bundle(self, digest: str, now_us: int) -> None:
        """Store that the configuration with this digest takes force.

        Raises:
            TermLost: As in `add_checkpoint`.
        """

    @abc.abstractmethod
    def current_bundle(self) -> str | None:
        """Return the digest of the configuration in force, None before the first."""

    def installed_elsewhere(self, node: str) -> str | None:
        """Return whose controller put the configuration in force, where that was another than `node`; there is no other where one node leads."""
        del node
        return None

    @abc.abstractmethod
    def keep_objects(self, objects: Mapping[str, bytes]) -> None:
        """Keep documents, digest -> bytes, where every node of a shared log finds them; nothing to do where there is one node.

        Raises:
            StoreFull, StoreBroken: They are not all kept.
        """

    @abc.abstractmethod
    def object(self, digest: str) -> bytes | None:
        """Return a document another node has kept, None if none has."""

    @abc.abstractmethod
    def flush_wal(self) -> None:
        """Do what the store needs now and then; to be called after writing."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the store and stop leading. Idempotent."""


def latest_head(data_dir: Path) -> Head | None:
    """Return the largest signed head of a data directory, reading only; None if nothing was ever signed."""
    place = postgres_place(data_dir)
    if place is not None:
        from audit.store.postgres_control import read_head as read_shared_head  # noqa: PLC0415 - only where the store is PostgreSQL

        return read_shared_head(place)
    from audit.store.sqlite_control import read_head  # noqa: PLC0415 - it needs this module first

    return read_head(data_dir)


def signed_size(data_dir: Path) -> tuple[int, str]:
    """Return the largest size that was ever signed here, and the file that says so.

    Both the control store and the published checkpoint are asked, so that restoring an older copy of one of them is noticed.

    Raises:
        StoreDamaged: The published checkpoint cannot be read as one.
    """
    head = latest_head(data_dir)
    size = head.size if head else 0
    where = "the database" if postgres_place(data_dir) else str(layout.control_path(data_dir))
    path = layout.checkpoint_path(data_dir)
    try:
        lines = path.read_bytes().split(b"\n", 3)
    except FileNotFoundError:
        return size, where
    if len(lines) < 4 or not lines[1].isdigit() or len(lines[1]) > 19:
        raise StoreDamaged(f"`{path}` is not a checkpoint\nhint: put back the published file; it is compared with the store before anything is added")
    published = int(lines[1])
    return (published, str(path)) if published > size else (size, where)
