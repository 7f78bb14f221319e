"""How a gateway ends so that its last signed head covers every writer's close: then a verifier knows that nothing was held back.

The controller signs, and the recorder closes its own book last of all; each would have to outlive the other. So, in this order:
1. the parent announces the end (`run/parting`), and workers close their books and end;
2. the controller is told to end; it closes its book, and withdraws the announcement: it writes no more records;
3. the parent sees that, and ends the recorder, which commits what it has and closes its book;
4. the controller finds that close in the log, signs a head over it, and ends.

Where the parent is killed nothing is announced, and nobody waits for anybody. Where one of them does not come to its part in time, the others go on
without: the head is then older than the recorder's close, as after a crash, and a verifier says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import msgspec

from audit.follow import Follower
from audit.store.errors import StoreError

WAIT_S: Final = 5.0
"""How long the controller waits for the recorder's close."""
_LOOK_S: Final = 0.02
_CLOSE: Final = b'"type":"writer.close"'


def announce(run_dir: Path) -> bool:
    """Announce the end of the gateway; False where the disk is full: then every process ends by itself."""
    try:
        _path(run_dir).touch()
    except OSError:
        return False
    return True


def is_announced(run_dir: Path) -> bool:
    """Say whether the end is announced, and the controller writes records still."""
    return _path(run_dir).exists()


def withdraw(run_dir: Path) -> None:
    """Say that the controller writes no more; or remove what an earlier gateway left."""
    _path(run_dir).unlink(missing_ok=True)


async def await_close(data_dir: Path, recorder: str, from_index: int, wait_s: float = WAIT_S) -> bool:
    """Wait until the log has the `writer.close` of a recorder; say whether it came.

    Args:
        data_dir: the data directory.
        recorder: the recorder's name as a writer.
        from_index: where to look from; its close is not before.
        wait_s: how long.
    """
    ends_s = asyncio.get_running_loop().time() + wait_s
    with contextlib.suppress(StoreError), Follower(data_dir) as follower:
        while asyncio.get_running_loop().time() < ends_s:
            rows = follower.read(from_index)
            if any(_CLOSE in leaf and msgspec.json.decode(leaf)["writer"]["node"] == recorder for _, leaf in rows):
                return True
            from_index += len(rows)
            if not rows:
                await asyncio.sleep(_LOOK_S)
    return False


def _path(run_dir: Path) -> Path:
    return run_dir / "parting"
