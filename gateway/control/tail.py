"""Reads what was committed, in order, and hands it on: to the index, and to the evidence of running experiments.

Each `step` is bounded, so that the controller's clock (what workers call staleness) is never held up for long.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from audit.follow import Follower
from audit.index import Indexer
from audit.store.errors import StoreError
from gateway.control.registry import Registry, concerns
from gateway.control.rollouts import Rollouts

ROWS_PER_STEP = 1000
_CONCERNS_EVIDENCE = (b'"type":"outcome"', b'"type":"label"', b'"type":"reward"', b'"experiment":')
_log = logging.getLogger(__name__)


def fold_registry(data_dir: Path, registry: Registry) -> int:
    """Fold every record that concerns the registry, from the beginning of the log; returns the number of leaves read."""
    at = 0
    with Follower(data_dir) as follower:
        while rows := follower.read(at):
            for index, leaf in rows:
                if concerns(leaf):
                    registry.fold(index, msgspec.json.decode(leaf))
            at += len(rows)
    return at


class Tail:
    """Follows the log. Owned by the controller's loop."""

    def __init__(self, data_dir: Path, indexer: Indexer, rollouts: Rollouts) -> None:
        """Prepare; nothing is read before `step`."""
        self._follower = Follower(data_dir)
        self._indexer = indexer
        self._rollouts = rollouts
        self._evidence_at: int | None = None  # next leaf for the evidence; set by `read_evidence_from`, moved by `step`
        self._is_behind = True  # changed by `step`

    def read_evidence_from(self, index: int) -> None:
        """Read evidence from a leaf on, if it has not been read from before it already."""
        if self._evidence_at is None:
            self._evidence_at = index

    def step(self) -> bool:
        """Take a bounded number of leaves in; returns whether there was anything, so that the caller can come back at once."""
        again = self._rollouts.take_unread()
        if again is not None:
            self._evidence_at = again if self._evidence_at is None else min(again, self._evidence_at)
            self._is_behind = True
        busy = self._index_some()
        return self._feed_some() or busy

    @property
    def is_behind(self) -> bool:
        """Say whether evidence that was committed some time ago has not been read yet: then nothing may be judged."""
        return self._is_behind or self._rollouts.has_unread

    def _index_some(self) -> bool:
        try:
            rows = self._follower.read(self._indexer.next_index, ROWS_PER_STEP)
            if rows:
                self._indexer.add(rows)
            return bool(rows)
        except StoreError:
            _log.exception("the log cannot be read; index and evidence stand still")
            return False

    def _feed_some(self) -> bool:
        if self._evidence_at is None:
            self._is_behind = False
            return False
        try:
            rows = self._follower.read(self._evidence_at, ROWS_PER_STEP)
        except StoreError:
            self._is_behind = True
            _log.exception("the log cannot be read; nothing is judged")
            return False
        for _, leaf in rows:
            if any(mark in leaf for mark in _CONCERNS_EVIDENCE):
                self._rollouts.feed(msgspec.json.decode(leaf))
        self._evidence_at += len(rows)
        self._is_behind = len(rows) == ROWS_PER_STEP
        return bool(rows)

    def close(self) -> None:
        """Close what is open for reading."""
        self._follower.close()
