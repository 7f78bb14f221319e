"""One connection to a model server: a request out, a reply in.

States, and what ends them::

    IDLE --begin--> WAITING --head--> BODY --end of message--> IDLE (kept) or DEAD
      IDLE --any byte, end of stream, idle too long--> DEAD
      WAITING, BODY --deadline, end of stream, broken rule, given up--> DEAD

A reply becomes visible when its head is there. If its body came in the same read, which is the usual case, the connection is back in
the pool before the caller of `send` runs, and the reply is a plain value. Else it fills as it is read (`gateway/native/reply.py`).

Bytes after the end of a reply were not asked for: the reply stands, the connection is closed, nobody ever sees them.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Final, Protocol, cast

import httptools

from gateway.exchange import Fault, UpstreamError
from gateway.framing import HEAD_LIMIT_BYTES, HEADER_COUNT_LIMIT, BodyBy, FramingError, read_reply_head
from gateway.native.drive import Wait
from gateway.native.plain import PlainReader
from gateway.native.reply import AnyReply, OpenReply, Reply, WholeReply

_INTERIM_LIMIT: Final = 8  # 1xx heads before the final one


class State(enum.Enum):
    """What the next byte belongs to."""

    IDLE = "idle"
    WAITING = "waiting"
    BODY = "body"
    DEAD = "dead"


_IDLE, _WAITING, _BODY, _DEAD = State.IDLE, State.WAITING, State.BODY, State.DEAD


class Owner(Protocol):
    """The pool, as a connection sees it."""

    def release(self, connection: Connection) -> None:
        """Take back a connection that can carry another request."""
        ...

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is closed."""
        ...


