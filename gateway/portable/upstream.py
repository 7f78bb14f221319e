"""`Upstream` on httpx: slow, but it knows proxies, HTTP/2 and every platform.

httpx's transport is used without its client: no cookies are kept, no redirect followed, no header added, nothing decoded. One pool per endpoint, so
that a slow model cannot take the connections of another.

No connection is kept (see `_open`), so there is no stale one to repeat a request for: what breaks off ends as `Fault.CLOSED`, sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx

from gateway.exchange import Endpoint, Fault, Headers, UpstreamError, UpstreamReply
from gateway.framing import FramingError, check_head_size, check_reply, read_reply_head

_CLOSED_WORDS: Final = ("disconnected", "peer closed")  # how h11 and httpcore describe an early end


class PortableReply:
    """A reply whose head has arrived."""

    # Owner of all fields: the task that called `send`.
    def __init__(
        self, status: int, headers: Headers, content_length: int, response: httpx.Response, owner: PortableUpstream, deadline_at: float
    ) -> None:
        """Hold an open response."""
        self.status = status
        self.headers = headers
        self.content_length = content_length
        self._response: httpx.Response | None = response
        self._owner = owner
        self._deadline_at = deadline_at

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body; see `UpstreamReply.read`."""
        too_large = UpstreamError(Fault.TOO_LARGE, f"the reply is longer than {limit_bytes} bytes", sent=True)
        if self.content_length > limit_bytes:
            self.close()
            raise too_large
        pieces: list[bytes] = []
        size_bytes = 0
        async for piece in self.chunks():
            size_bytes += len(piece)
            if size_bytes > limit_bytes:
                self.close()
                raise too_large
            pieces.append(piece)
        return b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; see `UpstreamReply.chunks`."""
        response = self._response
        if response is None:
            return
        stream = cast("AsyncIterator[bytes]", response.stream.__aiter__())  # type: ignore[union-attr] # an async transport gives an async stream
        try:
            while True:
                try:
                    async with asyncio.timeout_at(self._deadline_at):
                        piece = await anext(stream, None)
                except (httpx.HTTPError, TimeoutError, OSError) as error:
                    raise _translated(error) from error
                if piece is None:
                    return
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Give the reply up or, when it is complete, its connection back."""
        response, self._response = self._response, None
        if response is not None:
            self._owner.close_response(response)

    def __del__(self) -> None:
        """Close the connection nobody will read from."""
        if self._response is not None and not self._owner.is_closed:
            self.close()


class PortableUpstream:
    """`Upstream` for one process."""

    # Owner of all fields: the loop's thread. Tasks in `_closing` remove themselves; `aclose` waits for them.
    def __init__(
        self, *, connection_limit: int = 256, waiting_limit: int = 512, connect_timeout_s: float = 2.0, tls: ssl.SSLContext | None = None
    ) -> None:
        """Start without connections; limits are per endpoint."""
        self._connection_limit = connection_limit
        self._waiting_limit = waiting_limit
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._transports: dict[tuple[str, str, int], httpx.AsyncHTTPTransport] = {}
        self._starting: dict[tuple[str, str, int], int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.is_closed = False

    async def send(
        self,
        endpoint: Endpoint,
        method: str,
        target: bytes,
        headers: Headers,
        body: bytes,
        deadline_at: float,
        *,
        idempotent: bool = False,
    ) -> UpstreamReply:
        """Send a request; see `gateway.exchange.Upstream.send`."""
        del idempotent  # nothing is repeated here, see above
        check_reply(200, headers)
        if any(name == b"host" for name, _ in headers):
            raise ValueError("header `host` is the transport's to set")
        key = (endpoint.scheme, endpoint.host, endpoint.port)
        transport = self._transports.get(key) or self._open(key)
        if self._starting[key] >= self._connection_limit + self._waiting_limit:
            raise UpstreamError(Fault.BUSY, f"all {self._connection_limit} connections to {endpoint} are in use", sent=False)
        remaining_s = max(0.0, deadline_at - asyncio.get_running_loop().time())
        authority = endpoint.authority or f"{endpoint.host}:{endpoint.port}".encode()
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        timeouts = {"connect": min(self._connect_timeout_s, remaining_s), "pool": remaining_s, "read": None, "write": None}
        request = httpx.Request(
            method,
            f"{endpoint.scheme}://{host}:{endpoint.port}/",
            headers=[(b"host", authority), *headers],
            content=body,
            extensions={"timeout": timeouts, "target": target},
        )
        self._starting[key] += 1
        try:
            async with asyncio.timeout_at(deadline_at):
                response = await transport.handle_async_request(request)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise _translated(error) from error
        finally:
            self._starting[key] -= 1
        return self._reply(method, response, deadline_at)

    def _reply(self, method: str, response: httpx.Response, deadline_at: float) -> PortableReply:
        fields = [(name.lower(), value.strip(b" \t")) for name, value in response.headers.raw]
        version = cast("bytes", response.extensions.get("http_version", b"HTTP/1.1")).decode("ascii").removeprefix("HTTP/")
        try:
            check_head_size(fields)
            head = read_reply_head(method, response.status_code, version, fields)
        except FramingError as error:
            self.close_response(response)
            raise UpstreamError(Fault.PROTOCOL, error.detail, sent=True) from error
        return PortableReply(response.status_code, head.headers, head.content_length, response, self, deadline_at)

    def _open(self, key: tuple[str, str, int]) -> httpx.AsyncHTTPTransport:
        # Nothing is kept: httpcore does not notice bytes that a model sent beyond its reply, and they would answer the next call.
        limits = httpx.Limits(max_connections=self._connection_limit, max_keepalive_connections=0)
        verify: Any = self._tls if self._tls is not None else key[0] == "https"
        transport = self._transports[key] = httpx.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False, retries=0)
        self._starting[key] = 0
        return transport

    def close_response(self, response: httpx.Response) -> None:
        """Close a response in a task of ours, because giving a reply up cannot wait."""
        task = asyncio.get_running_loop().create_task(_close(response))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close every connection."""
        self.is_closed = True
        if self._closing:
            await asyncio.wait(tuple(self._closing))
        for transport in self._transports.values():
            await transport.aclose()


async def _close(response: httpx.Response) -> None:
    await response.stream.aclose()  # type: ignore[union-attr] # an async transport gives an async stream


def _translated(error: Exception) -> UpstreamError:
    """Return httpx's complaint in our words."""
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.PoolTimeout):
        return UpstreamError(Fault.TIMEOUT, "the deadline passed before a connection was free", sent=False)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return UpstreamError(Fault.CONNECT, detail, sent=False)
    if isinstance(error, httpx.LocalProtocolError):
        return UpstreamError(Fault.PROTOCOL, detail, sent=False)
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return UpstreamError(Fault.TIMEOUT, "the deadline passed before the reply was complete", sent=True)
    if isinstance(error, httpx.RemoteProtocolError) and not any(words in detail for words in _CLOSED_WORDS):
        # The library's own words quote the reply, which may be about anybody.
        return UpstreamError(Fault.PROTOCOL, "the reply is no clear HTTP", sent=True)
    return UpstreamError(Fault.CLOSED, detail, sent=True)
