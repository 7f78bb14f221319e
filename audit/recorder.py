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
  as `log.recover`. Who is dead is said in `audit/census.py`; sockets are in `audit/switchboard.py`.

The parent binds the Unix socket and hands its descriptor over, so that writers queue in the backlog while a recorder is replaced.

Example:
    sys.exit(main(Path("data"), listening_socket_fd=3, node="n1.recorder"))
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from audit import wire
from audit.census import Census
from audit.highwater import Mark
from audit.leaf import render
from audit.statements import Clock, machine_boot_id, statement
from audit.store import layout
from audit.store.errors import RetryMismatch, SequenceGap, StoreBroken, StoreError, StoreFull, WriterEnded
from audit.store.opening import open_leaves
from audit.store.staging import Run, Staging, WriterKey
from audit.switchboard import Connection, Switchboard

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 78
"""The store cannot be used as it is (in use, behind, damaged, too new): restarting alone does not help."""
EXIT_IO: Final = 74
"""A write failed; a restart reads what is there."""

_DRAIN_S: Final = 2.0
_OUTLAST_S: Final = 12.0
"""How long a recorder that was asked to end waits for its writers to close their books: longer than a worker finishes its calls."""
_OUTLAST_LOOK_S: Final = 0.05
_CENSUS_S: Final = 0.25
"""How often dead writers are looked for."""
_PASSES_TO_READ_ALL: Final = 3
"""Accept; read all that a dead writer's socket can hold (less than `audit.switchboard.READS_PER_PASS` reads); read its end."""


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
        self._store = store
        self._clock = clock
        self._identity = _own_identity(store, node, clock)
        self._own_seq = 0  # next number of the recorder's own records; raised by `_write`
        self._sockets = Switchboard(listener)
        self._census = Census(layout.run_dir(data_dir), store, self._identity, clock.boot_id)
        self._stopping = False  # set by `stop`
        self._hurried = False  # set by `stop`

    def stop(self, *, at_once: bool = True) -> None:
        """Ask `run` to drain what has arrived and to end. Safe from a signal handler.

        Args:
            at_once: Do not wait until the writers that are connected have closed their books. A second call does not wait either.
        """
        self._hurried = at_once or self._stopping
        self._stopping = True

    def run(self, wakeup: socket.socket | None = None) -> None:
        """Serve until `stop`; then drain, close cleanly.

        Args:
            wakeup: Becomes readable when `stop` was called from a signal.

        Raises:
            StoreBroken: A write failed. Every writer has been told.
        """
        if wakeup is not None:
            self._sockets.watch(wakeup)
        try:
            self._census.remove_marks_of_ended()
            self._open_own_epoch()
            census_at_s = 0.0
            while not self._stopping:
                self._pass(_CENSUS_S)
                now_s = time.monotonic()
                if now_s >= census_at_s:
                    self._state_ends()
                    census_at_s = now_s + _CENSUS_S
            self._outlast_writers()
            self._drain()
        except StoreBroken as error:
            self._sockets.refuse_all(wire.STORE_BROKEN, str(error))
            raise
        finally:
            self._sockets.close()

    # -- one pass ---------------------------------------------------------------------------------------------------------------

    def _pass(self, timeout_s: float) -> bool:
        """Read, commit, acknowledge. Return whether anything was received."""
        received = False
        for connection in self._sockets.wait(timeout_s):
            received |= self._read(connection)
        self._commit()
        self._sockets.attend()
        # Space for the WAL to move into may be missing too; the next commit says so to those it concerns.
        with contextlib.suppress(StoreFull):
            self._store.housekeep(idle=not received)
        return received

    def _read(self, connection: Connection) -> bool:
        """Stage what a connection has sent; return whether there was anything."""
        received = False
        for data in self._sockets.chunks(connection):
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
        before = self._store.committed_count
        full: StoreFull | None = None
        if self._store.staged_count:
            try:
                self._store.commit()
            except StoreFull as error:
                full = error
            self.counters.commits += 1
            self.counters.records += self._store.committed_count - before
        for connection in self._sockets.waiting():
            self._acknowledge(connection, full)

    def _acknowledge(self, connection: Connection, full: StoreFull | None) -> None:
        runs, connection.pending = connection.pending, []
        durable = self._store.settled(runs)
        answer = b"".join([wire.encode_ack(run.first_seq, run.count, run.first_index) for run in durable])
        self._sockets.send(connection, answer)
        if sum(run.count for run in durable) != sum(run.count for run in runs):
            self._refuse(connection, wire.STORE_FULL, str(full))

    def _refuse(self, connection: Connection, code: str, text: str) -> None:
        if connection.closing_at_s is not None:
            return
        self.counters.refusals += 1
        connection.closing_at_s = time.monotonic()  # nothing more is taken from it, whatever the commit brings
        if connection.pending:
            # What came before the refused frame is still to be committed and acknowledged, in order.
            self._commit()
        self._sockets.refuse(connection, code, text)

    # -- writers that died ------------------------------------------------------------------------------------------------------

    def _state_ends(self) -> None:
        """State the end of writers that were dead before the last complete pass."""
        judged = self._census.judged(self._sockets.connected())
        if not judged:
            return
        for _ in range(_PASSES_TO_READ_ALL):
            self._sockets.accept()
            self._pass(0)
        for key in sorted(judged.keys() - self._sockets.connected()):
            if not self._state_end(key, judged[key]):
                break

    def _state_end(self, key: WriterKey, mark: Mark | None) -> bool:
        """Commit how a dead writer's epoch ended, then remove its mark. Return False if the disk is full."""
        try:
            if not self._store.position(key).ended:
                ending = self._census.ending(key, mark)
                if ending is None:
                    self._store.end_writer(key)
                else:
                    self._write(ending.kind, ends=key, **ending.carries)
                    self.counters.lost += ending.lost
        except StoreFull:
            return False
        # A kill here leaves the mark of an ended writer, which the next recorder removes before it appends.
        self._census.forget(mark)
        return True

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

    def _outlast_writers(self) -> None:
        """Serve on while writers are connected that have not closed their books: whoever ends a whole group of processes at once ends them too."""
        until_s = time.monotonic() + _OUTLAST_S
        while not self._hurried and time.monotonic() < until_s and any(not self._store.position(key).ended for key in self._sockets.connected()):
            self._pass(_OUTLAST_LOOK_S)

    def _drain(self) -> None:
        """Commit what has arrived, then close the recorder's own epoch."""
        until_s = time.monotonic() + _DRAIN_S
        self._sockets.accept()
        while self._pass(0) and time.monotonic() < until_s:
            self._sockets.accept()
        with contextlib.suppress(StoreFull):
            self._write("writer.close", ends=self._identity, last_seq=self._own_seq)


class _Refused(Exception):  # noqa: N818 - carries a refusal, not an error of ours
    """A writer's frame cannot be taken; `code` goes on the wire."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


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
def _stop_signals(stop: Callable[[signal.Signals], None]) -> Iterator[socket.socket]:
    """Call `stop` with SIGTERM or SIGINT; give a socket that a signal makes readable, so that no wait outlasts it."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = {number: signal.signal(number, lambda came, _: stop(signal.Signals(came))) for number in (signal.SIGTERM, signal.SIGINT)}
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
    """Run the recorder until SIGTERM, and until its writers have closed their books, or until SIGINT; return its exit code.

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
        with _stop_signals(lambda came: recorder.stop(at_once=came == signal.SIGINT)) as wakeup:
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
