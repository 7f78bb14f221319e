"""`Exchange` on ASGI: the lane as a Starlette application.

The server (uvicorn and its like) parses; the rules of `gateway.framing` are applied to what it parsed. Differences from the native transport that a
handler may notice:

- A complete reply, and the head of a streamed one, go out when the handler next awaits `write` or returns.
- The caller's leaving cancels the handler's task: `asyncio.CancelledError` at its await.
- Timeouts of slow callers are the server's own.

Run the server with `UVICORN_OPTIONS`, else it adds a second Date and its own name to every reply.

Example::

    app = build_app(serve, render=problem, body_limit_bytes=8_388_608)
    uvicorn.run(app, **UVICORN_OPTIONS)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Lifespan, Receive, Scope, Send

from gateway.exchange import CallerGone, Exchange, Headers, Request
from gateway.framing import (
    NO_BODY_STATUSES,
    FramingError,
    RequestHead,
    check_characters,
    check_head_size,
    check_reply,
    malformed,
    read_request_head,
    read_target,
)

UVICORN_OPTIONS: Final[dict[str, Any]] = {"server_header": False, "date_header": False, "proxy_headers": False}

_LOG: Final = logging.getLogger(__name__)


class PortableExchange:
    """`Exchange` on one ASGI call."""

    # Owner of all fields: the handler's task, and `Lane` after that task has ended.
    def __init__(self, request: Request, send: Send) -> None:
        """Bind a request to its ASGI `send`."""
        self.request = request
        self._send = send
        self._status = 0
        self._headers: Headers = ()
        self._body: bytes | None = None
        self._is_head_sent = False
        self._is_head_method = request.method == "HEAD"
        self.is_started = False
        self.is_ended = False
        self.is_aborted = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a complete reply."""
        self._begin(status, headers, body)
        self._body = body
        self.is_ended = True

    def start(self, status: int, headers: Headers) -> None:
        """Begin a reply whose body follows."""
        self._begin(status, headers, b"")

    def _begin(self, status: int, headers: Headers, body: bytes) -> None:
        if self.is_started:
            raise RuntimeError("a second reply was given to one request")
        check_reply(status, headers, body)
        self.is_started = True
        self._status = status
        self._headers = headers

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the server's buffer is full."""
        if not self.is_started or self.is_ended:
            raise RuntimeError("a piece of a body was given outside of `start` and `end`")
        if self.is_aborted:
            raise CallerGone
        await self._send_head()
        if chunk and not self._is_head_method and self._status not in NO_BODY_STATUSES:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    def end(self) -> None:
        """Finish the body."""
        if not self.is_started or self.is_ended:
            raise RuntimeError("a reply was ended that is not open")
        self.is_ended = True

    def abort(self) -> None:
        """Break the reply off: the server closes a connection whose reply was never finished."""
        self.is_aborted = True

    async def _send_head(self) -> None:
        if self._is_head_sent:
            return
        self._is_head_sent = True
        headers = [(name, value) for name, value in self._headers]
        if not any(name == b"date" for name, _ in headers):
            headers.append((b"date", formatdate(time.time(), usegmt=True).encode()))
        if self._body is not None and self._status not in NO_BODY_STATUSES and (self._body or not self._is_head_method):
            headers.append((b"content-length", b"%d" % len(self._body)))
        await self._send({"type": "http.response.start", "status": self._status, "headers": headers})

    async def flush(self) -> None:
        """Send what is left once the handler has ended."""
        if self.is_aborted or not self.is_ended:
            if self.is_started:
                await self._send_head()
            return
        await self._send_head()
        body = b"" if self._is_head_method else self._body or b""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


class Lane:
    """The ASGI application proper."""

    def __init__(
        self,
        serve: Callable[[Exchange], Coroutine[Any, Any, None]],
        render: Callable[[FramingError], tuple[Headers, bytes]],
        body_limit_bytes: int,
    ) -> None:
        """Keep the handler, the renderer of refusals and the bound on bodies."""
        self._serve = serve
        self._render = render
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            request = await self._read(scope, receive)
        except FramingError as refusal:
            await self._refuse(refusal, scope["method"], send)
            return
        except CallerGone:
            return
        exchange = PortableExchange(request, send)
        error = await self._run(exchange, receive)
        if error is not None or not (exchange.is_ended or exchange.is_aborted):
            _LOG.error("the handler of a request left it unanswered", exc_info=error)
            if not exchange.is_started:
                await self._refuse(FramingError(500, "internal", "the gateway failed on this request"), request.method, send)
                return
            exchange.abort()
        await exchange.flush()

    async def _read(self, scope: Scope, receive: Receive) -> Request:
        headers = [(bytes(name), bytes(value).strip(b" \t")) for name, value in scope["headers"]]
        raw_path: bytes | None = scope.get("raw_path")
        if not raw_path:
            # The decoded path is another one: `%2F` in it is a slash, and nobody can tell any more.
            raise malformed("the server in front does not tell the path as it was sent", "serve with one that gives `raw_path`, as uvicorn does", 500)
        query: bytes = scope["query_string"]
        check_head_size(headers, len(raw_path) + len(query))
        check_characters(headers)
        head = read_request_head(scope["method"], scope["http_version"], headers)
        path, query = read_target(raw_path + (b"?" + query if query else b""), head.host)
        client = scope.get("client")
        body = await self._read_body(head, receive)
        return Request(scope["method"], path, query, head.headers, body, client[0] if client else "")

    async def _read_body(self, head: RequestHead, receive: Receive) -> bytes:
        too_large = FramingError(413, "body_too_large", f"the body is longer than {self._body_limit_bytes} bytes")
        if head.content_length > self._body_limit_bytes:
            raise too_large
        pieces: list[bytes] = []
        size_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            piece = message.get("body", b"")
            size_bytes += len(piece)
            if size_bytes > self._body_limit_bytes:
                raise too_large
            pieces.append(piece)
            if not message.get("more_body", False):
                break
        if head.content_length >= 0 and size_bytes != head.content_length:
            raise malformed(f"the body has {size_bytes} bytes, Content-Length says {head.content_length}")
        return b"".join(pieces)

    async def _run(self, exchange: PortableExchange, receive: Receive) -> BaseException | None:
        """Run the handler until it ends or the caller leaves; return what it failed with."""
        # Both tasks are owned here: neither outlives this call.
        handler = asyncio.get_running_loop().create_task(self._serve(exchange))
        watcher = asyncio.get_running_loop().create_task(_until_gone(receive))
        try:
            await asyncio.wait((handler, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not handler.done():
                exchange.abort()
        finally:
            handler.cancel()
            watcher.cancel()
            await asyncio.wait((handler, watcher))
        if handler.cancelled() or isinstance(handler.exception(), CallerGone):
            exchange.abort()
            return None
        return handler.exception()

    async def _refuse(self, refusal: FramingError, method: str, send: Send) -> None:
        headers, body = self._render(refusal)
        date = formatdate(time.time(), usegmt=True).encode()
        own = [(b"date", date), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers, *own]})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def build_app(
    serve: Callable[[Exchange], Coroutine[Any, Any, None]],
    *,
    render: Callable[[FramingError], tuple[Headers, bytes]],
    body_limit_bytes: int,
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """Return the ASGI application.

    Args:
        serve: the lane, with everything but the exchange bound.
        render: makes headers and body of an error reply.
        body_limit_bytes: bound on request bodies; 413 past it.
        lifespan: opens and closes what the lane needs (the `PortableUpstream`, above all).
    """
    return Starlette(routes=[Mount("/", app=Lane(serve, render, body_limit_bytes))], lifespan=lifespan)
