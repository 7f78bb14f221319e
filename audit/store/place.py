"""Where the leaves of a data directory lie: in its range files, or in a PostgreSQL database that several directories share.

`data/store.json` names the database by reference; without it the leaves are in `data/ranges/`. The secret itself is never written there. Whoever
reads a data directory asks here, so that commands, the controller and the recorder need to be told one path alone.

`data/instance` is a random name given to a directory once. In a shared database it tells whose writers are whose.

Example:
    place = postgres_place(data_dir)        # None: SQLite
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from audit.keys import InvalidKey, read_secret
from audit.store import layout
from audit.store.durable import read_or_none, replace_file
from audit.store.errors import StoreDamaged


class PostgresPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A database, by reference."""

    postgres: str
    """`file:/absolute/path` or `env:NAME` of a libpq connection string."""

    def connection_string(self) -> str:
        """Read the connection string. It may hold a password: never log it.

        Raises:
            StoreDamaged: The reference leads nowhere, or to a file that others may read.
        """
        try:
            return read_secret(self.postgres, base=Path("/"), environ=os.environ).strip()
        except InvalidKey as error:
            raise StoreDamaged(f"the connection to PostgreSQL is not known: {error}") from error


def postgres_place(data_dir: Path) -> PostgresPlace | None:
    """Return the database that holds the leaves of `data_dir`, None when they are in its range files.

    Raises:
        StoreDamaged: `store.json` is not one.
    """
    path = layout.place_path(data_dir)
    data = read_or_none(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=PostgresPlace)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"`{path}` does not say where the log is: {error}\nhint: `assay serve` writes it again from `gateway.yaml`") from error


def settle_place(data_dir: Path, wanted: PostgresPlace | None) -> None:
    """Make `data_dir` keep its leaves where the configuration says, if it has none elsewhere.

    Raises:
        StoreDamaged: It has a log in the other place: going on would begin a second one under the same key.
        StoreFull, StoreBroken: It cannot be written.
    """
    held = postgres_place(data_dir)
    if wanted is None and held is not None:
        raise StoreDamaged(
            f"`{data_dir}` has its log in PostgreSQL (`{layout.place_path(data_dir)}`), the configuration says SQLite\n"
            "hint: set `store` back, or use an empty directory and a new `audit.origin`"
        )
    if wanted is not None and held is None and layout.range_numbers(data_dir):
        raise StoreDamaged(
            f"`{data_dir}` has its log in `{layout.ranges_dir(data_dir)}`, the configuration says PostgreSQL\n"
            "hint: set `store` back, or use an empty directory and a new `audit.origin`"
        )
    if wanted is not None and held != wanted:
        data_dir.mkdir(parents=True, exist_ok=True)
        replace_file(layout.place_path(data_dir), msgspec.json.encode(wanted))


def instance_of(data_dir: Path) -> str:
    """Return the directory's random name, given to it now if it has none; durable on return.

    Raises:
        StoreDamaged: The file holds something else.
        StoreFull, StoreBroken: It cannot be written.
    """
    path = layout.instance_path(data_dir)
    held = read_or_none(path)
    if held is None:
        held = secrets.token_hex(16).encode()
        data_dir.mkdir(parents=True, exist_ok=True)
        replace_file(path, held)
    name = held.decode("ascii", errors="replace").strip()
    if len(name) != 32 or any(each not in "0123456789abcdef" for each in name):
        raise StoreDamaged(
            f"`{path}` does not hold the directory's name\nhint: put it back from a copy; without it nobody knows whose the writers are"
        )
    return name
