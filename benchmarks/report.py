"""From measurements to one table and one JSON document. Pure but for `machine`, which reads the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer in one round and one layout. Latencies in microseconds, with a fixed number of callers."""

    peer: str
    layout: str
    """`pinned` (gateway on core 0, load and upstream on core 1) or `unpinned` (two workers, no pinning)."""
    calls: int
    calls_per_s: float
    cpu_us: Mapping[str, float]
    """Role -> CPU microseconds per call."""
    resident_bytes: int
    p50_us: float
    """Over an upstream that answers after a delay; so the next two."""
    p99_us: float
    p999_us: float
    trouble: str = ""
    """Why the sample does not count; empty if it does."""


@dataclass(frozen=True, slots=True)
class Row:
    """A peer's medians over the rounds that count. None where nothing was measured."""

    peer: str
    layout: str
    rounds: int
    worker_cpu_us: float
    beside_cpu_us: float
    """Recorder, controller, parent: everything that is not a worker."""
    total_cpu_us: float
    times_nginx_worker: float | None
    times_nginx_total: float | None
    calls_per_s: float
    calls_per_s_per_core: float
    """One million over total CPU per call: what one core could carry if nothing else ran on it."""
    added_us: tuple[float, float, float] | None
    """p50, p99, p99.9 less those of the direct row of the same round."""
    resident_bytes: int
    cpu_us_by_role: Mapping[str, float] = field(default_factory=dict)


def rows(rounds: Sequence[Sequence[Sample]], peers: Sequence[str], layout: str) -> list[Row]:
    """Return one row per peer that was measured, in the order of `peers`.

    Args:
        rounds: the samples of each round; a peer occurs at most once per round and layout.
        peers: names in table order; `direct` and `nginx` give the comparisons.
        layout: which layout's samples to use.
    """
    clean = [{s.peer: s for s in one if s.layout == layout and not s.trouble} for one in rounds]
    nginx = _row("nginx", layout, clean, None)
    found = (_row(peer, layout, clean, nginx) for peer in peers)
    return [row for row in found if row is not None]


def _row(peer: str, layout: str, rounds: Sequence[Mapping[str, Sample]], nginx: Row | None) -> Row | None:
    samples = [one[peer] for one in rounds if peer in one]
    if not samples:
        return None
    roles = sorted({role for sample in samples for role in sample.cpu_us})
    by_role = {role: statistics.median(sample.cpu_us.get(role, 0.0) for sample in samples) for role in roles}
    total = statistics.median(sum(sample.cpu_us.values()) for sample in samples)
    worker = by_role.get("worker", 0.0)
    pairs = [(one[peer], one["direct"]) for one in rounds if peer in one and "direct" in one]
    added = (
        (
            statistics.median(own.p50_us - base.p50_us for own, base in pairs),
            statistics.median(own.p99_us - base.p99_us for own, base in pairs),
            statistics.median(own.p999_us - base.p999_us for own, base in pairs),
        )
        if pairs
        else None
    )
    return Row(
        peer=peer,
        layout=layout,
        rounds=len(samples),
        worker_cpu_us=worker,
        beside_cpu_us=total - worker,
        total_cpu_us=total,
        times_nginx_worker=worker / nginx.worker_cpu_us if nginx else None,
        times_nginx_total=total / nginx.total_cpu_us if nginx else None,
        calls_per_s=statistics.median(sample.calls_per_s for sample in samples),
        calls_per_s_per_core=1e6 / total if total else 0.0,
        added_us=added,
        resident_bytes=round(statistics.median(sample.resident_bytes for sample in samples)),
        cpu_us_by_role=by_role,
    )


HEADINGS = (
    "gateway",
    "CPU µs/call: worker",
    "beside",
    "total",
    "x nginx (worker / total)",
    "calls/s",
    "calls/s per core",
    "added p50 / p99 / p99.9 ms",
    "RSS MB",
)


def markdown_table(table: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    for row in table:
        ratio = "-" if row.times_nginx_worker is None else f"{row.times_nginx_worker:.2f} / {row.times_nginx_total:.2f}"
        added = "-" if row.added_us is None else " / ".join(f"{us / 1000:.2f}" for us in row.added_us)
        cells = (
            row.peer,
            f"{row.worker_cpu_us:.1f}",
            f"{row.beside_cpu_us:.1f}",
            f"{row.total_cpu_us:.1f}",
            ratio,
            f"{row.calls_per_s:,.0f}",
            f"{row.calls_per_s_per_core:,.0f}",
            added,
            f"{row.resident_bytes / 1e6:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def plain(value: Row | Sample) -> dict[str, Any]:
    """Return a row or sample as JSON-ready values."""
    return asdict(value)
