"""The whole log as the recorder appends to it: stage what arrived, commit it in one transaction per range file.

Rules:
- One living process holds a store (a lock beside the files). A store behind a signed size is not opened.
- A record is known by (node, epoch, seq). Staging a record that is already committed gives its original index, if its bytes are the same.
- The numbers of a writer have no gaps. An ended epoch, or one older than the newest of its name, is refused.
- After `StoreFull` the store stands where it stood after the last committed row; after `StoreBroken` it must not be used again.

Example:
    store = LeafStore.open(data_dir)
    runs = store.stage(("n1.w0", 1763632800000), first_seq=0, leaves=[leaf])
    store.commit()                      # now, and only now, the runs may be acknowledged
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from audit.store import layout
from audit.store.control import signed_size
from audit.store.errors import RetryMismatch, SequenceGap, StoreBehind, StoreDamaged, StoreError, StoreInUse, WriterEnded
from audit.store.layout import RANGE_LEAVES
from audit.store.ranges import LeafTuple, RangeFile, Seed, WriterKey, find_in_earlier, has_wal, prepare_file
from audit.store.sqlite import translated

WAL_THRESHOLD_BYTES = 4 << 20


class Run(msgspec.Struct, frozen=True, gc=False):
    """Records `first_seq` .. `first_seq + count - 1` of one writer lie at `first_index` and following."""

    first_seq: int
    count: int
    first_index: int

    def within(self, next_index: int) -> Run | None:
        """Return the part of the run below `next_index`, None if there is none."""
        count = min(self.count, next_index - self.first_index)
        return None if count <= 0 else Run(self.first_seq, count, self.first_index)


class LeafStore:
    """Owned by the recorder's one thread, with everything in it."""

    def __init__(self, data_dir: Path, lock_fd: int, current: RangeFile) -> None:
        """Take over an opened range; use `open`."""
        self._data_dir = data_dir
        self._lock_fd = lock_fd
        self._current = current  # where the next leaf goes; replaced by `_turn_over`
        self._next: RangeFile | None = None  # prepared ahead; taken by `_turn_over`
        self._retiring: list[RangeFile] = []  # full files not closed yet; emptied by `housekeep`
        self._committed: dict[WriterKey, Seed] = current.writers()  # changed by `commit` and `end_writer`
        self._staged_seq: dict[WriterKey, int] = {}  # last staged number; cleared by `commit`
        self._staged: list[LeafTuple] = []  # rows of the next commit; cleared by `commit`
        self._staged_ends: dict[int, WriterKey] = {}  # index of the stating row -> writer it ends; cleared by `commit`
        self._newest_epoch: dict[str, int] = {}
        for node, epoch in self._committed:
            self._newest_epoch[node] = max(epoch, self._newest_epoch.get(node, -1))

    @classmethod
    def open(cls, data_dir: Path) -> LeafStore:
        """Lock the store, upgrade it, find its end, and check that end against what was signed.

        Raises:
            StoreInUse: Another process has it.
            StoreBehind: It is shorter than a signed size.
            StoreDamaged, SchemaError, StoreFull, StoreBroken: It cannot be used as it is.
        """
        layout.ranges_dir(data_dir).mkdir(parents=True, exist_ok=True)
        lock_fd = _lock(layout.recorder_lock_path(data_dir))
        try:
            current = _open_last(data_dir)
            _check_not_behind(data_dir, current)
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(data_dir, lock_fd, current)

    @property
    def next_index(self) -> int:
        """Number of committed leaves, which is the index of the next."""
        return self._current.first + self._current.count

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
                self._staged_ends[self.next_index + len(self._staged) - 1] = ends
        return runs

    def commit(self) -> None:
        """Make everything staged durable, one transaction for each range file it falls into.

        On any error rows below `next_index` are committed and the rest is forgotten.

        Raises:
            StoreFull, StoreBroken: See the class.
        """
        staged, ends = self._staged, self._staged_ends
        self._staged, self._staged_ends = [], {}
        self._staged_seq = {}
        at = 0
        while at < len(staged):
            if self._current.room == 0:
                self._turn_over()
            rows = staged[at : at + self._current.room] if at or len(staged) > self._current.room else staged
            ended = [key for index, key in ends.items() if rows[0][0] <= index <= rows[-1][0]]
            self._current.append(rows, self._seeds() if self._current.count == 0 else {}, ended)
            self._note_committed(rows, ended)
            at += len(rows)

    def last_leaf(self, key: WriterKey) -> bytes | None:
        """Return the last committed leaf of a writer, None if it has none or its file is gone."""
        last_seq = self.position(key).last_seq
        found = self._find(key, last_seq, last_seq) if last_seq >= 0 else {}
        return found[last_seq][1] if found else None

    def end_writer(self, key: WriterKey) -> None:
        """Remember that the writer ended by its own record.

        Raises:
            StoreFull, StoreBroken: See the class.
        """
        if self._current.count:
            self._current.end_writer(key)
        self._committed[key] = Seed(self.position(key).last_seq, ended=True)

    def housekeep(self, *, idle: bool) -> None:
        """Do what must be done between commits: prepare the next file, move the WAL, close full files.

        Raises:
            StoreFull, StoreBroken: See the class.
        """
        while self._retiring:
            self._retiring[0].flush_wal(0)
            self._retiring.pop(0).close()
        if self._next is None and self._current.room < RANGE_LEAVES // 4:
            self._prepare_next()
        self._current.flush_wal(0 if idle else WAL_THRESHOLD_BYTES)

    def close(self) -> None:
        """Close every file and let go of the lock."""
        for file in (*self._retiring, *([self._next] if self._next else []), self._current):
            file.close()
        os.close(self._lock_fd)

    def _stage_new(self, key: WriterKey, first_seq: int, leaves: Sequence[bytes]) -> Run:
        first_index = self.next_index + len(self._staged)
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
                raise RetryMismatch(f"writer `{key[0]}` epoch `{key[1]}` repeats seq `{seq}`, whose range file has been removed")
            index, committed = found[seq]
            if committed != leaf:
                raise RetryMismatch(f"writer `{key[0]}` epoch `{key[1]}` repeats seq `{seq}` with other bytes than those committed at `{index}`")
            if runs and runs[-1].first_index + runs[-1].count == index:
                runs[-1] = Run(runs[-1].first_seq, runs[-1].count + 1, runs[-1].first_index)
            else:
                runs.append(Run(seq, 1, index))
        return runs

    def _find(self, key: WriterKey, first_seq: int, last_seq: int) -> dict[int, tuple[int, bytes]]:
        """Look in what is staged, in the current file, then backwards through the earlier ones."""
        wanted = last_seq - first_seq + 1
        found = {row[3]: (row[0], row[4]) for row in self._staged if (row[1], row[2]) == key and first_seq <= row[3] <= last_seq}
        if len(found) < wanted:
            found |= self._current.find(key, first_seq, last_seq)
        for number in self._earlier_ranges():
            if len(found) >= wanted:
                break
            found |= find_in_earlier(self._data_dir, number, key, first_seq, last_seq)
        return found

    def _earlier_ranges(self) -> Iterator[int]:
        numbers = layout.range_numbers(self._data_dir)
        return (number for number in reversed(numbers) if number < self._current.number)

    def _seeds(self) -> dict[WriterKey, Seed]:
        """Return the writers a new range must know: those that may go on, and the newest epoch of every name."""
        return {key: seed for key, seed in self._committed.items() if not seed.ended or self._newest_epoch[key[0]] == key[1]}

    def _note_committed(self, rows: Sequence[LeafTuple], ended: Sequence[WriterKey]) -> None:
        last = {(row[1], row[2]): row[3] for row in rows}
        for key, seq in last.items():
            self._committed[key] = Seed(seq, ended=False)
            self._newest_epoch[key[0]] = max(key[1], self._newest_epoch.get(key[0], -1))
        for key in ended:
            self._committed[key] = Seed(self.position(key).last_seq, ended=True)
            self._newest_epoch[key[0]] = max(key[1], self._newest_epoch.get(key[0], -1))

    def _prepare_next(self) -> RangeFile:
        if self._next is None:
            self._current.create_next(self._data_dir)
            self._next = RangeFile(self._data_dir, self._current.number + 1)
        return self._next

    def _turn_over(self) -> None:
        self._committed = self._seeds()
        full, self._current, self._next = self._current, self._prepare_next(), None
        self._retiring.append(full)


