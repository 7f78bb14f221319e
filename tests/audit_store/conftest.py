"""A PostgreSQL server for the whole run, and an empty log in each place a log can lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.store.place import PostgresPlace, settle_place


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[object]:
    from postgres_server import Server

    server = Server.create()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def shared_log(postgres_server) -> PostgresPlace:
    """An empty database; give it to `settle_place` of as many directories as share the log."""
    from postgres_server import new_log

    return new_log(postgres_server)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.component("postgresql"))])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty data directory, once for each place a log can lie."""
    folder = tmp_path / "data"
    folder.mkdir()
    if request.param == "postgresql":
        settle_place(folder, request.getfixturevalue("shared_log"))
    return folder
