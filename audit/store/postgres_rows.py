"""Reads leaves from the shared database: the other half of `audit/follow.py`."""

from __future__ import annotations

from typing import Any, Final

from audit.store import postgres
from audit.store.place import PostgresPlace

WAIT_S: Final = 2.0
"""How long one read waits for a server that is away; the caller comes back."""


class PostgresRows:
    """A reader's connection, made when it is first needed and again after it was lost. Owned by one thread."""

    def __init__(self, place: PostgresPlace) -> None:
        """Read from the database that `place` names; nothing is opened yet."""
        self._reached = postgres.Reached(place, "assay reader", wait_s=WAIT_S)
        self._has_tables = False  # set by `_ask`

    def read(self, from_index: int, limit: int) -> list[tuple[int, bytes]]:
        """Return up to `limit` leaves from `from_index` on, as (index, leaf); there may be later ones only.

        Raises:
            StoreBroken, audit.store.postgres.ServerUnusable: The server cannot be read.
        """
        rows = self._ask("SELECT idx, bytes FROM leaf WHERE idx >= %s ORDER BY idx LIMIT %s", (from_index, limit))
        return [(index, bytes(leaf)) for index, leaf in rows]

    def end(self) -> int:
        """Return the number of committed leaves. Raises as `read`."""
        rows = self._ask("SELECT next_index FROM head", ())
        return int(rows[0][0]) if rows else 0

    def close(self) -> None:
        """Drop the connection; the next read makes another."""
        self._reached.close()

    def _ask(self, question: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of a question; none where no recorder has made the tables yet."""
        with self._reached.connection() as connection:
            if not self._has_tables:
                self._has_tables = connection.execute("SELECT to_regclass('leaf') IS NOT NULL").fetchone() == (True,)
            if not self._has_tables:
                return []
            return connection.execute(question, values, binary=True).fetchall()
