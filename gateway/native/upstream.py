"""The pooled client: `Upstream` on connections of our own.

Per endpoint: idle connections last in, first out (the coldest expire), a bound on open ones, a bounded waiting line, then `Fault.BUSY`. Deadlines
are the worker's sweep's business, to within a tick.

When a call is tried again, and when not. A server may close a kept connection at any moment, and a request can cross that close. If a connection that
has served before ends without a single byte of a reply, nobody can tell whether the model saw the request. Hence:

- a fresh connection: never tried again; the error says `sent`;
- a kept one, and the method is idempotent by RFC 9110 9.2.2 or the caller said `idempotent`: tried once more, after all other idle
  connections to that endpoint have been closed, for they are older still;
- a kept one, and anything else (a POST): `Fault.CLOSED`, `sent=True`. RFC 9112 9.3.1 forbids to repeat it unasked.

To make that rare, kept connections expire after 4 s, below the 5 s after which common model servers (uvicorn) close them.

Example::

    upstream = NativeUpstream(loop, UpstreamLimits())
    sweep.add(upstream.sweep, every_s=0.025)
    reply = await upstream.send(endpoint, "POST", b"/v2/models/m/infer", headers, body, loop.time() + 2.0)
    body = await reply.read(limit_bytes=1_000_000)
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gateway.exchange import Endpoint, Fault, Headers, UpstreamError, UpstreamReply
from gateway.framing import BODY_METHODS
from gateway.native.connection import Connection
from gateway.native.drive import Wait
from gateway.native.plain import FieldLines, PlainReader
from gateway.native.reply import AnyReply

_render: Final = FieldLines(frozenset((b"host",))).__getitem__
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_TARGET: Final = re.compile(rb"/[\x21-\x7e]*")
_KNOWN_LIMIT: Final = 4096  # endpoint objects remembered by identity; a reload makes new ones


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """What a model server may cost, per endpoint."""

    connection_limit: int = 256
    waiting_limit: int = 512
    connect_timeout_s: float = 2.0
    idle_timeout_s: float = 4.0


class _Waiter(NamedTuple):
    wait: Wait[Connection]
    deadline_at: float


class Pool:
    """The connections to one endpoint."""

    # Owner of all fields: the loop's thread. `idle` is a subset of `open`; `_now_s` is the
    # sweep's clock, coarse on purpose; tasks in `connecting` remove themselves.
    __slots__ = ("_endpoint", "_limits", "_loop", "_now_s", "_plain", "_tls", "connecting", "idle", "line", "open")

    def __init__(
        self, endpoint: Endpoint, limits: UpstreamLimits, loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext | None, plain: PlainReader
    ) -> None:
        """Start empty."""
        self._endpoint = endpoint
        self._limits = limits
        self._loop = loop
        self._tls = tls
        self._plain = plain
        self._now_s = loop.time()
        self.idle: list[Connection] = []
        self.open: set[Connection] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self.line: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        """Tell the counts."""
        counts = f"{len(self.open)} open, {len(self.idle)} idle, {len(self.connecting)} connecting, {len(self.line)} waiting"
        return f"<Pool {self._endpoint.scheme}://{self._endpoint.host}:{self._endpoint.port} {counts}>"

    @property
    def is_in_use(self) -> bool:
        """Whether there is a connection, or somebody waits for one."""
        return bool(self.open or self.connecting or self.line)

    async def acquire(self, deadline_at: float) -> Connection:
        """Return a connection: idle, new, or the next one released.

        Raises:
            UpstreamError: BUSY, CONNECT or TIMEOUT, never sent.
        """
        while True:
            connection = self.idle.pop() if self.idle else await self._wait_in_line(deadline_at)
            if not connection.transport.is_closing():
                return connection
            connection.give_up()

    async def _wait_in_line(self, deadline_at: float) -> Connection:
        has_room = len(self.open) + len(self.connecting) < self._limits.connection_limit
        if not has_room and len(self.line) - len(self.connecting) >= self._limits.waiting_limit:
            raise UpstreamError(Fault.BUSY, f"all {self._limits.connection_limit} connections to {self._endpoint} are in use", sent=False)
        waiter = _Waiter(Wait(), deadline_at)
        self.line.append(waiter)
        self._connect_as_needed()
        try:
            return await waiter.wait
        except BaseException:
            if waiter.wait.value is not None:  # given, but its taker was cancelled before it ran
                self.release(waiter.wait.value)
            elif waiter in self.line:
                self.line.remove(waiter)
            raise

    def _connect_as_needed(self) -> None:
        while len(self.connecting) < len(self.line) and len(self.open) + len(self.connecting) < self._limits.connection_limit:
            # The pool owns the task: `close` cancels it, and it is bounded by the connect timeout.
            task = self._loop.create_task(self._connect())
            self.connecting.add(task)
            task.add_done_callback(self._connected)

    async def _connect(self) -> None:
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self, self._loop.time(), self._plain),
                    endpoint.host,
                    endpoint.port,
                    ssl=self._tls,
                    server_hostname=endpoint.host if self._tls is not None else None,
                )
        except TimeoutError:
            self._fail_first(f"{endpoint} did not accept a connection within {self._limits.connect_timeout_s} s")
        except (OSError, ssl.SSLError) as error:
            self._fail_first(f"{endpoint} cannot be reached: {error}")
        else:
            if connection.is_dead:  # it spoke or hung up before anybody could ask; kept, it would hold its place in the pool for good
                self._fail_first(f"{endpoint} ended the connection before it was asked anything")
                return
            self.open.add(connection)
            self.release(connection)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self.connecting.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"connecting to {self._endpoint} failed unexpectedly", "exception": failure})
            self._fail_first(f"{self._endpoint} cannot be reached: {failure!r}")
        if not task.cancelled():
            self._connect_as_needed()

    def _fail_first(self, detail: str) -> None:
        if self.line:
            self.line.popleft().wait.fail(UpstreamError(Fault.CONNECT, detail, sent=False))

    def release(self, connection: Connection) -> None:
        """Hand a usable connection to the first in line, or keep it."""
        connection.since = self._now_s
        if self.line:
            self.line.popleft().wait.give(connection)
        else:
            connection.is_reused = True
            self.idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a closed connection; the line may now have another one made."""
        self.open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        if self.line:
            self._connect_as_needed()

    def close_idle(self) -> None:
        """Close what is kept."""
        for connection in tuple(self.idle):
            connection.give_up()

    def look(self, now: float) -> None:
        """Compare every connection and every waiter with the clock."""
        self._now_s = now
        for connection in tuple(self.open):
            connection.look(now, self._limits.idle_timeout_s)
        if self.line:
            for waiter in [waiter for waiter in self.line if now >= waiter.deadline_at]:
                if not waiter.wait.done:
                    self.line.remove(waiter)
                    waiter.wait.fail(UpstreamError(Fault.TIMEOUT, "the deadline passed before a connection was free", sent=False))

    def close(self) -> None:
        """Close everything; calls in flight fail."""
        for task in tuple(self.connecting):
            task.cancel()
        while self.line:
            self.line.popleft().wait.fail(UpstreamError(Fault.CONNECT, "the gateway is closing", sent=False))
        for connection in tuple(self.open):
            connection.give_up()


