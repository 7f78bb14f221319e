"""How far a writer has numbered its records, in a file that outlives kill -9.

A writer claims its node name and gets a fresh epoch; both marks (last assigned, last acknowledged sequence number) are then kept in a
memory-mapped file. When the process dies, the kernel keeps the pages and drops the lock: the recorder takes the lock as the proof of death and
the mark as the count of what was numbered (semantics 1.5).

Files in `data/run/`:
- `epoch-<node>`: the last epoch given out for this name. Locked while a process holds the name; never removed, so that epochs only grow even when
  the clock steps back.
- `hwm-<node>-<epoch>`: one life of one writer, locked by it, removed by the recorder once that life's end is stated in the log. It is renamed into
  place already locked and filled, so whoever sees it and gets the lock knows that its writer is dead.

A mark does not survive power loss. It names the boot it was written in; after another boot the number is a lower bound and the loss is `unknown`.

Example:
    mark = HighWater.claim(run_dir, node="n1.w0", now_ms=clock.wall_ms(), boot_id=clock.boot_id)
    mark.assigned = 0          # before the record may leave this process
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from audit.wire import SEQ_LIMIT, check_node

_MAGIC = b"ASSAYHW1"
_FILE_BYTES = 256
_HEAD = struct.Struct("=8sqqq64s40s")  # magic, assigned, acked, epoch, node, boot id; native order: a mark never leaves its machine
_ASSIGNED, _ACKED = 1, 2  # positions in 8-byte words


class HighWaterError(Exception):
    """A node name is taken, or a mark file is not one of ours."""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """What a mark file says. `assigned` and `acked` are -1 before the first record."""

    node: str
    epoch: int
    boot_id: str
    assigned: int
    acked: int


class HighWater:
    """The marks of one living writer. Owned by that writer's event loop; do not share across a fork (a child would keep the lock)."""

    __slots__ = ("_fd", "_mapping", "_name_fd", "_words", "epoch", "node", "path")

    def __init__(self, path: Path, node: str, epoch: int, fd: int, name_fd: int) -> None:
        """Map an existing, locked mark file; use `claim`."""
        self.path = path
        self.node = node
        self.epoch = epoch
        self._fd = fd
        self._name_fd = name_fd
        self._mapping = mmap.mmap(fd, _FILE_BYTES)
        # One aligned 8-byte store per update: a kill between two instructions cannot tear it.
        self._words = memoryview(self._mapping).cast("q")

    @classmethod
    def claim(cls, run_dir: Path, node: str, now_ms: int, boot_id: str) -> HighWater:
        """Take the name `node` and start its next epoch.

        Args:
            run_dir: `data/run`, created if absent.
            node: Writer name, see `audit.wire.check_node`.
            now_ms: Unix milliseconds; the epoch is this or, if that is not larger, the last epoch plus one.
            boot_id: Boot in which the marks are valid.

        Raises:
            HighWaterError: Another living process holds the name, or the mark cannot be written (full disk). A writer without a mark must not start.
        """
        check_node(node)
        try:
            return cls._claim(run_dir, node, now_ms, boot_id)
        except OSError as error:
            raise HighWaterError(f"no high-water mark of `{node}` in `{run_dir}`: {error}\nhint: free space, or check permissions") from error

    @classmethod
    def _claim(cls, run_dir: Path, node: str, now_ms: int, boot_id: str) -> HighWater:
        run_dir.mkdir(parents=True, exist_ok=True)
        name_fd = os.open(run_dir / f"epoch-{node}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            epoch = _next_epoch(name_fd, node, now_ms)
            path = run_dir / f"hwm-{node}-{epoch}"
            fd = _create_locked(path, _HEAD.pack(_MAGIC, -1, -1, epoch, node.encode(), boot_id.encode()))
        except BaseException:
            os.close(name_fd)
            raise
        return cls(path, node, epoch, fd, name_fd)

    @property
    def assigned(self) -> int:
        """Last sequence number given to a record, -1 before the first."""
        return self._words[_ASSIGNED]

    @assigned.setter
    def assigned(self, seq: int) -> None:
        self._words[_ASSIGNED] = seq

    @property
    def acked(self) -> int:
        """Last sequence number up to which everything is committed, -1 before the first."""
        return self._words[_ACKED]

    @acked.setter
    def acked(self, seq: int) -> None:
        self._words[_ACKED] = seq

    @property
    def words(self) -> memoryview:
        """The mapped words, for a hot path that cannot afford a property call: write `words[1]` for `assigned`."""
        return self._words

    def close(self) -> None:
        """Let go of the name and the marks; the file stays for the recorder. Idempotent."""
        if self._fd < 0:
            return
        self._words.release()
        self._mapping.close()
        os.close(self._fd)
        os.close(self._name_fd)
        self._fd = self._name_fd = -1


def marks(run_dir: Path) -> Iterator[Path]:
    """Yield the mark files of `run_dir`, of living and of dead writers."""
    with contextlib.suppress(FileNotFoundError), os.scandir(run_dir) as entries:
        for entry in entries:
            if entry.name.startswith("hwm-") and not entry.name.endswith(".new"):
                yield Path(entry.path)


def read_if_abandoned(path: Path) -> Mark | None:
    """Return the mark if its writer is dead, None if it lives or the file is gone.

    Raises:
        HighWaterError: The file is not a mark.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _parse(path, os.pread(fd, _FILE_BYTES, 0))
    except BlockingIOError:
        return None
    finally:
        os.close(fd)


def _parse(path: Path, raw: bytes) -> Mark:
    try:
        magic, assigned, acked, epoch, node, boot_id = _HEAD.unpack_from(raw)
        mark = Mark(check_node(node.rstrip(b"\0").decode()), epoch, boot_id.rstrip(b"\0").decode(), assigned, acked)
    except (struct.error, ValueError) as error:
        msg = f"`{path}` is not a high-water mark: {error}\nhint: move the file away; losses of its writer are then stated as unknown"
        raise HighWaterError(msg) from error
    if magic != _MAGIC or path.name != f"hwm-{mark.node}-{epoch}" or not -1 <= acked <= assigned < SEQ_LIMIT:
        msg = f"`{path}` is not a high-water mark of this version\nhint: move the file away; losses of its writer are then stated as unknown"
        raise HighWaterError(msg)
    return mark


def _next_epoch(name_fd: int, node: str, now_ms: int) -> int:
    """Lock the name's file, raise the epoch in it, make that durable."""
    try:
        fcntl.flock(name_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = f"writer name `{node}` is held by another living process\nhint: two gateways must not share one data directory and node name"
        raise HighWaterError(msg) from error
    text = os.pread(name_fd, 32, 0).strip()
    if text and not text.isdigit():
        msg = f"epoch file of writer `{node}` holds `{text!r}`, not a number\nhint: remove `epoch-{node}` if no clock ever stepped back"
        raise HighWaterError(msg)
    epoch = max(now_ms, int(text or b"-1") + 1)
    os.pwrite(name_fd, b"%-20d\n" % epoch, 0)
    os.fsync(name_fd)
    return epoch


def _create_locked(path: Path, head: bytes) -> int:
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, head.ljust(_FILE_BYTES, b"\0"))
        temporary.rename(path)
    except BaseException:
        os.close(fd)
        raise
    return fd
