"""Prometheus metrics, made from what the controller knows at the moment of the scrape.

`docs/metrics.md` lists every name; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.admin.traffic import Traffic
from gateway.control.witnesses import Standing
from gateway.counters import LATENCY_BOUNDS_US


@dataclass(frozen=True, slots=True)
class LogHead:
    """The log's latest signed head."""

    size: int
    root: str
    time: str
    origin: str
    cosigned: Mapping[str, int]
    """Witness -> POSIX time at which it saw this head."""


class Known(Protocol):
    """What the collector asks of the controller."""

    traffic: Traffic

    def head(self) -> LogHead | None:
        """Return the log's latest published head."""
        ...

    @property
    def leader(self) -> Callable[[], str | None]:
        """Gives the node that leads, None where this one does."""
        ...

    def witness_standings(self) -> list[Standing]:
        """Return how it stands with each configured witness."""
        ...

    def config_age_s(self) -> float:
        """Return seconds since the configuration in force was published."""
        ...

    def config_issues(self) -> int:
        """Return how many issues keep the latest reading of the configuration from being in force."""
        ...


class Collector:
    """Yields every metric family at a scrape."""

    def __init__(self, known: Known) -> None:
        """Read from `known` at each scrape."""
        self._known = known

    def describe(self) -> list[Metric]:
        """Tell the registry nothing beforehand: names are unique by construction."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        traffic = self._known.traffic
        labels = ["model", "version", "status", "code"]
        calls = CounterMetricFamily("assay_calls", "Calls that ended, by model, version, status and code.", labels=labels)
        for (model, version, status, code), row in sorted(traffic.series.items()):
            calls.add_metric([model, version, str(status), code], row.count)
        yield calls
        yield self._latency(traffic)
        early = CounterMetricFamily("assay_refused_early", "Refusals before there was a call to decide on, by code.", labels=["code"])
        for code, count in sorted(traffic.refused_early.items()):
            early.add_metric([code], count)
        yield early
        shadows = CounterMetricFamily(
            "assay_shadow_calls", "Calls drawn for a shadow, by experiment and what became of them.", labels=["experiment", "result"]
        )
        for experiment, counts in sorted(traffic.shadows.items()):
            for result, count in sorted(counts.items()):
                shadows.add_metric([experiment, result], count)
        yield shadows
        asked = CounterMetricFamily(
            "assay_policy_answers", "Questions to policy servers, by decision point and what became of them.", labels=["point", "result"]
        )
        for point, counts in sorted(traffic.policy_server.items()):
            for result, count in sorted(counts.items()):
                asked.add_metric([point, result], count)
        yield asked
        yield from self._consumed(traffic)
        yield CounterMetricFamily("assay_receipts", "Receipts given to callers that asked.", value=traffic.receipts)
        in_flight = GaugeMetricFamily("assay_in_flight", "Calls being served, by worker.", labels=["node"])
        unconfirmed = GaugeMetricFamily("assay_oldest_unconfirmed_seconds", "Age of the oldest record not yet committed, by worker.", labels=["node"])
        for node, worker in sorted(traffic.workers.items()):
            in_flight.add_metric([node], worker["in_flight"])
            unconfirmed.add_metric([node], worker["oldest_unacked_us"] / 1e6)
        yield in_flight
        yield unconfirmed
        yield self._unkept(traffic)
        head = self._known.head()
        yield GaugeMetricFamily("assay_log_size", "Records under the latest signed head.", value=0 if head is None else head.size)
        cosigned = GaugeMetricFamily("assay_log_cosigned", "Whether each configured witness cosigned the latest head.", labels=["witness"])
        for standing in self._known.witness_standings():
            cosigned.add_metric([standing.name], int(head is not None and standing.name in head.cosigned))
        yield cosigned
        leader = self._known.leader()
        yield GaugeMetricFamily("assay_leads", "1 where this node's controller leads, 0 where it follows another node's.", value=int(leader is None))
        yield GaugeMetricFamily("assay_config_age_seconds", "Time since the configuration in force was published.", value=self._known.config_age_s())
        yield GaugeMetricFamily(
            "assay_config_issues", "Issues that keep the latest configuration from being in force.", value=self._known.config_issues()
        )

    @staticmethod
    def _consumed(traffic: Traffic) -> Iterator[CounterMetricFamily]:
        tokens = CounterMetricFamily("assay_tokens", "Tokens that replies counted.", labels=["model", "version", "kind"])
        cost = CounterMetricFamily("assay_cost", "What calls cost, in units of the currency.", labels=["model", "version", "currency"])
        unread = CounterMetricFamily("assay_usage_unread", "Replies that did not count their tokens.", labels=["model", "version"])
        for place, totals in sorted(traffic.usage.items()):
            model, _, version = place.partition("\n")
            for what, amount in sorted(totals.items()):
                kind, _, currency = what.partition(" ")
                if kind == "cost_nano":
                    cost.add_metric([model, version, currency], amount / 1e9)
                elif kind == "unread":
                    unread.add_metric([model, version], amount)
                else:
                    tokens.add_metric([model, version, kind.removesuffix("_tokens")], amount)
        yield from (tokens, cost, unread)

    @staticmethod
    def _unkept(traffic: Traffic) -> GaugeMetricFamily:
        told = "Age of the oldest entry not yet committed to the vault, by worker."
        family = GaugeMetricFamily("assay_vault_oldest_unconfirmed_seconds", told, labels=["node"])
        for node, worker in sorted(traffic.workers.items()):
            if "vault_oldest_us" in worker:
                family.add_metric([node], worker["vault_oldest_us"] / 1e6)
        return family

    @staticmethod
    def _latency(traffic: Traffic) -> HistogramMetricFamily:
        told = "Time from the first byte of a call to its reply, by model and version."
        family = HistogramMetricFamily("assay_call_seconds", told, labels=["model", "version"])
        merged: dict[tuple[str, str], tuple[list[int], int]] = {}
        for (model, version, _, _), row in sorted(traffic.series.items()):
            buckets, total_us = merged.get((model, version), ([0] * len(row.buckets), 0))
            merged[(model, version)] = ([a + b for a, b in zip(buckets, row.buckets, strict=True)], total_us + row.sum_us)
        for (model, version), (buckets, total_us) in merged.items():
            running, rows = 0, []
            for bound, count in zip([str(bound / 1e6) for bound in LATENCY_BOUNDS_US] + ["+Inf"], buckets, strict=True):
                running += count
                rows.append((bound, running))
            family.add_metric([model, version], rows, total_us / 1e6)
        return family
