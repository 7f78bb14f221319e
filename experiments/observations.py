"""What a unit is worth in each metric, and what an arm's units amount to: counts, moments, and who has not answered.

| type | a unit's value | when nothing came |
|---|---|---|
| `proportion` | yes or no, the first that was said | by `missing` |
| `mean` | the first value reported, or what the record of the call says | by `missing` |
| `count` | the sum of the values of distinct events | by `missing` |
| `ratio` | the sums of the metric and of the one it is `per` | not observed |
| `quantile` | whether the value lies past a threshold | by `missing` |

Rules (semantics.md 4.3 and 4.8):

- With a `window` only units whose window has closed are *due*; until then they are pending. So the arm whose feedback comes faster gains nothing.
- `missing` says what a due unit without feedback is: left out (`drop`), 0 (`zero`), or a reason to judge nothing (`refuse`, which the judge does).
- A quantile becomes a rate. Its threshold is the control's own quantile among its first units in the order of decisions, which then count for
  nothing; the rarer side of the threshold is counted, because rare events carry the evidence. Nothing is assumed about tails, or about what one slow
  minute does to the next: given that a value lies past the threshold, its arm is a draw. Of ties with it good events count, bad ones do not: so
  "not worse" is never shown because many values are the same.
- *A call that failed shows nothing good.* It lies past every threshold, on the bad side; a prediction it did not make was wrong, where a label came;
  and it gives no number to a mean or a ratio of calls, whose observed units must then come in the declared ratio. A version that fails fast on what
  is hard would look fast, and right, otherwise.
- Labels have a response rate by arm as other feedback has.

Example:
    >>> observed(metric, ["a", "b"], "a", units, now_us).events
    {'a': 12, 'b': 4}
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from experiments import stats
from experiments.document import MetricDocument, MetricSource
from experiments.labels import Label, label_of, standing, with_label
from experiments.values import first_of, moments_of, sum_of

BURN_IN_EVENTS = 10
"""Expected events among the control's units that fix a threshold: 200 units for p95. Both arms meet the same one, so it need not be exact."""


class MetricEvidence(msgspec.Struct, frozen=True):
    """Counts of one metric. `events` are the bad ones: failures, wrong predictions, slow calls, missing successes.

    Of a quantile they may be the good ones (`MetricDocument.counts_good_events`).
    """

    units: dict[str, int]
    events: dict[str, int]
    events_past_margin: dict[str, int] | None = None
    """Of a quantile: events of threshold and margin together."""
    threshold_us: int | None = None
    """Of a latency."""
    threshold_ppm: int | None = None
    """Of another quantile, in millionths of its unit."""
    moments: dict[str, stats.Moments] | None = None
    """Of values (`experiments/values.py`): arm -> moments of its units."""
    due: dict[str, int] | None = None
    """Of feedback and labels: arm -> units that should have answered by now; of calls' numbers those whose call has ended."""
    answered: dict[str, int] | None = None
    """Arm -> those of them that have a value; of calls' numbers those that succeeded and say it."""
    pending: int = 0
    """Units whose window is still open."""
    unusable: dict[str, int] | None = None
    """Of feedback: arm -> units of which a value came that is none of this metric's."""
    crowded: int = 0
    """Units with more events than are kept for one: their sums are not known."""


class Unit(msgspec.Struct):
    """What is known of a unit's first decision. Owned by the `Fold` that keeps it (`experiments/evidence.py`)."""

    decision: str
    arm: str
    diverted: bool
    tenant: str
    failed: bool | None = None
    latency_us: int | None = None
    prediction: str | None = None
    labels: tuple[Label, ...] = ()
    """What was said, at most `MOST_LABELS`; `label` is what counts of it."""
    label: str | None = None
    rewards: dict[str, tuple[str, bool]] | None = None
    values: dict[str, dict[str, tuple[str, int]]] | None = None
    usage: Mapping[str, int] | None = None
    """Rows, bytes, tokens and cost of the call; only where a metric asks for them."""
    at_us: int = 0
    """When it was decided; only where a metric has a window."""
    segments: dict[str, str] | None = None
    flipped: bool = False
    """It came with another arm too."""
    unusable: frozenset[str] = frozenset()
    """Metrics of which a value came that is outside their range."""
    crowded: frozenset[str] = frozenset()
    """Metrics of which more events came than are kept."""


def labelled(unit: Unit, record: Mapping[str, Any]) -> None:
    """Take in a label: the first counts, and of corrections by who may make them the last."""
    unit.labels = with_label(unit.labels, label_of(record))
    unit.label = standing(unit.labels)


