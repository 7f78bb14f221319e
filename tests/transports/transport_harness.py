"""A gateway and a model on loopback, spoken to in raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn

from gateway.exchange import CallerGone, Endpoint, Exchange, Headers, Upstream, UpstreamError
from gateway.framing import FramingError, for_upstream
from gateway.native.drive import Trampoline
from gateway.native.front import Front, FrontLimits
from gateway.native.sweep import Sweep
from gateway.native.upstream import NativeUpstream, UpstreamLimits
from gateway.portable.app import UVICORN_OPTIONS, build_app
from gateway.portable.upstream import PortableUpstream

Handler = Callable[[Exchange], Any]


def render(error: FramingError) -> tuple[Headers, bytes]:
    return [(b"content-type", b"application/problem+json")], f'{{"code":"{error.code}","status":{error.status}}}'.encode()


def proxy(upstream: Upstream, port: int, *, streams: bool = False, deadline_s: float = 5.0, limit_bytes: int = 1 << 24) -> Handler:
    """A handler that forwards: the smallest lane."""
    endpoint = Endpoint("http", "127.0.0.1", port)

    async def serve(exchange: Exchange) -> None:
        request = exchange.request
        target = request.path.encode() + (b"?" + request.query if request.query else b"")
        deadline_at = asyncio.get_running_loop().time() + deadline_s
        started = False
        try:
            reply = await upstream.send(endpoint, request.method, target, for_upstream(request.headers), request.body, deadline_at)
            if streams:
                exchange.start(reply.status, reply.headers)
                started = True
                async for piece in reply.chunks():
                    await exchange.write(piece)
                exchange.end()
            else:
                exchange.respond(reply.status, reply.headers, await reply.read(limit_bytes))
        except UpstreamError as error:
            if started:
                exchange.abort()
            else:
                exchange.respond(502, [(b"x-fault", error.fault.value.encode()), (b"x-sent", str(error.sent).encode())], b"")

    return serve


class Native:
    """One worker's transport, in this process."""

    def __init__(self, front: FrontLimits | None = None, upstream: UpstreamLimits | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.front_limits = front or FrontLimits()
        self.upstream = NativeUpstream(self.loop, upstream or UpstreamLimits())
        self.sweep = Sweep(self.loop)
        self.front: Front
        self.port = 0

    async def serve(self, handler: Handler) -> None:
        self.front = Front(handler, render=render, loop=self.loop, trampoline=Trampoline(), limits=self.front_limits)
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await self.front.listen(sock)
        self.sweep.add(self.front.sweep, 0.025)
        self.sweep.add(self.upstream.sweep, 0.025)
        self.sweep.start()

    async def close(self) -> None:
        await self.front.drain(1.0)
        await self.upstream.close()
        self.sweep.stop()
        assert repr(self.front) == "<Front 0 connections, 0 serving, draining>"
        for pool in self.upstream._pools.values():
            assert "0 open, 0 idle, 0 connecting, 0 waiting" in repr(pool)


@contextlib.asynccontextmanager
async def native(
    make: Callable[[Upstream], Handler], front: FrontLimits | None = None, upstream: UpstreamLimits | None = None
) -> AsyncIterator[Native]:
    """Run the native transport; nothing may be left of it afterwards."""
    before = asyncio.all_tasks()
    stack = Native(front, upstream)
    await stack.serve(make(stack.upstream))
    try:
        yield stack
    finally:
        await stack.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before | _MODEL_TASKS, "a task is left"


@contextlib.asynccontextmanager
async def portable(make: Callable[[Upstream], Handler], body_limit_bytes: int = 8 << 20) -> AsyncIterator[int]:
    """Run the portable transport under uvicorn; gives its port."""
    upstream = PortableUpstream()
    app = build_app(make(upstream), render=render, body_limit_bytes=body_limit_bytes)
    sock = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", http="httptools", timeout_graceful_shutdown=1, **UVICORN_OPTIONS)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign] # the test runner keeps its signals
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[sock]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        await upstream.aclose()
        sock.close()


_MODEL_TASKS: set[asyncio.Task[Any]] = set()  # the models' own, told apart from what a gateway leaves behind

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def model(script: Script) -> AsyncIterator[int]:
    """A model server that runs `script` on every connection; gives its port."""
    tasks: set[asyncio.Task[Any]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        _MODEL_TASKS.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await script(reader, writer)
        finally:
            tasks.discard(task)
            _MODEL_TASKS.discard(task)
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks))


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of a request with a Content-Length (or none)."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


def answering(reply: bytes, *, then_close: bool = False, count: list[bytes] | None = None) -> Script:
    """A model that gives the same bytes to every request."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(reader)
            if count is not None:
                count.append(head)
            writer.write(reply)
            await writer.drain()
            if then_close:
                return

    return script


async def talk(port: int, *pieces: bytes, until: bytes | None = None, pause_s: float = 0.02, timeout_s: float = 5.0) -> bytes:
    """Send pieces with pauses between them; return what came back until the end of the stream, or until it ends with `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(timeout_s):
            for index, piece in enumerate(pieces):
                if index:
                    await asyncio.sleep(pause_s)
                writer.write(piece)
            while until is None or not received.endswith(until):
                data = await reader.read(65536)
                if not data:
                    break
                received += data
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return received


async def until_true(condition: Callable[[], bool], timeout_s: float = 2.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is any predicate
            await asyncio.sleep(0.005)


def status_of(reply: bytes) -> int | None:
    """Status of the first reply in `reply`, None for a connection closed without one."""
    return int(reply.split(b" ", 2)[1]) if reply else None


__all__ = ["CallerGone", "answering", "model", "native", "portable", "proxy", "read_request", "render", "status_of", "talk", "until_true"]
