"""What a call costs, beside other gateways: one command, one table.

Method:
- Gateways take turns in rounds, the order reversed every other round, each started afresh, warmed up, left until it is quiet (what a gateway
  loads after its start is no cost of a call), measured, stopped. Medians over rounds.
- *pinned*: gateway with one worker on core 0, load generator and upstream on core 1. *unpinned*: two workers, the kernel places everything.
- CPU per call: `utime + stime` of the gateway's process tree over the calls answered, 32 connections, upstream answering at once.
- Added latency: 8 connections over an upstream that answers after 5 ms, less the same without a gateway in the same round.
- A sample with one refused or broken call does not count, and the table says so.

Example:
    $ python -m benchmarks.lane --rounds 3 --seconds 4 --json /tmp/lane.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.load import LoadResult, Traffic, request_example, run_wrk
from benchmarks.peers import PEERS
from benchmarks.peers.nginx import upstream_configuration
from benchmarks.peers.peer import Peer, Setting, find
from benchmarks.report import Sample, machine, markdown_table, plain, rows

BUSY_CONNECTIONS = 32
CALM_CONNECTIONS = 8
DELAY_MS = 5.0
WARM_UP_S = 1.0
QUIET_S, QUIET_SHARE, MOST_QUIET_S = 0.5, 0.1, 15.0
"""A gateway is quiet when it used less than this share of one core for so long; it is waited for no longer than the last."""
GATEWAY_CORE, LOAD_CORE = "0", "1"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where processes run and how many workers a gateway has."""

    name: str
    gateway_cores: str | None
    load_cores: str | None
    workers: int


LAYOUTS = {
    "pinned": Layout("pinned", GATEWAY_CORE, LOAD_CORE, 1),
    "unpinned": Layout("unpinned", None, None, 2),
}


def free_port() -> int:
    """Return a port nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(command: Sequence[str], log: Path, cores: str | None, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Run a process for the length of a block; yields its pid."""
    process = processes.start(command, log, cores, environment)
    try:
        yield process.pid
    finally:
        processes.stop(process)