def is_answered(unit: Unit, metric: MetricDocument) -> bool:
    """Say whether a unit can be told of: its feedback has come, its label and what it is compared with, its call's number."""
    if metric.kind == "label":
        return unit.label is not None and _is_bad(unit, metric) is not None
    if metric.kind == "measured" or metric.type == "ratio":
        return _value(unit, metric) is not None or (metric.type == "quantile" and _is_lost(unit, metric))
    return metric.metric in ((unit.rewards if metric.type == "proportion" else unit.values) or {})


def observed(metric: MetricDocument, arms: Sequence[str], control: str, units: Collection[Unit], now_us: int) -> MetricEvidence:
    """Return what units amount to in one metric.

    Args:
        metric: what is measured.
        arms: every arm, sorted.
        control: the arm that fixes a quantile's threshold.
        units: those that count.
        now_us: time of the newest record, which closes windows.
    """
    if metric.kind == "latency":
        timed = [(unit.decision, unit.arm, None if unit.failed else unit.latency_us) for unit in units if unit.failed or unit.latency_us is not None]
        return _past_threshold(metric, arms, control, timed)
    if metric.kind in ("errors", "diverted") or (metric.kind == "measured" and metric.type == "quantile" and not metric.reads_usage):
        return _amounting(metric, arms, control, units)
    due = [unit for unit in units if _is_due(unit, metric, now_us)]
    found = _amounting(metric, arms, control, due)
    asked, answered = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    for unit in due:
        asked[unit.arm] += 1
        answered[unit.arm] += is_answered(unit, metric)
    pending = len(units) - len(due) if metric.kind != "measured" else 0
    unusable, crowded = dict.fromkeys(arms, 0), 0
    for unit in due:
        unusable[unit.arm] += metric.metric in unit.unusable
        crowded += not unit.crowded.isdisjoint((metric.metric, metric.per))
    return msgspec.structs.replace(found, due=asked, answered=answered, pending=pending, unusable=unusable, crowded=crowded)


def _is_due(unit: Unit, metric: MetricDocument, now_us: int) -> bool:
    if metric.kind == "measured":
        return unit.failed is not None
    return metric.window_us is None or unit.at_us + metric.window_us <= now_us


def _amounting(metric: MetricDocument, arms: Sequence[str], control: str, units: Collection[Unit]) -> MetricEvidence:
    if metric.type == "proportion":
        return _counts(metric, arms, units)
    if metric.type == "quantile":
        ranked = [(unit.decision, unit.arm, value) for unit in units if (value := _value(unit, metric)) is not None or _is_lost(unit, metric)]
        return _past_threshold(metric, arms, control, ranked)
    by_arm: dict[str, list[Any]] = {arm: [] for arm in arms}
    for unit in units:
        if (value := _value(unit, metric)) is not None:
            by_arm[unit.arm].append(value)
    moments = {arm: moments_of(metric, found) for arm, found in by_arm.items()}
    return MetricEvidence({arm: found.n for arm, found in moments.items()}, dict.fromkeys(arms, 0), moments=moments)


def _counts(metric: MetricDocument, arms: Sequence[str], units: Collection[Unit]) -> MetricEvidence:
    counted, events = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    for unit in units:
        bad = _is_bad(unit, metric)
        if bad is not None:
            counted[unit.arm] += 1
            events[unit.arm] += bad
    return MetricEvidence(counted, events)


def burn_in_units(metric: MetricDocument) -> int:
    """Return how many of the control's first units fix a quantile's threshold."""
    quantile_ppm = metric.quantile_ppm or 0
    tail_ppm = 1_000_000 - quantile_ppm if metric.counts_above else quantile_ppm
    return math.ceil(BURN_IN_EVENTS * 1_000_000 / tail_ppm)


def threshold_in_words(metric: MetricDocument, found: MetricEvidence) -> str:
    """Return what a quantile's events are, as a tail of a sentence; empty for anything else."""
    side = "above" if metric.counts_above else "below"
    if metric.counts_good_events:
        side = "at or " + side
    if found.threshold_us is not None:
        return f" {side} {found.threshold_us / 1000:g} ms"
    return "" if found.threshold_ppm is None else f" {side} {found.threshold_ppm / 1e6:g} {metric.unit}".rstrip()


def _is_lost(unit: Unit, metric: MetricDocument) -> bool:
    """Say whether a number of the call itself is missing because the call failed."""
    return metric.kind == "measured" and unit.failed is True


