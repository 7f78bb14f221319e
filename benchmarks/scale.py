"""What size costs: 1,500 models of three versions and 10,000 experiments beside the measured model.

Measured, each beside a small configuration of the same kind:
- start: from the command to the first answered call;
- CPU per call of the worker, and memory;
- reload: the file of one more model appears; the time until a call for it is no longer a 404, and the slowest call of a caller meanwhile. What it
  then gets is a refusal for want of approval, which is enough to see the new configuration in force.

Example:
    $ python -m benchmarks.scale --models 1500 --experiments 10000 --json /tmp/scale.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import processes
from benchmarks.lane import LAYOUTS, ask_once, free_port, running, upstreams, wait_until_answering
from benchmarks.load import MODEL, LoadResult, Traffic, run_wrk
from benchmarks.peers.assay import AssayEverything
from benchmarks.peers.deployment import Shape, model_file
from benchmarks.peers.peer import Setting
from benchmarks.report import machine

LAYOUT = LAYOUTS["pinned"]
START_TIMEOUT_S = 120.0
RELOAD_TIMEOUT_S = 30.0


class Sized(AssayEverything):
    """Assay with everything on and more models and experiments beside."""

    def __init__(self, models: int, experiments: int) -> None:
        """Have so many models and experiments beside the measured one."""
        super().__init__()
        self.models, self.experiments = models, experiments

    def shape(self, setting: Setting) -> Shape:
        """Return the shape of everything on, made larger."""
        return replace(super().shape(setting), more_models=self.models, more_experiments=self.experiments)


@dataclass(frozen=True, slots=True)
class Size:
    """What one configuration cost."""

    models: int
    experiments: int
    start_s: float
    worker_cpu_us: float
    resident_bytes: int
    p50_us: float
    reload_s: float
    slowest_call_in_reload_us: float
    slowest_call_before_us: float
    """The same load without a reload: what the machine does by itself."""


def measure(models: int, experiments: int, seconds: float, folder: Path, upstream_port: int) -> Size:
    """Start Assay with a configuration of this size and measure it."""
    peer = Sized(models, experiments)
    setting = Setting(free_port(), upstream_port, upstream_port, 1, folder)
    peer.prepare(setting)
    log = folder / "log"
    began_at = time.monotonic()
    with running(peer.command(setting), log, LAYOUT.gateway_cores, peer.environment(setting)) as pid:
        traffic = peer.traffic(setting)
        wait_until_answering(setting.port, traffic, START_TIMEOUT_S, log)
        start_s = time.monotonic() - began_at
        run_wrk(setting.port, traffic, connections=8, seconds=1, cores=LAYOUT.load_cores)
        before = processes.usage_by_role(pid, peer.role_of)
        busy = run_wrk(setting.port, traffic, connections=32, seconds=seconds, cores=LAYOUT.load_cores)
        spent = processes.spent(before, processes.usage_by_role(pid, peer.role_of))
        quiet = run_wrk(setting.port, traffic, connections=1, seconds=seconds, cores=LAYOUT.load_cores)
        reload_s, during = reload_under_load(peer.folder, setting, traffic, seconds)
    for load in (busy, quiet, during):
        if not load.is_clean:
            raise RuntimeError(f"{load.not_2xx} answers not 2xx, {load.broken} broken, of {load.requests}")
    return Size(
        models=models,
        experiments=experiments,
        start_s=start_s,
        worker_cpu_us=spent["worker"].cpu_s / busy.requests * 1e6,
        resident_bytes=sum(usage.resident_bytes for usage in spent.values()),
        p50_us=busy.p50_us,
        reload_s=reload_s,
        slowest_call_in_reload_us=during.max_us,
        slowest_call_before_us=quiet.max_us,
    )


def reload_under_load(deployment: Path, setting: Setting, traffic: Traffic, seconds: float) -> tuple[float, LoadResult]:
    """Change one model's file while one caller keeps calling.

    Returns:
        Seconds from the replaced file to the first answer that follows it, and what the load saw.
    """
    seen: list[LoadResult] = []

    def drive() -> None:
        seen.append(run_wrk(setting.port, traffic, connections=1, seconds=seconds + RELOAD_TIMEOUT_S / 10, cores=LAYOUT.load_cores))

    caller = threading.Thread(target=drive)
    caller.start()
    time.sleep(1.0)
    took_s = change_and_wait(deployment, setting, traffic)
    caller.join()
    return took_s, seen[0]


def change_and_wait(deployment: Path, setting: Setting, traffic: Traffic) -> float:
    """Add the file of a new model and ask for it until it is known; returns the seconds that took.

    A model nobody knows is a 404; once its file is in force the answer is another one: it has no approval (403).
    """
    name = "late-arrival"
    path = deployment / "config" / "models" / f"{name}.yaml"
    beside = path.with_suffix(".new")
    beside.write_text(model_file(name, 1, setting.upstream_port))
    asked = replace(traffic, path=traffic.path.replace(MODEL, name))
    beside.rename(path)
    began_at = time.monotonic()
    while time.monotonic() - began_at < RELOAD_TIMEOUT_S:
        status, _ = ask_once(setting.port, asked)
        if status != 404:
            return time.monotonic() - began_at
        time.sleep(0.01)
    raise RuntimeError(f"the new model was unknown for {RELOAD_TIMEOUT_S:g} s after its file appeared")


def main() -> None:
    """Measure a small and a large configuration and print both."""
    parser = argparse.ArgumentParser(description="Start, reload and cost per call with thousands of models and experiments.")
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    reason = Sized.missing()
    if reason:
        parser.error(reason)
    sizes = []
    with tempfile.TemporaryDirectory() as shared, upstreams(LAYOUT, Path(shared)) as (port, _):
        for models, experiments in ((0, 0), (arguments.models, arguments.experiments)):
            with tempfile.TemporaryDirectory() as folder:
                sizes.append(measure(models, experiments, arguments.seconds, Path(folder), port))
    print(f"{machine()}\n`python -m benchmarks.scale {' '.join(sys.argv[1:])}`\n")
    print("| models | experiments | start s | worker CPU µs/call | RSS MB | reload s | slowest call in a reload ms | without ms |")
    print("|---|---|---|---|---|---|---|---|")
    for size in sizes:
        print(
            f"| {size.models + 1} | {size.experiments + 1} | {size.start_s:.1f} | {size.worker_cpu_us:.1f} | {size.resident_bytes / 1e6:.0f} "
            f"| {size.reload_s:.2f} | {size.slowest_call_in_reload_us / 1000:.1f} | {size.slowest_call_before_us / 1000:.1f} |"
        )
    if arguments.json:
        document = {"machine": machine(), "command": sys.argv[1:], "sizes": [asdict(size) for size in sizes]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
