"""The recorder's sockets: who is connected, what they sent, what they are still to be told.

Rules:
- Nothing here knows what a record is. `wait` says who has sent something, `chunks` gives it, `attend` does the rest of a pass.
- Reads of one pass are bounded for each connection, so that none keeps the others waiting; answers are kept while a socket takes no more, up to
  `OUTPUT_LIMIT_BYTES`: a writer that reads nothing is hung up on.
- A connection that was refused is read on and ignored for a moment: hanging up on unread data would lose the refusal.

Example:
    for connection in sockets.wait(0.25):
        for data in sockets.chunks(connection): ...
    sockets.attend()
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Final

from audit import wire
from audit.store.staging import Run, WriterKey

READ_BYTES: Final = 256 * 1024
READS_PER_PASS: Final = 8
OUTPUT_LIMIT_BYTES: Final = 1 << 20
CONNECTION_LIMIT: Final = 1024
LINGER_S: Final = 1.0


class Connection:
    """One writer's socket. Owned by the recorder's loop."""

    __slots__ = ("closing_at_s", "decoder", "key", "output", "pending", "serial", "socket")

    def __init__(self, serial: int, accepted: socket.socket) -> None:
        """Take over an accepted, non-blocking socket."""
        self.serial = serial
        self.socket = accepted
        self.decoder = wire.Decoder(from_writer=True)
        self.key: WriterKey | None = None  # set by its `Hello`
        self.pending: list[Run] = []  # staged in this pass, to be acknowledged after the commit
        self.output = bytearray()  # bytes the socket did not take yet
        self.closing_at_s: float | None = None  # after a refusal: when to hang up at the latest


class Switchboard:
    """Every socket of the recorder. Owned by its loop, with all the connections."""

    def __init__(self, listener: socket.socket) -> None:
        """Serve `listener` (bound, listening), which stays its owner's to close."""
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, Connection] = {}  # by serial, oldest first
        self._accepted = 0
        self._events: list[tuple[selectors.SelectorKey, int]] = []  # of the last `wait`, for `attend`
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)

    def watch(self, wakeup: socket.socket) -> None:
        """Let a wait end as well when `wakeup` becomes readable."""
        self._selector.register(wakeup, selectors.EVENT_READ, wakeup)

    def connected(self) -> set[WriterKey]:
        """Return the writers that have a connection and have said who they are."""
        return {each.key for each in self._connections.values() if each.key is not None}

    def waiting(self) -> list[Connection]:
        """Return the connections that are to be acknowledged, oldest first."""
        return [each for each in self._connections.values() if each.pending]

    # -- a pass -----------------------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> list[Connection]:
        """Wait until something happens; return the connections that sent something or hung up, oldest first."""
        self._events = self._selector.select(timeout_s)
        return sorted((key.data for key, mask in self._events if isinstance(key.data, Connection) and mask & selectors.EVENT_READ), key=_serial)

    def chunks(self, connection: Connection) -> Iterator[bytes]:
        """Give what the socket holds, as much as one pass may take; a connection found ended is dropped."""
        for _ in range(READS_PER_PASS):
            try:
                data = connection.socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                # What it sent is staged and will be committed; nobody is left to tell.
                self._drop(connection)
                return
            yield data
            if len(data) < READ_BYTES // 2:
                return

    def attend(self) -> None:
        """Do what else the last `wait` brought: new connections, sockets that take bytes again, refused ones whose time is over."""
        for key, mask in self._events:
            if key.data is None:
                self.accept()
            elif isinstance(key.data, socket.socket):
                with contextlib.suppress(BlockingIOError):
                    key.data.recv(4096)
            elif mask & selectors.EVENT_WRITE:
                self.send(key.data, b"")
        self._close_lingering()

    def accept(self) -> None:
        """Take in everyone who waits at the door."""
        while True:
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            if len(self._connections) >= CONNECTION_LIMIT:
                accepted.close()
                return
            accepted.setblocking(False)
            connection = Connection(self._accepted, accepted)
            self._accepted += 1
            self._connections[connection.serial] = connection
            self._selector.register(accepted, selectors.EVENT_READ, connection)

    # -- answers ----------------------------------------------------------------------------------------------------------------

    def send(self, connection: Connection, data: bytes) -> None:
        """Send `data` after what is still unsent, as far as the socket takes it."""
        connection.output += data
        if not connection.output or connection.serial not in self._connections:
            return
        try:
            sent = connection.socket.send(connection.output)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it hung up; reading will see that, after what it had sent before
        del connection.output[:sent]
        if len(connection.output) > OUTPUT_LIMIT_BYTES:
            self._drop(connection)
            return
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.output else 0)
        if self._selector.get_key(connection.socket).events != mask:
            self._selector.modify(connection.socket, mask, connection)

    def refuse(self, connection: Connection, code: str, text: str) -> None:
        """Send the last frame of a connection; it is closed once its writer hangs up, or after `LINGER_S`."""
        connection.closing_at_s = time.monotonic() + LINGER_S
        self.send(connection, wire.encode_refusal(code, text))

    def refuse_all(self, code: str, text: str) -> None:
        """Send everyone who was not refused yet the last frame; nothing is acknowledged any more."""
        for connection in list(self._connections.values()):
            connection.pending = []
            if connection.closing_at_s is None:
                self.refuse(connection, code, text)

    def close(self) -> None:
        """Hang up on everyone."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()

    def _close_lingering(self) -> None:
        now_s = 0.0
        for connection in [each for each in self._connections.values() if each.closing_at_s is not None]:
            now_s = now_s or time.monotonic()
            if connection.closing_at_s is not None and now_s > connection.closing_at_s:
                self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        connection.pending = []
        if self._connections.pop(connection.serial, None) is not None:
            self._selector.unregister(connection.socket)
            connection.socket.close()


def _serial(connection: Connection) -> int:
    return connection.serial
