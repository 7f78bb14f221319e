"""The records of calls in flight: a `Held` for each, which ends in exactly one terminal leaf, whatever happens to the call.

Rules:
- A call that ends before its batch closes is one `call` leaf; a longer one, or one of a `sync` route, is `decision`, then `outcome`.
- `decided` and `ended` are set once the leaf is appended, never before: a journal that is full leaves no half-told call.
- A tenant's refusals have a quota of bytes; past it they are counted by key and reason, one `denial.count` a second, and have no leaf of their own.
- Waiting comes after the terminal leaf. A wait that fails, or a caller who leaves during it, writes nothing more: the record is true already.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from audit.journal import IndexForgotten, Journal, JournalError, JournalUnavailable
from audit.leaf import LeafError
from audit.merkle import leaf_hash
from gateway.counters import Counters
from gateway.documents import RouteDocument
from gateway.identifiers import Identifiers
from gateway.keeping import ROOM_ENTRIES, Kept, Line
from gateway.limits import DeniedBytes
from gateway.plain_leaf import PlainLeaves
from gateway.record import CallRecord, Source
from gateway.refusals import Refusal

BATCH_WINDOW_S: Final = 0.050
"""A reply of a `batch` route waits once the oldest uncommitted record is older than this."""
ROOM_RECORDS: Final = 60_000
"""New calls are refused while more records wait: below what the journal holds, so that a call that has begun can end in it."""
BACKLOG_REFUSE_S: Final = 1.0
"""New calls are refused once the oldest uncommitted record is older than this."""


@dataclass(slots=True)
class Held:
    """A call that is being served. Changed by the ledger, but for `forwarded`."""

    record: CallRecord
    started_ns: int
    until_ns: int
    """When the call's deadline is over."""
    decided: bool = False
    """Its `decision` leaf is appended."""
    decided_seq: int = -1
    ended: bool = False
    """Its terminal leaf is appended."""
    forwarded: bool = False
    """A model may have seen it: it has a record of its own, whatever its tenant was refused before. Set by the lane."""


