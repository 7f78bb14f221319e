"""What a shadow costs those who are answered: CPU of the worker a call, and p99, with and without one on the same gateway.

Method: one gateway with four models that differ in nothing but whether a shadow runs on them and whether their model answers at once or after 5 ms.
Each round measures both of a pair, the order reversed every other round; what is told is the median of the rounds' differences, with its standard
error.

- *CPU*: worker's `utime + stime` over the calls answered, 32 connections, models that answer at once. Everything the shadow does in the worker is in
  it: draws, queue, copies, comparison and records of pairs.
- *Latency*: 8 connections over models that answer after 5 ms, as wrk sees them.
- *In the caller's way*: processor time of `Shadows.offer`, all that happens before a reply's handler returns, in this process: a number that holds on
  a busy machine too, where the differences above drown.
- The shadow has its default budget, 20 copies a second, as in the reference configuration; `--per-second` and `--share` change it.

Example:
    $ python -m benchmarks.shadow --rounds 20 --seconds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from benchmarks import processes
from benchmarks.lane import BUSY_CONNECTIONS, CALM_CONNECTIONS, LAYOUTS, free_port, running, upstreams, wait_until_answering, wait_until_quiet
from benchmarks.load import LoadResult, Traffic, run_wrk, v2_traffic
from benchmarks.peers.assay import PERSON, AssayEverything, run_assay
from benchmarks.peers.deployment import Shape, model_file
from benchmarks.peers.peer import Setting, find
from benchmarks.report import machine
from experiments.bucketing import encode_parts
from experiments.shares import parse_share, share_of
from gateway.identifiers import Identifiers
from gateway.shadows import Shadow, Shadows

LAYOUT = LAYOUTS["pinned"]
PAIRS = {"busy": ("busy-alone", "busy-mirrored"), "calm": ("calm-alone", "calm-mirrored")}
START_TIMEOUT_S = 60.0
Found = TypeVar("Found")
WARM_UP_S = 2.0


class Mirroring(AssayEverything):
    """Assay with a contract and batch-signed records, and four more models, two of which have a shadow."""

    def __init__(self, delayed_port: int, share: str, per_second: int) -> None:
        """Mirror so much of the calls of those that have a shadow."""
        super().__init__()
        self._delayed_port, self._share, self._per_second = delayed_port, share, per_second

    def shape(self, setting: Setting) -> Shape:
        """Everything on but the split."""
        return replace(super().shape(setting), split=False)

    def prepare(self, setting: Setting) -> None:
        """Add the models, their shadows and their approvals."""
        super().prepare(setting)
        config = self.folder / "config"
        signer = ("--as", PERSON, "--key", str(self.folder / "keys" / f"{PERSON}.key"), "--dir", str(self.folder))
        for kind, (alone, mirrored) in PAIRS.items():
            port = setting.upstream_port if kind == "busy" else self._delayed_port
            for model in (alone, mirrored):
                (config / "models" / f"{model}.yaml").write_text(model_file(model, 2, port, schema=True))
                for version in ("1", "2"):
                    run_assay("model", "approve", model, version, *signer)
            (config / "experiments" / f"shadow-of-{mirrored}.yaml").write_text(self._shadow(mirrored))

    def _shadow(self, model: str) -> str:
        keys = {
            "experiment": f"shadow-of-{model}",
            "strategy": "shadow",
            "model": model,
            "arms": {"champion": {"version": "1"}, "shadow": {"version": "2"}},
            "share": self._share,
            "budget": {"per_second": self._per_second},
            # A limit that no number of pairs decides within the run: the shadow goes on to the end.
            "compare": {"prediction": {"kind": "label", "at": "/outputs/0/data/0", "max_disagreement": "1%"}},
            "min_pairs": 100_000_000,
            "deadline": {"after": "7d", "then": "stop"},
        }
        return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())

    def traffic_to(self, model: str) -> Traffic:
        """Return calls of one model."""
        return v2_traffic((("Authorization", f"Bearer {self.key}"),), model)


@dataclass(frozen=True, slots=True)
class Round:
    """One pair of measurements of a kind: without and with a shadow."""

    alone: float
    mirrored: float

    @property
    def difference(self) -> float:
        """What the shadow adds."""
        return self.mirrored - self.alone


def told(name: str, unit: str, rounds: list[Round]) -> str:
    """Return the medians, the median difference and its standard error (1.253 standard errors of a mean, as of a normal distribution)."""
    differences = [one.difference for one in rounds]
    spread = statistics.stdev(differences) / len(differences) ** 0.5 * 1.253 if len(differences) > 1 else float("nan")
    alone, mirrored = statistics.median(one.alone for one in rounds), statistics.median(one.mirrored for one in rounds)
    return f"| {name} | {alone:.1f} | {mirrored:.1f} | {statistics.median(differences):+.1f} ± {spread:.1f} {unit} |"


def measure(rounds: int, seconds: float, share: str, per_second: int) -> tuple[list[Round], list[Round], list[Round]]:
    """Return the rounds of CPU (µs of the worker a call), p50 and p99 (µs).

    Raises:
        RuntimeError: a call was refused or broken.
    """
    cpu, p50, p99 = [], [], []
    with tempfile.TemporaryDirectory() as name, upstreams(LAYOUT, Path(name)) as (at_once, delayed):
        folder = Path(name) / "gateway"
        folder.mkdir()
        peer = Mirroring(delayed, share, per_second)
        setting = Setting(free_port(), at_once, at_once, LAYOUT.workers, folder)
        peer.prepare(setting)
        with running(peer.command(setting), folder / "log", LAYOUT.gateway_cores, peer.environment(setting)) as pid:
            for model in (*PAIRS["busy"], *PAIRS["calm"]):
                wait_until_answering(setting.port, peer.traffic_to(model), START_TIMEOUT_S, folder / "log")

            def drive(model: str, connections: int, for_s: float) -> LoadResult:
                load = run_wrk(setting.port, peer.traffic_to(model), connections=connections, seconds=for_s, cores=LAYOUT.load_cores)
                if not load.is_clean:
                    raise RuntimeError(f"`{model}`: {load.not_2xx} answers not 2xx, {load.broken} broken, of {load.requests}")
                return load

            def cpu_us(model: str) -> float:
                before = processes.usage_by_role(pid, peer.role_of)
                load = drive(model, BUSY_CONNECTIONS, seconds)
                spent = processes.spent(before, processes.usage_by_role(pid, peer.role_of))
                return spent["worker"].cpu_s / load.requests * 1e6

            for model in PAIRS["busy"]:
                drive(model, BUSY_CONNECTIONS, WARM_UP_S)
            wait_until_quiet(peer, pid)
            for number in range(rounds):
                cpu.append(Round(*_both(PAIRS["busy"], cpu_us, number)))
                calm = _both(PAIRS["calm"], lambda model: drive(model, CALM_CONNECTIONS, seconds), number)
                p50.append(Round(*(load.p50_us for load in calm)))
                p99.append(Round(*(load.p99_us for load in calm)))
                said = f"CPU {cpu[-1].difference:+.1f}, p50 {p50[-1].difference:+.0f}, p99 {p99[-1].difference:+.0f} µs"
                print(f"round {number + 1}/{rounds}, load {os.getloadavg()[0]:.1f}: {said}", file=sys.stderr, flush=True)
    return cpu, p50, p99


def in_the_way_us(share: str, per_second: int, calls: int = 200_000) -> float:
    """Return the processor time of offering a call to a shadow, in microseconds a call, what the loop itself takes taken off."""
    shadows = Shadows(cast("Any", None), cast("Any", None), cast("Any", None), Identifiers(), workers=1)
    document = SimpleNamespace(experiment="bench")
    limits = SimpleNamespace(per_second=per_second, per_day=0, cost_per_day_nano=0)
    prefix = encode_parts(("salt", "shadow"))
    shadow = Shadow(
        cast("Any", document), cast("Any", limits), 1, share_of(parse_share(share)), "1", cast("Any", None), prefix, cast("Any", None), {}
    )
    shadows.of = {"bench": (shadow,)}
    decided = SimpleNamespace(version=SimpleNamespace(name="1"))
    names = Identifiers()
    records = [cast("Any", SimpleNamespace(id=names.next(number), decision=decided, status=200)) for number in range(calls)]
    route, request = cast("Any", SimpleNamespace(model="bench")), cast("Any", SimpleNamespace(body=b"x" * 300))
    body = b"y" * 505
    began_s = time.process_time()
    for record in records:
        if route.model in shadows.of:
            shadows.offer(record, route, request, b"/", body)
    offered_s = time.process_time() - began_s
    began_s = time.process_time()
    for _record in records:
        pass
    return (offered_s - (time.process_time() - began_s)) / calls * 1e6


def _both(models: tuple[str, str], measured: Callable[[str], Found], number: int) -> tuple[Found, Found]:
    """Measure both models, the second one first in every other round; returns them in their own order."""
    if number % 2 == 0:
        first = measured(models[0])
        return first, measured(models[1])
    second = measured(models[1])
    return measured(models[0]), second


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of four measurements each (default 20)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (default 3)")
    parser.add_argument("--share", default="10%", help="part of the calls that is drawn (default 10%%)")
    parser.add_argument("--per-second", type=int, default=20, help="copies a second at most (default 20)")
    parser.add_argument("--in-process", action="store_true", help="only the processor time in the caller's way")
    options = parser.parse_args()
    in_the_way = min(in_the_way_us(options.share, options.per_second) for _ in range(5))
    print(
        f"in the caller's way: {in_the_way:.2f} µs of processor time a call (least of 5); {options.share} drawn, {options.per_second} copies a second"
    )
    if options.in_process:
        return
    if not find("wrk") or not find("nginx"):
        parser.error("`wrk` and `nginx` (the upstream) are needed: apt-get install wrk nginx-light")
    cpu, p50, p99 = measure(options.rounds, options.seconds, options.share, options.per_second)
    print(machine())
    print(f"{options.share} drawn, at most {options.per_second} copies a second; load {os.getloadavg()[0]:.1f}")
    print("| | alone | with a shadow | difference |\n|---|---|---|---|")
    print(told("CPU of the worker, µs a call", "µs", cpu))
    print(told("p50, 8 connections over a model of 5 ms, µs", "µs", p50))
    print(told("p99, the same, µs", "µs", p99))


if __name__ == "__main__":
    main()
