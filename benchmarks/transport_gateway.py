"""A bare proxy on the native transport: the process that `transport.py` measures.

Usage: ``python transport_gateway.py LISTEN_PORT UPSTREAM_PORT``
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys

import uvloop

from gateway.exchange import Endpoint, Exchange, Headers, UpstreamError
from gateway.framing import FramingError, for_upstream
from gateway.native.drive import Trampoline
from gateway.native.front import Front, FrontLimits
from gateway.native.sweep import Sweep
from gateway.native.upstream import NativeUpstream, UpstreamLimits

BODY_LIMIT_BYTES = 1 << 20


def render(error: FramingError) -> tuple[Headers, bytes]:
    """Return a plain error reply."""
    return [(b"content-type", b"text/plain")], error.detail.encode()


async def run(listen_port: int, upstream_port: int) -> None:
    """Serve until told to end."""
    loop = asyncio.get_running_loop()
    upstream = NativeUpstream(loop, UpstreamLimits())
    endpoint = Endpoint("http", "127.0.0.1", upstream_port)
    clock = loop.time

    async def serve(exchange: Exchange) -> None:
        request = exchange.request
        headers = for_upstream(request.headers)
        target = request.path.encode()
        if request.query:
            target += b"?" + request.query
        try:
            reply = await upstream.send(endpoint, request.method, target, headers, request.body, clock() + 5.0)
            body = await reply.read(BODY_LIMIT_BYTES)
        except UpstreamError as error:
            exchange.respond(502, [], error.detail.encode())
            return
        exchange.respond(reply.status, reply.headers, body)

    front = Front(serve, render=render, loop=loop, trampoline=Trampoline(), limits=FrontLimits())
    sock = socket.create_server(("127.0.0.1", listen_port))
    sweep = Sweep(loop)
    sweep.add(front.sweep, every_s=0.25)
    sweep.add(upstream.sweep, every_s=0.025)
    sweep.start()
    await front.listen(sock)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    gc.collect()
    gc.freeze()
    await stop.wait()
    await front.drain(1.0)
    await upstream.close()
    sweep.stop()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), int(sys.argv[2])))
