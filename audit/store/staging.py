"""What every leaf store does before it commits: know the writers, recognise repetitions, put new records in order.

Rules:
- A record is known by (node, epoch, seq). Staging a record that is already committed gives its original index, if its bytes are the same.
- The numbers of a writer have no gaps. An ended epoch, or one older than the newest of its name, is refused.
- The index of a staged record is the store's to say: `settled` tells it after the commit. A store with several recorders (PostgreSQL) learns
  it only then.

Example:
    runs = store.stage(("n1.w0", 1763632800000), first_seq=0, leaves=[leaf])
    store.commit()
    store.settled(runs)         # these, and only these, may be acknowledged
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence

import msgspec

from audit.store.errors import RetryMismatch, SequenceGap, WriterEnded

LeafTuple = tuple[int, str, int, int, bytes]
"""(index, node, epoch, seq, leaf)."""
WriterKey = tuple[str, int]
"""(node, epoch)."""


class Seed(msgspec.Struct, frozen=True, gc=False):
    """Position of a writer: its last committed number (-1: none), and whether its end is stated."""

    last_seq: int
    ended: bool


class Run(msgspec.Struct, frozen=True, gc=False):
    """Records `first_seq` .. `first_seq + count - 1` of one writer lie at `first_index` and following."""

    first_seq: int
    count: int
    first_index: int

    def within(self, next_index: int) -> Run | None:
        """Return the part of the run below `next_index`, None if there is none."""
        count = min(self.count, next_index - self.first_index)
        return None if count <= 0 else Run(self.first_seq, count, self.first_index)


class Staging(abc.ABC):
    """A store that leaves are appended to. Owned by the recorder's one thread, with everything in it."""

    def __init__(self, committed: dict[WriterKey, Seed]) -> None:
        """Begin with the writers known to the store."""
        self._committed = committed  # changed by `_note_committed`, `end_writer` and when a range is turned over
        self._staged_seq: dict[WriterKey, int] = {}  # last staged number; cleared by `_take_staged`
        self._staged: list[LeafTuple] = []  # rows of the next commit; cleared by `_take_staged`
        self._staged_ends: dict[int, WriterKey] = {}  # index of the stating row -> writer it ends; cleared by `_take_staged`
        self.committed_count = 0  # leaves committed through this object; raised by `_note_committed`
        self._newest_epoch: dict[str, int] = {}
        for node, epoch in committed:
            self._newest_epoch[node] = max(epoch, self._newest_epoch.get(node, -1))

    @property
    @abc.abstractmethod
    def next_index(self) -> int:
        """Number of committed leaves, as far as this store has seen."""

    @abc.abstractmethod
    def commit(self) -> None:
        """Make everything staged durable. On any error what `settled` does not give is forgotten.

        Raises:
            StoreFull: What is not settled was not stored; the same can be staged again.
            StoreBroken: Unknown what was stored. The store must not be used again; the next process reads what is there.
        """

    @abc.abstractmethod
    def settled(self, runs: Sequence[Run]) -> list[Run]:
        """Return what of staged runs is committed, with its indices; to be asked right after `commit`, whether it raised or not."""

    @abc.abstractmethod
    def end_writer(self, key: WriterKey) -> None:
        """Remember that the writer ended by its own record. Raises as `commit`."""

    @abc.abstractmethod
    def housekeep(self, *, idle: bool) -> None:
        """Do what must be done between commits. Raises as `commit`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    @abc.abstractmethod
    def _first_staged_index(self) -> int:
        """Return the index that the first row of the next commit is given for the time being."""

    @abc.abstractmethod
    def _find_committed(self, key: WriterKey, first_seq: int, last_seq: int, found: dict[int, tuple[int, bytes]]) -> dict[int, tuple[int, bytes]]:
        """Return `found` with the committed records of a writer, seq -> (index, leaf), as far as they are still there."""

    @property
    def staged_count(self) -> int:
        """Rows waiting for `commit`."""
        return len(self._staged)

    def writers(self) -> dict[WriterKey, Seed]:
        """Return the position of every writer that is still known, ended ones included."""
        return dict(self._committed)

    def position(self, key: WriterKey) -> Seed:
        """Return where a writer stands; a writer never seen is at -1."""
        return self._committed.get(key, Seed(-1, ended=False))

    def admit(self, key: WriterKey) -> None:
        """Check that this writer may append.

        Raises:
            WriterEnded: Its end is stated, or its name has a newer epoch.
        """
        node, epoch = key
        seed = self._committed.get(key)
        newest = self._newest_epoch.get(node, -1)
        if seed is not None and seed.ended:
            raise WriterEnded(f"writer `{node}` epoch `{epoch}` has ended; hint: start with a new epoch")
        if seed is None and epoch < newest:
            raise WriterEnded(f"writer `{node}` epoch `{epoch}` is older than its epoch `{newest}`; hint: start with a new epoch")

    def stage(self, key: WriterKey, first_seq: int, leaves: Sequence[bytes], *, ends: WriterKey | None = None) -> list[Run]:
        """Put records into the next commit and return where they will be; those already committed keep their index.

        Args:
            key: The writer.
            first_seq: Number of the first leaf.
            leaves: Leaf bytes, numbered on from `first_seq`.
            ends: A writer whose end the last leaf states.

        Raises:
            SequenceGap: Numbers before `first_seq` never arrived.
            RetryMismatch: A number is committed with other bytes.
            WriterEnded: See `admit`.
        """
        self.admit(key)
        last = self._staged_seq.get(key, self.position(key).last_seq)
        if first_seq > last + 1:
            raise SequenceGap(f"writer `{key[0]}` epoch `{key[1]}` sent seq `{first_seq}`; expected {last + 1}")
        known = min(last + 1 - first_seq, len(leaves))
        runs = self._runs_of_known(key, first_seq, leaves[:known]) if known else []
        if known < len(leaves):
            runs.append(self._stage_new(key, first_seq + known, leaves[known:] if known else leaves))
            if ends is not None:
                self._staged_ends[self._first_staged_index() + len(self._staged) - 1] = ends
        return runs

    def last_leaf(self, key: WriterKey) -> bytes | None:
        """Return the last committed leaf of a writer, None if it has none or it is no longer there."""
        last_seq = self.position(key).last_seq
        found = self._find(key, last_seq, last_seq) if last_seq >= 0 else {}
        return found[last_seq][1] if found else None

    def _take_staged(self) -> tuple[list[LeafTuple], dict[int, WriterKey]]:
        staged, ends = self._staged, self._staged_ends
        self._staged, self._staged_ends, self._staged_seq = [], {}, {}
        return staged, ends

    def _stage_new(self, key: WriterKey, first_seq: int, leaves: Sequence[bytes]) -> Run:
        first_index = self._first_staged_index() + len(self._staged)
        count = len(leaves)
        self._staged.extend(
            zip(
                range(first_index, first_index + count),
                itertools.repeat(key[0]),
                itertools.repeat(key[1]),
                range(first_seq, first_seq + count),
                leaves,
                strict=False,
            )
        )
        self._staged_seq[key] = first_seq + count - 1
        return Run(first_seq, count, first_index)

    def _runs_of_known(self, key: WriterKey, first_seq: int, leaves: Sequence[bytes]) -> list[Run]:
        found = self._find(key, first_seq, first_seq + len(leaves) - 1)
        runs: list[Run] = []
        for seq, leaf in enumerate(leaves, first_seq):
            if seq not in found:
                raise RetryMismatch(f"writer `{key[0]}` epoch `{key[1]}` repeats seq `{seq}`, whose range has been removed")
            index, committed = found[seq]
            if committed != leaf:
                raise RetryMismatch(f"writer `{key[0]}` epoch `{key[1]}` repeats seq `{seq}` with other bytes than those committed at `{index}`")
            if runs and runs[-1].first_index + runs[-1].count == index:
                runs[-1] = Run(runs[-1].first_seq, runs[-1].count + 1, runs[-1].first_index)
            else:
                runs.append(Run(seq, 1, index))
        return runs

    def _find(self, key: WriterKey, first_seq: int, last_seq: int) -> dict[int, tuple[int, bytes]]:
        """Look in what is staged, then in what is committed."""
        found = {row[3]: (row[0], row[4]) for row in self._staged if (row[1], row[2]) == key and first_seq <= row[3] <= last_seq}
        return found if len(found) == last_seq - first_seq + 1 else self._find_committed(key, first_seq, last_seq, found)

    def _note_committed(self, rows: Sequence[LeafTuple], ended: Sequence[WriterKey]) -> None:
        last = {(row[1], row[2]): row[3] for row in rows}
        for key, seq in last.items():
            self._committed[key] = Seed(seq, ended=False)
            self._newest_epoch[key[0]] = max(key[1], self._newest_epoch.get(key[0], -1))
        for key in ended:
            self._committed[key] = Seed(self.position(key).last_seq, ended=True)
            self._newest_epoch[key[0]] = max(key[1], self._newest_epoch.get(key[0], -1))
        self.committed_count += len(rows)