class Connection(asyncio.Protocol):
    """A connection to a model server."""

    # Owner of all fields: the loop's thread; `begin` starts a call, the protocol callbacks move it on, `_end` closes it.
    __slots__ = (
        "_deadline_at",
        "_head_bytes",
        "_headers",
        "_interim_count",
        "_is_paused",
        "_is_poisoned",
        "_keep_alive",
        "_method",
        "_owner",
        "_parser",
        "_plain",
        "_reply",
        "_status_error",
        "_until_eof",
        "_wait",
        "has_reply_bytes",
        "is_reused",
        "since",
        "state",
        "transport",
    )

    def __init__(self, owner: Owner, now_s: float, plain: PlainReader) -> None:
        """Prepare for a connection the pool is making."""
        self._owner = owner
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by connection_made before anything else runs
        self._parser: Any = httptools.HttpResponseParser(self)
        self.state = _IDLE
        self.since = now_s
        self._plain = plain
        self.is_reused = False
        self.has_reply_bytes = False
        self._method = ""
        self._deadline_at = 0.0
        self._wait: Wait[AnyReply] | None = None
        self._reply: Reply | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._interim_count = 0
        self._is_paused = False
        self._is_poisoned = False
        self._keep_alive = False
        self._until_eof = False
        self._status_error: UpstreamError | None = None

    def __repr__(self) -> str:
        """Tell the state."""
        return f"<Connection {self.state.value}{' reused' if self.is_reused else ''}>"

    @property
    def is_dead(self) -> bool:
        """Whether it carries nothing any more."""
        return self.state is _DEAD

    def begin(self, method: str, request: bytes, deadline_at: float) -> Wait[AnyReply]:
        """Send a request; the wait gives its reply once the head is there, or fails with UpstreamError."""
        self.state = _WAITING
        self.has_reply_bytes = False
        self._method = method
        self._deadline_at = deadline_at
        self._head_bytes = self._interim_count = 0
        wait: Wait[AnyReply] = Wait()
        self._wait = wait
        self.transport.write(request)
        return wait

    # -- bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse; hand over what became complete."""
        if self.state is _IDLE:  # nobody asked
            self._bury()
            return
        if self.state is _DEAD:
            return
        if not self.has_reply_bytes:
            self.has_reply_bytes = True
            if self._method != "HEAD" and self._give_plain(data):
                return
        if self.state is _WAITING:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break("the upstream switched protocols without being asked")
        except httptools.HttpParserError as error:
            self._break(f"the reply is not HTTP: {error}")
        self._settle()

    def _give_plain(self, data: bytes) -> bool:
        """Hand over a reply that is whole and plain without the parser; False when it is not."""
        plain = self._plain.reply(data)
        wait = self._wait
        if plain is None or wait is None:
            return False
        self._wait = None
        self.state = _IDLE
        self.is_reused = True
        self._owner.release(self)
        wait.give(WholeReply(*plain))
        return True

    def _break(self, detail: str) -> None:
        """Note a broken rule: fatal to an open reply, and to the connection."""
        self._is_poisoned = True
        if self._status_error is None and (self._reply is None or self._reply.is_open):
            self._status_error = UpstreamError(Fault.PROTOCOL, detail, sent=True)

    def _settle(self) -> None:
        """Act on what the parser found; runs outside the parser because it resumes the lane."""
        reply = self._reply
        if self._status_error is not None:
            self._end(self._status_error)
        elif reply is None:
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._end(UpstreamError(Fault.PROTOCOL, f"the head of the reply is longer than {HEAD_LIMIT_BYTES} bytes", sent=True))
        elif reply.is_open:
            wait, self._wait = self._wait, None
            if wait is not None:
                self.state = _BODY
                wait.give(OpenReply(reply))
            else:
                reply.notify()
        else:
            self._complete(reply)

    def _complete(self, reply: Reply) -> None:
        wait, self._wait = self._wait, None
        self._reply = None
        if self._is_paused:
            self.resume()
        if self._keep_alive and not self._is_poisoned and not self.transport.is_closing():
            self.state = _IDLE
            self.is_reused = True
            self._owner.release(self)
        else:
            self._bury()
        if wait is not None:
            wait.give(reply)
        else:
            reply.notify()

    def on_message_begin(self) -> None:
        """Notice a second reply in the bytes of the first."""
        if self._reply is not None:
            self._break("a second reply followed the first")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are dropped."""
        if self._reply is None:
            self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Judge the head."""
        if self._reply is not None or self._status_error is not None:
            self._break("a second reply followed the first")
            return
        headers, self._headers = self._headers, []
        parser = self._parser
        status = parser.get_status_code()
        if len(headers) > HEADER_COUNT_LIMIT or (self._head_bytes > HEAD_LIMIT_BYTES and _size_bytes(headers) > HEAD_LIMIT_BYTES):
            self._break(f"the head of the reply has more than {HEADER_COUNT_LIMIT} fields or {HEAD_LIMIT_BYTES} bytes")
            return
        try:
            head = read_reply_head(self._method, status, parser.get_http_version(), headers)
        except FramingError as error:
            self._break(error.detail)
            return
        if status < 200:
            self._interim_count += 1
            if self._interim_count > _INTERIM_LIMIT:
                self._break(f"more than {_INTERIM_LIMIT} interim replies came before the final one")
            return
        self._keep_alive = head.keep_alive
        self._until_eof = head.body_by is BodyBy.EOF
        self._reply = reply = Reply(status, head.headers, head.content_length, self)
        if head.body_by is BodyBy.NONE:
            # llhttp does not know what was asked: after HEAD it waits for the announced body, so it is replaced.
            reply.finish(None)
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, piece: bytes) -> None:
        """Pass a piece of the body on."""
        reply = self._reply
        if reply is not None and reply.is_open:
            reply.add(piece)
        else:
            self._break("the upstream sent a body where none may be")

    def on_message_complete(self) -> None:
        """Close the reply; interim replies complete too and are skipped."""
        reply = self._reply
        if reply is not None and reply.is_open and self._status_error is None:
            reply.finish(None)

    def eof_received(self) -> bool:
        """Complete a reply that ends with the connection; break any other."""
        if self.state is _BODY and self._until_eof and self._reply is not None:
            self._reply.finish(None)
            self._complete(self._reply)
        else:
            self._end(UpstreamError(Fault.CLOSED, "the upstream closed the connection before its reply was complete", sent=True))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Break an open reply and leave the pool."""
        reason = f": {exc}" if exc is not None else ""
        self._end(UpstreamError(Fault.CLOSED, f"the connection to the upstream was lost{reason}", sent=True))

    # -- flow

    def pause(self) -> None:
        """Stop reading until the buffer is taken."""
        if not self._is_paused and self.state is not _DEAD and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused:
            self._is_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # -- endings

    def look(self, now: float, idle_timeout_s: float) -> None:
        """Compare with the clock."""
        if self.state is _IDLE:
            if now - self.since > idle_timeout_s:
                self._bury()
        elif self.state is not _DEAD and now >= self._deadline_at:
            self._end(UpstreamError(Fault.TIMEOUT, "the deadline passed before the reply was complete", sent=True))

    def give_up(self) -> None:
        """Close: nobody wants the reply any more."""
        self._end(UpstreamError(Fault.CLOSED, "the reply was given up", sent=True))

    def _end(self, error: UpstreamError) -> None:
        """Close the connection and tell whoever waits for it."""
        if self.state is _DEAD:
            return
        wait, self._wait = self._wait, None
        reply, self._reply = self._reply, None
        self._bury()
        if reply is not None and reply.is_open:
            reply.finish(error)
            if wait is None:
                reply.notify()
        if wait is not None:
            wait.fail(error)

    def _bury(self) -> None:
        if self.state is not _DEAD:
            self.state = _DEAD
            self._owner.forget(self)
            if self.transport is not None:
                self.transport.abort()


def _size_bytes(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)
