"""Reads what was committed, in order, and hands it on: to the index, to the evidence of experiments, and where other nodes write, to the registry.

Each `step` is bounded, so that the controller's clock (what workers call staleness) is never held up for long.

The index is disposable, and what befalls its file (deleted, damaged, taken away by a command that makes it anew at the same moment) stops neither the
evidence nor the controller: it is told once, and the index is opened again at the next step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from audit.excerpts import Excerpts
from audit.follow import Follower
from audit.store.errors import StoreError
from audit.store.layout import RANGE_LEAVES
from gateway.control.registry import CONCERNING, Registry
from gateway.control.rollouts import Rollouts

if TYPE_CHECKING:
    from audit.index import Indexer

ROWS_PER_STEP = 1000
_CONCERNS_EVIDENCE = (b'"experiment":', b'"type":"outcome"', b'"type":"label"', b'"type":"reward"', b'"type":"human_decision"')
_log = logging.getLogger(__name__)


def _concerns_evidence(leaf: bytes) -> bool:
    find = leaf.find  # `in` first takes bytes for a number, which costs a raised and dropped exception each time (CPython 3.11)
    return any(find(mark) >= 0 for mark in _CONCERNS_EVIDENCE)


def fold_registry(data_dir: Path, registry: Registry, excerpts: Excerpts) -> int:
    """Fold every record that concerns the registry, from the beginning of the log; return how many leaves that were."""
    with Follower(data_dir) as follower:
        end = follower.end()
    for index, leaf in excerpts.search(end):
        registry.fold(index, msgspec.json.decode(leaf))
    return end


class Others:
    """What other nodes of a shared log commit, folded into this node's registry. Owned by the controller's loop.

    What this process commits itself it folds where it commits it, and passes over here.
    """

    def __init__(self, registry: Registry, at: int, own: tuple[str, int], hear: Callable[[str], None]) -> None:
        """Go on at a leaf.

        Args:
            registry: folded up to `at`.
            at: the next leaf.
            own: node and epoch of this process's writer.
            hear: told the type of each record that was folded.
        """
        self.at = at
        """The next leaf; moved on by `take`."""
        self._registry = registry
        self._own = own
        self._hear = hear

    def take(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Take leaves in, in order from `at` on."""
        for index, leaf in rows:
            if CONCERNING.search(leaf) is not None:
                record = msgspec.json.decode(leaf)
                if (record["writer"]["node"], record["writer"]["epoch"]) != self._own:
                    self._registry.fold(index, record)
                    self._hear(record["type"])
        self.at += len(rows)


