"""How long a gateway that was killed as a whole is away, and what its start costs, at a number of records.

Usage: `python -m benchmarks.again [--records 1000000] [--rounds 5]`. It makes a deployment with `assay init`, fills its log, serves until all of it
is signed and taken into excerpts (`audit/excerpts.py`), and then, each round: SIGKILL to every process, `assay serve`, ask `/readyz` every 5 ms.
CPU seconds are read from /proc at the moment it is ready; they are what a busy machine changes least.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from audit.excerpts import excerpt_path
from audit.store import layout
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore
from benchmarks import processes
from benchmarks.growth import GROUP, leaf

DEADLINE_S = 1800.0
WRITER = ("bench.w0", 1)
ASSAY = str(Path(sys.executable).with_name("assay"))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def fill(data: Path, count: int) -> None:
    """Append `count` records to the log of a gateway that does not run."""
    with contextlib.closing(LeafStore.open(data)) as store:
        for at in range(0, count, GROUP):
            store.stage(WRITER, at, [leaf(seq) for seq in range(at, min(at + GROUP, count))])
            store.commit()
            store.housekeep(idle=False)
        store.end_writer(WRITER)


def wait_for(is_so: object, what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():  # type: ignore[operator]
        if time.monotonic() > deadline:
            sys.exit(f"not within {DEADLINE_S:g} s: {what}")
        time.sleep(0.005)


def is_ready(port: int) -> bool:
    """Ask the front door."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def signed_size(data: Path) -> int:
    """Return the size of the published head."""
    try:
        return int(layout.checkpoint_path(data).read_bytes().split(b"\n")[1])
    except FileNotFoundError:
        return 0


def role_of(command: str) -> str:
    """Return the name of a process by its command line."""
    found = re.search(r"gateway\.processes\.(\w+)", command)
    return found.group(1) if found else "parent"


def serve(root: Path) -> subprocess.Popen[bytes]:
    """Start the gateway."""
    return processes.start([ASSAY, "serve", str(root)], root / "log.txt", None)


def kill(parent: subprocess.Popen[bytes]) -> None:
    """SIGKILL to every process of the gateway; returns when they are gone."""
    pids = processes.tree(parent.pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    parent.wait()
    while any(processes.started(pid) for pid in pids[1:]):
        time.sleep(0.001)


def deployment(root: Path) -> int:
    """Make a deployment on ports of its own; return the port of its front door."""
    subprocess.run([ASSAY, "init", str(root)], check=True, stdout=subprocess.DEVNULL)
    front, admin = free_port(), free_port()
    path = root / "config" / "gateway.yaml"
    text = path.read_text()
    text = re.sub(r"(front:[^\n]*\n(?:[^\n]*\n)*?\s+bind: )\S+", rf"\g<1>127.0.0.1:{front}", text, count=1)
    text = re.sub(r"(admin:[^\n]*\n(?:[^\n]*\n)*?\s+bind: )\S+", rf"\g<1>127.0.0.1:{admin}", text, count=1)
    path.write_text(text)
    return front


def main() -> None:
    """Print a line a round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "deployment"
        port = deployment(root)
        data = root / "data"
        fill(data, chosen.records)
        last = excerpt_path(data, chosen.records // RANGE_LEAVES - 1)
        parent = serve(root)
        try:
            wait_for(lambda: is_ready(port), "ready for the first time")
            wait_for(lambda: signed_size(data) >= chosen.records, "everything signed")
            wait_for(lambda: chosen.records < RANGE_LEAVES or last.exists(), "everything taken into excerpts")
            time.sleep(5.0)  # what is loaded after a start is no part of the next
            for _ in range(chosen.rounds):
                killed_s = time.monotonic()
                kill(parent)
                parent = serve(root)
                wait_for(lambda: is_ready(port), "ready again")
                away_s = time.monotonic() - killed_s
                used = processes.usage_by_role(parent.pid, role_of)
                costs = ", ".join(f"{role} {one.cpu_s:.2f}" for role, one in sorted(used.items()))
                print(f"ready again after {away_s:.2f} s; CPU s: {costs}", flush=True)
                time.sleep(5.0)
        finally:
            processes.stop(parent)


if __name__ == "__main__":
    main()
