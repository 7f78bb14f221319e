"""One caller's connection: bytes in, requests to the lane, replies out.

Life of a connection::

    IDLE --first byte--> HEAD --head judged--> BODY --complete--> IDLE        (what is being read)
      any --refused, closing--> STOPPED

Serving is beside it: at most one exchange runs; a pipelined request waits in `_queue` until the one before is finished. More than
`pipeline_limit` waiting requests are not read: those accepted are answered and the connection is closed (RFC 9112 9.3.2 lets a server do so).

- A message refused for its form is answered after the requests before it, with `Connection: close`; what still comes in is discarded for a moment
  so that the caller gets to read the answer instead of a reset.
- The caller closing its side while its call is served, half or whole, means it is gone (nginx's rule too): the handler gets `CallerGone`.
- The clock is looked at by `look`, called by the front's sweep. Times are the sweep's, coarse on purpose.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import httptools

from gateway.exchange import CallerGone, Request
from gateway.framing import (
    HEAD_LIMIT_BYTES,
    HEADER_COUNT_LIMIT,
    FramingError,
    RequestHead,
    check_head_size,
    malformed,
    read_request_head,
    read_target,
)
from gateway.native.answer import NativeExchange
from gateway.native.drive import Drive, Wait
from gateway.native.reply_bytes import CLOSE, CONTINUE, KEEP_ALIVE_1_0, head_bytes, length_line

if TYPE_CHECKING:
    from gateway.native.front import Front

_LOG: Final = logging.getLogger(__name__)
_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_DISCARD_LIMIT_BYTES: Final = 8 * 1024 * 1024  # how much a refused caller may still send before it is cut off
_PIPELINED_BYTES: Final = 65536  # bodies of waiting requests past which the connection is not read


class Reading(enum.Enum):
    """What the next byte belongs to."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    STOPPED = "stopped"


_IDLE, _HEAD, _BODY, _STOPPED = Reading.IDLE, Reading.HEAD, Reading.BODY, Reading.STOPPED


