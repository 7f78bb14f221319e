"""A reply of a model server, as the lane reads it: arriving, or there in one piece; see `gateway.exchange.UpstreamReply`.

The body of a reply that is still arriving is buffered up to a mark, past which the connection is not read until the buffer has been taken.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

from gateway.exchange import Fault, Headers, UpstreamError
from gateway.native.drive import Wait

_BUFFER_MARK_BYTES: Final = 65536  # unread body past which the connection is not read


class Bearer(Protocol):
    """The connection a reply arrives on, as the reply sees it."""

    def pause(self) -> None:
        """Stop reading."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def give_up(self) -> None:
        """Close: nobody wants the reply any more."""
        ...


class Reply:
    """A reply whose head has arrived; see `UpstreamReply`. The connection fills it, the lane empties it."""

    # Owner of `status`, `headers`: set once. Of the rest: the connection adds, `read` and `chunks` take, on the loop's thread.
    __slots__ = ("_buffered_bytes", "_connection", "_error", "_limit_bytes", "_parts", "_wait", "content_length", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], content_length: int, connection: Bearer) -> None:
        """Start with an empty, open body."""
        self.status = status
        self.headers: Headers = headers
        self.content_length = content_length
        self._connection: Bearer | None = connection  # None once the body is complete or broken
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._limit_bytes = _BUFFER_MARK_BYTES
        self._error: UpstreamError | None = None
        self._wait: Wait[None] | None = None

    # The connection's side.

    def add(self, piece: bytes) -> None:
        """Take a piece of the body in."""
        self._parts.append(piece)
        self._buffered_bytes += len(piece)
        if self._buffered_bytes > self._limit_bytes and self._connection is not None:
            self._connection.pause()

    def notify(self) -> None:
        """Wake whoever waits for the body; the connection calls it when it has left the parser."""
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.give(None)

    def finish(self, error: UpstreamError | None) -> None:
        """Close the body, complete or broken."""
        self._connection = None
        self._error = error

    @property
    def is_open(self) -> bool:
        """Whether more of the body is to come."""
        return self._connection is not None

    # The lane's side.

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body; see `UpstreamReply.read`."""
        if self.content_length > limit_bytes:
            self._refuse_length(limit_bytes)
        self._limit_bytes = limit_bytes
        while self._connection is not None and self._buffered_bytes <= limit_bytes:
            self._connection.resume()
            await self._more()
        if self._buffered_bytes > limit_bytes:
            self._refuse_length(limit_bytes)
        if self._error is not None:
            raise self._error
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _refuse_length(self, limit_bytes: int) -> None:
        self.close()
        raise UpstreamError(Fault.TOO_LARGE, f"the reply is longer than {limit_bytes} bytes", sent=True)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; see `UpstreamReply.chunks`."""
        try:
            while True:
                if self._parts:
                    parts, self._parts, self._buffered_bytes = self._parts, [], 0
                    yield parts[0] if len(parts) == 1 else b"".join(parts)
                elif self._error is not None:
                    raise self._error
                elif self._connection is None:
                    return
                else:
                    self._connection.resume()
                    await self._more()
        finally:
            self.close()

    async def _more(self) -> None:
        wait: Wait[None] = Wait()
        self._wait = wait
        try:
            await wait
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the reply up; a connection in the middle of it is closed."""
        if self._connection is not None:
            self._connection.give_up()


class WholeReply:
    """A reply that came in one piece: a plain value, its connection long gone to the next call."""

    __slots__ = ("_body", "content_length", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        """Keep status, end-to-end headers and body."""
        self.status = status
        self.headers: Headers = headers
        self.content_length = len(body)
        self._body = body

    async def read(self, limit_bytes: int) -> bytes:
        """Return the body."""
        if len(self._body) > limit_bytes:
            raise UpstreamError(Fault.TOO_LARGE, f"the reply is longer than {limit_bytes} bytes", sent=True)
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body, if any, at once."""
        if self._body:
            yield self._body

    def close(self) -> None:
        """Do nothing: nothing is held."""


class OpenReply:
    """A reply still arriving, as the lane holds it: dropped unread, it closes the connection."""

    __slots__ = ("_reply", "content_length", "headers", "status")

    def __init__(self, reply: Reply) -> None:
        """Hold what the connection fills."""
        self._reply = reply
        self.status = reply.status
        self.headers: Headers = reply.headers
        self.content_length = reply.content_length

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body; see `UpstreamReply.read`."""
        return await self._reply.read(limit_bytes)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; see `UpstreamReply.chunks`."""
        async for piece in self._reply.chunks():
            yield piece

    def close(self) -> None:
        """Give the reply up."""
        self._reply.close()

    def __del__(self) -> None:
        """Close the connection nobody will read from."""
        self._reply.close()


AnyReply = Reply | OpenReply | WholeReply
