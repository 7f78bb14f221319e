"""The two transports a worker can serve with; everything else of a worker is the same (`gateway/processes/worker.py`).

- `native`: asyncio protocols and httptools on both sides, handlers driven without tasks. The default.
- `portable`: uvicorn and httpx, handlers under asyncio tasks. Many times the CPU; for platforms and upstreams the native one does not know.

A transport is made first (its `upstream` is part of the lane), then listens for that lane, is drained once, then closed.

Example:
    transport = TRANSPORTS["native"](sweep)
    lane = Lane(..., upstream=transport.upstream, ...)
    await transport.listen(lane.serve, render=render, sock=sock, body_limit_bytes=10_485_760)
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.exchange import Upstream
from gateway.native.drive import Trampoline
from gateway.native.front import Front, FrontLimits, Render, Serve
from gateway.native.sweep import Sweep
from gateway.native.upstream import NativeUpstream, UpstreamLimits
from gateway.portable.app import UVICORN_OPTIONS, build_app
from gateway.portable.upstream import PortableUpstream
from gateway.processes.embedded import EmbeddedServer

_GIVEN_UP_S: Final = 1.0
"""How long calls that were broken off may take to write their records."""


class Transport(Protocol):
    """Callers on one side, models on the other."""

    @property
    def upstream(self) -> Upstream:
        """Return what calls models."""
        ...

    async def listen(self, serve: Serve, *, render: Render, sock: socket.socket, body_limit_bytes: int) -> None:
        """Accept callers on a bound socket.

        Args:
            serve: the lane's handler.
            render: makes the reply to a request whose form is refused.
            sock: bound and listening; the transport closes it.
            body_limit_bytes: bound on request bodies.
        """
        ...

    def bound_bodies(self, limit_bytes: int) -> None:
        """Take another bound on request bodies, for requests that begin from now on."""
        ...

    def check(self) -> None:
        """Raise RuntimeError when it no longer listens although nobody drained it."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let what runs finish, break off what is left after `grace_s` seconds; returns when all handlers have ended."""
        ...

    async def close(self) -> None:
        """Close the connections to models."""
        ...


class NativeTransport:
    """`gateway.native` on this loop. Owned by the worker."""

    def __init__(self, sweep: Sweep) -> None:
        """Start without connections; deadlines are looked at by `sweep`."""
        self._sweep = sweep
        self._front: Front | None = None  # set by `listen`
        self.upstream = NativeUpstream(asyncio.get_running_loop(), UpstreamLimits())
        sweep.add(self.upstream.sweep, every_s=0.025)

    async def listen(self, serve: Serve, *, render: Render, sock: socket.socket, body_limit_bytes: int) -> None:
        """Accept callers; see `Transport.listen`."""
        limits = FrontLimits(body_limit_bytes=body_limit_bytes)
        self._front = Front(serve, render=render, loop=asyncio.get_running_loop(), trampoline=Trampoline(), limits=limits)
        self._sweep.add(self._front.sweep, every_s=0.25)
        await self._front.listen(sock)

    def bound_bodies(self, limit_bytes: int) -> None:
        """Take another bound on request bodies."""
        if self._front is not None and self._front.limits.body_limit_bytes != limit_bytes:
            self._front.limits = replace(self._front.limits, body_limit_bytes=limit_bytes)

    def check(self) -> None:
        """Nothing here ends by itself."""

    async def drain(self, grace_s: float) -> None:
        """Let what runs finish; see `Transport.drain`."""
        if self._front is not None:
            await self._front.drain(grace_s)

    async def close(self) -> None:
        """Close the connections to models."""
        await self.upstream.close()


class PortableTransport:
    """`gateway.portable` under uvicorn on this loop. Owned by the worker."""

    def __init__(self, _sweep: Sweep) -> None:
        """Start without connections; uvicorn and httpx have timers of their own."""
        self.upstream = PortableUpstream()
        self._server: EmbeddedServer | None = None  # this and the next are set by `listen`
        self._serving: asyncio.Task[None] | None = None
        self._build: Callable[[int], ASGIApp] | None = None  # bound on bodies -> application
        self._bounded: tuple[int, ASGIApp] | None = None  # the application in force; swapped whole by `bound_bodies`

    async def listen(self, serve: Serve, *, render: Render, sock: socket.socket, body_limit_bytes: int) -> None:
        """Accept callers; see `Transport.listen`."""
        limits = FrontLimits()
        self._build = lambda limit_bytes: build_app(serve, render=render, body_limit_bytes=limit_bytes)
        self.bound_bodies(body_limit_bytes)
        config = uvicorn.Config(
            self._call,
            interface="asgi3",  # a bound method is not recognised as one
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=int(limits.idle_timeout_s),
            limit_concurrency=limits.connection_limit,
            **UVICORN_OPTIONS,
        )
        self._server = EmbeddedServer(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[sock]), name="uvicorn")  # ends in `drain`
        while not self._server.started:  # uvicorn has no event for it
            self.check()
            await asyncio.sleep(0.005)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with the application in force."""
        assert self._bounded is not None  # noqa: S101 - `listen` puts one in force before it serves
        await self._bounded[1](scope, receive, send)

    def bound_bodies(self, limit_bytes: int) -> None:
        """Take another bound on request bodies."""
        if self._build is not None and (self._bounded is None or self._bounded[0] != limit_bytes):
            self._bounded = (limit_bytes, self._build(limit_bytes))

    def check(self) -> None:
        """Raise RuntimeError when uvicorn ended by itself."""
        if self._serving is not None and self._serving.done():
            fault = None if self._serving.cancelled() else self._serving.exception()
            raise RuntimeError("uvicorn ended by itself") from fault

    async def drain(self, grace_s: float) -> None:
        """Let what runs finish; see `Transport.drain`."""
        if self._server is None or self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        self._server.should_exit = True
        await self._serving
        # uvicorn cancels what is left and does not wait for it; a cancelled call still has its record to write.
        left = tuple(self._server.server_state.tasks)
        if left:
            await asyncio.wait(left, timeout=_GIVEN_UP_S)

    async def close(self) -> None:
        """Close the connections to models."""
        await self.upstream.aclose()


TRANSPORTS: Final[Mapping[str, Callable[[Sweep], Transport]]] = {"native": NativeTransport, "portable": PortableTransport}
"""Name on the command line -> transport."""
