"""Records that the log's own machinery writes: writers opening and closing, losses stated, heartbeats.

Rules:
- Pure: the time and the random bytes are arguments. `writer` is added by whoever numbers the record (`audit/journal.py`, `audit/recorder.py`).
- An epoch of a writer ends with exactly one statement: its own `writer.close`, or, when it died, one of the recorder: `log.lost` (numbers were
  assigned and never committed) or `log.recover` (nothing was lost, or an earlier recorder of the same log died).

Example:
    record = statement("log.heartbeat", clock.moment(), actor_id="controller", size=4096)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from audit.leaf import INTEGER_LIMIT


class Moment(msgspec.Struct, frozen=True, gc=False):
    """One reading of both clocks, with the randomness an id needs."""

    wall_us: int
    mono_ns: int
    boot_id: str
    noise: bytes
    """10 random bytes."""


class Clock:
    """Reads the machine's clocks. Stateless but for the boot id; the two functions can be replaced in a test."""

    __slots__ = ("_entropy", "_wall_ns", "boot_id", "mono_ns")

    def __init__(
        self,
        boot_id: str,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Bind the clocks: `wall_ns` in Unix nanoseconds, `mono_ns` counting from the boot named `boot_id`."""
        self.boot_id = boot_id
        self.mono_ns = mono_ns
        self._wall_ns = wall_ns
        self._entropy = entropy

    def wall_ms(self) -> int:
        """Return Unix milliseconds."""
        return self._wall_ns() // 1_000_000

    def moment(self) -> Moment:
        """Read both clocks and draw an id's random bytes."""
        return Moment(self._wall_ns() // 1000, self.mono_ns(), self.boot_id, self._entropy(10))


def machine_boot_id() -> str:
    """Return the kernel's id of this boot, what `mono_ns` counts from."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - one line, no path arithmetic
        return file.read().strip()


def told_mono_ns(mono_ns: int) -> int:
    """Return a reading of the monotonic clock as records carry it: modulo 2**53, what a leaf's integers hold. It begins anew after 104 days."""
    return mono_ns % INTEGER_LIMIT


def seconds_between(before_ns: int, after_ns: int) -> float:
    """Return the seconds from one `mono_ns` of a record to another of the same boot; negative where the other is the earlier."""
    half = INTEGER_LIMIT // 2
    return ((after_ns - before_ns + half) % INTEGER_LIMIT - half) / 1e9


def statement(kind: str, moment: Moment, *, actor_id: str, **carries: Any) -> dict[str, Any]:
    """Return a record of type `kind` by the system's part `actor_id`, without `writer`; `carries` are the keys of its type."""
    return {
        "v": 1,
        "id": _uuid7(moment.wall_us // 1000, moment.noise),
        "type": kind,
        "time": _rfc3339(moment.wall_us),
        "mono_ns": told_mono_ns(moment.mono_ns),
        "boot_id": moment.boot_id,
        "actor": {"kind": "system", "id": actor_id},
        "tenant": "-",
        **carries,
    }


def _uuid7(unix_ms: int, noise: bytes) -> str:
    """RFC 9562 section 5.7: 48 bits of milliseconds, version, 12 random bits, variant, 62 random bits."""
    bits = int.from_bytes(noise, "big")
    value = (unix_ms << 80) | (7 << 76) | ((bits >> 62) & 0xFFF) << 64 | (2 << 62) | (bits & ((1 << 62) - 1))
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _rfc3339(unix_us: int) -> str:
    second, micro = divmod(unix_us, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{micro:06d}Z"
