"""The listening side: accepts callers, bounds them, drains them.

Example::

    front = Front(serve, render=problem, loop=loop, trampoline=trampoline, limits=FrontLimits())
    await front.listen(sock)
    sweep.add(front.sweep, every_s=0.25)
    ...
    await front.drain(grace_s=20)
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.exchange import Exchange, Headers
from gateway.framing import FramingError
from gateway.native.caller import Caller
from gateway.native.drive import Trampoline
from gateway.native.plain import PlainReader
from gateway.native.reply_bytes import date_line

Serve = Callable[[Exchange], Coroutine[Any, Any, None]]
"""The lane, with everything but the exchange bound."""

Render = Callable[[FramingError], tuple[Headers, bytes]]
"""Makes headers and body of an error reply; the status is the error's."""


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What a caller may cost."""

    body_limit_bytes: int = 8 * 1024 * 1024
    head_timeout_s: float = 10.0
    """From a head's first byte (or from the connection's start) to its last."""
    body_grace_s: float = 5.0
    """How long a body may take before its rate counts."""
    body_floor_bytes_per_s: float = 512.0
    """Slowest mean rate of a body between two looks, each at least the grace apart."""
    body_timeout_s: float = 300.0
    """From a body's head to its last byte, however fast it comes: who sends it is not known before."""
    bodies_limit_bytes: int = 256 * 1024 * 1024
    """Unfinished bodies of all connections together, measured at every sweep: nobody has said who they are yet."""
    idle_timeout_s: float = 75.0
    stall_timeout_s: float = 30.0
    """How long a caller may leave a reply unread without taking a byte."""
    linger_s: float = 2.0
    """How long a connection that is closing may take."""
    connection_limit: int = 10_000
    pipeline_limit: int = 16


class Front:
    """Owns the callers' connections of one worker."""

    # Owner of all fields: the loop's thread. `serving_count` is changed by `Caller`; `now_s` and `date_line` change in `sweep` alone.
    def __init__(self, serve: Serve, *, render: Render, loop: asyncio.AbstractEventLoop, trampoline: Trampoline, limits: FrontLimits) -> None:
        """Prepare; nothing is accepted before `listen`."""
        self.serve = serve
        self.render = render
        self.loop = loop
        self.trampoline = trampoline
        self.limits = limits
        self.plain = PlainReader()
        self.now_s = loop.time()
        self.date_line = date_line(time.time())
        self.is_draining = False
        self.serving_count = 0
        self.body_bytes = 0  # of unfinished requests at the last sweep
        self._callers: set[Caller] = set()
        self._servers: list[asyncio.Server] = []
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        """Tell how many connections there are and how many are being served."""
        return f"<Front {len(self._callers)} connections, {self.serving_count} serving{', draining' if self.is_draining else ''}>"

    async def listen(self, sock: socket.socket, *, tls: ssl.SSLContext | None = None, backlog: int = 4096) -> None:
        """Accept callers on a bound socket."""
        self._servers.append(await self.loop.create_server(lambda: Caller(self), sock=sock, ssl=tls, backlog=backlog))

    def admit(self, caller: Caller) -> bool:
        """Count a new connection; False when it is one too many (it is then refused, and still counted until it is gone)."""
        self._callers.add(caller)
        return len(self._callers) <= self.limits.connection_limit

    @property
    def is_overrun(self) -> bool:
        """Say whether even refusing costs too much: a refused connection holds a descriptor until its answer is read."""
        return len(self._callers) > 2 * self.limits.connection_limit

    def forget(self, caller: Caller) -> None:
        """Drop a connection that is gone."""
        self._callers.discard(caller)
        self.check_drained()

    def sweep(self, now: float) -> None:
        """Advance the front's clock and look at every connection."""
        self.now_s = now
        self.date_line = date_line(time.time())
        held_bytes = 0
        for caller in tuple(self._callers):
            caller.look(now)
            held_bytes += caller.held_bytes
        self.body_bytes = held_bytes

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let what runs finish with `Connection: close`, break off what is left after `grace_s` seconds.

        Handlers of broken-off connections get `CallerGone`. Returns when all are gone.
        """
        self.is_draining = True
        for server in self._servers:
            server.close()
        for caller in tuple(self._callers):
            caller.close_if_idle()
        await self._wait_until_empty(grace_s)
        for caller in tuple(self._callers):
            caller.give_up()
        await self._wait_until_empty(1.0)

    async def _wait_until_empty(self, grace_s: float) -> None:
        if not self._callers and not self.serving_count:
            return
        self._drained = self.loop.create_future()
        timer = self.loop.call_later(grace_s, self._end_wait)
        await self._drained
        timer.cancel()

    def check_drained(self) -> None:
        """End the wait of `drain` when the last connection is gone and the last handler has ended."""
        if not self._callers and not self.serving_count:
            self._end_wait()

    def _end_wait(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