class Caller(asyncio.Protocol):
    """A connection from a caller."""

    # Owner of all fields: the loop's thread. Those about reading are changed by the parser's callbacks and `data_received`; `_current` and
    # `_queue` by `_advance` and `handler_finished`; `room` by pause_writing and resume_writing.
    __slots__ = (
        "_body",
        "_body_began",
        "_body_bytes",
        "_boundary_bytes",
        "_chunk_bytes",
        "_close_by",
        "_current",
        "_discarded_bytes",
        "_fed_bytes",
        "_head",
        "_headers",
        "_is_reading_paused",
        "_method",
        "_must_continue",
        "_parser",
        "_parser_is_fresh",
        "_path",
        "_peer",
        "_query",
        "_queue",
        "_queued_bytes",
        "_quiet_bytes",
        "_reading",
        "_refusal",
        "_room_since",
        "_seen_bytes",
        "_since",
        "_target",
        "_unsent_bytes",
        "front",
        "is_http_1_0",
        "room",
        "transport",
    )

    def __init__(self, front: Front) -> None:
        """Prepare for a connection the front's socket accepted."""
        self.front = front
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by connection_made before anything else runs
        self.is_http_1_0 = False
        self.room: Wait[None] | None = None
        self._room_since = 0.0
        self._unsent_bytes = 0
        self._peer = ""
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parser_is_fresh = True  # between messages: nothing of the next one has been fed
        self._reading = _IDLE
        self._since = front.now_s
        self._close_by: float | None = None
        self._fed_bytes = self._chunk_bytes = self._boundary_bytes = self._quiet_bytes = self._discarded_bytes = 0
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: RequestHead = cast("RequestHead", None)  # set by on_headers_complete before it is read
        self._method = self._path = ""
        self._query = b""
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._body_began = 0.0
        self._seen_bytes = 0  # of the body when its rate was last looked at
        self._must_continue = False
        self._refusal: FramingError | None = None
        self._current: NativeExchange | None = None
        self._queue: deque[NativeExchange] = deque()
        self._queued_bytes = 0
        self._is_reading_paused = False

    def __repr__(self) -> str:
        """Tell the peer and the state."""
        serving = f"serving {self._current.request.method} {self._current.request.path}" if self._current else "serving nothing"
        return f"<Caller {self._peer} {self._reading.value}, {serving}, {len(self._queue)} waiting>"

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, or refuse it when there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        if not self.front.admit(self):
            if self.front.is_overrun:
                self.cut()
                return
            self._reading = _HEAD  # a request is on its way; let its sender read the answer
            self._refuse(FramingError(503, "not_ready", "the gateway has no connection left", "try again in a moment"), is_head=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is being served and forget the connection."""
        del exc  # a reset and a close mean the same here
        self._reading = _STOPPED
        self._queue.clear()
        self.front.forget(self)
        self._cancel_current()

    def eof_received(self) -> bool:
        """Take the end of the caller's bytes as its going away; the transport closes after what is already written."""
        self._reading = _STOPPED
        self._queue.clear()
        self._cancel_current()
        return False

    def _cancel_current(self) -> None:
        current = self._current
        if current is not None and not current.is_gone:
            current.is_gone = True
            if current.drive is not None:
                current.drive.throw(CallerGone())

    def pause_writing(self) -> None:
        """Make the handler's next `write` wait."""
        self.room = Wait()
        self._room_since = self.front.now_s
        self._unsent_bytes = self.transport.get_write_buffer_size()
        # Not from here: this may be inside a write of `_refuse`. A caller who does not read his replies is not read either.
        self.front.loop.call_soon(self._go_on)

    def resume_writing(self) -> None:
        """Let the waiting `write` go on, and what waits in line."""
        room, self.room = self.room, None
        if room is not None:
            room.give(None)
        self.front.loop.call_soon(self._go_on)

    # -- reading

    def data_received(self, data: bytes) -> None:
        """Parse; judge; serve what became complete."""
        if self._reading is _STOPPED or self._refusal is not None:
            self._discard(len(data))
            return
        if self._reading is _IDLE:
            if self._current is None and self.room is None and self._parser_is_fresh and not self._queue and self._serve_plain(data):
                return
            self._reading = _HEAD
            self._since = self.front.now_s
        self._parser_is_fresh = False
        self._chunk_bytes = size = len(data)
        self._fed_bytes += size
        self._quiet_bytes += size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._note(malformed("protocol upgrades are not served here", "send the request without `Upgrade`"))
        except httptools.HttpParserError as error:
            self._note(malformed(f"the request is not HTTP: {error}", "see RFC 9112"))
        if self._reading is not _IDLE and self._refusal is None:
            self._check_unfinished()
        self._advance()

    def _serve_plain(self, data: bytes) -> bool:
        """Serve a request that is whole and plain without the parser; False when it is not."""
        front = self.front
        plain = front.plain.request(data, front.limits.body_limit_bytes)
        if plain is None:
            return False
        method, path, query, named, body = plain
        self.is_http_1_0 = False
        self._serve(NativeExchange(self, Request(method, path, query, list(named.items()), body, self._peer, named), b""))
        return True

    def _note(self, refusal: FramingError) -> None:
        """Remember the first reason to refuse; nothing is read after it."""
        if self._refusal is None:
            self._refusal = refusal

    def _check_unfinished(self) -> None:
        """Look at a message of which more is to come."""
        if self._reading is _HEAD:
            if self._fed_bytes > HEAD_LIMIT_BYTES:
                self._note(malformed(f"the head of the request is longer than {HEAD_LIMIT_BYTES} bytes", "send smaller headers", 431))
        elif self._quiet_bytes > HEAD_LIMIT_BYTES:
            self._note(malformed("the body's chunk extensions or trailers are longer than its limit for heads", "send plain chunks"))
        elif self._must_continue and self._current is None and not self._queue:
            self._must_continue = False
            self.transport.write(CONTINUE)

    def on_url(self, url: bytes) -> None:
        """Collect the request target."""
        self._reading = _HEAD
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers, which also come here, are dropped (RFC 9110 6.5.1)."""
        if self._reading is _HEAD:
            self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Judge the head."""
        if self._refusal is not None:
            return
        parser = self._parser
        headers, target = self._headers, self._target
        self._headers, self._target = [], b""
        raw_method = parser.get_method()
        method = _METHODS.get(raw_method) or raw_method.decode("ascii", "replace")
        version = parser.get_http_version()
        self._method = method
        try:
            if self._fed_bytes + self._boundary_bytes > HEAD_LIMIT_BYTES or len(headers) > HEADER_COUNT_LIMIT:
                check_head_size(headers, len(target))
            self._head = head = read_request_head(method, version, headers)
            self._path, self._query = read_target(target, head.host)
            if head.content_length > self.front.limits.body_limit_bytes:
                raise self._too_large()
        except FramingError as refusal:
            self._refusal = refusal
            return
        self.is_http_1_0 = version == "1.0"
        self._must_continue = head.expects_continue
        self._reading = _BODY
        self._since = self._body_began = self.front.now_s
        self._quiet_bytes = self._seen_bytes = 0

    def _too_large(self) -> FramingError:
        return FramingError(413, "body_too_large", f"the body is longer than {self.front.limits.body_limit_bytes} bytes")

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the unfinished request's body."""
        return self._body_bytes if self._body else 0

    def on_body(self, piece: bytes) -> None:
        """Collect the body, up to its limit."""
        if self._refusal is not None:
            return
        self._quiet_bytes = 0
        self._must_continue = False
        self._body_bytes += len(piece)
        if self._body_bytes > self.front.limits.body_limit_bytes:
            self._note(self._too_large())
        elif self.front.body_bytes > self.front.limits.bodies_limit_bytes:
            self._note(FramingError(503, "not_ready", "the gateway holds as much of unfinished requests as it may", "try again in a moment"))
        elif not self._body:
            self._body = piece
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += piece

    def on_message_complete(self) -> None:
        """Queue the request; it is served when `data_received` has left the parser."""
        if self._refusal is not None:
            return
        body = self._body
        if not isinstance(body, bytes):
            body = bytes(body)
        head = self._head
        line = b"" if head.keep_alive and not self.is_http_1_0 else KEEP_ALIVE_1_0 if head.keep_alive else CLOSE
        request = Request(self._method, self._path, self._query, head.headers, body, self._peer)
        if len(self._queue) >= self.front.limits.pipeline_limit:
            self._refusal = malformed("too many pipelined requests", "wait for replies", 429)
            return
        self._queue.append(NativeExchange(self, request, line))
        self._queued_bytes += len(body)
        self._body = b""
        self._body_bytes = self._fed_bytes = 0
        self._boundary_bytes = self._chunk_bytes
        self._must_continue = False
        self._method = ""
        self._parser_is_fresh = True
        self._reading = _IDLE
        self._since = self.front.now_s

    def _discard(self, size_bytes: int) -> None:
        self._discarded_bytes += size_bytes
        if self._discarded_bytes > _DISCARD_LIMIT_BYTES:
            self.transport.abort()

    # -- serving

    def _advance(self) -> None:
        """Serve the next request, or give the refusal that was kept for after it."""
        while self._current is None and self._queue and self.room is None:
            exchange = self._queue.popleft()
            self._queued_bytes -= len(exchange.request.body)
            self._serve(exchange)
        if self._current is None and not self._queue and self._refusal is not None and self._reading is not _STOPPED:
            self._refuse(self._refusal, is_head=self._method == "HEAD")
            return
        must_pause = (self._queued_bytes > _PIPELINED_BYTES and bool(self._queue)) or (self._current is None and self.room is not None)
        if must_pause is not self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = must_pause
            if must_pause:
                self.transport.pause_reading()
            else:
                self._since = self._body_began = self.front.now_s
                self.transport.resume_reading()

    def _serve(self, exchange: NativeExchange) -> None:
        self._current = exchange
        front = self.front
        front.serving_count += 1
        exchange.drive = drive = Drive(front.serve(exchange), front.trampoline, exchange.finished)
        drive.start()

    def handler_finished(self, exchange: NativeExchange, error: BaseException | None) -> None:
        """Close the exchange: keep the connection, or end it in the way its reply needs."""
        self._current = None
        self.front.serving_count -= 1
        if exchange.is_gone or self.transport.is_closing():
            if error is not None and not isinstance(error, CallerGone):
                _LOG.error("a handler failed after its caller had gone", exc_info=error)
            self.front.check_drained()
            return
        if error is not None or not exchange.is_ended:
            _LOG.error("the handler of a request left it unanswered", exc_info=error)
            if exchange.is_started:
                self.cut()
            else:
                self._refuse(FramingError(500, "internal", "the gateway failed on this request"), is_head=exchange.request.method == "HEAD")
            return
        if not exchange.keeps_connection or self.front.is_draining:
            self._queue.clear()
            self._stop(self.front.limits.linger_s)
            self.transport.close()
            return
        self._since = self.front.now_s
        if self._queue or self._refusal is not None or self._is_reading_paused or self._must_continue:
            # Not from here: the handler may have ended inside its own start, and a caller must not deepen the stack by pipelining.
            self.front.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._reading is not _STOPPED:
            if self._reading is _BODY and self._refusal is None:
                self._check_unfinished()
            self._advance()

    def _refuse(self, refusal: FramingError, *, is_head: bool) -> None:
        """Answer with an error of our own, then read nothing more."""
        is_request_open = self._reading is _HEAD or self._reading is _BODY
        self._queue.clear()
        self._body = b""  # the connection lingers until the answer is read; what it has sent is of no use any more
        if self.transport.is_closing():
            self._stop(self.front.limits.linger_s)
            return
        headers, body = self.front.render(refusal)
        head = head_bytes(refusal.status, headers, length_line(len(body)), CLOSE, self.front.date_line)
        self.transport.write(head if is_head else head + body)
        self._stop(self.front.limits.linger_s)
        if is_request_open and self.transport.can_write_eof():
            self.transport.write_eof()  # the caller may still be sending: closing now would reset the connection under the answer
        else:
            self.transport.close()

    def _stop(self, grace_s: float) -> None:
        self._reading = _STOPPED
        self._close_by = self.front.now_s + grace_s

    def cut(self) -> None:
        """Break the connection off at once, and what is served on it."""
        self._reading = _STOPPED
        self.transport.abort()
        self._cancel_current()

    def close_if_idle(self) -> None:
        """Close unless a request is being read or served; for draining."""
        if self._current is None and not self._queue and self._reading is _IDLE:
            self._stop(self.front.limits.linger_s)
            self.transport.close()

    def give_up(self) -> None:
        """End whatever is going on; for the end of draining."""
        self._queue.clear()
        self.cut()

    # -- the clock

    def look(self, now: float) -> None:
        """Compare with the clock whatever this connection waits for."""
        limits = self.front.limits
        if self.room is not None:
            self._look_at_unsent(now)
        if self._close_by is not None:
            if self.room is not None:  # a reply is still being sent; it is `_look_at_unsent` that bounds the wait
                self._close_by = now + limits.linger_s
            elif now >= self._close_by:
                self.transport.abort()
            return
        waited_s = now - self._since
        if self._reading is _HEAD:
            if waited_s > limits.head_timeout_s and not self._is_reading_paused:
                self._note(malformed("the head of the request took too long", "send it at once", 408))
                self._advance()
        elif self._reading is _BODY:
            self._look_at_body(now, waited_s)
        elif self._reading is _IDLE and self._current is None and waited_s > limits.idle_timeout_s:
            self._stop(limits.linger_s)
            self.transport.close()

    def _look_at_body(self, now: float, waited_s: float) -> None:
        limits = self.front.limits
        if self._is_reading_paused or self._must_continue or waited_s <= limits.body_grace_s:
            return  # it is us who keep the caller waiting, or it is early
        # The rate since the last look, not since the beginning: a fast start buys no hours of silence.
        is_slow = self._body_bytes - self._seen_bytes < waited_s * limits.body_floor_bytes_per_s
        if is_slow or now - self._body_began > limits.body_timeout_s:
            self._note(malformed("the body of the request came too slowly", "send it faster", 408))
            self._advance()
        else:
            self._seen_bytes, self._since = self._body_bytes, now

    def _look_at_unsent(self, now: float) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:  # growth is our writing, not the caller's reading
            self._room_since = now
        elif now - self._room_since > self.front.limits.stall_timeout_s:
            self.cut()
        self._unsent_bytes = unsent_bytes
