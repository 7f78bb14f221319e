"""How many acknowledgements a second callers get who each wait for their own record: `sync`, on SQLite and on PostgreSQL.

Usage: `python -m benchmarks.acks [--seconds 5] [--callers 64] [--writers 1] [--postgres URL]`. Every writer is a process with its share of the
callers; with `--postgres` every writer has a gateway's directory and recorder of its own on one shared log, as several nodes have.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from audit.highwater import HighWater
from audit.journal import Journal
from audit.statements import Clock, machine_boot_id
from audit.store.place import PostgresPlace, settle_place

ROOT = Path(__file__).resolve().parents[1]
FILL = "x" * 480


def start_recorder(data_dir: Path, node: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a recorder on `data_dir`."""
    (data_dir / "run").mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(data_dir / "run" / "recorder.sock"))
    listener.listen()
    command = [sys.executable, "-m", "audit.recorder", str(data_dir), str(listener.fileno()), f"{node}.recorder"]
    return subprocess.Popen(command, pass_fds=[listener.fileno()], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}), listener


async def _call(data_dir: Path, node: str, callers: int, seconds: float) -> list[float]:
    clock = Clock(machine_boot_id())
    mark = HighWater.claim(data_dir / "run", node, clock.wall_ms(), clock.boot_id)
    journal = Journal(node, mark.epoch, data_dir / "run" / "recorder.sock", mark, clock=clock)
    await journal.open(deadline_s=60)
    until_s = time.perf_counter() + seconds
    waits: list[float] = []

    async def caller() -> None:
        while time.perf_counter() < until_s:
            start_s = time.perf_counter()
            seq = journal.append({"v": 1, "id": "019a9f3c-5b7e-7a3c-8f10-2b6d3c4e5f60", "type": "decision", "note": FILL})
            journal.flush_soon()
            await journal.committed(seq)
            waits.append(time.perf_counter() - start_s)

    await asyncio.gather(*[caller() for _ in range(callers)])
    await journal.close(deadline_s=60)
    return waits


def _writer(data_dir: Path, node: str, callers: int, seconds: float, pipe: multiprocessing.Queue[list[float]]) -> None:
    pipe.put(uvloop.run(_call(data_dir, node, callers, seconds)))


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--postgres", default="", help="connection string of an empty database")
    chosen = parser.parse_args()
    os.environ["ASSAY_BENCH_POSTGRES"] = chosen.postgres
    with tempfile.TemporaryDirectory() as folder:
        nodes = chosen.writers if chosen.postgres else 1
        folders = [Path(folder) / f"n{number}" for number in range(nodes)]
        if chosen.postgres:
            for each in folders:
                settle_place(each, PostgresPlace("env:ASSAY_BENCH_POSTGRES"))
        started = [start_recorder(each, f"n{number}") for number, each in enumerate(folders)]
        pipe: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
        share = chosen.callers // chosen.writers
        writers = [
            multiprocessing.Process(target=_writer, args=(folders[number % nodes], f"n{number}.w0", share, chosen.seconds, pipe))
            for number in range(chosen.writers)
        ]
        for writer in writers:
            writer.start()
        waits = sorted(wait for _ in writers for wait in pipe.get())
        for writer in writers:
            writer.join()
        for recorder, listener in started:
            recorder.terminate()
            recorder.wait()
            listener.close()
    place = "PostgreSQL" if chosen.postgres else "SQLite"
    print(
        f"{place}: {chosen.writers} writers, {share * chosen.writers} callers: {len(waits) / chosen.seconds:,.0f} acknowledgements/s, "
        f"p50 {waits[len(waits) // 2] * 1e3:.1f} ms, p99 {waits[len(waits) * 99 // 100] * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