def _past_threshold(metric: MetricDocument, arms: Sequence[str], control: str, values: list[tuple[str, str, int | None]]) -> MetricEvidence:
    """Counts of values past the control's quantile among its first units.

    Args:
        metric: the quantile.
        arms: every arm.
        control: whose units fix the threshold.
        values: (decision, arm, value), the value in microseconds or ppm; None of a call that failed, which is past it on the bad side.
    """
    units, events, past = (dict.fromkeys(arms, 0) for _ in range(3))
    if metric.quantile_ppm is None:
        raise ValueError(f"metric `{metric.metric}` is a quantile and does not say which")
    values.sort()
    burn_in = burn_in_units(metric)
    first = [(decision, value) for decision, arm, value in values if arm == control and value is not None][:burn_in]
    if len(first) < burn_in:
        return MetricEvidence(units, events, past)
    threshold = sorted(value for _, value in first)[math.ceil(burn_in * metric.quantile_ppm / 1_000_000) - 1]
    slack = metric.margin if metric.margin_unit == "ms" else abs(threshold) * metric.margin // 1_000_000
    lenient = threshold + slack if metric.better == "lower" else threshold - slack
    for decision, arm, value in values:
        if decision > first[-1][0]:
            units[arm] += 1
            events[arm] += _is_past(metric, value, threshold)
            past[arm] += _is_past(metric, value, lenient)
    if metric.kind == "latency":
        return MetricEvidence(units, events, past, threshold_us=threshold)
    return MetricEvidence(units, events, past, threshold_ppm=threshold)


def _is_past(metric: MetricDocument, value: int | None, threshold: int) -> bool:
    """Say whether a value is the metric's event; a tie is a good event and no bad one.

    The share of the control's values *at or past* its quantile is at least what the quantile says, the share *past* it at most: so more good events
    than the first, or fewer bad ones than the second, show that the quantile is kept, however many values are the same.
    """
    if value is None or value == threshold:
        return metric.counts_good_events is not (value is None)
    return (value > threshold) is metric.counts_above


def _value(unit: Unit, metric: MetricDocument) -> Any:
    """A unit's value in ppm, a pair for a ratio; None without an observation."""
    if metric.type == "ratio":
        above, below = _sum(unit, metric.metric, metric.source), _sum(unit, metric.per or "", metric.per_source)
        return None if above is None or below is None else (above, below)
    if metric.kind == "measured":
        return None if unit.failed else _of_call(unit, metric.source)
    found = (unit.values or {}).get(metric.metric)
    if found is None:
        # What came and could not be used was no zero.
        return 0 if metric.missing == "zero" and metric.metric not in unit.unusable else None
    return sum_of(found) if metric.type == "count" else first_of(found)


def _sum(unit: Unit, name: str, source: MetricSource) -> int | None:
    if source != "feedback":
        return None if unit.failed else _of_call(unit, source)
    found = (unit.values or {}).get(name)
    return None if found is None else sum_of(found)


def _of_call(unit: Unit, source: MetricSource) -> int | None:
    """What the record of a call says, in ppm of the metric's unit."""
    if source == "latency":
        return None if unit.latency_us is None else unit.latency_us * 1_000
    return measured_ppm(unit.usage or {}, source)


def measured_ppm(usage: Mapping[str, Any], source: MetricSource) -> int | None:
    """Return what a record's `usage` says, in millionths of rows, bytes, tokens, or of the currency a thousand calls; None where it says nothing."""
    if source == "cost":
        return usage.get("cost_nano")
    if source == "tokens":
        counted = [usage[kind] for kind in ("input_tokens", "output_tokens") if kind in usage]
        return sum(counted) * 1_000_000 if counted else None
    found = usage.get(source)
    return None if found is None else found * 1_000_000


def _is_bad(unit: Unit, metric: MetricDocument) -> bool | None:
    """Whether the unit had the metric's bad event; None without an observation."""
    if metric.kind == "errors":
        return unit.failed
    if metric.kind == "diverted":
        return unit.diverted
    if metric.kind == "label":
        return _is_wrong(unit, metric)
    reward = (unit.rewards or {}).get(metric.metric)
    if reward is None:
        return metric.better == "higher" if metric.missing == "zero" and metric.metric not in unit.unusable else None
    return reward[1] is (metric.better == "lower")


def _is_wrong(unit: Unit, metric: MetricDocument) -> bool | None:
    """Whether a prediction was wrong; a call that failed predicted nothing right."""
    if unit.label is None and metric.missing != "zero":
        return None
    if unit.failed and unit.prediction is None:
        return True
    if unit.label is None:
        return None if unit.failed is None else False
    return None if unit.prediction is None else unit.label != unit.prediction
