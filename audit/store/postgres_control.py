"""The control store in the shared database: one of several controllers leads, by a lease with a fencing term.

Rules:
- The row `leader` names the term and when it was last renewed, by the server's clock. A lease that is `LEASE_S` old may be taken by anyone; one of
  the same directory at once, because the lock beside its files proves that its holder is dead.
- Every statement that writes locks the row `leader` FOR SHARE at its own term. Taking the lease updates that row: the two are in one order, and a
  leader that was stalled for however long writes nothing once another has led.

Example:
    control = ControlStore.open(data_dir)
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audit.store import layout, postgres
from audit.store.control import ControlStore, Head
from audit.store.errors import CheckpointRefused, LedElsewhere, StoreInUse, TermLost
from audit.store.place import PostgresPlace, instance_of
from audit.store.sqlite import translated

if TYPE_CHECKING:
    import psycopg

LEASE_S: Final = 5.0
"""How long a leader may go without renewing before another may lead."""
WAIT_S: Final = 60.0

_LEAD: Final = """
WITH taken AS (
  UPDATE leader SET term = term + 1, instance = %(instance)s, renewed_at = clock_timestamp()
  WHERE id = 1 AND (renewed_at IS NULL OR instance = %(instance)s OR renewed_at < clock_timestamp() - make_interval(secs => %(lease_s)s))
  RETURNING term
)
INSERT INTO term (term, node, started_us) SELECT term, %(node)s, %(now_us)s FROM taken RETURNING term
"""
_ADD_CHECKPOINT: Final = """
WITH fence AS (SELECT term FROM leader WHERE id = 1 AND term = %(term)s FOR SHARE)
INSERT INTO checkpoint (size, root, note, term) SELECT %(size)s, %(root)s, %(note)s, term FROM fence
WHERE %(size)s > (SELECT coalesce(max(size), -1) FROM checkpoint)
"""
_INSTALL: Final = """
WITH fence AS (SELECT term FROM leader WHERE id = 1 AND term = %(term)s FOR SHARE)
INSERT INTO bundle (digest, term, installed_us) SELECT %(digest)s, term, %(now_us)s FROM fence
"""


class PostgresControlStore(ControlStore):
    """One controller's hand on the shared control tables. Each object is used by one thread at a time."""

    is_leased = True

    def __init__(self, data_dir: Path, instance: str, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Take over an open connection; use `ControlStore.open`."""
        super().__init__()
        self._lock_path = layout.controller_lock_path(data_dir)
        self._instance = instance
        self._connection = connection
        self._lock_fd = -1  # held while leading; set by `lead`, closed by `close`
        self._one_at_a_time = threading.Lock()  # `renew` is called beside the loop

    @classmethod
    def open_database(cls, data_dir: Path, place: PostgresPlace, *, wait_s: float = WAIT_S) -> PostgresControlStore:
        """Reach the server and bring the schema up to date.

        Raises:
            SchemaError, StoreFull, StoreBroken, audit.store.postgres.ServerUnusable: It cannot be used.
        """
        text = place.connection_string()
        instance = instance_of(data_dir)
        connection = postgres.connect(text, f"assay controller {instance}", wait_s=wait_s)
        try:
            postgres.ensure_schema(connection, text)
        except BaseException:
            connection.close()
            raise
        return cls(data_dir, instance, connection)

    def lead(self, node: str, now_us: int) -> int:
        """Take the lease; see `ControlStore`.

        Raises:
            LedElsewhere: A controller on another node leads.
            StoreInUse: Another process of this machine does.
        """
        fd = self._lock_directory()
        try:
            values = {"instance": self._instance, "node": node, "now_us": now_us, "lease_s": LEASE_S}
            with postgres.translated():
                row = self._connection.execute(_LEAD, values).fetchone()
        except BaseException:
            os.close(fd)
            raise
        if row is None:
            os.close(fd)
            raise LedElsewhere(f"a controller on another node leads\nhint: this one may lead {LEASE_S:g} s after that one was last heard of")
        self._lock_fd, self.term = fd, int(row[0])
        return self.term

    def renew(self) -> None:
        """Say that this leader lives; see `ControlStore`."""
        with self._one_at_a_time, postgres.translated():
            renewed = self._connection.execute("UPDATE leader SET renewed_at = clock_timestamp() WHERE id = 1 AND term = %s", (self.term,)).rowcount
        if renewed != 1:
            self._check_term()

    def require_term(self) -> None:
        """Check that this process still leads; see `ControlStore`."""
        self._check_term()

    def head(self) -> Head | None:
        """Return the largest signed head; see `ControlStore`."""
        with self._one_at_a_time, postgres.translated():
            return _head(self._connection)

    def add_checkpoint(self, size: int, root: bytes, note: bytes) -> None:
        """Store a signed head; see `ControlStore`."""
        values = {"term": self.term, "size": size, "root": root, "note": note}
        with self._one_at_a_time, postgres.translated():
            inserted = self._connection.execute(_ADD_CHECKPOINT, values).rowcount
        if inserted != 1:
            self._check_term()
            head = self.head()
            raise CheckpointRefused(f"checkpoint of size `{size}` does not grow the log, whose largest signed size is `{head and head.size}`")

    def install_bundle(self, digest: str, now_us: int) -> None:
        """Store what takes force; see `ControlStore`."""
        with self._one_at_a_time, postgres.translated():
            inserted = self._connection.execute(_INSTALL, {"term": self.term, "digest": digest, "now_us": now_us}).rowcount
        if inserted != 1:
            self._check_term()

    def current_bundle(self) -> str | None:
        """Return what is in force; see `ControlStore`."""
        with self._one_at_a_time, postgres.translated():
            row = self._connection.execute("SELECT digest FROM bundle ORDER BY serial DESC LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def installed_elsewhere(self, node: str) -> str | None:
        """Return whose controller put the configuration in force, if not `node`; see `ControlStore`."""
        with self._one_at_a_time, postgres.translated():
            row = self._connection.execute("SELECT term.node FROM bundle JOIN term USING (term) ORDER BY serial DESC LIMIT 1").fetchone()
        return None if row is None or row[0] == node else str(row[0])

    def keep_objects(self, objects: Mapping[str, bytes]) -> None:
        """Keep documents for every node; see `ControlStore`."""
        values = (list(objects), list(objects.values()))
        with self._one_at_a_time, postgres.translated():
            self._connection.execute(
                "INSERT INTO object (digest, data) SELECT * FROM unnest(%b::text[], %b::bytea[]) ON CONFLICT (digest) DO NOTHING", values
            )

    def object(self, digest: str) -> bytes | None:
        """Return a document that some node has kept; see `ControlStore`."""
        with self._one_at_a_time, postgres.translated():
            row = self._connection.execute("SELECT data FROM object WHERE digest = %s", (digest,), binary=True).fetchone()
        return None if row is None else bytes(row[0])

    def flush_wal(self) -> None:
        """Do nothing: the server looks after its own files."""

    def close(self) -> None:
        """Give the lease back, if this object took it; see `ControlStore`."""
        if self._lock_fd >= 0:
            if not self._connection.broken and not self._connection.closed:
                with postgres.translated():
                    self._connection.execute("UPDATE leader SET renewed_at = NULL WHERE id = 1 AND term = %s", (self.term,))
            os.close(self._lock_fd)
            self._lock_fd = -1
        self._connection.close()

    def _lock_directory(self) -> int:
        with translated(self._lock_path):
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreInUse(f"another controller leads (`{self._lock_path}` is locked)\nhint: stop it, or use another data directory") from error
        return fd

    def _check_term(self) -> None:
        with self._one_at_a_time, postgres.translated():
            row = self._connection.execute("SELECT term FROM leader WHERE id = 1").fetchone()
        newest = None if row is None else row[0]
        if newest != self.term:
            raise TermLost(f"this controller has term `{self.term}`, the newest is `{newest}`\nhint: another controller leads; this one must end")


def read_head(place: PostgresPlace) -> Head | None:
    """Return the largest signed head of a database, reading only; None if nothing was ever signed."""
    connection = postgres.connect(place.connection_string(), "assay reader", wait_s=WAIT_S)
    try:
        with postgres.translated():
            return _head(connection) if postgres.revision(connection) is not None else None
    finally:
        connection.close()


def _head(connection: psycopg.Connection[tuple[Any, ...]]) -> Head | None:
    row = connection.execute("SELECT size, root, note, term FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    return None if row is None else Head(int(row[0]), bytes(row[1]), bytes(row[2]), int(row[3]))
