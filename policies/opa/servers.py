"""Several OPA servers with the same policies, asked in turn. A question goes to one of them, once.

- One that is left alone (its breaker is open) is passed over while another is not, so a dead server costs the questions that found it dead.
- Whether it is back is tried by `look`, with a question about nothing, so that no caller's decision is spent on finding out.

Example:
    servers = OpaServers([connection, other])
    found = servers.find(packages, document, now_ns)
    servers.look()                                      # a few times a second
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from policies.bundle import Package
from policies.opa.connection import Found, OpaConnection


class OpaServers:
    """Connections of one owner's event loop. `_turn` is changed by `find` alone."""

    def __init__(self, connections: Sequence[OpaConnection]) -> None:
        """Ask through `connections`, at least one."""
        if not connections:
            raise ValueError("no OPA server to ask; hint: give at least one address")
        self.connections = tuple(connections)
        self._turn = 0

    def find(self, packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Found]:
        """Ask the next server that is not left alone; the next in turn, whose breaker answers, where all are."""
        self._turn += 1
        order = [self.connections[(self._turn + offset) % len(self.connections)] for offset in range(len(self.connections))]
        chosen = next((one for one in order if not one.breaker.is_open), order[0])
        return chosen.find(packages, document, now_ns)

    def look(self) -> None:
        """Try each server that has been left alone for long enough; its answer closes the breaker."""
        for one in self.connections:
            if one.is_due:
                one.find((), {}, 0).add_done_callback(_heard)

    async def close(self) -> None:
        """End every question and close the connections."""
        await asyncio.gather(*(one.close() for one in self.connections))


def _heard(found: asyncio.Future[Found]) -> None:
    """Take the result: the breaker has been told, nobody else asks."""
    _ = found.cancelled() or found.exception()
