"""The portable transport in a worker: `gateway.portable` under uvicorn, on the worker's own loop."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.native.front import FrontLimits, Render, Serve
from gateway.native.sweep import Sweep
from gateway.portable.app import UVICORN_OPTIONS, build_app
from gateway.portable.upstream import PortableUpstream
from gateway.processes.embedded import EmbeddedServer

_GIVEN_UP_S: Final = 1.0
"""How long calls that were broken off may take to write their records."""


class PortableTransport:
    """`gateway.portable` under uvicorn on this loop. Owned by the worker."""

    def __init__(self, _sweep: Sweep) -> None:
        """Start without connections; uvicorn and httpx have timers of their own."""
        self.upstream = PortableUpstream()
        self.shadow_upstream = PortableUpstream()
        self._server: EmbeddedServer | None = None  # this and the next are set by `listen`
        self._serving: asyncio.Task[None] | None = None
        self._build: Callable[[int], ASGIApp] | None = None  # bound on bodies -> application
        self._bounded: tuple[int, ASGIApp] | None = None  # the application in force; swapped whole by `bound_bodies`

    async def listen(self, serve: Serve, *, render: Render, sock: socket.socket, body_limit_bytes: int) -> None:
        """Accept callers; see `gateway.processes.transports.Transport.listen`."""
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
        """Let what runs finish; see `gateway.processes.transports.Transport.drain`."""
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
        await self.shadow_upstream.aclose()
