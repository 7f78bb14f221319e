"""What an event of `/feedback` costs: CPU by process and event, over real HTTP, each event a committed record.

Method: one worker; requests of 250 rewards, each with an event id of its own, one after the other on one connection, so that nothing is hidden by
waiting side by side. CPU is `utime + stime` of the gateway's processes; the rate a second is what this one connection saw. The index and the
evidence of experiments are kept up beside it and count.

Example:
    $ python -m benchmarks.feedback --requests 200
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from pathlib import Path
from uuid import UUID

from benchmarks import processes
from benchmarks.lane import free_port, running
from benchmarks.peers.assay import AssayEverything
from benchmarks.peers.peer import Setting
from benchmarks.report import machine

EVENTS = 250
"""In one request: they fit the default limit of a body."""
START_TIMEOUT_S = 60.0


def wait_ready(port: int) -> None:
    """Wait until the front door is ready. Raises RuntimeError when it is not in time."""
    ends_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_s:
        try:
            with_timeout = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            with_timeout.request("GET", "/readyz")
            if with_timeout.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the gateway on port {port} was not ready within {START_TIMEOUT_S:g} s")


def body_of(number: int, now_ms: int) -> bytes:
    """Return one request's events; their decisions are made up, as those of calls long ago would be."""
    decisions = [str(UUID(int=now_ms << 80 | 0x7 << 76 | 0x2 << 62 | number * EVENTS + event)) for event in range(EVENTS)]
    return json.dumps(
        [{"decision_id": one, "metric": "repaid", "value": 1, "event_id": f"e{number}-{at}"} for at, one in enumerate(decisions)]
    ).encode()


def measure(requests: int) -> dict[str, float]:
    """Send the requests; return events a second, and CPU microseconds an event by process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = AssayEverything()
        setting = Setting(free_port(), free_port(), free_port(), 1, folder)
        peer.prepare(setting)
        with running(peer.command(setting), folder / "log", None, peer.environment(setting)) as pid:
            wait_ready(setting.port)
            caller = http.client.HTTPConnection("127.0.0.1", setting.port, timeout=30)
            headers = {"authorization": f"Bearer {peer.key}", "content-type": "application/json"}
            before, began_s = processes.usage_by_role(pid, peer.role_of), time.monotonic()
            for number in range(requests):
                caller.request("POST", "/feedback", body_of(number, time.time_ns() // 1_000_000), headers)
                reply = caller.getresponse()
                told = reply.read()
                if reply.status != 202:
                    raise RuntimeError(f"request {number} was answered {reply.status}: {told[:300]!r}")
            took_s = time.monotonic() - began_s
            spent = processes.spent(before, processes.usage_by_role(pid, peer.role_of))
    events = requests * EVENTS
    return {"events_per_s": events / took_s, **{role: usage.cpu_s / events * 1e6 for role, usage in sorted(spent.items())}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=200, help=f"of {EVENTS} events each")
    found = measure(parser.parse_args().requests)
    rate = found.pop("events_per_s")
    total = sum(found.values())
    print(f"{machine()}\n{rate:,.0f} events/s on one connection; {1e6 / total:,.0f} events a second and core of all processes")
    for role, microseconds in found.items():
        print(f"  {role}: {microseconds:.1f} CPU microseconds an event")


if __name__ == "__main__":
    main()