class Ledger:
    """Writes the records of one worker's calls. Owned by the worker's loop."""

    __slots__ = ("_counters", "_denied", "_ids", "_journal", "_plain", "_source", "_uncounted", "_waiting", "open", "vault")

    def __init__(self, journal: Journal, source: Source, counters: Counters, ids: Identifiers, held: dict[str, Held], denied: DeniedBytes) -> None:
        """Write through `journal`; `held` are the calls in flight by id, oldest first."""
        self._denied = denied
        # (tenant, key, code) -> refusals past the quota that no record has told yet; changed by `end_denied` and `record_denied`.
        self._uncounted: dict[tuple[str, str, str], int] = {}
        self._journal = journal
        self._source = source
        self._counters = counters
        self._ids = ids
        self._plain = PlainLeaves()
        self.open = held
        self.vault: Line | None = None
        """The line to the vault, where there is one; set by the worker before it serves."""
        self._waiting: list[tuple[int, asyncio.Future[int]]] = []  # waits with the moment they end; changed by `committed` and `sweep`

    def require_recording(self, document: RouteDocument) -> None:
        """Refuse a call that could not be recorded, or whose entry in the vault could not be kept: never after the model has been called."""
        if document.on_audit_unavailable != "deny":
            return
        if document.capture.vault is not None:
            self._require_keeping()
        journal = self._journal
        if journal.failure is not None:
            raise Refusal("audit_unavailable", "the log has refused this worker's records")
        if journal.unacked_count > ROOM_RECORDS:
            raise Refusal("audit_unavailable", "too many records wait to be confirmed")
        if journal.oldest_unacked_age_s(time.monotonic_ns()) > BACKLOG_REFUSE_S:
            raise Refusal("audit_unavailable", "the log has not confirmed a record for over a second")

    def _require_keeping(self) -> None:
        line = self.vault
        if line is None:
            raise Refusal(
                "vault_unavailable", "this gateway was started without a vault", hint="restart it: `vault` in gateway.yaml takes force then"
            )
        if line.unacked_count > ROOM_ENTRIES:
            raise Refusal("vault_unavailable", "too many entries wait to be confirmed")
        if line.oldest_unacked_age_s(time.monotonic_ns()) > BACKLOG_REFUSE_S:
            raise Refusal("vault_unavailable", "the vault has not confirmed an entry for over a second")

    def decide(self, held: Held) -> int | None:
        """Write the `decision` leaf unless it is written; returns its sequence number.

        Raises:
            Refusal: `audit_unavailable`; nothing is written.
            LeafError: The record is no leaf; nothing is written.
        """
        if held.decided:
            return None
        try:
            seq = self._journal.append(held.record.decision_leaf())
        except JournalError:
            raise Refusal("audit_unavailable", "the line of unconfirmed records is full") from None
        if held.record.wants_receipt:
            held.record.promised = (seq, leaf_hash(self._journal.last_leaf))
        held.decided, held.decided_seq = True, seq
        return seq

    async def decide_durably(self, held: Held) -> None:
        """Write the `decision` leaf and wait until it is committed. Raises Refusal `audit_unavailable`."""
        seq = self.decide(held)
        if seq is not None:
            await self.committed(seq, held.until_ns)

    async def decide_in_time(self, held: Held, document: RouteDocument) -> None:
        """Have the `decision` written before a reply begins, and wait for it as the route's mode asks. Raises Refusal `audit_unavailable`."""
        seq = self.decide(held)
        if seq is None:
            seq = held.decided_seq
        if document.audit == "batch" and self._journal.oldest_unacked_age_s(time.monotonic_ns()) > BATCH_WINDOW_S:
            await self.committed(seq, held.until_ns)

    async def end(self, held: Held, document: RouteDocument, *, is_denied: bool = False) -> None:
        """Write the terminal leaf, then wait as the route's mode asks; that of a denied call is taken from its tenant's quota.

        Raises:
            Refusal: `audit_unavailable`: it could not be written, or was not confirmed, and the route denies then.
        """
        now_ns = time.monotonic_ns()
        held.record.latency_us = (now_ns - held.started_ns) // 1000
        before = self._journal.unacked_bytes if is_denied else 0
        try:
            seq = self._write_end(held, now_ns)
        except JournalError:
            if document.on_audit_unavailable == "deny":
                raise Refusal("audit_unavailable", "the line of unconfirmed records is full") from None
            self._counters.early("degraded_unrecorded")
            return
        if is_denied:
            self._denied.spend(held.record.tenant, self._journal.unacked_bytes - before)
        self._count(held, document)
        mode = document.audit
        if mode == "sync" or (mode == "batch" and self._journal.oldest_unacked_age_s(now_ns) > BATCH_WINDOW_S):
            await self.committed(seq, held.until_ns)
        if held.record.kept is not None and held.record.committed_in is not None:
            await self._kept(held.record.kept, held.until_ns, document)

    async def _kept(self, kept: Kept, until_ns: int, document: RouteDocument) -> None:
        """Wait for a call's entry in the vault as the route's mode asks.

        Raises:
            Refusal: `vault_unavailable`: it is lost, or was not confirmed, and the route denies then.
        """
        line, seq = self.vault, kept.seq
        if line is None or seq is None:
            self._counters.early("vault_lost")
            if document.on_audit_unavailable == "deny":
                raise Refusal("vault_unavailable", "what this route captures found no room on its way to the vault")
            return
        mode = document.audit
        if mode == "sync" or (mode == "batch" and line.oldest_unacked_age_s(time.monotonic_ns()) > BATCH_WINDOW_S):
            line.flush()
            confirmed = line.add_waiter(seq)
            self._waiting.append((until_ns, confirmed))
            try:
                await confirmed
            except JournalError:
                if document.on_audit_unavailable == "deny":
                    raise Refusal("vault_unavailable", "the vault has not confirmed the call's entry within its deadline") from None

    async def end_denied(self, held: Held, document: RouteDocument) -> bool:
        """End a call that was refused before a model was called; returns whether it has a record, and not just a count.

        Raises:
            Refusal: as `end`.
        """
        record = held.record
        if not self._denied.has_room(record.tenant, held.started_ns / 1e9):
            key = (record.tenant, record.actor["id"], record.code or "")
            self._uncounted[key] = self._uncounted.get(key, 0) + 1
            record.latency_us = (time.monotonic_ns() - held.started_ns) // 1000
            held.ended = True
            self._count(held, document)
            return False
        await self.end(held, document, is_denied=True)
        return True

    def record_denied(self) -> None:
        """Record the refusals past their tenants' quotas; the worker calls this once a second. What finds no room waits for the next time."""
        for (tenant, key, reason), count in list(self._uncounted.items()):
            if not self._record_count(tenant, {"kind": "key", "id": key}, reason, count):
                return
            del self._uncounted[tenant, key, reason]

    def end_unheard(self, held: Held, document: RouteDocument, *, status: int, code: str) -> None:
        """Write the terminal leaf of a call whose caller has gone, or that a defect has ended; nobody waits for it."""
        if held.ended:
            return
        now_ns = time.monotonic_ns()
        record = held.record
        record.status, record.code = status, code
        record.latency_us = (now_ns - held.started_ns) // 1000
        try:
            self._write_end(held, now_ns)
        except JournalError:
            self._counters.early("degraded_unrecorded")
        else:
            self._count(held, document)

    def _write_end(self, held: Held, now_ns: int) -> int:
        record = held.record
        if record.kept is not None and record.committed_in is not None:
            record.vault = record.kept.hand_over(record.id, record.unix_us)
        try:
            plain = None if held.decided else self._plain.render(record)
            seq = self._journal.append(self._end_leaf(held, now_ns)) if plain is None else self._journal.append_rendered(plain)
        except LeafError:
            # Whatever made the leaf impossible, the call is told: who, what, how it ended.
            record.code = "unrecordable"
            record.shrink()
            seq = self._journal.append(self._end_leaf(held, now_ns))
        held.decided = held.ended = True
        if record.wants_receipt:
            record.promised = (seq, leaf_hash(self._journal.last_leaf))
        return seq

    def _end_leaf(self, held: Held, now_ns: int) -> dict[str, Any]:
        if not held.decided:
            return held.record.call()
        unix_us = time.time_ns() // 1000
        return held.record.outcome(self._ids.next(unix_us // 1000), unix_us, now_ns)

    def _count(self, held: Held, document: RouteDocument) -> None:
        record = held.record
        version = record.decision.version if record.decision is not None else None
        name = version.document.name if version is not None else "-"
        self._counters.call(document.model, name, record.status, record.code or "", record.latency_us)
        if record.metered is not None:
            self._counters.metered(document.model, name, record.metered)

    async def committed(self, seq: int, until_ns: int) -> None:
        """Wait until a record is committed, at most until a moment of the monotonic clock.

        Raises:
            Refusal: `audit_unavailable`: the recorder has refused this worker, or has not confirmed in time. The record may still be committed.
        """
        self._journal.flush_soon()
        confirmed = self._journal.add_waiter(seq)
        self._waiting.append((until_ns, confirmed))
        try:
            await confirmed
        except IndexForgotten:
            return  # committed, and long ago
        except JournalUnavailable:
            raise Refusal("audit_unavailable", "the log has not confirmed the record within the call's deadline") from None
        except JournalError:
            raise Refusal("audit_unavailable", "the log has refused this worker's records") from None

    def sweep(self, now_ns: int) -> None:
        """End the waits whose time is over; the worker calls this every few milliseconds. No wait has a timer of its own."""
        if not self._waiting:
            return
        still = []
        for until_ns, confirmed in self._waiting:
            if confirmed.done():
                continue
            if now_ns >= until_ns:
                confirmed.set_exception(JournalUnavailable("not confirmed in time"))
            else:
                still.append((until_ns, confirmed))
        self._waiting = still

    def write_late_decisions(self, older_than_s: float, now_ns: int) -> None:
        """Write the `decision` of every call that has been open for longer; what the journal cannot take now waits for the next time."""
        bound_ns = now_ns - int(older_than_s * 1e9)
        for held in self.open.values():
            if held.started_ns > bound_ns:
                return
            decision = held.record.decision
            # Without an answer of the policies it is not decided yet: a policy server has been asked.
            if not held.decided and decision is not None and decision.refusal is None and decision.judged is not None:
                try:
                    self.decide(held)
                except Refusal:
                    return
                except LeafError:
                    continue  # its end will be told as `unrecordable`; nobody else waits for that

    def record_denials(self, reason: str, count: int) -> bool:
        """Record how many requests were refused for `reason` before it was known who asked; False where the journal has no room for it."""
        return self._record_count("-", {"kind": "system", "id": self._journal.node}, reason, count)

    def _record_count(self, tenant: str, actor: dict[str, str], reason: str, count: int) -> bool:
        unix_us = time.time_ns() // 1000
        head = self._source.head(self._ids.next(unix_us // 1000), "denial.count", unix_us, time.monotonic_ns(), tenant, actor)
        try:
            self._journal.append({**head, "reason": reason, "count": count, "second": unix_us // 1_000_000})
        except JournalError:
            return False
        return True
