"""Brings a store file to the newest schema with Alembic; the first schema is a migration like any other.

Rules:
- A file at the newest revision costs one small query; Alembic and SQLAlchemy are imported only when there is something to do.
- A file of a newer Assay is refused, never guessed at. A migration runs in one transaction of its file.

Example:
    ensure_schema(control_path(data_dir), CONTROL)
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from audit.store.errors import SchemaError
from audit.store.sqlite import open_writer, translated

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection


class Schema(msgspec.Struct, frozen=True):
    """A family of files: the folder of its migrations and the newest revision."""

    folder: str
    head: str


RANGES: Final = Schema("ranges", "r0001")
CONTROL: Final = Schema("control", "c0001")
VAULT: Final = Schema("vault", "v0001")
POSTGRES: Final = Schema("postgres", "p0003")


def revision(connection: sqlite3.Connection) -> str | None:
    """Return the revision a file is at, None for a file without tables.

    Raises:
        SchemaError: It has tables, and does not say of which revision: not our file, or damaged.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise SchemaError(f"the file has tables `{sorted(map(str, tables))}` but no revision\nhint: it is not a file of this log; move it away")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if row is None and len(tables) > 1:  # tables and revision are written in one transaction
        raise SchemaError(f"the file has tables `{sorted(tables)}` and has lost its revision: it is damaged\nhint: restore a copy that verifies")
    return None if row is None else str(row[0])


def ensure_schema(path: Path, schema: Schema) -> None:
    """Create or upgrade the file at `path` to the newest revision.

    Raises:
        SchemaError: The file is newer than this version, or not ours.
        StoreFull, StoreBroken: The file cannot be written.
    """
    with translated(path):
        connection = open_writer(path)
        try:
            found = revision(connection)
        finally:
            connection.close()
        if found != schema.head:
            _upgrade(path, schema, found)


def _upgrade(path: Path, schema: Schema, found: str | None) -> None:
    from sqlalchemy import create_engine, pool  # noqa: PLC0415 - half a second of import that only a first start or an upgrade needs
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - as above

    _require_known(schema, found, str(path))
    engine = create_engine("sqlite://", creator=lambda: open_writer(path), poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            # The driver is in autocommit mode: this transaction is ours and covers every migration step.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _run(schema, connection)
            connection.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        raise (error.orig or error) from error  # SQLite's own, which `translated` knows
    finally:
        engine.dispose()


def upgrade_postgres(connection_string: str, found: str | None) -> None:
    """Bring a database to the newest revision; `audit.store.postgres.ensure_schema` holds the lock.

    Raises:
        SchemaError: It is newer than this version.
    """
    import psycopg  # noqa: PLC0415 - only where the store is PostgreSQL
    from sqlalchemy import create_engine, pool  # noqa: PLC0415 - as above

    _require_known(POSTGRES, found, "the database")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(connection_string), poolclass=pool.NullPool)
    with engine.begin() as connection:
        _run(POSTGRES, connection)
    engine.dispose()


def _require_known(schema: Schema, found: str | None, where: str) -> None:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    known = {script.revision for script in ScriptDirectory.from_config(_config(schema)).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaError(f"`{where}` has schema `{found}`, this version knows up to `{schema.head}`\nhint: run the newer Assay that wrote it")


def _config(schema: Schema) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations" / schema.folder))
    config.set_main_option("path_separator", "os")
    return config


def _run(schema: Schema, connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - as above

    config = _config(schema)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