def _lock(path: Path) -> int:
    with translated(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreInUse(f"another recorder holds `{path}`\nhint: two gateways must not share one data directory") from error
    return fd


def _open_last(data_dir: Path) -> RangeFile:
    """Open the file the next leaf goes into, and check what lies before it."""
    numbers = layout.range_numbers(data_dir)
    if not numbers:
        prepare_file(data_dir, 0)
        numbers = [0]
    for number in numbers:
        if number == numbers[-1] or has_wal(data_dir, number):
            prepare_file(data_dir, number)
    last = _open_checked(data_dir, numbers[-1])
    if last.count or last.number == 0:
        _check_before(data_dir, last.number, numbers)
        return last
    # The last file was prepared ahead and is still empty: the one before it may have room.
    number = last.number - 1
    if number not in numbers:
        last.close()
        raise StoreDamaged(f"`{last.path}` is empty and `{layout.range_path(data_dir, number)}` is missing\nhint: put the missing file back")
    prepare_file(data_dir, number)
    before = _open_checked(data_dir, number)
    last.close()
    _check_before(data_dir, number, numbers)
    return before


def _check_not_behind(data_dir: Path, current: RangeFile) -> None:
    signed, where = signed_size(data_dir)
    leaves = current.first + current.count
    if leaves < signed:
        current.close()
        raise StoreBehind(where, leaves, signed)


def _open_checked(data_dir: Path, number: int) -> RangeFile:
    try:
        return RangeFile(data_dir, number)
    except StoreError:
        raise
    except Exception as error:
        raise StoreDamaged(f"`{layout.range_path(data_dir, number)}` cannot be read: {error}") from error


def _check_before(data_dir: Path, number: int, numbers: Sequence[int]) -> None:
    """Check that the range before `number` is full, or sealed and removed."""
    if number == 0:
        return
    if number - 1 not in numbers:
        from audit.tiles import entries_path  # noqa: PLC0415 - only needed where a range was removed

        bundle = layout.log_dir(data_dir) / entries_path(number * RANGE_LEAVES // 256 - 1)
        if not bundle.exists():
            raise StoreDamaged(
                f"range file `{layout.range_path(data_dir, number - 1)}` is missing and was not sealed (`{bundle}` does not exist)\n"
                "hint: put the missing file back"
            )
        return
    before = RangeFile(data_dir, number - 1)
    room = before.room
    before.close()
    if room:
        raise StoreDamaged(f"`{before.path}` lacks `{room}` leaves although a later range has begun\nhint: restore it from a copy that verifies")
