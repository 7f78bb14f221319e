"""Whether the wall clock may be believed before something is destroyed by it.

Pseudonym keys end by date, and a destroyed key never comes back: a clock that was set 90 days ahead by mistake must not cut every unit off from its
past. So keys are only destroyed while the wall clock has run *steadily* for `HOLD_S` of this machine's running time:

- within one boot it must go as the monotonic clock goes, within `STEP_S`; a larger step starts the count anew;
- over a boot, which nothing measures, it may go on by `GAP_S`; a longer gap, or a step back, starts the count anew;
- what was counted is kept in a file, so that a gateway that is restarted every day still gets there.

After a jump, forth or back, the mistake can therefore be mended for `HOLD_S` before anything is lost. A machine that really was away for months
destroys its ended keys that much later.

Example:
    clock = VaultClock(data_dir / "vault" / "clock.json", boot_id)
    keys.rotate(now_us, may_destroy=clock.look(now_us, monotonic_us))
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

HOLD_S: Final = 24 * 3600
STEP_S: Final = 3600
GAP_S: Final = 24 * 3600
_SAVE_S: Final = 60
_log = logging.getLogger(__name__)


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both clocks when they were last looked at, and for how long of running time they have agreed; microseconds."""

    wall_us: int
    mono_us: int
    boot_id: str
    steady_us: int = 0


def look(before: Seen | None, wall_us: int, mono_us: int, boot_id: str) -> Seen:
    """Return what is known after one more look; pure."""
    if before is None:
        return Seen(wall_us, mono_us, boot_id)
    passed_us = wall_us - before.wall_us
    if boot_id == before.boot_id and mono_us >= before.mono_us:
        ran_us = mono_us - before.mono_us
        is_steady = abs(passed_us - ran_us) <= STEP_S * 1_000_000
    else:
        ran_us = 0
        is_steady = 0 <= passed_us <= GAP_S * 1_000_000
    return Seen(wall_us, mono_us, boot_id, before.steady_us + ran_us if is_steady else 0)


class VaultClock:
    """Owned by the controller's loop; `_seen` and `_saved_us` are changed by `look` alone."""

    def __init__(self, path: Path, boot_id: str) -> None:
        """Go on from what is kept at `path`; a file that is missing or damaged counts from nothing."""
        self._path = path
        self._boot_id = boot_id
        self._seen: Seen | None = None
        self._saved_us = 0
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._seen = msgspec.json.decode(path.read_bytes(), type=Seen)

    def look(self, wall_us: int, mono_us: int) -> bool:
        """Look at both clocks; return whether something may be destroyed by the date.

        Raises:
            OSError: What was counted cannot be kept.
        """
        before, self._seen = self._seen, look(self._seen, wall_us, mono_us, self._boot_id)
        if before is not None and self._seen.steady_us == 0 < before.steady_us:
            ahead_s = (wall_us - before.wall_us) // 1_000_000
            _log.error("the wall clock jumped; ended pseudonym keys are kept until it has run steadily for a day", extra={"by_s": ahead_s})
        if abs(mono_us - self._saved_us) >= _SAVE_S * 1_000_000 or self._seen.steady_us == 0:
            self._save()
            self._saved_us = mono_us
        return self._seen.steady_us >= HOLD_S * 1_000_000

    def _save(self) -> None:
        """Replace the file. Not flushed: what a power loss takes is counted again."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(self._seen))
        fresh.replace(self._path)
