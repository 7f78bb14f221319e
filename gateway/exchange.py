"""The seam between the lane and its transports.

The lane (`gateway/lane.py`) is one handler that knows no socket. A transport gives it a `Request`, an `Exchange` to answer on and an
`Upstream` to call models with. There are two transports: `gateway/native/` (asyncio protocols, httptools) and `gateway/portable/`
(Starlette, httpx). What the lane may rely on, and both must keep:

- `Request.headers` are end-to-end headers in arrival order, names in lower case. Framing has been checked: exactly one Host, a body
  that is complete, decoded from chunks and at most `body_limit_bytes` long.
- `Request.path` is percent-decoded where safe and normalised exactly once; policy, routing and record all see this value. A path that cannot be
  normalised without ambiguity (encoded slash or NUL, `..` above the root, invalid percent sequence) never reaches the lane.
- Exactly one of `Exchange.respond` or `Exchange.start` is called per request. Headers given to them never contain framing or
  hop-by-hop names; the transport adds its own.
- `Upstream.send` raises only `UpstreamError`. A connection it cannot trust any more (unexpected bytes, wrong length, timeout) is closed by
  the transport, never pooled again.
- The caller going away cancels the handler: `CallerGone` is raised at its current await (native) or the task is cancelled (portable).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""


@dataclass(slots=True)
class Request:
    """One complete request as the lane sees it."""

    method: str
    path: str
    """Normalised path, without the query."""
    query: bytes
    headers: Headers
    body: bytes
    peer: str = ""
    """Address of the caller's end of the connection, for the record of unauthenticated refusals."""
    named: Mapping[bytes, bytes] | None = None
    """`headers` by name, where no name stands twice and the transport has them so."""

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first field called `name` (lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Fault(enum.Enum):
    """Why an upstream gave no usable reply. The value is what records and metrics say."""

    CONNECT = "connect"
    """No connection could be made: refused, unreachable, TLS failure."""
    TIMEOUT = "timeout"
    """The deadline passed before the reply was complete."""
    CLOSED = "closed"
    """The upstream closed the connection before a complete reply."""
    PROTOCOL = "protocol"
    """The reply broke HTTP: bad framing, ambiguous length, too large a head, a second reply nobody asked for."""
    TOO_LARGE = "too_large"
    """The reply is longer than the cap under which it had to be read whole."""
    BUSY = "busy"
    """The pool has no connection left and its waiting line is full."""


class UpstreamError(Exception):
    """An upstream call failed.

    `sent` says whether any byte of the request may have reached the model: only a call that was not sent, or one on a route declared idempotent,
    may be tried again.
    """

    def __init__(self, fault: Fault, detail: str, *, sent: bool) -> None:
        """Keep the fault's kind, a sentence for people, and whether the request may have been seen."""
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail
        self.sent = sent


class CallerGone(Exception):  # noqa: N818 - it is an event, not an error of ours
    """The caller closed its connection while its call was being served."""


@dataclass(slots=True, frozen=True)
class Endpoint:
    """Where a model version answers. Built once per snapshot; equal endpoints share one pool."""

    scheme: str
    host: str
    port: int
    base_path: str = ""
    """Prefix put before the request's path, without a trailing slash."""
    authority: bytes = field(default=b"", compare=False)
    """Value of the Host header sent upstream."""

    def __str__(self) -> str:
        """Return the endpoint as a URL."""
        return f"{self.scheme}://{self.host}:{self.port}{self.base_path}"


class UpstreamReply(Protocol):
    """A reply whose head has arrived. Exactly one of `read` or `chunks` is used; dropping it unread closes the connection."""

    status: int
    headers: Headers
    """End-to-end headers only, names in lower case."""
    content_length: int
    """Length of the body where the head tells it; -1 where only its end will."""

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body. Raises UpstreamError(TOO_LARGE) past `limit_bytes`."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, with back-pressure. Raises UpstreamError when it breaks off."""
        ...

    def close(self) -> None:
        """Give the reply up: release the connection if the body is complete, close it otherwise."""
        ...


class Upstream(Protocol):
    """Calls models. One per worker; owns the pools of connections."""

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
        """Send a request and return once the head of the reply is there.

        Args:
            endpoint: where to.
            method: HTTP method.
            target: path and query as bytes, already prefixed by the endpoint's base path.
            headers: end-to-end headers; the transport adds Host, Content-Length and Connection.
            body: the whole request body.
            deadline_at: loop time (`asyncio.get_running_loop().time()`) by which the complete reply must have arrived.
            idempotent: the call may reach the model twice without harm. When the model closes a kept connection while the request is
                on its way, it is tried again once; GET, HEAD, OPTIONS, PUT and DELETE always are (RFC 9110 9.2.2), others fail with CLOSED, sent.
        """
        ...


class Exchange(Protocol):
    """One request being answered, towards the caller."""

    request: Request

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a complete reply."""
        ...

    def start(self, status: int, headers: Headers) -> None:
        """Begin a reply whose body follows by `write`."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; returns when the caller's buffer has room."""
        ...

    def end(self) -> None:
        """Finish a reply begun by `start`."""
        ...

    def abort(self) -> None:
        """Break a started reply off so that the caller can see it is incomplete (no final chunk; the connection is closed)."""
        ...
