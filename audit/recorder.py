"""The recorder: one process, one thread, the only one that writes leaves.

A pass of the loop:
1. wait for sockets; read everything they hold (bounded for each);
2. stage all batches, in order of arrival; commit them in one transaction for each range file;
3. only then acknowledge. While the commit's flush runs, the next batches fill the sockets.

Rules:
- The commit is the acknowledgement. What is committed twice (a writer that never saw the answer) is answered with its original index.
- A protocol error, a gap or a full disk is answered with a `Refusal`, the last frame of that connection; nothing of the batch is stored.
- A failed write or flush ends the process (exit code 74) after telling the waiters. Nothing is tried again on the same pages; the next process reads
  what is there.
- When a writer dies, its high-water mark tells what it had numbered. What was never committed is stated as `log.lost`; a death without loss
  as `log.recover`. A writer is dead when its lock is free, and is judged only after everything it had sent has been read.

The parent binds the Unix socket and hands its descriptor over, so that writers queue in the backlog while a recorder is replaced.

Example:
    sys.exit(main(Path("data"), listening_socket_fd=3, node="n1.recorder"))
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from audit import highwater, wire
from audit.leaf import render
from audit.statements import Clock, machine_boot_id, statement
from audit.store import layout
from audit.store.errors import RetryMismatch, SequenceGap, StoreBroken, StoreError, StoreFull, WriterEnded
from audit.store.opening import open_leaves
from audit.store.staging import Run, Staging, WriterKey

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 78
"""The store cannot be used as it is (in use, behind, damaged, too new): restarting alone does not help."""
EXIT_IO: Final = 74
"""A write failed; a restart reads what is there."""

_READ_BYTES: Final = 256 * 1024
_READS_PER_PASS: Final = 8
_OUTPUT_LIMIT_BYTES: Final = 1 << 20
_CONNECTION_LIMIT: Final = 1024
_LINGER_S: Final = 1.0
_DRAIN_S: Final = 2.0
_CENSUS_S: Final = 0.25
"""How often dead writers are looked for."""
_PASSES_TO_READ_ALL: Final = 3
"""Accept; read all that a dead writer's socket can hold (less than `_READS_PER_PASS` reads); read its end."""
_UNKNOWN: Final = "unknown"


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


class Counters(msgspec.Struct):
    """What the recorder did since it started. Changed by its loop alone."""

    records: int = 0
    commits: int = 0
    refusals: int = 0
    lost: int = 0


