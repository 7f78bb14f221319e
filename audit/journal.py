"""A writer's end of the log: numbers records, hands them to the recorder in batches, knows what is committed.

Used by workers (uvloop) and the controller, from one event loop. `append` is synchronous and takes microseconds; batches leave within `flush_s`, at
256 records or at 1 MiB. Every record is kept until it is acknowledged and sent again after a reconnect: the recorder knows it by its number.

Rules:
- The high-water mark is raised before a record may leave, so a record can be lost with its process but never unnoticed.
- The queue is bounded in records and bytes; `JournalFull` is the caller's to answer (503), never a silent drop.
- A refusal that is not to be tried again (a gap, other bytes under a used number) fails the journal for good: every waiter is told, every later
  append raises. A full disk is tried again with back-off.
- Waiting needs no task: `add_waiter` gives a future of the loop.

State: one task, the connector, owned by the journal and cancelled by `close`. Every attribute is changed on the loop's thread alone.

Example:
    journal = Journal("n1.w0", highwater.epoch, socket_path, highwater, clock=clock)
    await journal.open(deadline_s=10)
    seq = journal.append(record)
    index = await journal.committed(seq)
    await journal.close(deadline_s=5)
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from audit import wire
from audit.highwater import HighWater
from audit.leaf import finished, render
from audit.link import Link
from audit.statements import Clock, statement
from audit.wire import BATCH_BYTES, BATCH_RECORDS

FLUSH_S = 0.005
RECONNECT_FIRST_S = 0.02
RECONNECT_LAST_S = 1.0
REMEMBERED_RUNS = 1024
"""Acknowledgements kept for those who ask after the fact."""

AckHook = Callable[[int, int, int], None]
"""Called with (first_seq, count, first_index) for each acknowledged run."""


class JournalError(Exception):
    """Base of the journal's errors."""


class JournalFull(JournalError):  # noqa: N818 - reads as the state it is
    """As many records wait as may. The record was not taken; its caller must not go on as if it were recorded."""


class JournalFailed(JournalError):  # noqa: N818 - reads as the state it is
    """The recorder refused for good, or the journal is closed. `code` is the recorder's."""

    def __init__(self, code: str, text: str) -> None:
        """Carry the refusal."""
        super().__init__(f"the log refused this writer (`{code}`): {text}")
        self.code = code


class JournalUnavailable(JournalError):  # noqa: N818 - reads as the state it is
    """The recorder did not commit in time."""


class IndexForgotten(JournalError):  # noqa: N818 - reads as the state it is
    """The record is committed, but so long ago that its index is no longer remembered here."""


class Limits(msgspec.Struct, frozen=True):
    """How much may wait for the recorder."""

    records: int = 65_536
    leaf_bytes: int = 64 << 20


class _Batch:
    """Records that travel together. `leaves` grows while the batch is the open one; acknowledged ones are cut from its front."""

    __slots__ = ("first_seq", "leaf_bytes", "leaves", "opened_ns")

    def __init__(self, first_seq: int, opened_ns: int) -> None:
        self.first_seq = first_seq
        self.opened_ns = opened_ns
        self.leaves: list[bytes] = []
        self.leaf_bytes = 0


