"""Migrations: every released schema comes to the newest with its rows, and the newest is what the tables say."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from audit.store.errors import SchemaError
from audit.store.migrate import CONTROL, RANGES, VAULT, Schema, ensure_schema, revision
from audit.store.tables import ControlTable, RangeTable
from audit.vault.tables import VaultTable

RELEASED = Path(__file__).parent / "released_schemas"
"""One SQL dump for each released revision, `<family>-<revision>.sql`, with rows in it; never edited once released."""


def shape(path: Path) -> dict[str, object]:
    engine = create_engine(f"sqlite:///{path}")
    found = inspect(engine)
    tables = {
        name: (
            [(column["name"], str(column["type"]), column["nullable"], column["primary_key"]) for column in found.get_columns(name)],
            sorted(tuple(each["column_names"]) for each in found.get_unique_constraints(name)),
        )
        for name in found.get_table_names()
        if name != "alembic_version"
    }
    engine.dispose()
    return tables


@pytest.mark.parametrize(("schema", "tables"), [(RANGES, RangeTable), (CONTROL, ControlTable), (VAULT, VaultTable)])
def test_a_new_file_has_the_shape_of_the_tables(tmp_path, schema, tables):
    ensure_schema(tmp_path / "migrated", schema)
    engine = create_engine(f"sqlite:///{tmp_path / 'declared'}")
    tables.metadata.create_all(engine)
    engine.dispose()
    assert shape(tmp_path / "migrated") == shape(tmp_path / "declared")


@pytest.mark.parametrize("dump", sorted(RELEASED.glob("*.sql")), ids=lambda path: path.stem)
def test_a_file_of_each_released_schema_comes_to_the_newest_with_its_rows(tmp_path, dump):
    schema = {"ranges": RANGES, "control": CONTROL, "vault": VAULT}[dump.stem.split("-")[0]]
    old = tmp_path / "old"
    connection = sqlite3.connect(old)
    connection.executescript(dump.read_text())
    assert revision(connection) == dump.stem.split("-")[1]
    counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in shape(old)}  # noqa: S608 - names of our own tables
    connection.close()
    ensure_schema(old, schema)
    ensure_schema(tmp_path / "new", schema)
    assert shape(old) == shape(tmp_path / "new")
    connection = sqlite3.connect(old)
    assert revision(connection) == schema.head
    for name, count in counts.items():
        assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == count  # noqa: S608 - as above
        assert count[0] > 0
    connection.close()


def test_every_family_has_a_dump_of_its_newest_schema():
    assert {path.stem for path in RELEASED.glob("*.sql")} >= {f"{schema.folder}-{schema.head}" for schema in (RANGES, CONTROL, VAULT)}


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "file"
    ensure_schema(path, RANGES)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    connection.commit()
    with pytest.raises(SchemaError, match="r9999"):
        ensure_schema(path, RANGES)
    assert revision(connection) == "r9999"
    connection.close()


def test_a_foreign_database_is_refused(tmp_path):
    path = tmp_path / "file"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(SchemaError, match="not a file of this log"):
        ensure_schema(path, CONTROL)


def test_a_file_that_has_lost_its_revision_is_said_to_be_damaged_and_left_alone(tmp_path):
    path = tmp_path / "control.sqlite"
    ensure_schema(path, CONTROL)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM alembic_version")
    with pytest.raises(SchemaError, match="lost its revision"):
        ensure_schema(path, CONTROL)


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    import alembic.op

    real, calls = alembic.op.create_table, []

    def second_fails(name: str, *columns: object):
        calls.append(name)
        if len(calls) == 2:
            raise RuntimeError("injected")
        return real(name, *columns)

    monkeypatch.setattr(alembic.op, "create_table", second_fails)
    with pytest.raises(RuntimeError):
        ensure_schema(tmp_path / "file", Schema("ranges", RANGES.head))
    monkeypatch.undo()
    connection = sqlite3.connect(tmp_path / "file")
    assert revision(connection) is None
    connection.close()
    ensure_schema(tmp_path / "file", RANGES)