class Recorder:
    """The loop and its state; everything is owned by the thread that calls `run`."""

    def __init__(self, data_dir: Path, store: Staging, listener: socket.socket, node: str, clock: Clock) -> None:
        """Serve `listener` (bound, listening) from an opened store.

        Args:
            data_dir: The data directory, for the marks in `run/`.
            store: Owned by the recorder from here on.
            listener: Unix stream socket.
            node: Name of the recorder's own writer.
            clock: For its own records.
        """
        self.counters = Counters()
        self._run_dir = layout.run_dir(data_dir)
        self._store = store
        self._listener = listener
        self._clock = clock
        self._identity = _own_identity(store, node, clock)
        self._own_seq = 0
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, Connection] = {}  # by serial, oldest first
        self._accepted = 0
        self._suspects: dict[WriterKey, highwater.Mark | None] = {}  # found dead in the last census, judged in the next
        self._marks_refused: set[Path] = set()  # mark files that are none of ours, reported once
        self._stopping = False
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)

    def stop(self) -> None:
        """Ask `run` to drain what has arrived and to end. Safe from a signal handler."""
        self._stopping = True

    def run(self, wakeup: socket.socket | None = None) -> None:
        """Serve until `stop`; then drain, close cleanly.

        Args:
            wakeup: Becomes readable when `stop` was called from a signal.

        Raises:
            StoreBroken: A write failed. Every writer has been told.
        """
        if wakeup is not None:
            self._selector.register(wakeup, selectors.EVENT_READ, wakeup)
        try:
            self._remove_marks_of_ended()
            self._open_own_epoch()
            census_at_s = 0.0
            while not self._stopping:
                self._pass(_CENSUS_S)
                now_s = time.monotonic()
                if now_s >= census_at_s:
                    self._census()
                    census_at_s = now_s + _CENSUS_S
            self._drain()
        except StoreBroken as error:
            self._refuse_all(wire.STORE_BROKEN, str(error))
            raise
        finally:
            self._hang_up()

    # -- one pass ---------------------------------------------------------------------------------------------------------------

    def _pass(self, timeout_s: float) -> bool:
        """Read, commit, acknowledge. Return whether anything was received."""
        events = self._selector.select(timeout_s)
        received = False
        ready = sorted((key.data for key, mask in events if isinstance(key.data, Connection) and mask & selectors.EVENT_READ), key=_serial)
        for connection in ready:
            received |= self._read(connection)
        self._commit()
        for key, mask in events:
            if key.data is None:
                self._accept()
            elif isinstance(key.data, socket.socket):
                with contextlib.suppress(BlockingIOError):
                    key.data.recv(4096)
            elif mask & selectors.EVENT_WRITE:
                self._send(key.data, b"")
        self._close_lingering()
        self._housekeep(idle=not received)
        return received

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            if len(self._connections) >= _CONNECTION_LIMIT:
                accepted.close()
                return
            accepted.setblocking(False)
            connection = Connection(self._accepted, accepted)
            self._accepted += 1
            self._connections[connection.serial] = connection
            self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _read(self, connection: Connection) -> bool:
        """Take what the socket holds and stage it; return whether there was anything."""
        received = False
        for _ in range(_READS_PER_PASS):
            try:
                data = connection.socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._forget(connection)
                break
            received = True
            if connection.closing_at_s is not None:
                continue  # refused: what still arrives is read only so that the refusal gets through
            try:
                for frame in connection.decoder.feed(data):
                    self._take(connection, frame)
            except wire.WireError as error:
                self._refuse(connection, "frame.invalid", str(error))
            except _Refused as refused:
                self._refuse(connection, refused.code, str(refused))
            if len(data) < _READ_BYTES // 2:
                break
        return received

    def _take(self, connection: Connection, frame: wire.Frame) -> None:
        """Stage one frame of a writer."""
        if isinstance(frame, wire.Batch):
            if connection.key is None:
                raise _Refused("frame.invalid", "a batch came before hello")
            _check_owner(connection.key, frame)
            connection.pending += self._stage(connection.key, frame)
        elif isinstance(frame, wire.Hello):
            if connection.key is not None:
                raise _Refused("frame.invalid", "a second hello came on one connection")
            if frame.node == self._identity[0]:
                raise _Refused("writer.reserved", f"`{frame.node}` is the recorder's own name")
            self._admit((frame.node, frame.epoch))
            connection.key = (frame.node, frame.epoch)

    def _admit(self, key: WriterKey) -> None:
        try:
            self._store.admit(key)
        except WriterEnded as error:
            raise _Refused("writer.ended", str(error)) from error

    def _stage(self, key: WriterKey, batch: wire.Batch) -> list[Run]:
        try:
            return self._store.stage(key, batch.first_seq, batch.leaves)
        except SequenceGap as error:
            raise _Refused("sequence.gap", str(error)) from error
        except RetryMismatch as error:
            raise _Refused("retry.mismatch", str(error)) from error
        except WriterEnded as error:
            raise _Refused("writer.ended", str(error)) from error

    def _commit(self) -> None:
        """Commit what is staged, then answer: acks for what is durable, a refusal where the disk was full."""
        staged = self._store.staged_count
        before = self._store.committed_count
        full: StoreFull | None = None
        if staged:
            try:
                self._store.commit()
            except StoreFull as error:
                full = error
            self.counters.commits += 1
            self.counters.records += self._store.committed_count - before
        for connection in [each for each in self._connections.values() if each.pending]:
            self._acknowledge(connection, full)

    def _acknowledge(self, connection: Connection, full: StoreFull | None) -> None:
        runs, connection.pending = connection.pending, []
        durable = self._store.settled(runs)
        answer = b"".join([wire.encode_ack(run.first_seq, run.count, run.first_index) for run in durable])
        self._send(connection, answer)
        if sum(run.count for run in durable) != sum(run.count for run in runs):
            self._refuse(connection, wire.STORE_FULL, str(full))

    def _forget(self, connection: Connection) -> None:
        """The writer hung up. What it sent is staged and will be committed; nobody is left to tell."""
        connection.pending = []
        self._drop(connection)

    # -- answers ----------------------------------------------------------------------------------------------------------------

    def _send(self, connection: Connection, data: bytes) -> None:
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
        if len(connection.output) > _OUTPUT_LIMIT_BYTES:
            self._drop(connection)
            return
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.output else 0)
        if self._selector.get_key(connection.socket).events != mask:
            self._selector.modify(connection.socket, mask, connection)

    def _refuse(self, connection: Connection, code: str, text: str) -> None:
        """Send the last frame, then read and ignore until the writer hangs up, so that the frame is not lost with unread data."""
        if connection.closing_at_s is not None:
            return
        self.counters.refusals += 1
        connection.closing_at_s = time.monotonic() + _LINGER_S
        if connection.pending:
            # What came before the refused frame is still to be committed and acknowledged, in order.
            self._commit()
        self._send(connection, wire.encode_refusal(code, text))

    def _refuse_all(self, code: str, text: str) -> None:
        for connection in list(self._connections.values()):
            connection.pending = []
            if connection.closing_at_s is None:
                connection.closing_at_s = time.monotonic()
                self._send(connection, wire.encode_refusal(code, text))

    def _close_lingering(self) -> None:
        now_s = 0.0
        for connection in [each for each in self._connections.values() if each.closing_at_s is not None]:
            now_s = now_s or time.monotonic()
            if connection.closing_at_s is not None and now_s > connection.closing_at_s:
                self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.serial, None) is not None:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _housekeep(self, *, idle: bool) -> None:
        # Space for the WAL to move into may be missing too; the next commit says so to those it concerns.
        with contextlib.suppress(StoreFull):
            self._store.housekeep(idle=idle)

    # -- writers that died ------------------------------------------------------------------------------------------------------

    def _census(self) -> None:
        """Find dead writers; state the end of those found dead before the last complete pass.

        A writer found dead sends nothing more. What it left in the backlog and in its socket is read before it is judged, so its committed
        numbers are final then.
        """
        dead = self._dead_writers()
        judged = {key: mark for key, mark in dead.items() if key in self._suspects}
        if judged:
            for _ in range(_PASSES_TO_READ_ALL):
                self._accept()
                self._pass(0)
            connected = {each.key for each in self._connections.values()}
            for key in sorted(judged.keys() - connected):
                if not self._state_end(key, judged[key]):
                    break
        self._suspects = dead

    def _remove_marks_of_ended(self) -> None:
        """Remove marks of writers whose end is stated: a kill came between the two. To be done before anything is appended.

        A range that is turned over no longer knows ended writers. A mark that outlived that would have its writer's end stated a second time.
        """
        for path in highwater.marks(self._run_dir):
            with contextlib.suppress(highwater.HighWaterError):  # the census says what is wrong with it
                mark = highwater.read_if_abandoned(path)
                if mark is not None and self._store.position((mark.node, mark.epoch)).ended:
                    path.unlink(missing_ok=True)

    def _dead_writers(self) -> dict[WriterKey, highwater.Mark | None]:
        """Return writers without a connection whose lock is free (with their mark), or who are unended and have no mark at all."""
        connected = {each.key for each in self._connections.values()}
        marked: set[WriterKey] = set()
        dead: dict[WriterKey, highwater.Mark | None] = {}
        for path in highwater.marks(self._run_dir):
            node, _, epoch = path.name.removeprefix("hwm-").rpartition("-")
            key = (node, int(epoch)) if epoch.isdigit() else (node, -1)
            marked.add(key)
            if key in connected or path in self._marks_refused:
                continue
            try:
                mark = highwater.read_if_abandoned(path)
            except highwater.HighWaterError as error:
                self._marks_refused.add(path)
                print(error, file=sys.stderr, flush=True)  # noqa: T201 - the recorder's stderr is its log
                continue
            if mark is not None:
                dead[mark.node, mark.epoch] = mark
        for key, seed in self._store.writers().items():
            if not seed.ended and key not in marked and key not in connected and key != self._identity:
                dead[key] = None
        return dead

    def _state_end(self, key: WriterKey, mark: highwater.Mark | None) -> bool:
        """Commit how a dead writer's epoch ended, then remove its mark. Return False if the disk is full."""
        committed = self._store.position(key)
        try:
            if not committed.ended:
                self._write_end(key, mark, committed.last_seq)
        except StoreFull:
            return False
        # A kill here leaves the mark of an ended writer, which the next census removes.
        if mark is not None:
            (self._run_dir / f"hwm-{mark.node}-{mark.epoch}").unlink(missing_ok=True)
        return True

    def _write_end(self, key: WriterKey, mark: highwater.Mark | None, last_seq: int) -> None:
        node, epoch = key
        last = self._store.last_leaf(key)
        if last is not None and msgspec.json.decode(last).get("type") == "writer.close":
            self._store.end_writer(key)
            return
        if node == self._identity[0]:
            # An earlier recorder numbers a record only in the transaction that commits it: nothing can be missing.
            self._write("log.recover", ends=key, node=node, epoch=epoch, last=last_seq)
        elif mark is None or mark.boot_id != self._clock.boot_id:
            self._write("log.lost", ends=key, node=node, epoch=epoch, **{"from": last_seq + 1, "to": _UNKNOWN})
            self.counters.lost += 1
        elif mark.assigned > last_seq:
            self._write("log.lost", ends=key, node=node, epoch=epoch, **{"from": last_seq + 1, "to": mark.assigned})
            self.counters.lost += mark.assigned - last_seq
        else:
            self._write("log.recover", ends=key, node=node, epoch=epoch, last=last_seq)

    # -- the recorder's own records ---------------------------------------------------------------------------------------------

    def _open_own_epoch(self) -> None:
        """Open this recorder's epoch. On a full disk that waits until there is space: it serves refusals meanwhile."""
        while not self._stopping:
            try:
                self._write("writer.open", ends=None)
            except StoreFull:
                self._pass(_CENSUS_S)
            else:
                return

    def _write(self, kind: str, *, ends: WriterKey | None, **carries: Any) -> None:
        """Number, stage and commit one record of the recorder itself."""
        self._commit()
        node, epoch = self._identity
        record = statement(kind, self._clock.moment(), actor_id="recorder", **carries)
        record["writer"] = {"node": node, "epoch": epoch, "seq": self._own_seq}
        self._store.stage(self._identity, self._own_seq, [render(record)], ends=ends)
        self._store.commit()
        self._own_seq += 1

    # -- the end ----------------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Commit what has arrived, then close the recorder's own epoch."""
        until_s = time.monotonic() + _DRAIN_S
        self._accept()
        while self._pass(0) and time.monotonic() < until_s:
            self._accept()
        with contextlib.suppress(StoreFull):
            self._write("writer.close", ends=self._identity, last_seq=self._own_seq)

    def _hang_up(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()


class _Refused(Exception):  # noqa: N818 - carries a refusal, not an error of ours
    """A writer's frame cannot be taken; `code` goes on the wire."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def _serial(connection: Connection) -> int:
    return connection.serial


def _own_identity(store: Staging, node: str, clock: Clock) -> WriterKey:
    """Return the recorder's node with an epoch newer than any it had."""
    wire.check_node(node)
    known = [epoch for (name, epoch) in store.writers() if name == node]
    return node, max([clock.wall_ms(), *[epoch + 1 for epoch in known]])


def _check_owner(key: WriterKey, batch: wire.Batch) -> None:
    """Check that each leaf says itself which writer and number it is of.

    `writer` sorts last among the keys of a record, so its canonical bytes end the leaf: no parsing is needed to compare them.
    """
    node, epoch = key
    prefix = b'"writer":{"epoch":%d,"node":"%s","seq":' % (epoch, node.encode())
    for seq, leaf in enumerate(batch.leaves, batch.first_seq):
        if not leaf.endswith(prefix + b"%d}}" % seq):
            raise _Refused("leaf.writer", f"the leaf sent as seq `{seq}` does not end with writer `{node}`, epoch `{epoch}`, seq `{seq}`")


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[socket.socket]:
    """Call `stop` on SIGTERM and SIGINT; give a socket that a signal makes readable, so that no wait outlasts it."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def main(data_dir: Path, listening_socket_fd: int, node: str) -> int:
    """Run the recorder until SIGTERM and return its exit code.

    Args:
        data_dir: The data directory.
        listening_socket_fd: Descriptor of a bound, listening Unix stream socket, inherited from the parent.
        node: Name of the recorder's own writer, such as `n1.recorder`.
    """
    with socket.socket(fileno=listening_socket_fd) as listener:
        try:
            store = open_leaves(data_dir)
        except (StoreBroken, StoreFull) as error:
            return _complain(error, EXIT_IO)
        except StoreError as error:
            return _complain(error, EXIT_REFUSED)
        recorder = Recorder(data_dir, store, listener, node, Clock(machine_boot_id()))
        with _stop_signals(recorder.stop) as wakeup:
            try:
                recorder.run(wakeup)
                store.close()
            except WriterEnded as error:
                return _complain(error, EXIT_REFUSED)  # the recorder's own name is another gateway's
            except StoreError as error:
                # No close: flushing pages after a failed write could report success for data that are not there.
                return _complain(error, EXIT_IO)
    return EXIT_OK


def _complain(error: StoreError, code: int) -> int:
    print(f"recorder: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the recorder's stderr is its log
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
