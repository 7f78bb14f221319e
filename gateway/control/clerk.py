"""Writes the controller's records. Nothing takes force before its record is committed (`sync`, semantics.md 1.5)."""

from __future__ import annotations

from typing import Any

from audit.journal import Journal
from audit.statements import Clock, statement


class Clerk:
    """The controller's hand in the log."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        """Write through `journal`."""
        self._journal = journal
        self._clock = clock

    async def record(self, kind: str, **carries: Any) -> int:
        """Commit one record and return its index in the log.

        Raises:
            audit.journal.JournalError: it was not committed; whatever it was to state must not take force.
        """
        seq = self._journal.append(statement(kind, self._clock.moment(), actor_id=self._journal.node, **carries))
        self._journal.flush()
        return await self._journal.committed(seq)
