"""Reads the log for the admin port, beside the controller's loop: one thread with its own view of the index, so that no question holds up a tick.

The index is the controller's to fill, and to make again when it is gone; here it is only asked. One that was replaced is opened again; while there is
none, or it has not caught up with the signed head in `CATCH_UP_S`, every leaf is read: an answer is never short without saying so. Answers carry the
tree size they are pinned to.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy.exc import DatabaseError

from audit.bundle import make_bundle
from audit.explain import Explanation, explain
from audit.follow import Follower, follow
from audit.index import FILE_NAME, GapError, Indexer
from audit.keyring import LogKey
from audit.keys import VerifierKey
from audit.merkle import leaf_hash
from audit.note import SignedCheckpoint, open_checkpoint
from audit.promise import PROOF_FORMAT
from audit.proof import LeafProof, make_proof
from audit.query import Page, Query, full_scan
from audit.receipt import Certificate, certified_near
from audit.source import CHECKPOINT, LogSource, open_directory
from audit.store.errors import StoreError
from audit.vault.standing import standing
from experiments.assignment import recompute
from gateway.inquiry import related_rows

T = TypeVar("T")
CATCH_UP_S: Final = 1.0
_MOST_OF_A_DECISION: Final = 100
_OF_A_CALL: Final = ("call", "decision", "outcome")


class Shown(msgspec.Struct, frozen=True):
    """One record with what belongs to it. `proof` is None while no signed head covers the record."""

    index: int
    leaf: bytes
    record: dict[str, Any]
    related: dict[int, dict[str, Any]]
    explanation: Explanation
    proof: LeafProof | None


class Reading:
    """One thread that reads. `_indexer` and `_inode` belong to that thread."""

    def __init__(self, data_dir: Path, keys: Sequence[LogKey], witnesses: Sequence[VerifierKey]) -> None:
        """Read the log in `data_dir`, whose keys are `keys`; nothing is opened yet."""
        self._data_dir = data_dir
        self._keys = tuple(keys)
        self._witnesses = tuple(witnesses)
        self._source: LogSource = open_directory(data_dir)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._indexer: Indexer | None = None
        self._inode = 0  # of the file it was opened on

    def close(self) -> None:
        """End the thread once the question under way is answered."""
        self._thread.submit(self._forget)
        self._thread.shutdown(wait=True)

    async def page(self, question: Query, limit: int, cursor: str | None = None, *, full: bool = False) -> Page:
        """Answer a question; from the leaves themselves with `full`, or where there is no index. Raises `audit.query.QueryError`."""
        return await self._run(lambda: self._ask(question, limit, cursor, full=full))

    async def records(self, question: Query, limit: int) -> tuple[int, list[tuple[int, dict[str, Any]]]]:
        """Return the size of the log that is answered for, and the newest records that answer, whole. Raises as `page`."""

        def read() -> tuple[int, list[tuple[int, dict[str, Any]]]]:
            page = self._ask(question, limit, None)
            return page.size, [(row.idx, _decoded(self._leaf(row.idx) or b"{}")) for row in page.rows]

        return await self._run(read)

    async def show(self, index: int) -> Shown | None:
        """Return one record, proven where the signed head covers it; None when there is no such record."""
        return await self._run(lambda: self._show(index))

    async def bundle(self, indices: Sequence[int], question: dict[str, Any], made: str, span: tuple[int, int] | None) -> bytes:
        """Return an evidence bundle; raises what `audit.bundle.make_bundle` raises."""
        return await self._run(
            lambda: make_bundle(self._source, self._keys, indices, question=question, made=made, span=span, witnesses=self._witnesses)
        )

    async def receipt(self, decision: str, tenant: str, certificates: Sequence[Certificate]) -> dict[str, Any] | None:
        """Return the proofs of a decision's records, and of the leaves that certify receipt keys; None where no signed head covers one yet.

        Args:
            decision: its id.
            tenant: whose decision it is; one of another tenant is not there.
            certificates: of the log's receipt keys.

        Raises:
            StoreError: there is no index just now; who asks is not worth reading every leaf.
        """
        return await self._run(lambda: self._receipt(decision, tenant, certificates))

    def head(self) -> SignedCheckpoint | None:
        """Return the published head, verified."""
        data = self._source.read(CHECKPOINT)
        return None if data is None else open_checkpoint(data, self._keys, self._witnesses)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _ask(self, question: Query, limit: int, cursor: str | None, *, full: bool = False) -> Page:
        if not full:
            try:
                index = self._index()
                if index is not None and self._has_caught_up(index):
                    return index.page(question, limit=limit, cursor=cursor)
            except (StoreError, GapError, sqlite3.Error, DatabaseError, OSError):
                self._forget()
        with Follower(self._data_dir) as follower:
            size = follower.end()
        return full_scan(follow(self._data_dir, 0), question, size=size, limit=limit, cursor=cursor)

    def _has_caught_up(self, index: Indexer) -> bool:
        head = self.head()
        signed = 0 if head is None else head.checkpoint.size
        ends_s = time.monotonic() + CATCH_UP_S
        while index.next_index < signed:
            if time.monotonic() >= ends_s:
                return False
            time.sleep(0.02)
        return True

    def _index(self) -> Indexer | None:
        path = self._data_dir / FILE_NAME
        if self._indexer is not None and (not path.exists() or path.stat().st_ino != self._inode):
            self._forget()
        if self._indexer is None:
            if not path.exists():  # the controller makes it; two that did would take it from each other
                return None
            self._indexer = Indexer(self._data_dir, follow)
            self._inode = path.stat().st_ino
        return self._indexer

    def _receipt(self, decision: str, tenant: str, certificates: Sequence[Certificate]) -> dict[str, Any] | None:
        head = self.head()
        signed = 0 if head is None else head.checkpoint.size
        try:
            index = self._index()
            if index is None:
                raise StoreError("the index is being made")
            rows = index.page(Query(decision=decision, tenant=tenant, oldest_first=True), limit=_MOST_OF_A_DECISION).rows
        except (GapError, sqlite3.Error, DatabaseError, OSError) as error:
            self._forget()
            raise StoreError(f"the index cannot be read: {error}") from error
        covered = [row.idx for row in rows if row.type in _OF_A_CALL and row.idx < signed]
        if not covered:
            return None
        leaves = {idx: self._leaf(idx) or b"" for idx in covered}
        certified_at = sorted({at for idx in covered for at in certified_near(certificates, _writer_of(leaves[idx]), idx)})
        leaves |= {idx: self._leaf(idx) or b"" for idx in certified_at}
        proofs = {idx: make_proof(self._source, idx, self._keys).encode().decode() for idx in leaves if idx < signed}
        return {
            "format": PROOF_FORMAT,
            "decision": decision,
            # Hashes alone: what a record tells of a call, its arm for one, is not for every caller.
            "records": [{"index": idx, "leaf_hash": leaf_hash(leaves[idx]).hex(), "proof": proofs[idx]} for idx in covered],
            "certificates": [{"index": idx, "leaf": leaves[idx].decode(), "proof": proofs[idx]} for idx in certified_at if idx in proofs],
        }

    def _forget(self) -> None:
        if self._indexer is not None:
            self._indexer.close()
            self._indexer = None

    def _leaf(self, index: int) -> bytes | None:
        return next((leaf for _, leaf in follow(self._data_dir, index, until=index + 1)), None)

    def _show(self, index: int) -> Shown | None:
        leaf = self._leaf(index)
        if leaf is None:
            return None
        record = _decoded(leaf)
        rows = related_rows(self._ask, record, index)
        related = {row.idx: _decoded(self._leaf(row.idx) or b"{}") for row in rows}
        head = self.head()
        proof = make_proof(self._source, index, self._keys) if head is not None and index < head.checkpoint.size else None
        captured = standing(record, list(related.values()), self._data_dir, time.time_ns() // 1000)
        return Shown(index, leaf, record, related, explain(record, list(related.values()), recompute, captured), proof)


def _writer_of(leaf: bytes) -> str:
    writer = _decoded(leaf).get("writer")
    return str(writer.get("node", "")) if isinstance(writer, dict) else ""


def _decoded(leaf: bytes) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(leaf)
    except msgspec.DecodeError:
        record = None
    return record if isinstance(record, dict) else {"type": "unreadable"}
