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
import resource
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from gateway.exchange import Upstream
from gateway.native.drive import Trampoline
from gateway.native.front import Front, FrontLimits, Render, Serve
from gateway.native.sweep import Sweep
from gateway.native.upstream import NativeUpstream, UpstreamLimits


class Transport(Protocol):
    """Callers on one side, models on the other."""

    @property
    def upstream(self) -> Upstream:
        """Return what calls models."""
        ...

    @property
    def shadow_upstream(self) -> Upstream:
        """Return what calls shadows: connections of their own, so that a slow one takes none from calls that someone waits for."""
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
        self.shadow_upstream = NativeUpstream(asyncio.get_running_loop(), UpstreamLimits(connection_limit=32, waiting_limit=64))
        sweep.add(self.upstream.sweep, every_s=0.025)
        sweep.add(self.shadow_upstream.sweep, every_s=0.025)

    async def listen(self, serve: Serve, *, render: Render, sock: socket.socket, body_limit_bytes: int) -> None:
        """Accept callers; see `Transport.listen`."""
        # A part of the descriptors stays for models, the log and the control files.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = max(64, min(FrontLimits().connection_limit, descriptors * 3 // 4 - 600))
        limits = FrontLimits(body_limit_bytes=body_limit_bytes, connection_limit=most)
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
        await self.shadow_upstream.close()


def _portable(sweep: Sweep) -> Transport:
    from gateway.processes.portable_transport import PortableTransport  # noqa: PLC0415 - native workers need neither uvicorn nor httpx in memory

    return PortableTransport(sweep)


TRANSPORTS: Final[Mapping[str, Callable[[Sweep], Transport]]] = {"native": NativeTransport, "portable": _portable}
"""Name on the command line -> what makes the transport."""
