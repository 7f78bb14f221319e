"""Commits that somebody read the log through the admin port, before it is shown to them.

A question, a record and an export are each a record. Whole entry bundles, which a verifier fetches by the thousand, are one record a key and
`ENTRIES_S`: otherwise verifying a log would lengthen it by what is verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from audit.journal import JournalError
from audit.leaf import LeafError
from gateway.authenticate import Principal
from gateway.control.clerk import Clerk
from gateway.refusals import Refusal

ENTRIES_S: Final = 600.0
_RECORD_S: Final = 5.0
"""How long the record of a read may take."""


class Reads:
    """Owned by the controller's loop; `_entries_s` is changed by `entries` alone."""

    def __init__(self, clerk: Clerk, monotonic_s: Callable[[], float]) -> None:
        """Record through `clerk`."""
        self._clerk = clerk
        self._monotonic_s = monotonic_s
        self._entries_s: dict[str, float] = {}  # key -> when its last record of fetched entries was committed

    async def question(self, by: Principal, asked: Mapping[str, Any], *, size: int, rows: int, full: bool = False) -> None:
        """Commit that `by` was shown the answer to a question. Raises Refusal (503) when it cannot be committed: then nothing is shown."""
        await self._within(self._clerk.record("query", **_carried(by, asked, size, rows, full=full)))

    async def export(self, by: Principal, asked: Mapping[str, Any], *, size: int, rows: int) -> None:
        """Commit that `by` was handed records as evidence. Raises as `question`."""
        await self._within(self._clerk.record("export", **_carried(by, asked, size, rows, full=False)))

    async def entries(self, by: Principal, size: int) -> None:
        """Commit that `by` fetches whole entries of the log, at most once in `ENTRIES_S` for each key. Raises as `question`."""
        now_s = self._monotonic_s()
        last_s = self._entries_s.get(by.id)
        if last_s is not None and now_s - last_s < ENTRIES_S:
            return
        await self.question(by, {"log": "entries"}, size=size, rows=size, full=True)
        self._entries_s = {key: told_s for key, told_s in self._entries_s.items() if now_s - told_s < ENTRIES_S}
        self._entries_s[by.id] = now_s

    async def _within(self, recording: Any) -> None:
        try:
            async with asyncio.timeout(_RECORD_S):
                await recording
        except (JournalError, LeafError, TimeoutError) as error:
            raise Refusal("audit_unavailable", f"the read cannot be recorded, so nothing is shown: {error}") from None


def _carried(by: Principal, asked: Mapping[str, Any], size: int, rows: int, *, full: bool) -> dict[str, Any]:
    return {"actor": {"kind": "key", "id": by.id}, "question": dict(asked), "size": size, "rows": rows, "full_scan": full}
