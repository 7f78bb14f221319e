"""Evidence: records of calls, labels and rewards folded into counts by unit.

Rules (semantics.md 4):

- *The unit counts once*, by its first decision in the experiment's epoch: the smallest decision id, which as a UUIDv7 is also the earliest. So
  outcomes are independent across units whatever a unit does later. With draws per call every decision is its own unit.
- Only exposed units count, analysed by `assigned` (intention to treat), and only where the recorded shares are those of a tested step.
- A call the gateway refused itself (a 4xx with a code) says nothing about an arm and is not an observation; a reply that a policy refused does.
- The fold is idempotent and does not depend on order: records may repeat and arrive shuffled. Of several labels the first wins; a correction
  replaces; of several corrections the last wins ("first" and "last" by record id). A correction counts from the source whose label it corrects, or
  from one that may correct others'; an answer from a key that names models counts for those models alone.
- Labels that come before their decision wait among at most `max_orphans`; the oldest is then dropped. Labels of a unit's later decisions, and of rows
  after the first, are not used.
- Memory: about 600 bytes a unit, at most `max_units` of them; units past that are counted in `overflow` and not used, which keeps every test valid.

What the kept units amount to in each metric is `experiments/observations.py`'s to say.

Example:
    >>> fold = Fold(document, epoch=1)
    >>> for record in records: fold.add(record)
    >>> fold.evidence().metrics["errors"].events
    {'challenger': 12, 'champion': 4}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec

from experiments.document import ExperimentDocument, MetricDocument
from experiments.observations import MetricEvidence, Unit, is_answered, labelled, observed
from experiments.values import in_range

Record = Mapping[str, Any]
Stages = dict[str, dict[str, int]]


class Evidence(msgspec.Struct, frozen=True):
    """Sufficient statistics of one experiment and epoch."""

    experiment: str
    epoch: int
    stages: Stages
    """`assigned`, `served` (as assigned), `outcome`, `labelled` (or rewarded) -> arm -> units: where a sample ratio can go wrong."""
    metrics: dict[str, MetricEvidence]
    overflow: int = 0
    out_of_range: int = 0
    """Rewards that were not used because they lay outside the declared range."""
    flipped: int = 0
    """Units that came with more than one arm, where another system assigns; each counts by its first."""
    unknown_variants: int = 0
    """Calls that named no arm, where another system assigns; told up to `_MOST_REMEMBERED`."""
    late: int = 0
    """Rewards and labels that were not used because their window had closed."""


_OF_THE_ARM = frozenset({"caller_gone", "reply_unreadable"})
"""Codes below 500 that tell about the version that served, not about a refusal by the gateway: leaving them out would hide a bad arm."""


MOST_EVENTS = 64
"""Events of one metric kept for a unit whose events are summed; where there are more, the metric is not judged."""
_MOST_REMEMBERED = 10_000
FOREVER_US = 2**62
"""Later than any time."""


class Fold:
    """Folds records of one experiment and epoch. Owned by one task of the controller; not shared."""

    def __init__(self, document: ExperimentDocument, epoch: int, *, max_units: int = 200_000, max_orphans: int = 4_096) -> None:
        """Start empty.

        Args:
            document: the experiment.
            epoch: whose records count.
            max_units: bound on units kept.
            max_orphans: bound on decisions whose labels or outcomes came first.
        """
        self._document, self._epoch = document, epoch
        self._max_units, self._max_orphans = max_units, max_orphans
        self._tested = [step.shares for step in document.steps if step.tested]
        self._metrics = (*document.guardrails, *((document.goal,) if document.goal is not None else ()))
        # What a ratio is per may be a metric itself: then its own declaration counts.
        below = {metric.per: metric for metric in self._metrics if metric.per is not None and metric.per_source == "feedback"}
        of_feedback = {**below, **{metric.metric: metric for metric in self._metrics if metric.kind == "reward"}}
        self._valued = {name: metric for name, metric in of_feedback.items() if metric.type != "proportion"}
        self._rewarded = of_feedback
        self._summed = {*below, *(metric.metric for metric in self._metrics if metric.type in ("count", "ratio"))}
        self._answering = tuple(metric for metric in self._metrics if metric.kind == "reward" and metric.missing != "zero")
        label_windows = [metric.window_us for metric in self._metrics if metric.kind == "label"]
        # Where no label is as good as a right one, who has one is the effect itself and no fault of the plumbing; as with `missing: zero` of rewards.
        self._labels_answer = any(metric.missing != "zero" for metric in self._metrics if metric.kind == "label") or not label_windows
        # Where one metric of labels waits for ever, so do the labels.
        self._label_window_us = None if None in label_windows else max((us for us in label_windows if us is not None), default=None)
        self._has_windows = any(metric.window_us is not None for metric in (*of_feedback.values(), *self._metrics))
        self._measures = any(metric.kind == "measured" or metric.per_source != "feedback" for metric in self._metrics)
        # Mutable state, changed by `add` alone.
        self._units: dict[str, Unit] = {}
        self._by_decision: dict[str, Unit] = {}
        self._orphans: OrderedDict[str, list[Record]] = OrderedDict()
        self._refused_units: set[str] = set()
        self._out_of_range: set[str] = set()  # ids of records, at most `_MOST_REMEMBERED`
        self._unknown_variants: set[str] = set()  # ids of records, at most `_MOST_REMEMBERED`
        self._late: set[str] = set()  # likewise
        self._clock = ""  # time of the newest record

    def add(self, record: Record) -> None:
        """Take in one record of the log; those that do not concern this experiment are passed over."""
        if self._has_windows:
            self._clock = max(self._clock, record.get("time", ""))
        kind = record.get("type")
        if kind in ("call", "decision"):
            self._add_decision(record)
        elif kind == "outcome":
            for decision in record.get("parents", ())[:1]:
                self._add_answer(decision, record)
        elif record.get("row", 0) == 0 and (kind == "label" or (kind == "reward" and record["metric"] in self._rewarded)):
            self._add_answer(record["decision"], record)

    @property
    def unit_count(self) -> int:
        """Return how many units are counted."""
        return len(self._units)

    def counts(self, decision: str) -> bool:
        """Say whether answers to a decision count: it is the one its unit counts by."""
        return decision in self._by_decision

    def segment_evidence(self, until_us: int = FOREVER_US) -> dict[str, Evidence]:
        """Counts of each declared segment, `country=CH`: those that have units, and each declared value; `until_us` as in `evidence`."""
        members: dict[str, list[Unit]] = {
            f"{attribute}={value}": [] for attribute, values in self._document.segments.items() for value in (*values, "other", "unknown")
        }
        for unit in self._units.values():
            for attribute, value in (unit.segments or {}).items():
                members.setdefault(f"{attribute}={value}", []).append(unit)
        return {name: self.evidence(units, until_us) for name, units in members.items() if units or not name.endswith(("=other", "=unknown"))}

    def evidence(self, among: Collection[Unit] | None = None, until_us: int = FOREVER_US) -> Evidence:
        """Counts at this moment. Cost: one pass over the units, about 1 microsecond each and metric.

        Args:
            among: the units; None for all.
            until_us: the reader's own time. Windows close by the newest record, but never before the reader's clock says so: one node whose clock is
                ahead would otherwise close everybody's.
        """
        arms = sorted(self._document.arms)
        among = self._units.values() if among is None else among
        now_us = min(_time_us(self._clock), until_us) if self._clock else 0
        stages: Stages = {stage: dict.fromkeys(arms, 0) for stage in ("assigned", "served", "outcome", "labelled")}
        for unit in among:
            stages["assigned"][unit.arm] += 1
            stages["served"][unit.arm] += not unit.diverted
            stages["outcome"][unit.arm] += unit.failed is not None
            # Where nothing is as good as zero, who answers is the effect itself and no fault of the plumbing.
            is_labelled = self._labels_answer and unit.label is not None
            stages["labelled"][unit.arm] += is_labelled or any(is_answered(unit, metric) for metric in self._answering)
        return Evidence(
            experiment=self._document.experiment,
            epoch=self._epoch,
            stages=stages,
            metrics={metric.metric: observed(metric, arms, self._document.control, among, now_us) for metric in self._metrics},
            overflow=len(self._refused_units),
            out_of_range=len(self._out_of_range),
            flipped=sum(unit.flipped for unit in among),
            unknown_variants=len(self._unknown_variants),
            late=len(self._late),
        )

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _add_decision(self, record: Record) -> None:
        route = record.get("route", {})
        if route.get("experiment") != self._document.experiment or route.get("epoch") != self._epoch:
            return
        self._note_unknown(record["id"], route)
        if not self._is_counted(record, route):
            return
        decision = record["id"]
        key = record["subject"] if self._document.sticky == "unit" else decision
        known = self._units.get(key)
        is_flip = known is not None and known.arm != route["assigned"]
        if known is not None and known.decision <= decision:
            known.flipped = known.flipped or is_flip
            return
        if known is None and len(self._units) >= self._max_units:
            if len(self._refused_units) < self._max_units:
                self._refused_units.add(key)
            return
        if known is not None:
            del self._by_decision[known.decision]
        unit = self._unit_of(decision, record)
        unit.flipped = known is not None and (known.flipped or is_flip)
        self._units[key] = self._by_decision[decision] = unit
        if "outcome" in record:
            self._answered(unit, record)
        for waiting in self._orphans.pop(decision, ()):
            self._answered(unit, waiting)

    def _note_unknown(self, decision: str, route: Record) -> None:
        if "unknown_variant" in route and len(self._unknown_variants) < _MOST_REMEMBERED:
            self._unknown_variants.add(decision)

    def _is_counted(self, record: Record, route: Record) -> bool:
        if not route.get("exposed") or route.get("assigned") not in self._document.arms or route.get("shares") not in self._tested:
            return False
        return not _is_refused(record)

    def _unit_of(self, decision: str, record: Record) -> Unit:
        route = record["route"]
        unit = Unit(decision, route["assigned"], route.get("served") != route["assigned"], record.get("tenant", ""))
        unit.segments = route.get("segments")
        if self._has_windows:
            unit.at_us = _time_us(record["time"])
        return unit

    def _add_answer(self, decision: str, record: Record) -> None:
        unit = self._by_decision.get(decision)
        if unit is not None:
            self._answered(unit, record)
            return
        waiting = self._orphans.setdefault(decision, [])
        # A repeated record waits once; `corrects` chains are short.
        if len(waiting) < 16 and record not in waiting:
            waiting.append(record)
        while len(self._orphans) > self._max_orphans:
            self._orphans.popitem(last=False)

    def _answered(self, unit: Unit, record: Record) -> None:
        models = record.get("models")
        if models is not None and self._document.model not in models:
            return
        if record["type"] == "label" and self._label_window_us is not None and self._is_late(unit, record, self._label_window_us):
            return
        if record["type"] != "reward":
            _answered(unit, record, measures=self._measures)
            return
        metric = self._rewarded[record["metric"]]
        if record.get("tenant", "") != unit.tenant:
            return  # nobody answers for another tenant's call
        if metric.window_us is not None and self._is_late(unit, record, metric.window_us):
            return
        if metric.type == "proportion":
            self._rewarded_with(unit, record)
        else:
            self._valued_by(unit, metric, record)

    def _is_late(self, unit: Unit, record: Record, window_us: int) -> bool:
        is_late = _time_us(record["time"]) > unit.at_us + window_us
        if is_late and record.get("tenant", "") == unit.tenant:
            _remember(self._late, record["id"])
        return is_late

    def _rewarded_with(self, unit: Unit, record: Record) -> None:
        value_ppm, name = record["value_ppm"], record["metric"]
        if value_ppm not in (0, 1_000_000):
            # A proportion is 0 or 1; anything else is not this metric's and cannot be rounded into it.
            _remember(self._out_of_range, record["id"])
            unit.unusable |= {name}
            return
        rewards = unit.rewards = {} if unit.rewards is None else unit.rewards
        old = rewards.get(name)
        if old is None or record["id"] < old[0]:
            rewards[name] = (record["id"], value_ppm == 1_000_000)

    def _valued_by(self, unit: Unit, metric: MetricDocument, record: Record) -> None:
        """Take in a reward that is a number: once for each event id, the first record of it."""
        value_ppm = record["value_ppm"]
        if record["metric"] == metric.metric and not in_range(metric, value_ppm):
            _remember(self._out_of_range, record["id"])
            unit.unusable |= {metric.metric}
            return
        unit.values = {} if unit.values is None else unit.values
        name = record["metric"]
        events = unit.values.setdefault(name, {})
        # Where nothing is summed the first record counts, whatever its event.
        event = record.get("event_id", "") if name in self._summed else ""
        known = events.get(event)
        if known is None and len(events) >= MOST_EVENTS:
            unit.crowded |= {name}
        elif known is None or record["id"] < known[0]:
            events[event] = (record["id"], value_ppm)


def _is_refused(record: Record) -> bool:
    outcome = record.get("outcome", {})
    code = outcome.get("code")
    # A reply that a policy refuses was the arm's: leaving it out would hide an arm whose replies may not be passed on.
    is_of_the_arm = code in _OF_THE_ARM or outcome.get("policy", {}).get("decision") == "deny"
    is_ours = code is not None and not is_of_the_arm and outcome.get("status", 500) < 500 and not outcome.get("streamed")
    return record.get("policy", {}).get("decision") == "deny" or is_ours


def _answered(unit: Unit, record: Record, *, measures: bool) -> None:
    if record.get("tenant", "") != unit.tenant:
        return  # nobody answers for another tenant's call
    if record["type"] == "label":
        labelled(unit, record)
    else:
        outcome = record["outcome"]
        # Any answer that is not a success is a failure of the arm, also a 4xx by the model: a version that rejects good input is broken.
        # A code beside a good status is a reply that could not be read or broke off: that is a failure too.
        unit.failed = outcome["status"] >= 400 or "code" in outcome
        unit.latency_us = outcome.get("latency_us")
        unit.prediction = record.get("prediction", unit.prediction)
        if measures:
            unit.usage = record.get("usage")


def _remember(ids: set[str], one: str) -> None:
    if len(ids) < _MOST_REMEMBERED:
        ids.add(one)


def _time_us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000)