def ask_once(port: int, traffic: Traffic) -> tuple[int, bytes]:
    """Send one request as wrk would; returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", "Assay-Unit": "u00000000", **dict(traffic.headers)}
    try:
        connection.request("POST", traffic.path, request_example(traffic), headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def wait_until_answering(port: int, traffic: Traffic, timeout_s: float, log: Path) -> None:
    """Return once a call is answered with 200.

    Raises:
        RuntimeError: it was not within `timeout_s`; the text carries the last answer and the end of the log.
    """
    deadline_at = time.monotonic() + timeout_s
    last = "no answer"
    while time.monotonic() < deadline_at:
        try:
            status, body = ask_once(port, traffic)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return
            last = f"{status} {body[:300]!r}"
        time.sleep(0.1)
    raise RuntimeError(f"not answering after {timeout_s:g} s: {last}; log: {log.read_text(errors='replace')[-400:]}")


@contextmanager
def upstreams(layout: Layout, folder: Path) -> Iterator[tuple[int, int]]:
    """Run both upstreams; yields the port that answers at once and the one that answers after the delay."""
    at_once, delayed = free_port(), free_port()
    home = folder / "upstream"
    home.mkdir()
    (home / "nginx.conf").write_text(upstream_configuration(home, at_once, layout.workers))
    nginx = [find("nginx") or "nginx", "-p", str(home), "-c", str(home / "nginx.conf")]
    mock = [sys.executable, "-m", "benchmarks.mock_upstream", "--port", str(delayed), "--delay-ms", str(DELAY_MS)]
    with running(nginx, home / "log", layout.load_cores), running(mock, home / "log", layout.load_cores):
        for port in (at_once, delayed):
            wait_until_answering(port, Peer().traffic(Setting(0, 0, 0, 1, home)), 10, home / "log")
        yield at_once, delayed


@dataclass(frozen=True, slots=True)
class Busy:
    """What the first of the two measurements saw."""

    load: LoadResult
    cpu_us: dict[str, float]
    resident_bytes: int


def measure_busy(peer: Peer, layout: Layout, ports: tuple[int, int], seconds: float, folder: Path) -> Busy:
    """Drive one gateway as hard as 32 callers can; count its CPU."""
    setting = Setting(free_port(), ports[0], ports[0], layout.workers, folder)
    with started(peer, setting, layout) as pid:
        before = processes.usage_by_role(pid, peer.role_of)
        load = run_wrk(setting.port, peer.traffic(setting), connections=BUSY_CONNECTIONS, seconds=seconds, cores=layout.load_cores)
        spent = processes.spent(before, processes.usage_by_role(pid, peer.role_of))
    cpu_us = {role: usage.cpu_s / max(load.requests, 1) * 1e6 for role, usage in spent.items()}
    return Busy(load, cpu_us, sum(usage.resident_bytes for usage in spent.values()))


def measure_calm(peer: Peer, layout: Layout, ports: tuple[int, int], seconds: float, folder: Path) -> LoadResult:
    """Drive one gateway with 8 callers over the delayed upstream."""
    if peer.name == "direct":
        return run_wrk(ports[1], Peer().traffic(Setting(0, 0, 0, 1, folder)), connections=CALM_CONNECTIONS, seconds=seconds, cores=layout.load_cores)
    setting = Setting(free_port(), ports[1], ports[0], layout.workers, folder)
    with started(peer, setting, layout):
        return run_wrk(setting.port, peer.traffic(setting), connections=CALM_CONNECTIONS, seconds=seconds, cores=layout.load_cores)


@contextmanager
def started(peer: Peer, setting: Setting, layout: Layout) -> Iterator[int]:
    """Start a gateway, wait until it answers, warm it up; yields its pid."""
    peer.prepare(setting)
    log = setting.folder / "log"
    with running(peer.command(setting), log, layout.gateway_cores, peer.environment(setting)) as pid:
        traffic = peer.traffic(setting)
        wait_until_answering(setting.port, traffic, peer.start_timeout_s, log)
        run_wrk(setting.port, traffic, connections=CALM_CONNECTIONS, seconds=WARM_UP_S, cores=layout.load_cores)
        wait_until_quiet(peer, pid)
        yield pid


def wait_until_quiet(peer: Peer, pid: int) -> None:
    """Return once a gateway that nobody calls has used next to no processor for `QUIET_S`, or after `MOST_QUIET_S`."""
    deadline_at = time.monotonic() + MOST_QUIET_S
    while time.monotonic() < deadline_at:
        before = processes.usage_by_role(pid, peer.role_of)
        time.sleep(QUIET_S)
        spent = processes.spent(before, processes.usage_by_role(pid, peer.role_of))
        if sum(usage.cpu_s for usage in spent.values()) < QUIET_SHARE * QUIET_S:
            return


def sample(kind: type[Peer], layout: Layout, ports: tuple[int, int], seconds: float) -> Sample:
    """Measure one gateway once. What goes wrong is told in the sample; the other gateways are measured all the same."""
    try:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            busy = measure_busy(kind(), layout, ports, seconds, Path(first))
            calm = measure_calm(kind(), layout, ports, seconds, Path(second))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Sample(kind.name, layout.name, 0, 0, {}, 0, 0, 0, 0, trouble=str(error))
    unclean = [load for load in (busy.load, calm) if not load.is_clean]
    trouble = "; ".join(f"{load.not_2xx} answers not 2xx, {load.broken} broken, of {load.requests}" for load in unclean)
    return Sample(
        peer=kind.name,
        layout=layout.name,
        calls=busy.load.requests,
        calls_per_s=busy.load.requests / busy.load.duration_s,
        cpu_us=busy.cpu_us,
        resident_bytes=busy.resident_bytes,
        p50_us=calm.p50_us,
        p99_us=calm.p99_us,
        p999_us=calm.p999_us,
        trouble=trouble,
    )


def measure(kinds: Sequence[type[Peer]], layouts: Sequence[Layout], rounds: int, seconds: float) -> list[list[Sample]]:
    """Return the samples of each round, gateways interleaved."""
    found: list[list[Sample]] = []
    for number in range(rounds):
        this_round: list[Sample] = []
        for layout in layouts:
            with tempfile.TemporaryDirectory() as folder, upstreams(layout, Path(folder)) as ports:
                for kind in kinds if number % 2 == 0 else reversed(kinds):
                    one = sample(kind, layout, ports, seconds)
                    this_round.append(one)
                    said = one.trouble or f"{sum(one.cpu_us.values()):.1f} us CPU/call, {one.calls_per_s:,.0f} calls/s"
                    print(f"round {number + 1}/{rounds} {layout.name:8} {kind.name}: {said}", file=sys.stderr, flush=True)
        found.append(this_round)
    return found


def version_of(kind: type[Peer]) -> str:
    """Return the first line a gateway prints about its version, or an empty string."""
    command = kind.version_command()
    program = find(command[0]) if command else None
    if program is None:
        return ""
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout + done.stderr).strip().splitlines()[0] if (done.stdout + done.stderr).strip() else ""


def main() -> None:
    """Measure what is installed, print the table, write the document."""
    parser = argparse.ArgumentParser(description="CPU per call and added latency of gateways, measured side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--layout", choices=[*LAYOUTS, "both"], default="both")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help=f"only these: {', '.join(kind.name for kind in PEERS)}")
    parser.add_argument("--json", type=Path, help="write every sample, machine, versions and command to this file")
    arguments = parser.parse_args()
    unknown = set(arguments.peers or ()) - {kind.name for kind in PEERS}
    if unknown:
        parser.error(f"no gateway called `{min(unknown)}`")
    if not find("wrk") or not find("nginx"):
        parser.error("`wrk` and `nginx` (the upstream) are needed: apt-get install wrk nginx-light")

    wanted = [kind for kind in PEERS if not arguments.peers or kind.name in arguments.peers]
    skipped = {kind.name: reason for kind in wanted if (reason := kind.missing())}
    kinds = [kind for kind in wanted if kind.name not in skipped]
    layouts = list(LAYOUTS.values()) if arguments.layout == "both" else [LAYOUTS[arguments.layout]]
    found = measure(kinds, layouts, arguments.rounds, arguments.seconds)

    document: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.lane " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "versions": {kind.name: version_of(kind) for kind in kinds},
        "skipped": skipped,
        "rounds": [[plain(one) for one in this_round] for this_round in found],
        "rows": [],
    }
    print(f"{document['measured_at']}  {document['machine']}\n`{document['command']}`")
    for layout in layouts:
        table = rows(found, [kind.name for kind in kinds], layout.name)
        document["rows"] += [plain(row) for row in table]
        print(f"\n### {layout.name}\n\n{markdown_table(table)}")
    troubled = [one for this_round in found for one in this_round if one.trouble]
    for one in troubled:
        print(f"\nnot counted: {one.peer} ({one.layout}): {one.trouble}")
    for name, reason in skipped.items():
        print(f"\nskipped: {name}: {reason}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(1 if troubled else 0)


if __name__ == "__main__":
    main()
