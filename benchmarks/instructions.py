"""How many instructions a call costs the worker outside the kernel, counted and not timed: the same on a busy machine as on a quiet one.

Method:
- A gateway is started as for `benchmarks.lane` (`everything on`, or `bare`), its worker under valgrind's callgrind; what runs beside it is not.
- After a warm-up exactly `--calls` calls are made over 32 connections, between zeroing the counter and reading it.
- Under valgrind a worker is about fifty times slower, so its intervals (batches, sweeps, ticks) are lengthened as much (`slow_motion/`): as many
  records travel together as under load; what it does without calls is counted afterwards and taken off. Records a call are told: one, or something
  else was counted too.
- `--functions` counts calls of functions instead (cProfile, no valgrind): those of Python, and those into C, and shows where they come from.

Example:
    $ python -m benchmarks.instructions
    $ python -m benchmarks.instructions --functions 60
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import processes
from benchmarks.lane import LAYOUTS, free_port, running, upstreams, wait_until_answering
from benchmarks.load import Traffic
from benchmarks.peers.assay import AssayEverything, AssayNativeBare
from benchmarks.peers.peer import Setting

CONNECTIONS = 32
WARM_UP_CALLS = 640
SLOWER = 50
IDLE_S = 15.0
START_TIMEOUT_S = 180.0
WORKER = "gateway.processes.worker"
VALGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes")


async def _ask(port: int, traffic: Traffic, first: int, count: int) -> None:
    """Make calls one after the other on one connection. Raises RuntimeError where one is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = "".join(f"{name}: {value}\r\n" for name, value in traffic.headers)
    for number in range(first, first + count):
        body = traffic.body_template % (number, number * 7 % 99999989, number * 31 % 99999989)
        head = f"POST {traffic.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
        writer.write(f"{head}{headers}Content-Length: {len(body)}\r\nAssay-Unit: u{number:08d}\r\n\r\n{body}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: ([0-9]+)", answer.lower())
        told = await reader.readexactly(int(length[1])) if length else b""
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a call was refused: {answer[:40]!r} {told[:200]!r}")
    writer.close()


def ask(port: int, traffic: Traffic, first: int, calls: int) -> None:
    """Make exactly `calls` calls, each with a unit and a body of its own, over `CONNECTIONS` connections."""

    async def all_of_them() -> None:
        share = calls // CONNECTIONS
        await asyncio.gather(*(_ask(port, traffic, first + number * share, share) for number in range(CONNECTIONS)))

    asyncio.run(all_of_them())


@contextmanager
def counted(peer: AssayNativeBare, command_prefix: list[str], environment: dict[str, str]) -> Iterator[tuple[int, int, Traffic]]:
    """Serve a deployment, warmed up; yields the front's port, the worker's pid and what is to be sent."""
    with tempfile.TemporaryDirectory() as upstream_folder, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with upstreams(LAYOUTS["unpinned"], Path(upstream_folder)) as (at_once, _):
            setting = Setting(free_port(), at_once, at_once, 1, home)
            peer.prepare(setting)
            path = str(Path(__file__).with_name("slow_motion"))
            with running([*command_prefix, *peer.command(setting)], home / "log", None, {"PYTHONPATH": path, **environment}) as root:
                traffic = peer.traffic(setting)
                wait_until_answering(setting.port, traffic, START_TIMEOUT_S, home / "log")
                time.sleep(2.0)  # what a gateway loads after its start is no cost of a call
                ask(setting.port, traffic, 0, WARM_UP_CALLS)
                yield setting.port, worker_of(root), traffic


