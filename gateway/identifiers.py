"""Decision ids and times as records write them.

Ids are UUIDv7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then random bits, so that they sort by time and cannot be guessed.
Random bits come from the operating system in blocks, because one system call per call is a measurable part of the lane's budget.
"""

from __future__ import annotations

import os
import time

_BLOCK_BYTES = 10 * 512


class Identifiers:
    """Makes UUIDv7 texts. Owned by one process; not for sharing across a fork."""

    __slots__ = ("_block", "_offset")

    def __init__(self) -> None:
        """Start with an empty block of random bytes."""
        self._block = b""  # consumed from the front by `next`
        self._offset = 0

    def next(self, now_ms: int) -> str:
        """Return a UUIDv7 for `now_ms` (Unix milliseconds)."""
        offset = self._offset
        if offset >= len(self._block):
            self._block = os.urandom(_BLOCK_BYTES)
            offset = 0
        self._offset = offset + 10
        noise = int.from_bytes(self._block[offset : offset + 10], "big")
        value = (now_ms << 80) | 0x7000_0000_0000_0000_0000 | ((noise >> 68) & 0xFFF) << 64 | 0x8000_0000_0000_0000 | (noise & 0x3FFF_FFFF_FFFF_FFFF)
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Timestamps:
    """Formats Unix microseconds as RFC 3339 UTC with six decimals; remembers the last second. Owned by one process."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        """Start with no second remembered."""
        self._second = -1
        self._prefix = ""

    def text(self, unix_us: int) -> str:
        """Return e.g. `2026-11-20T10:00:00.123456Z`."""
        second, micro = divmod(unix_us, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{micro:06d}Z"
