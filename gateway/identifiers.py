"""Decision ids and times as records write them.

Ids are UUIDv7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then random bits, so that they sort by time and cannot be guessed.
Random bits come from the operating system in blocks, because one system call per call is a measurable part of the lane's budget.
"""

from __future__ import annotations

import os
import time

_BLOCK_BYTES = 10 * 512
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""Random digit -> digit whose two upper bits say RFC 9562."""


class Identifiers:
    """Makes UUIDv7 texts. Owned by one process; not for sharing across a fork."""

    __slots__ = ("_digits", "_ms", "_offset", "_prefix")

    def __init__(self) -> None:
        """Start with no random digits."""
        # All changed by `next` alone: hex digits taken from the front, and the last millisecond with its text.
        self._digits = ""
        self._offset = 0
        self._ms = -1
        self._prefix = ""

    def next(self, now_ms: int) -> str:
        """Return a UUIDv7 for `now_ms` (Unix milliseconds)."""
        offset = self._offset
        if offset >= len(self._digits):
            self._digits = os.urandom(_BLOCK_BYTES).hex()
            offset = 0
        self._offset = offset + 20
        if now_ms != self._ms:
            digits = f"{now_ms:012x}"
            self._ms, self._prefix = now_ms, f"{digits[:8]}-{digits[8:]}-7"
        noise = self._digits[offset : offset + 19]
        return f"{self._prefix}{noise[:3]}-{_VARIANT[noise[3]]}{noise[4:7]}-{noise[7:]}"


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
