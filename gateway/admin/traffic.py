"""What the workers counted, put together: totals, rates over the last minutes, latency quantiles.

Workers write `status-<node>.json` once a second with counts since their start. `Traffic.observe` folds differences, so a worker that
restarts (a new epoch) adds to what was counted before and never takes away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.counters import LATENCY_BOUNDS_US

HISTORY_S: Final = 300
Series = tuple[str, str, int, str]
"""model, version, status, code"""


class _Calls(msgspec.Struct):
    model: str
    version: str
    status: int
    code: str
    count: int
    sum_us: int
    buckets: list[int]


class _Status(msgspec.Struct):
    """What `Traffic` uses of a status document."""

    node: str
    epoch: int
    calls: list[_Calls]
    refused_early: dict[str, int]


@dataclass(slots=True)
class Row:
    """Totals of one series."""

    count: int = 0
    sum_us: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_US) + 1))

    def add(self, count: int, sum_us: int, buckets: Iterable[int]) -> None:
        """Add counts."""
        self.count += count
        self.sum_us += sum_us
        self.buckets = [have + more for have, more in zip(self.buckets, buckets, strict=True)]


@dataclass(frozen=True, slots=True)
class Second:
    """What ended in one second."""

    at_s: int
    served: int
    refused: int
    failed: int


class Traffic:
    """Folds status documents. Owned by the controller's loop."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.series: dict[Series, Row] = {}
        self.refused_early: dict[str, int] = {}
        self.receipts = 0
        """Receipts given."""
        self.shadows: dict[str, dict[str, int]] = {}
        """Experiment -> what became of the calls drawn for its shadow."""
        self.policy_server: dict[str, dict[str, int]] = {}
        """Decision point -> what became of questions to policy servers."""
        self.usage: dict[str, dict[str, int]] = {}
        """Model and version, a line each -> what their calls consumed (`Counters.usage`)."""
        self.workers: dict[str, dict[str, Any]] = {}
        """Latest status by node; what is counted next is counted from there."""
        self.history: deque[Second] = deque(maxlen=HISTORY_S)
        self.unreadable = 0
        """Documents that were no status of this release."""
        self._last: tuple[int, int, int] | None = None  # classes at the last look; changed by `observe`

    def observe(self, statuses: Iterable[dict[str, Any]], at_s: int) -> None:
        """Fold the latest status of every worker; called once a second."""
        for status in statuses:
            if not _is_status(status):
                self.unreadable += 1
                continue
            self._take(status)
        now = self._classes()
        # What was counted before the first look did not happen in one second.
        if self._last is not None:
            served, refused, failed = (new - old for new, old in zip(now, self._last, strict=True))
            self.history.append(Second(at_s, served, refused, failed))
        self._last = now

    def _take(self, status: dict[str, Any]) -> None:
        node, epoch = status["node"], status["epoch"]
        last = self.workers.get(node)
        if last is None or epoch > last["epoch"]:
            # Another life of the worker counts from nothing; what its last one counted stays in the totals.
            before: dict[str, Any] = {"calls": [], "refused_early": {}, "shadows": {}}
        elif epoch == last["epoch"]:
            before = last
        else:
            return
        self._fold(status, before)
        self.workers[node] = status

    def _fold(self, status: dict[str, Any], before: dict[str, Any]) -> None:
        old = {(row["model"], row["version"], row["status"], row["code"]): row for row in before["calls"]}
        for row in status["calls"]:
            key = (row["model"], row["version"], row["status"], row["code"])
            earlier = old.get(key)
            buckets = row["buckets"]
            if earlier is not None:
                buckets = [new - past for new, past in zip(buckets, earlier["buckets"], strict=True)]
            count = row["count"] - (earlier["count"] if earlier else 0)
            sum_us = row["sum_us"] - (earlier["sum_us"] if earlier else 0)
            if count > 0:
                self.series.setdefault(key, Row()).add(count, sum_us, buckets)
        for code, count in status["refused_early"].items():
            more = count - before["refused_early"].get(code, 0)
            if more > 0:
                self.refused_early[code] = self.refused_early.get(code, 0) + more
        for totals, part in ((self.shadows, "shadows"), (self.policy_server, "policy_server"), (self.usage, "usage")):
            for name, counts in status.get(part, {}).items():
                kept = totals.setdefault(name, {})
                past = before.get(part, {}).get(name, {})
                for what, count in counts.items():
                    kept[what] = kept.get(what, 0) + max(0, count - past.get(what, 0))
        self.receipts += max(0, status.get("receipts", 0) - before.get("receipts", 0))

    def _classes(self) -> tuple[int, int, int]:
        served = sum(row.count for key, row in self.series.items() if key[2] < 400)
        failed = sum(row.count for key, row in self.series.items() if key[2] >= 500)
        refused = sum(row.count for key, row in self.series.items()) - served - failed + sum(self.refused_early.values())
        return served, refused, failed

    def by_version(self) -> list[dict[str, Any]]:
        """Return one row per model and version: calls, errors, refusals, latency quantiles in microseconds."""
        merged: dict[tuple[str, str], dict[str, Any]] = {}
        for (model, version, status, _), row in sorted(self.series.items()):
            entry = merged.setdefault((model, version), {"model": model, "version": version, "calls": 0, "failed": 0, "refused": 0, "latency": Row()})
            entry["calls"] += row.count
            entry["failed"] += row.count if status >= 500 else 0
            entry["refused"] += row.count if 400 <= status < 500 else 0
            if status < 400:
                entry["latency"].add(row.count, row.sum_us, row.buckets)
        for entry in merged.values():
            latency = entry.pop("latency")
            entry["p50_us"] = quantile(latency.buckets, 0.5)
            entry["p99_us"] = quantile(latency.buckets, 0.99)
        return list(merged.values())

    def oldest_unconfirmed_us(self) -> int:
        """Return the age of the oldest record no worker has had confirmed."""
        return max((status.get("oldest_unacked_us", 0) for status in self.workers.values()), default=0)


def _is_status(status: Any) -> bool:
    """Say whether a document is a status as this release writes it: a file may be left over from another one."""
    try:
        msgspec.convert(status, _Status)
    except msgspec.ValidationError:
        return False
    return all(len(row["buckets"]) == len(LATENCY_BOUNDS_US) + 1 for row in status["calls"])


def quantile(buckets: list[int], q: float) -> int | None:
    """Return the upper bound in microseconds of the bucket that holds the quantile, or None without data or past the last bound."""
    total = sum(buckets)
    if total == 0:
        return None
    seen = 0
    for bound, count in zip(LATENCY_BOUNDS_US, buckets, strict=False):
        seen += count
        if seen >= q * total:
            return bound
    return None
