"""One request being answered on a caller's connection: `gateway.exchange.Exchange` over the native transport.

Rules:
- One per request; the handler owns it until it ends. Exactly one reply: `respond`, or `start`, pieces and `end`.
- A caller who has gone is told by `CallerGone` at the next write. A second reply is a defect of the handler.
- Nothing is kept here: bytes go to the transport at once, and `write` waits while the caller reads slower than we write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.exchange import CallerGone, Headers, Request
from gateway.framing import NO_BODY_STATUSES, check_reply
from gateway.native.reply_bytes import CHUNKED, CLOSE, chunk_bytes, head_bytes, length_line

if TYPE_CHECKING:
    from gateway.native.caller import Caller
    from gateway.native.drive import Drive

_JOIN_UP_TO_BYTES: Final = 65536  # a larger body is written by itself rather than copied behind its head


class NativeExchange:
    """`Exchange` on a caller's connection. One per request."""

    # Owner of all fields: the handler through the Exchange methods, and `Caller` for `is_gone`.
    __slots__ = ("_caller", "_connection_line", "_is_chunked", "_is_head", "drive", "is_ended", "is_gone", "is_started", "request")

    def __init__(self, caller: Caller, request: Request, connection_line: bytes) -> None:
        """Bind a request to its connection.

        Args:
            caller: the connection.
            request: complete.
            connection_line: what the reply says about the connection's future: empty, CLOSE or KEEP_ALIVE_1_0.
        """
        self.request = request
        self.drive: Drive | None = None
        self.is_started = False
        self.is_ended = False
        self.is_gone = False
        self._caller = caller
        self._connection_line = connection_line
        self._is_head = request.method == "HEAD"
        self._is_chunked = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a complete reply in one write."""
        caller = self._begin()
        if body and status in NO_BODY_STATUSES:
            check_reply(status, headers, body)
        # A reply to HEAD says the length its GET would have; when the lane has no body for it, we do not know that.
        length = b"" if self._is_head and not body else length_line(len(body))
        head = head_bytes(status, headers, length, self._connection_line, caller.front.date_line)
        self.is_started = self.is_ended = True
        if self._is_head or not body:
            caller.transport.write(head)
        elif len(body) <= _JOIN_UP_TO_BYTES:
            caller.transport.write(head + body)
        else:
            caller.transport.write(head)
            caller.transport.write(body)

    def start(self, status: int, headers: Headers) -> None:
        """Send the head of a reply whose body follows; chunked, or up to the end of the connection for HTTP/1.0."""
        caller = self._begin()
        has_body = not self._is_head and status not in NO_BODY_STATUSES
        self._is_chunked = has_body and not caller.is_http_1_0
        if has_body and caller.is_http_1_0:
            self._connection_line = CLOSE
        head = head_bytes(status, headers, CHUNKED if self._is_chunked else b"", self._connection_line, caller.front.date_line)
        self.is_started = True
        caller.transport.write(head)

    def _begin(self) -> Caller:
        # A transport that closed itself on an error tells us a little later; uvloop refuses writes in between.
        if self.is_gone or self._caller.transport.is_closing():
            raise CallerGone
        if self.is_started:
            raise RuntimeError("a second reply was given to one request")
        if self._caller.front.is_draining:
            self._connection_line = CLOSE
        return self._caller

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the caller reads slower than we write."""
        if self.is_gone or self._caller.transport.is_closing():
            raise CallerGone
        if not self.is_started or self.is_ended:
            raise RuntimeError("a piece of a body was given outside of `start` and `end`")
        caller = self._caller
        if self._is_chunked and chunk:
            caller.transport.write(chunk_bytes(chunk))
        elif not self._is_head and chunk:
            caller.transport.write(chunk)
        if caller.room is not None:
            await caller.room

    def end(self) -> None:
        """Finish the body."""
        if self.is_gone or self._caller.transport.is_closing():
            raise CallerGone
        if not self.is_started or self.is_ended:
            raise RuntimeError("a reply was ended that is not open")
        self.is_ended = True
        if self._is_chunked:
            self._caller.transport.write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Cut the connection in the middle of the reply; the handler itself may go on."""
        self.is_gone = True
        self._caller.cut()

    @property
    def keeps_connection(self) -> bool:
        """Whether the reply promised the caller that the connection stays open."""
        return self._connection_line is not CLOSE

    def finished(self, error: BaseException | None) -> None:
        """Hear from the drive that the handler has ended."""
        self.drive = None  # else each call would leave a cycle behind for the collector
        self._caller.handler_finished(self, error)
