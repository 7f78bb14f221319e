"""The leader's hold on a shared log: it says four times a second what is in force, which renews its lease; who stops saying so leads no longer.

Rules:

- A live state is in the database before it is said to be in force.
- What was said before this process was stalled counts for nothing: after `HOLDS_S` without a renewal the node's own workers hear nothing more either
  (`holds`), a second before anybody else may lead.
- `TermLost` ends the process: another controller leads. It is started again, and follows.

Example:
    lease = Lease(nodes, store.term, "n1", time.monotonic())
    lease.publish(manifest, live, data)
    await lease.run()
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from audit.store.postgres_control import LEASE_S
from audit.store.postgres_nodes import Nodes
from gateway.processes.control import TICK_S

HOLDS_S: Final = LEASE_S - 1.0


class Lease:
    """Owned by the controller's loop; statements are made in threads, one at a time."""

    def __init__(self, nodes: Nodes, term: int, node: str, taken_s: float) -> None:
        """Hold a lease that was taken at `taken_s`, monotonic seconds read before it was asked for."""
        self.nodes = nodes
        self.term = term
        self._node = node
        self._renewed_s = taken_s  # changed by `run`
        self._published: tuple[str, str] | None = None  # manifest and live state; changed by `publish`
        self._unsaid: bytes | None = None  # the live state, until the database has it; changed by `publish` and `run`
        self._changed = asyncio.Event()

    def publish(self, manifest: str, live: str, data: bytes) -> None:
        """Say from now on that these are in force; `data` is the live state."""
        if (manifest, live) != self._published:
            self._published, self._unsaid = (manifest, live), data
            self._changed.set()

    def holds(self, now_s: float) -> bool:
        """Say whether nobody else can lead; `now_s` is in monotonic seconds."""
        return now_s - self._renewed_s < HOLDS_S

    async def run(self) -> None:
        """Renew until cancelled.

        Raises:
            TermLost: another controller leads.
            StoreError: the database cannot be asked.
        """
        while True:
            self._changed.clear()
            began_s = time.monotonic()
            published, data = self._published, self._unsaid
            await asyncio.to_thread(self._say, published, data)
            self._renewed_s = began_s
            if data is self._unsaid:
                self._unsaid = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), TICK_S)

    def _say(self, published: tuple[str, str] | None, data: bytes | None) -> None:
        if published is None:
            self.nodes.renew(self.term, self._node)
            return
        if data is not None:
            self.nodes.put_live(published[1], data)
        self.nodes.state(self.term, self._node, *published)