class Journal:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        node: str,
        epoch: int,
        socket_path: Path,
        highwater: HighWater,
        *,
        clock: Clock,
        limits: Limits | None = None,
        flush_s: float = FLUSH_S,
    ) -> None:
        """Prepare a writer; `open` starts it.

        Args:
            node: Writer name, unique among living writers.
            epoch: From `highwater.epoch`.
            socket_path: The recorder's Unix socket.
            highwater: Claimed for the same node and epoch; closed by `close`.
            clock: For batch ages, and for `writer.open` and `writer.close`.
            limits: Bounds of the queue.
            flush_s: How long a record may wait for others to travel with; a commit costs as much for one as for many. `flush` does not wait.
        """
        if (highwater.node, highwater.epoch) != (node, epoch):
            raise ValueError(f"high-water mark of `{highwater.node}` epoch `{highwater.epoch}` given to writer `{node}` epoch `{epoch}`")
        self.node, self.epoch = node, epoch
        self._writer = b',"writer":{"epoch":%d,"node":"%b","seq":' % (epoch, node.encode())
        self.on_ack: list[AckHook] = []
        self.acked_through = -1  # every record up to here is committed
        self._socket_path = socket_path
        self._highwater = highwater
        self._marks = highwater.words
        self._clock = clock
        self._mono_ns = clock.mono_ns
        self._flush_s = flush_s
        bounds = limits or Limits()
        self._limit_records, self._limit_bytes = bounds.records, bounds.leaf_bytes  # changed by `close` and `_fail` alone
        self._next_seq = 0
        self._waiting_bytes = 0  # leaf bytes not acknowledged
        self._open = _Batch(0, 0)  # takes appends; empty or with a flush timer running
        self._closed: deque[_Batch] = deque()  # complete and not acknowledged, oldest first
        self._sent = 0  # how many of `_closed` went out on this connection
        self._timer: asyncio.TimerHandle | None = None
        self._is_flush_due = False  # set by `flush_soon`, cleared when that flush runs
        self._waiters: dict[int, list[asyncio.Future[int]]] = {}
        self._runs: deque[tuple[int, int, int]] = deque(maxlen=REMEMBERED_RUNS)
        self._failure: JournalError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._connector: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------------------------

    async def open(self, *, deadline_s: float) -> None:
        """Connect and write `writer.open`; return once it is committed.

        Raises:
            JournalUnavailable: The recorder did not commit it within `deadline_s`. The journal is closed.
            JournalFailed: The recorder refused this writer.
        """
        self._loop = asyncio.get_running_loop()
        self._connector = self._loop.create_task(self._stay_connected(), name=f"journal-{self.node}")
        seq = self.append(statement("writer.open", self._clock.moment(), actor_id=self.node))
        try:
            await self._settled(seq, deadline_s)
        except BaseException:
            await self._shut()
            raise

    async def close(self, *, deadline_s: float) -> None:
        """Write `writer.close`, wait until everything is committed, and let go of the mark. Idempotent.

        Raises:
            JournalUnavailable: Something was not committed within `deadline_s`; the recorder will state it as lost.
            JournalFailed: The recorder had refused this writer before.
        """
        if self._connector is None:
            return
        try:
            if self._failure is not None:
                raise self._failure
            self._limit_records, self._limit_bytes = wire.SEQ_LIMIT, wire.SEQ_LIMIT  # the last record finds room in a full queue
            seq = self.append(statement("writer.close", self._clock.moment(), actor_id=self.node, last_seq=self._next_seq))
            await self._settled(seq, deadline_s)
        finally:
            await self._shut()

    async def _shut(self) -> None:
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connector
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link is not None:
            self._link.hang_up()
            self._link = None
        if self._failure is None:
            self._fail(JournalFailed("journal.closed", "this writer has closed"))
        self._highwater.close()

    # -- the hot path -----------------------------------------------------------------------------------------------------------

    def append(self, record: dict[str, Any]) -> int:
        """Number `record`, render it, queue it; return its sequence number. `record` gains `writer`.

        Raises:
            JournalFull: Too much waits; no number was used.
            JournalFailed: This writer cannot record any more.
            audit.leaf.LeafError: The record is no leaf; no number was used.
        """
        seq = self._next_seq
        if self._waiting_bytes >= self._limit_bytes or seq - self.acked_through > self._limit_records:
            self._refuse_append()
        record["writer"] = {"node": self.node, "epoch": self.epoch, "seq": seq}
        return self._queue(seq, render(record))

    def append_rendered(self, unfinished: bytes) -> int:
        """Number and queue a leaf that its caller has rendered in the profile of `audit.leaf`: all of it but `writer` and the closing brace.

        Raises:
            JournalFull, JournalFailed: As `append`.
            audit.leaf.LeafTooLargeError: It is larger than a leaf may be; no number was used.
        """
        seq = self._next_seq
        if self._waiting_bytes >= self._limit_bytes or seq - self.acked_through > self._limit_records:
            self._refuse_append()
        return self._queue(seq, finished(unfinished, self._writer, seq))

    def _queue(self, seq: int, leaf: bytes) -> int:
        size = len(leaf)
        batch = self._open
        if batch.leaf_bytes + size > BATCH_BYTES:
            self.flush()
            batch = self._open
        leaves = batch.leaves
        self._marks[1] = seq  # the high-water mark, before the record may leave (audit/highwater.py)
        self._next_seq = seq + 1
        self._waiting_bytes += size
        batch.leaf_bytes += size
        leaves.append(leaf)
        count = len(leaves)
        if count == 1:
            batch.opened_ns = self._mono_ns()
            if self._timer is None and self._loop is not None:
                self._timer = self._loop.call_later(self._flush_s, self._on_timer)
        elif count >= BATCH_RECORDS:
            self.flush()
        return seq

    def _refuse_append(self) -> NoReturn:
        if self._failure is not None:
            raise self._failure
        raise JournalFull(f"`{self.unacked_count}` records of `{self._waiting_bytes}` bytes wait for the recorder")

    def flush(self) -> None:
        """Send what is queued without waiting for the timer."""
        if self._open.leaves:
            self._closed.append(self._open)
            self._open = _Batch(self._next_seq, 0)
        self._send_closed()

    def flush_soon(self) -> None:
        """Send what is queued once everything that is ready on the loop has run: callers that wait at one moment share a batch."""
        if self._loop is None:
            self.flush()
        elif not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._is_flush_due = False
        self.flush()

    def _on_timer(self) -> None:
        # One timer serves many batches: if the batch it was started for has left full, it waits for the younger one.
        self._timer = None
        batch = self._open
        if not batch.leaves:
            return
        age_s = (self._mono_ns() - batch.opened_ns) / 1e9
        if age_s < self._flush_s * 0.9 and self._loop is not None:
            self._timer = self._loop.call_later(self._flush_s - age_s, self._on_timer)
        else:
            self.flush()

    def _send_closed(self) -> None:
        link = self._link
        if link is None or link.is_paused:
            return
        while self._sent < len(self._closed):
            batch = self._closed[self._sent]
            link.write(wire.encode_batch(batch.first_seq, batch.leaves))
            self._sent += 1

    # -- questions --------------------------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether a connection to the recorder stands."""
        return self._link is not None

    @property
    def last_leaf(self) -> bytes:
        """Bytes of the record that `append` took last; to be asked for at once, before the loop runs on."""
        return (self._open if self._open.leaves else self._closed[-1]).leaves[-1]

    @property
    def failure(self) -> JournalError | None:
        """Why nothing can be recorded any more, None while it can."""
        return self._failure

    @property
    def unacked_count(self) -> int:
        """Records not known to be committed."""
        return self._next_seq - self.acked_through - 1

    @property
    def unacked_bytes(self) -> int:
        """Leaf bytes of those records."""
        return self._waiting_bytes

    def oldest_unacked_age_s(self, now_ns: int) -> float:
        """Return how long the oldest uncommitted record has waited at `now_ns` of the journal's monotonic clock; 0 when none waits.

        After an acknowledgement of part of a batch this is the age of the batch: too old by `flush_s` at most, never too young.
        """
        batch = self._closed[0] if self._closed else self._open
        return max(0.0, (now_ns - batch.opened_ns) / 1e9) if batch.leaves else 0.0

    def add_waiter(self, seq: int) -> asyncio.Future[int]:
        """Return a future of the record's index in the log; it fails with `JournalError` if the record cannot be committed."""
        future = asyncio.get_running_loop().create_future() if self._loop is None else self._loop.create_future()
        if not 0 <= seq < self._next_seq:
            raise ValueError(f"seq `{seq}` was not given out by this journal")
        if seq <= self.acked_through:
            index = self._index_of(seq)
            if index is None:
                future.set_exception(IndexForgotten(f"seq `{seq}` is committed; its index is no longer remembered here"))
            else:
                future.set_result(index)
        elif self._failure is not None:
            future.set_exception(self._failure)
        else:
            self._waiters.setdefault(seq, []).append(future)
        return future

    async def committed(self, seq: int) -> int:
        """Wait until the record is committed and return its index.

        Raises:
            JournalFailed, IndexForgotten: As the names say.
        """
        return await self.add_waiter(seq)

    async def _settled(self, seq: int, deadline_s: float) -> int:
        self.flush()
        try:
            async with asyncio.timeout(deadline_s):
                return await self.committed(seq)
        except TimeoutError as error:
            raise JournalUnavailable(
                f"the recorder did not commit seq `{seq}` of `{self.node}` within {deadline_s} s (`{self._socket_path}`)\n"
                "hint: see the recorder's own messages; a full disk or a refused store is named there"
            ) from error

    def _index_of(self, seq: int) -> int | None:
        at = bisect.bisect_right(self._runs, seq, key=lambda run: run[0]) - 1
        if at < 0:
            return None
        first_seq, count, first_index = self._runs[at]
        return first_index + seq - first_seq if seq < first_seq + count else None

    # -- the recorder's answers -------------------------------------------------------------------------------------------------

    def on_frames(self, link: Link, frames: list[wire.Frame]) -> None:
        """Take the recorder's answers, as `audit.link.Owner`."""
        for frame in frames:
            if link is not self._link:
                return
            if isinstance(frame, wire.Ack):
                self._on_ack_frame(frame)
            elif isinstance(frame, wire.Refusal):
                link.hang_up()
                if frame.code not in wire.RETRYABLE:
                    self._fail(JournalFailed(frame.code, frame.text))

    def _on_ack_frame(self, ack: wire.Ack) -> None:
        first_seq, count, first_index = ack.first_seq, ack.count, ack.first_index
        if first_seq != self.acked_through + 1 or first_seq + count > self._next_seq:
            raise wire.WireError(f"acknowledgement of seq `{first_seq}`, {count} records; expected seq {self.acked_through + 1}")
        remaining = count
        while remaining:
            if not self._sent:
                raise wire.WireError(f"acknowledgement of seq `{first_seq}`, which was not sent on this connection")
            batch = self._closed[0]
            if len(batch.leaves) > remaining:
                done = sum(map(len, batch.leaves[:remaining]))
                del batch.leaves[:remaining]
                batch.first_seq += remaining
                batch.leaf_bytes -= done
                self._waiting_bytes -= done
                break
            remaining -= len(batch.leaves)
            self._waiting_bytes -= batch.leaf_bytes
            self._closed.popleft()
            self._sent -= 1
        self.acked_through = first_seq + count - 1
        self._highwater.acked = self.acked_through
        self._runs.append((first_seq, count, first_index))
        if self._waiters:
            self._wake(first_seq, count, first_index)
        for hook in self.on_ack:
            hook(first_seq, count, first_index)

    def _wake(self, first_seq: int, count: int, first_index: int) -> None:
        for seq in range(first_seq, first_seq + count):
            for future in self._waiters.pop(seq, ()):
                if not future.done():
                    future.set_result(first_index + seq - first_seq)

    def _fail(self, failure: JournalError) -> None:
        self._failure = failure
        self._limit_bytes = -1  # no append passes from here on; the hot path needs no check of its own
        waiters, self._waiters = self._waiters, {}
        for futures in waiters.values():
            for future in futures:
                if not future.done():
                    future.set_exception(failure)

    # -- the connection ---------------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        """Connect, wait until the connection ends, come back with back-off. Ends only by cancellation or failure."""
        loop = asyncio.get_running_loop()
        delay_s = RECONNECT_FIRST_S
        while self._failure is None:
            try:
                _, link = await loop.create_unix_connection(lambda: Link(self), str(self._socket_path))
            except OSError:
                link = None
            if link is not None:
                acked_before = self.acked_through
                await link.ended
                if self.acked_through > acked_before:
                    delay_s = RECONNECT_FIRST_S
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RECONNECT_LAST_S)

    def on_nonsense(self, error: wire.WireError) -> None:
        """Fail: whoever answers is no recorder of ours, as `audit.link.Owner`."""
        self._fail(JournalFailed("recorder.frame", str(error)))

    def on_writable(self) -> None:
        """Send what was held back, as `audit.link.Owner`."""
        self._send_closed()

    def on_connected(self, link: Link) -> None:
        """Say who writes and send again what is not acknowledged, as `audit.link.Owner`."""
        self._link = link
        self._sent = 0
        link.write(wire.encode_hello(self.node, self.epoch))
        self._send_closed()

    def on_link_ended(self, link: Link) -> None:
        """Forget a connection, as `audit.link.Owner`."""
        if self._link is link:
            self._link = None
            self._sent = 0
