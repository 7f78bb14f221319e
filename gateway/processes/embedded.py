"""uvicorn inside a process that has signal handlers of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_CONNECTIONS: Final = 256
FIRST_REQUEST_S: Final = 10.0


class EmbeddedServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process around it says when to end, by `should_exit`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP with a bound on connections: each costs a descriptor, and a process without one can tell nobody that it lives.

    A connection that has not sent a whole head after `FIRST_REQUEST_S` is cut off; uvicorn itself waits for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Count the connection; cut it off when it is one too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(FIRST_REQUEST_S, self._end_if_silent)

    def _end_if_silent(self) -> None:
        has_asked: object = self.cycle  # None until the first head is whole, whatever its annotation says
        if has_asked is None and not self.transport.is_closing():
            self.transport.abort()
