"""Writes the controller's records. Nothing takes force before its record is committed (`sync`, semantics.md 1.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from audit.journal import Journal
from audit.statements import Clock, statement

_AT_ONCE: Final = 2000
"""Records appended before the first is waited for; well below what a journal holds."""


class Clerk:
    """The controller's hand in the log."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        """Write through `journal`."""
        self._journal = journal
        self._clock = clock

    @property
    def writer(self) -> str:
        """Its name as a writer."""
        return self._journal.node

    @property
    def writer_key(self) -> tuple[str, int]:
        """Name and epoch of its records."""
        return self._journal.node, self._journal.epoch

    async def record(self, kind: str, **carries: Any) -> int:
        """Commit one record and return its index in the log.

        Raises:
            audit.journal.JournalError: it was not committed; whatever it was to state must not take force.
        """
        (index,) = await self.record_all([(kind, carries)])
        return index

    async def record_all(self, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[int]:
        """Commit records in their order and return their indexes; thousands of them cost one wait. Raises as `record`."""
        indexes: list[int] = []
        for first in range(0, len(records), _AT_ONCE):
            batch = records[first : first + _AT_ONCE]
            seqs = [self._journal.append(statement(kind, self._clock.moment(), actor_id=self._journal.node, **carries)) for kind, carries in batch]
            self._journal.flush()
            waits = [self._journal.add_waiter(seq) for seq in seqs]
            indexes += [await wait for wait in waits]
        return indexes
