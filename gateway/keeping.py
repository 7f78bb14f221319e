"""A worker's end of the vault: what one call leaves there, and the line that takes it to the keeper.

Rules:
- Nothing here waits: a call hands its entry over with its terminal record and goes on. Whether its reply waits for the vault's commit is the ledger's
  to say, by the same windows as for the log.
- The line is bounded in entries and bytes. What finds no room is lost, and the record says so (`payload.vault_lost`) and names no entry.
- Every entry is held until it is committed and sent again after a reconnect; the keeper keeps it once.
- Only what the plan names is handed over, changed as its rules say, before it leaves this process.

State: `Line` is owned by the worker's loop; `Kept` by the handler of its call.

Example:
    line = Line("n1.w0", epoch, socket_path)
    line.open()
    kept = Kept(line, plan, principal.tenant, subject, unit, pseudonyms, os.urandom(32))
    record.vault = kept.hand_over(record_id, unix_us)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec

from audit import wire
from audit.link import Link
from audit.vault.entry import Entry, EntrySalts, committed, encode_content
from gateway.capture import Plan
from gateway.protocols.pointer import MISSING
from gateway.protocols.strictjson import JsonError, parse
from gateway.pseudonyms import TenantPseudonyms

MOST_ENTRIES: Final = 16_384
MOST_BYTES: Final = 32 << 20
ROOM_ENTRIES: Final = 15_000
"""New calls are refused while more wait: below what the line holds, so that a call that has begun can end in it."""
FLUSH_S: Final = 0.005
_RECONNECT_FIRST_S: Final = 0.02
_RECONNECT_LAST_S: Final = 1.0


class Kept:
    """What one call leaves in the vault."""

    __slots__ = ("_entry", "_line", "_pseudonyms", "documents", "plan", "salts", "seq", "subject", "tenant", "unit")

    def __init__(self, line: Line | None, plan: Plan, tenant: str, subject: str, unit: str, pseudonyms: TenantPseudonyms, seed: bytes) -> None:
        """Begin with nothing captured; `line` is None where this process has no vault."""
        self._line = line
        self._pseudonyms = pseudonyms
        self._entry: str | None = None  # the commitment, once handed over
        self.plan = plan
        self.tenant = tenant
        self.subject = subject
        self.unit = unit
        self.salts = EntrySalts(seed)
        self.documents: dict[str, Any] = {}
        """Source -> what the plan's pointers are looked up in. Set by the lane as it comes to know them."""
        self.seq: int | None = None
        """The entry's number in the line; None while it is not handed over, and when it was lost."""

    def note_body(self, source: str, body: bytes) -> None:
        """Note a request's or a reply's body, where the plan asks for it."""
        if source in self.plan.fields:
            try:
                self.documents[source] = parse(body)
            except JsonError:
                self.documents[source] = MISSING

    def hand_over(self, record: str, unix_us: int) -> str | None:
        """Hand the entry to the line, once; return its commitment, or None where it is lost."""
        if self.seq is None and self._line is not None:
            fields = self.plan.take(self.documents, lambda name, value: self._pseudonyms.field_hash(record, name, value))
            content = encode_content(self.salts.seed, fields)
            entry = Entry(record, self.tenant, self.subject, self.unit, unix_us, unix_us + self.plan.retention_us, content)
            self.seq = self._line.offer(msgspec.msgpack.encode(entry))
            if self.seq is not None:
                self._entry = committed(content)
        return self._entry