class _Known(NamedTuple):
    endpoint: Endpoint
    pool: Pool
    host_line: bytes


class NativeUpstream:
    """`Upstream` for one worker."""

    # Owner of all fields: the loop's thread. `_known` finds a pool by the identity of an endpoint object, which it keeps alive.
    __slots__ = ("_known", "_limits", "_loop", "_plain", "_pools", "_tls")

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: UpstreamLimits, *, tls: ssl.SSLContext | None = None) -> None:
        """Start without connections.

        Args:
            loop: the worker's.
            limits: per endpoint.
            tls: context for https endpoints; the system's trust store when None.
        """
        self._loop = loop
        self._limits = limits
        self._tls = tls
        self._plain = PlainReader()
        self._pools: dict[tuple[str, str, int], Pool] = {}
        self._known: dict[int, _Known] = {}

    def __repr__(self) -> str:
        """Tell the pools."""
        return f"<NativeUpstream {list(self._pools.values())!r}>"

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
        """Send a request; see `gateway.exchange.Upstream.send`.

        Raises:
            UpstreamError: no usable reply.
            ValueError: method, target or headers would break the request's framing; a defect of the lane.
        """
        known = self._known.get(id(endpoint)) or self._know(endpoint)
        request = request_bytes(method, target, known.host_line, headers, body)
        pool = known.pool
        idle = pool.idle
        connection = idle.pop() if idle else await pool.acquire(deadline_at)
        if connection.transport.is_closing():
            connection.give_up()
            connection = await pool.acquire(deadline_at)
        was_reused = connection.is_reused
        wait = connection.begin(method, request, deadline_at)
        try:
            return await wait
        except UpstreamError as error:
            may_repeat = idempotent or method in _IDEMPOTENT
            if error.fault is not Fault.CLOSED or not was_reused or connection.has_reply_bytes or not may_repeat:
                raise
        except BaseException:
            _abandon(connection, wait)
            raise
        pool.close_idle()
        connection = await pool.acquire(deadline_at)
        wait = connection.begin(method, request, deadline_at)
        try:
            return await wait
        except BaseException:
            _abandon(connection, wait)
            raise

    def _know(self, endpoint: Endpoint) -> _Known:
        key = (endpoint.scheme, endpoint.host, endpoint.port)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(endpoint, self._limits, self._loop, self._tls_for(endpoint), self._plain)
        authority = endpoint.authority or f"{endpoint.host}:{endpoint.port}".encode()
        if authority.translate(None, _VISIBLE):
            raise ValueError(f"the authority of {endpoint} holds characters that cannot be sent")
        if len(self._known) >= _KNOWN_LIMIT:
            self._known.clear()
            # Addresses come and go with reloads: of those no longer called nothing is kept.
            self._pools = {where: pool for where, pool in self._pools.items() if pool.is_in_use or where == key}
        known = self._known[id(endpoint)] = _Known(endpoint, pool, b" HTTP/1.1\r\nhost: " + authority + b"\r\n")
        return known

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if endpoint.scheme == "http":
            return None
        if endpoint.scheme != "https":
            raise ValueError(f"`{endpoint.scheme}` is not a scheme of upstreams")
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def sweep(self, now: float) -> None:
        """Look at every deadline; for the worker's `Sweep`."""
        for pool in tuple(self._pools.values()):
            pool.look(now)

    async def close(self) -> None:
        """Close every connection; calls in flight fail. Returns when no task is left."""
        tasks: list[asyncio.Task[Any]] = []
        for pool in self._pools.values():
            tasks.extend(pool.connecting)
            pool.close()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _abandon(connection: Connection, wait: Wait[AnyReply]) -> None:
    """Leave a call whose caller was cancelled. A reply already given may have put the connection back into other hands."""
    if wait.value is not None:
        wait.value.close()
    elif not wait.done:
        connection.give_up()


def request_bytes(method: str, target: bytes, host_line: bytes, headers: Headers, body: bytes) -> bytes:
    """Return a complete request.

    Args:
        method: a token.
        target: path and query.
        host_line: the rest of the request line and the Host field.
        headers: end-to-end fields.
        body: whole.

    Raises:
        ValueError: a part that would break the framing.
    """
    fields = b"".join(map(_render, headers))
    if _TARGET.fullmatch(target) is None or not method.isalpha():
        raise ValueError("method and target make no request line")  # without them: a query may hold what no log should
    if body or method in BODY_METHODS:
        return b"%b %b%b%bcontent-length: %d\r\n\r\n%b" % (method.encode("ascii"), target, host_line, fields, len(body), body)
    return b"%b %b%b%b\r\n" % (method.encode("ascii"), target, host_line, fields)
