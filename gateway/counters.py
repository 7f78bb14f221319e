"""What a worker counts: calls by model, version and status, with a latency histogram; what they consumed; refusals before authentication.

Plain integers, owned by the worker's loop; written to `data/run/status-<node>.json` once a second, where the controller reads them for
metrics and console.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final

LATENCY_BOUNDS_US: Final = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)
"""Upper bounds of the histogram's buckets; one more holds the rest."""


class Counters:
    """Counts of one worker since it started."""

    __slots__ = ("_series", "receipts", "refused_early", "usage")

    def __init__(self) -> None:
        """Start from zero."""
        # (model, version, status, code) -> [count, sum of latency in us, bucket 0, bucket 1, ...]
        self._series: dict[tuple[str, str, int, str], list[int]] = {}
        self.refused_early: dict[str, int] = {}
        """Code -> refusals that are counted, not recorded one by one."""
        self.receipts = 0
        """Receipts given."""
        self.usage: dict[tuple[str, str], dict[str, int]] = {}
        """(model, version) -> `input_tokens`, `output_tokens`, `unread` replies, and `cost_nano EUR` by currency."""

    def call(self, model: str, version: str, status: int, code: str, latency_us: int) -> None:
        """Count one ended call."""
        key = (model, version, status, code)
        row = self._series.get(key)
        if row is None:
            row = self._series[key] = [0] * (3 + len(LATENCY_BOUNDS_US))
        row[0] += 1
        row[1] += latency_us
        row[2 + bisect_left(LATENCY_BOUNDS_US, latency_us)] += 1

    def metered(self, model: str, version: str, metered: Mapping[str, Any]) -> None:
        """Count what a call consumed (`gateway/usage.py`)."""
        totals = self.usage.setdefault((model, version), {})
        for what, amount in metered.items():
            if what == "currency":
                continue
            name = f"{what} {metered['currency']}" if what == "cost_nano" else what
            totals[name] = totals.get(name, 0) + amount

    def early(self, code: str) -> None:
        """Count a refusal before authentication."""
        self.refused_early[code] = self.refused_early.get(code, 0) + 1

    def document(self) -> dict[str, Any]:
        """Return all counts, JSON-able."""
        return {
            "calls": [
                {"model": model, "version": version, "status": status, "code": code, "count": row[0], "sum_us": row[1], "buckets": row[2:]}
                for (model, version, status, code), row in sorted(self._series.items())
            ],
            "receipts": self.receipts,
            "usage": {f"{model}\n{version}": dict(totals) for (model, version), totals in sorted(self.usage.items())},
            "refused_early": dict(sorted(self.refused_early.items())),
        }