class Line:
    """See the module. Belongs to one event loop."""

    def __init__(self, node: str, epoch: int, socket_path: Path) -> None:
        """Prepare a line to the keeper at `socket_path`; `open` starts it."""
        self._hello = wire.encode_hello(node, epoch)
        self._socket_path = socket_path
        self.next_seq = 0
        self.acked_through = -1  # every entry up to here is committed
        self._items: deque[tuple[int, bytes]] = deque()  # not acknowledged, oldest first: (when it was offered, ns; item)
        self._bytes = 0  # of those
        self._sent = 0  # how many of them went out on this connection
        self._waiters: dict[int, list[asyncio.Future[int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._connector: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to connect, and to come back whenever the connection ends."""
        self._connector = asyncio.get_running_loop().create_task(self._stay_connected(), name="vault line")

    async def close(self, *, deadline_s: float) -> int:
        """Wait until everything is committed, at most `deadline_s`; return how many entries were not and are lost."""
        self.flush()
        if self._items:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.add_waiter(self.next_seq - 1), deadline_s)
        if self._connector is not None:
            self._connector.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connector
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.hang_up()
        return len(self._items)

    def offer(self, item: bytes) -> int | None:
        """Queue an encoded entry; return its number, None where there is no room for it."""
        if len(self._items) >= MOST_ENTRIES or self._bytes + len(item) > MOST_BYTES or len(item) > wire.LEAF_BYTES:
            return None
        self._items.append((time.monotonic_ns(), item))
        self._bytes += len(item)
        self.next_seq += 1
        if len(self._items) - self._sent >= wire.BATCH_RECORDS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._on_timer)
        return self.next_seq - 1

    @property
    def unacked_count(self) -> int:
        """Entries not known to be committed."""
        return len(self._items)

    def oldest_unacked_age_s(self, now_ns: int) -> float:
        """Return how long the oldest entry that is not committed has waited; 0 when none waits."""
        return max(0.0, (now_ns - self._items[0][0]) / 1e9) if self._items else 0.0

    def add_waiter(self, seq: int) -> asyncio.Future[int]:
        """Return a future that is done once the entry is committed."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if seq <= self.acked_through:
            future.set_result(seq)
        else:
            self._waiters.setdefault(seq, []).append(future)
        return future

    def flush(self) -> None:
        """Send what is queued without waiting for the timer."""
        link = self._link
        if link is None:
            return
        while self._sent < len(self._items) and not link.is_paused:
            batch: list[bytes] = []
            size = 0
            for at in range(self._sent, min(len(self._items), self._sent + wire.BATCH_RECORDS)):
                item = self._items[at][1]
                if batch and size + len(item) > wire.BATCH_BYTES:
                    break
                batch.append(item)
                size += len(item)
            link.write(wire.encode_batch(self.acked_through + 1 + self._sent, batch))
            self._sent += len(batch)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def on_frames(self, link: Link, frames: list[wire.Frame]) -> None:
        """Take the keeper's answers. Raises WireError where it answers what it was not sent."""
        for frame in frames:
            if link is not self._link:
                return
            self._on_frame(frame)

    def on_nonsense(self, error: wire.WireError) -> None:
        """Go on: everything is sent again on the next connection."""

    def on_writable(self) -> None:
        """Send what was held back."""
        self.flush()

    def _on_frame(self, frame: wire.Frame) -> None:
        if isinstance(frame, wire.Refusal):
            raise wire.WireError(frame.code)
        if not isinstance(frame, wire.Ack) or frame.first_seq != self.acked_through + 1 or frame.count > self._sent:
            raise wire.WireError("an acknowledgement of what was not sent")
        for _ in range(frame.count):
            self._bytes -= len(self._items.popleft()[1])
            self.acked_through += 1
            for future in self._waiters.pop(self.acked_through, ()):
                if not future.done():
                    future.set_result(self.acked_through)
        self._sent -= frame.count

    async def _stay_connected(self) -> None:
        """Connect, wait until the connection ends, come back with back-off. Ends only by cancellation."""
        loop = asyncio.get_running_loop()
        delay_s = _RECONNECT_FIRST_S
        while True:
            acked_before = self.acked_through
            with contextlib.suppress(OSError):
                _, link = await loop.create_unix_connection(lambda: Link(self), str(self._socket_path))
                await link.ended
            delay_s = _RECONNECT_FIRST_S if self.acked_through > acked_before else min(delay_s * 2, _RECONNECT_LAST_S)
            await asyncio.sleep(delay_s)

    def on_connected(self, link: Link) -> None:
        """Begin anew on a connection: what is not acknowledged is sent again."""
        self._link, self._sent = link, 0
        link.write(self._hello)
        self.flush()

    def on_link_ended(self, link: Link) -> None:
        """Forget a connection that has ended."""
        if self._link is link:
            self._link, self._sent = None, 0