def worker_of(root: int) -> int:
    """Return the pid of the only worker below a process."""
    found = [pid for pid in processes.tree(root) if WORKER in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    return found[-1]


def records(worker: int) -> int:
    """Return how many records a worker has numbered, from its mark (`audit/highwater.py`)."""
    path = next(Path(link).resolve() for link in Path(f"/proc/{worker}/fd").iterdir() if "hwm-" in str(Path(link).resolve()))
    return int.from_bytes(path.read_bytes()[8:16], sys.byteorder) + 1


def count_instructions(peer: AssayNativeBare, calls: int, keep: Path | None) -> tuple[float, float]:
    """Return instructions and records a call; callgrind's file is kept at `keep` if that is given."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        others = "--trace-children-skip-by-arg=gateway.processes.controller,gateway.processes.recorder,gateway.processes.keeper"
        prefix = [*VALGRIND, others, f"--callgrind-out-file={out}.%p"]
        with counted(peer, prefix, {"ASSAY_SLOWER": str(SLOWER)}) as (port, worker, traffic):
            before = records(worker)
            _control("--instr=on", worker)
            _control("--zero", worker)
            began_s = time.monotonic()
            ask(port, traffic, WARM_UP_CALLS, calls)
            took_s = time.monotonic() - began_s
            _control("--dump", worker)
            recorded = records(worker) - before
            time.sleep(IDLE_S)
            _control("--dump", worker)
            _control("--instr=off", worker)
        if keep is not None:
            shutil.copy(f"{out}.{worker}.1", keep)
        idle_per_s = _total(Path(f"{out}.{worker}.2")) / IDLE_S
        return (_total(Path(f"{out}.{worker}.1")) - idle_per_s * took_s) / calls, recorded / calls


def _total(dumped: Path) -> int:
    """Return the instructions in one of callgrind's files."""
    found = re.search(r"^(?:summary|totals): ([0-9]+)", dumped.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"callgrind wrote no total: {dumped.read_text()[:200]}")
    return int(found[1])


def _control(what: str, worker: int) -> None:
    subprocess.run(["callgrind_control", what, str(worker)], check=True, stdout=subprocess.DEVNULL, timeout=60)


def count_functions(peer: AssayNativeBare, calls: int, shown: int) -> tuple[float, float]:
    """Return calls of Python functions and calls into C a call; prints those that are called most."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile"
        with counted(peer, [], {"ASSAY_PROFILE": str(path)}) as (port, worker, traffic):
            os.kill(worker, signal.SIGUSR2)
            ask(port, traffic, WARM_UP_CALLS, calls)
            os.kill(worker, signal.SIGUSR2)
            while not path.exists() or not path.stat().st_size:
                time.sleep(0.1)
            time.sleep(0.5)
        statistics = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    python = sum(row[1] for place, row in statistics.items() if place[0] != "~")
    into_c = sum(row[1] for place, row in statistics.items() if place[0] == "~")
    for (file, line, name), row in sorted(statistics.items(), key=lambda item: (-round(item[1][1] / calls, 1), -item[1][2]))[:shown]:
        where = "" if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line}"
        print(f"{row[1] / calls:8.2f}  {row[2] / calls * 1e6:8.2f} µs  {name} {where}")
    return python / calls, into_c / calls


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Instructions, or calls of functions, that one call costs the worker.")
    parser.add_argument("--calls", type=int, default=640, help=f"a multiple of {CONNECTIONS}")
    parser.add_argument("--bare", action="store_true", help="one version, no contract, asynchronous records")
    parser.add_argument("--functions", type=int, metavar="N", help="count calls of functions instead and show the N most called")
    parser.add_argument("--keep", type=Path, help="keep callgrind's file here, for callgrind_annotate")
    arguments = parser.parse_args()
    if arguments.calls % CONNECTIONS:
        parser.error(f"--calls has to be a multiple of {CONNECTIONS}")
    if arguments.functions is None and not shutil.which("callgrind_control"):
        parser.error("`valgrind` is needed: apt-get install valgrind")
    kind = AssayNativeBare if arguments.bare else AssayEverything
    if arguments.functions is not None:
        python, into_c = count_functions(kind(), arguments.calls, arguments.functions)
        print(f"{kind.name}: {python:.1f} Python functions and {into_c:.1f} calls into C a call")
        return
    instructions, recorded = count_instructions(kind(), arguments.calls, arguments.keep)
    print(f"{kind.name}: {instructions:,.0f} instructions a call outside the kernel; {recorded:.2f} records a call")


if __name__ == "__main__":
    main()