class Tail:
    """Follows the log. Owned by the controller's loop."""

    def __init__(self, data_dir: Path, indexer: Indexer | None, rollouts: Rollouts, reopen: Callable[[], Indexer] | None = None) -> None:
        """Prepare; nothing is read before `step`.

        Args:
            data_dir: The data directory.
            indexer: The index; None to open it by `reopen` at the first step, or before by `open_index`.
            rollouts: Fed with evidence.
            reopen: Opens the index, and again after its file was lost.
        """
        self._follower = Follower(data_dir)
        self._indexer = indexer  # replaced by `open_index`
        self._rollouts = rollouts
        self._evidence_at: int | None = None  # next leaf for the evidence; set by `read_evidence_from`, moved by `step`
        self._is_behind = True  # changed by `step`
        self._reopen = reopen
        self._others: Others | None = None  # where other nodes write too; set by `hear_others`
        self._index_fault: str | None = None  # why the index is to be opened anew; changed by `open_index` and `_tell_index_fault`

    def read_evidence_from(self, index: int) -> None:
        """Read evidence from a leaf on, if it has not been read from before it already."""
        if self._evidence_at is None:
            self._evidence_at = index

    def hear_others(self, others: Others) -> None:
        """Fold what other nodes commit from now on."""
        self._others = others

    def catch_up(self, until: int) -> bool:
        """Fold a bounded number of leaves that other nodes have committed; say whether all before `until` are folded.

        Raises:
            StoreError: the log cannot be read.
        """
        if self._others is not None and self._others.at < until:
            self._others.take(self._follower.read(self._others.at, ROWS_PER_STEP))
        return self._others is None or self._others.at >= until

    def open_index(self) -> None:
        """Open the index if it is not: with many records that takes a moment. May run in another thread, before the first step."""
        from audit.index import INDEX_FAULTS  # noqa: PLC0415 - SQLAlchemy takes half a second to load, and no call waits for the index

        if self._reopen is None or (self._indexer is not None and self._index_fault is None):
            return
        try:
            self._indexer, self._index_fault = self._reopen(), None
        except (StoreError, *INDEX_FAULTS) as fault:
            self._tell_index_fault(fault)

    def step(self) -> int:
        """Take a bounded number of leaves in; returns how many, so that the caller can come back at once for a full step."""
        again = self._rollouts.take_unread()
        if again is not None:
            self._evidence_at = again if self._evidence_at is None else min(again, self._evidence_at)
            self._is_behind = True
        index_at, rows = self._index_some()
        heard = self._hear_some(index_at, rows)
        return max(0 if rows is None else len(rows), heard, self._feed_some(index_at, rows))

    def _hear_some(self, index_at: int, indexed: list[tuple[int, bytes]] | None) -> int:
        """Fold what other nodes have committed; returns how many leaves that were among."""
        if self._others is None:
            return 0
        rows = indexed if self._others.at == index_at else self._read(self._others.at)
        if not rows:
            return 0
        self._others.take(rows)
        return len(rows)

    def _index_some(self) -> tuple[int, list[tuple[int, bytes]] | None]:
        """Index the leaves of a step; return where they begin (-1 while there is no index) and the leaves."""
        from audit.index import INDEX_FAULTS  # noqa: PLC0415 - as above; loaded once

        rows: list[tuple[int, bytes]] | None = []
        index_at = -1
        self.open_index()
        if self._indexer is None or (self._index_fault is not None and self._reopen is not None):
            return index_at, rows
        try:
            index_at = self._indexer.next_index
            rows = self._read(index_at)
            if rows:
                self._indexer.add(rows)
        except StoreError:
            _log.exception("the log cannot be indexed; the index stands still")
        except INDEX_FAULTS as fault:
            self._tell_index_fault(fault)
        return index_at, rows

    def _tell_index_fault(self, fault: Exception) -> None:
        """Say once why the index cannot be used; the next step opens it anew."""
        if str(fault) != self._index_fault:
            _log.exception("the index cannot be used; it is opened anew")
        self._index_fault = str(fault)

    @property
    def is_behind(self) -> bool:
        """Say whether evidence that was committed some time ago has not been read yet: then nothing may be judged."""
        return self._is_behind or self._rollouts.has_unread

    def _read(self, from_index: int) -> list[tuple[int, bytes]] | None:
        """Return the leaves of a step, or None when the log cannot be read now."""
        try:
            return self._follower.read(from_index, ROWS_PER_STEP)
        except StoreError:
            _log.exception("the log cannot be read; index and evidence stand still, nothing is judged")
            return None

    def _feed_some(self, index_at: int, indexed: list[tuple[int, bytes]] | None) -> int:
        """Hand leaves to the evidence; those just indexed are not read again where both stand at the same place, as they nearly always do."""
        if self._evidence_at is None:
            self._is_behind = False
            return 0
        rows = indexed if self._evidence_at == index_at else self._read(self._evidence_at)
        if rows is None:
            self._is_behind = True
            return 0
        for _, leaf in rows:
            if _concerns_evidence(leaf):
                self._rollouts.feed(msgspec.json.decode(leaf))
        self._evidence_at += len(rows)
        # A read ends with its range: what follows it is read next.
        self._is_behind = len(rows) == ROWS_PER_STEP or (bool(rows) and self._evidence_at % RANGE_LEAVES == 0)
        return len(rows)

    def close(self) -> None:
        """Close what is open for reading."""
        self._follower.close()
