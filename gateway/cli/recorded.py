"""Records that a person read the log: every read by a person is itself a record.

A command that reads a data directory writes through the gateway that owns it, as the writer `cli`: opened, one record, closed. Where no gateway runs
nothing can be written, and the command says so: whoever may read the files could read them without it anyway. Where one runs and does not commit,
the command shows nothing. On a log that several gateways share the writer is `NODE.cli`: a writer's name is one gateway's.
"""

from __future__ import annotations

import asyncio
import fcntl
import getpass
import os
import time
from pathlib import Path
from typing import Any, Final

from audit.highwater import HighWater, HighWaterError
from audit.journal import Journal, JournalError
from audit.statements import Clock, machine_boot_id, statement
from audit.store.layout import run_dir
from audit.store.place import postgres_place
from gateway.cli.terminal import Exit, err, fail
from gateway.processes.parent import NODE_FILE

WRITER: Final = "cli"
_DEADLINE_S: Final = 5.0


def record_read(data: Path, kind: str, **carries: Any) -> None:
    """Commit a record of type `kind` about what is about to be shown, or say that no gateway is there to commit it.

    Exits with 3 when a gateway runs and the record cannot be committed: then nothing is shown.
    """
    socket_path = _socket(data)
    if socket_path is None:
        err.print("[yellow]note:[/] no gateway runs on this data: this read is not recorded", soft_wrap=True)
        return
    try:
        asyncio.run(_append(data, socket_path, kind, carries))
    except (JournalError, HighWaterError, OSError) as error:
        fail(
            f"the read could not be recorded, so nothing is shown: {error}",
            hint="a gateway holds this data directory; see its log",
            code=Exit.INCOMPLETE,
        )


def _socket(data: Path) -> Path | None:
    """Return where the recorder of the gateway that holds `data` listens; None when no gateway does."""
    try:
        handle = os.open(run_dir(data) / "parent.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        told = run_dir(data) / "recorder.path"
        return Path(told.read_text(encoding="utf-8")) if told.exists() else run_dir(data) / "recorder.sock"
    finally:
        os.close(handle)
    return None


def person() -> dict[str, str]:
    """Return who reads, as the operating system knows them."""
    try:
        return {"kind": "person", "id": getpass.getuser()}
    except (KeyError, OSError):
        return {"kind": "person", "id": f"uid {os.getuid()}"}


async def _append(data: Path, socket_path: Path, kind: str, carries: dict[str, Any]) -> None:
    clock = Clock(machine_boot_id())
    writer = _writer(data)
    highwater = await _claim(data, writer, clock)
    journal = Journal(writer, highwater.epoch, socket_path, highwater, clock=clock)
    await journal.open(deadline_s=_DEADLINE_S)
    try:
        seq = journal.append({**statement(kind, clock.moment(), actor_id=WRITER, **carries), "actor": person()})
        journal.flush()
        async with asyncio.timeout(_DEADLINE_S):
            await journal.add_waiter(seq)
    finally:
        await journal.close(deadline_s=_DEADLINE_S)


def _writer(data: Path) -> str:
    """Return the name under which commands write."""
    if postgres_place(data) is None:
        return WRITER
    return f"{(run_dir(data) / NODE_FILE).read_text(encoding='utf-8')}.{WRITER}"


async def _claim(data: Path, writer: str, clock: Clock) -> HighWater:
    """Take the writer's name; another command may hold it for a moment."""
    ends_s = time.monotonic() + _DEADLINE_S
    while True:
        try:
            return HighWater.claim(run_dir(data), writer, clock.wall_ms(), clock.boot_id)
        except HighWaterError:
            if time.monotonic() >= ends_s:
                raise
            await asyncio.sleep(0.05)
