"""The whole log as the recorder appends to it: stage what arrived, commit it in one transaction per range file.

Rules:
- One living process holds a store (a lock beside the files). A store behind a signed size is not opened.
- What staging means is in `audit/store/staging.py`.
- After `StoreFull` the store stands where it stood after the last committed row; after `StoreBroken` it must not be used again.

Example:
    store = LeafStore.open(data_dir)
    runs = store.stage(("n1.w0", 1763632800000), first_seq=0, leaves=[leaf])
    store.commit()
    store.settled(runs)                 # these, and only these, may be acknowledged
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from audit.store import layout
from audit.store.control import signed_size
from audit.store.copies import require_no_backup
from audit.store.errors import StoreBehind, StoreDamaged, StoreError, StoreInUse
from audit.store.layout import RANGE_LEAVES
from audit.store.ranges import RangeFile, find_in_earlier, has_wal, prepare_file
from audit.store.sqlite import translated
from audit.store.staging import Run, Seed, Staging, WriterKey

WAL_THRESHOLD_BYTES = 4 << 20


class LeafStore(Staging):
    """The log in range files. Owned by the recorder's one thread, with everything in it."""

    def __init__(self, data_dir: Path, lock_fd: int, current: RangeFile) -> None:
        """Take over an opened range; use `open`."""
        super().__init__(current.writers())
        self._data_dir = data_dir
        self._lock_fd = lock_fd
        self._current = current  # where the next leaf goes; replaced by `_turn_over`
        self._next: RangeFile | None = None  # prepared ahead; taken by `_turn_over`
        self._retiring: list[RangeFile] = []  # full files not closed yet; emptied by `housekeep`

    @classmethod
    def open(cls, data_dir: Path) -> LeafStore:
        """Lock the store, upgrade it, find its end, and check that end against what was signed.

        Raises:
            StoreInUse: Another process has it.
            StoreBehind: It is shorter than a signed size.
            StoreDamaged, SchemaError, StoreFull, StoreBroken: It cannot be used as it is.
        """
        require_no_backup(data_dir)
        layout.ranges_dir(data_dir).mkdir(parents=True, exist_ok=True)
        lock_fd = lock_directory(data_dir)
        try:
            current = _open_last(data_dir)
            _check_not_behind(data_dir, current)
            return cls(data_dir, lock_fd, current)
        except BaseException:
            os.close(lock_fd)
            raise

    @property
    def next_index(self) -> int:
        """Number of committed leaves, which is the index of the next."""
        return self._current.first + self._current.count

    def commit(self) -> None:
        """Make everything staged durable, one transaction for each range file it falls into.

        On any error rows below `next_index` are committed and the rest is forgotten.

        Raises:
            StoreFull, StoreBroken: See the class.
        """
        staged, ends = self._take_staged()
        at = 0
        while at < len(staged):
            if self._current.room == 0:
                self._turn_over()
            rows = staged[at : at + self._current.room] if at or len(staged) > self._current.room else staged
            ended = [key for index, key in ends.items() if rows[0][0] <= index <= rows[-1][0]]
            self._current.append(rows, self._seeds() if self._current.count == 0 else {}, ended)
            self._note_committed(rows, ended)
            at += len(rows)

    def settled(self, runs: Sequence[Run]) -> list[Run]:
        """Return what of `runs` is committed; see `Staging`."""
        durable = [run.within(self.next_index) for run in runs]
        return [run for run in durable if run is not None]

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

    def _first_staged_index(self) -> int:
        return self.next_index

    def _find_committed(self, key: WriterKey, first_seq: int, last_seq: int, found: dict[int, tuple[int, bytes]]) -> dict[int, tuple[int, bytes]]:
        """Look in the current file, then backwards through the earlier ones."""
        wanted = last_seq - first_seq + 1
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

    def _prepare_next(self) -> RangeFile:
        if self._next is None:
            self._current.create_next(self._data_dir)
            self._next = RangeFile(self._data_dir, self._current.number + 1)
        return self._next

    def _turn_over(self) -> None:
        self._committed = self._seeds()
        full, self._current, self._next = self._current, self._prepare_next(), None
        self._retiring.append(full)


def lock_directory(data_dir: Path) -> int:
    """Take the directory's one recorder lock and return its descriptor.

    Raises:
        StoreInUse: Another living recorder has it.
    """
    path = layout.recorder_lock_path(data_dir)
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
