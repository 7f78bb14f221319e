"""Files as they were read before: opened again only where the file system says that they may have changed.

Of a folder with 11,500 files one changes, and opening all the others is most of what the change costs. So a file whose device, number, size and times
are those it was read with is not read again, by the rule that git's index goes by: only if its times were already two seconds old when it was read.
A younger one may be written again in the same tick of the file system's clock, with the same times; it is read every time until it is old enough.

Example:
    held = HeldFiles()
    held.begin()
    data = held.read("config/gateway.yaml")
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from gateway.config.tree import MOST_BYTES

SETTLED_NS: Final = 2_000_000_000
"""The coarsest clock of a file system in use (FAT's) has ticks of two seconds."""

_Stamp = tuple[int, int, int, int, int]


class HeldFiles:
    """Owned by one thread. What was not read in a round is forgotten with the next."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Hold nothing yet; `now_ns` is the clock that files get their times from."""
        self._now_ns = now_ns
        self._before: dict[str, tuple[_Stamp, bytes]] = {}  # of the round before; replaced by `begin`
        self._held: dict[str, tuple[_Stamp, bytes]] = {}  # of this round; changed by `read`

    def begin(self) -> None:
        """Begin a round."""
        self._before, self._held = self._held, {}

    def read(self, path: str) -> bytes:
        """Return a regular file's bytes, the very object of the round before where it has not changed.

        Raises:
            OSError: it cannot be read, or is no regular file: a pipe could make the reader wait for ever.
        """
        before = self._before.get(path)
        if before is not None and before[0] == _stamp(os.stat(path)):  # noqa: PTH116 - a `Path` for each of 11,500 files costs more than the call
            self._held[path] = before
            return before[1]
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            now_ns, status = self._now_ns(), os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            data = os.read(descriptor, min(status.st_size, MOST_BYTES) + 1)
        finally:
            os.close(descriptor)
        if max(status.st_mtime_ns, status.st_ctime_ns) < now_ns - SETTLED_NS:
            self._held[path] = (_stamp(status), data)
        return data


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
