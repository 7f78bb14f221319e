"""How a PostgreSQL server is reached, what is asked of it, and which of its errors means what.

Rules:
- A connection is used only on a server that flushes: `fsync` and `full_page_writes` on, not a standby. `synchronous_commit` is `on` in every session,
  so that a commit is the acknowledgement, on the synchronous standbys too where the server names some.
- Every statement is its own transaction (autocommit). No lock outlives a round trip, so a client that stalls holds nobody up.
- A statement whose fate is unknown (connection lost, or a commit that only warned) is `StoreBroken`: nobody guesses, the next process reads what is
  there. A full disk of the server is `StoreFull`.
- No message names the connection string: it may hold a password.

Example:
    connection = connect(place.connection_string(), "assay recorder n1", wait_s=30)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from audit.store.errors import SchemaError, StoreBroken, StoreError, StoreFull

if TYPE_CHECKING:
    import psycopg

    from audit.store.place import PostgresPlace

RETRY_S: Final = 0.2
_CLIENT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # a cut network is noticed, not waited out
}
_FULL: Final = "53100"  # disk_full
SCHEMA_LOCK: Final = 0x61737361_79000001
"""Advisory lock of migrations."""


class ServerUnusable(StoreError):  # noqa: N818 - reads as the state it is
    """The server answers but must not hold a log as it is configured."""


def connect(connection_string: str, application: str, *, wait_s: float) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect, trying again until `wait_s` have passed: a server that is being restarted comes back.

    Raises:
        StoreBroken: It could not be reached in time.
        ServerUnusable: It is reached, and does not keep what it acknowledges.
        SchemaError: The extra `postgres` is not installed.
    """
    try:
        import psycopg  # noqa: PLC0415 - only where the store is PostgreSQL
        from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - as above
    except ImportError as error:
        raise SchemaError("the store is PostgreSQL and its client is not installed\nhint: `pip install 'assay-gateway[postgres]'`") from error
    try:
        given = conninfo_to_dict(connection_string)
    except psycopg.Error:
        raise ServerUnusable("the connection string of the store is not one of libpq\nhint: `postgresql://user:password@host/database`") from None
    options = f"{given.pop('options', '') or ''} -c synchronous_commit=on -c statement_timeout=0 -c lock_timeout=0".strip()
    conninfo = make_conninfo(**{**_CLIENT, **given, "options": options, "application_name": application[:63]})
    until_s = time.monotonic() + wait_s
    while True:
        try:
            connection = psycopg.connect(conninfo, autocommit=True)
            break
        except psycopg.OperationalError as error:
            if time.monotonic() >= until_s:
                raise StoreBroken(
                    f"PostgreSQL at `{_where(given)}` cannot be reached: {_first_line(error)}\nhint: start it; nothing is lost"
                ) from None
            time.sleep(RETRY_S)
    try:
        with translated():
            _require_durable(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _where(given: dict[str, Any]) -> str:
    return f"{given.get('host') or 'the default host'}:{given.get('port') or 5432}/{given.get('dbname') or ''}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _require_durable(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'), current_setting('server_version_num')::int"
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    in_recovery, fsync, full_pages, version = row
    if in_recovery:
        raise ServerUnusable("the server is a standby\nhint: name the primary; after a failover promote the standby first (`pg_ctl promote`)")
    if fsync != "on" or full_pages != "on":
        raise ServerUnusable(
            f"the server runs with fsync `{fsync}` and full_page_writes `{full_pages}`: it would acknowledge what a power cut takes away\n"
            "hint: set both to on, or use another server"
        )
    if version < 130_000:
        raise ServerUnusable(f"the server has version `{version}`\nhint: PostgreSQL 13 or newer")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the driver in the block into ours.

    Raises:
        StoreFull: The server has no space; nothing of the statement was stored.
        StoreBroken: Anything else, a lost connection above all: what was stored is unknown.
    """
    import psycopg  # noqa: PLC0415 - only where the store is PostgreSQL

    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate == _FULL:
            raise StoreFull(
                f"PostgreSQL has no space left: {_first_line(error)}\nhint: free space on its disk; appending resumes by itself"
            ) from error
        name = error.sqlstate or type(error).__name__
        raise StoreBroken(
            f"PostgreSQL failed with `{name}`: {_first_line(error)}\nhint: see the server's log; the next start reads what is there"
        ) from error


class Reached:
    """A connection made when it is first needed, and again after anything went wrong on it. Owned by one thread at a time."""

    def __init__(self, place: PostgresPlace, application: str, *, wait_s: float) -> None:
        """Reach the database that `place` names; nothing is opened yet."""
        self._place = place
        self._application = application
        self._wait_s = wait_s
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None  # made by `connection`, dropped by `close`

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Give the connection; errors in the block are translated, and drop it.

        Raises:
            StoreBroken, StoreFull, ServerUnusable, SchemaError: As `connect` and `translated`.
        """
        try:
            if self._connection is None:
                self._connection = connect(self._place.connection_string(), self._application, wait_s=self._wait_s)
            with translated():
                yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; the next use makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def ensure_schema(connection: psycopg.Connection[tuple[Any, ...]], connection_string: str) -> None:
    """Bring the database to the newest schema; several processes may ask at once.

    Raises:
        SchemaError: It is newer than this version, or not ours.
        StoreFull, StoreBroken: It cannot be written.
    """
    from audit.store import migrate  # noqa: PLC0415 - most starts find the schema up to date and need only the revision

    with translated():
        connection.execute("SELECT pg_advisory_lock(%s)", (SCHEMA_LOCK,))
        try:
            found = revision(connection)
            if found != migrate.POSTGRES.head:
                migrate.upgrade_postgres(connection_string, found)
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (SCHEMA_LOCK,))


def revision(connection: psycopg.Connection[tuple[Any, ...]]) -> str | None:
    """Return the revision of the database, None for one without tables.

    Raises:
        SchemaError: It holds somebody else's tables.
    """
    tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")}
    if "alembic_version" not in tables:
        if tables:
            raise SchemaError(f"the database has tables `{sorted(tables)[:5]}` that are not of a log\nhint: give the log a database of its own")
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])
