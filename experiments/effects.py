"""How large an effect is, with an interval that holds at all times: what people read beside the verdict.

A verdict (`experiments/judge.py`) answers "is it proven?"; an effect answers "how much?". Both come from the same counts. Values are integers in
parts per million, lower bounds rounded down and upper ones up, so that they can stand in records and reports. A metric that is better when higher is
told as people know it: accuracy 91 %, not its 9 % of errors.

The interval inverts the very e-process that proves "not worse": where it leaves the margin out, the verdict is fine. Valid however often someone
looks, exact for units' yes or no, and tightest near
`tuned_for`.

Example:
    >>> effects(document, fold.evidence())[0].difference_ppm
    -4200
"""

from __future__ import annotations

import math

import msgspec

from experiments import stats
from experiments.document import ExperimentDocument, MetricDocument
from experiments.evidence import Evidence
from experiments.observations import MetricEvidence, threshold_in_words
from experiments.values import bounds

PPM = 1_000_000


class Effect(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric of one arm against the control."""

    metric: str
    arm: str
    role: str
    """`goal` or `guardrail`."""
    better: str
    n: int
    """Units of the arm with an observation."""
    control_n: int
    value_ppm: int | None = None
    control_ppm: int | None = None
    difference_ppm: int | None = None
    low_ppm: int | None = None
    high_ppm: int | None = None
    margin_ppm: int | None = None
    """Where the margin lies, signed; of margins in percentage points, and of values."""
    unit: str = "rate"
    """`rate`, or `value` of a mean, count or ratio in millionths of its own unit."""
    past: str = ""
    """Of a quantile: what the rate is of, `above 212 ms`."""
    of: str = ""
    """Of a value: what it is counted in, `ms`, `EUR per 1,000 calls`; empty where only its owner knows."""


def effects(document: ExperimentDocument, evidence: Evidence) -> list[Effect]:
    """Return the effects of every treatment, the goal first."""
    treatments = [arm for arm in sorted(document.arms) if arm != document.control]
    metrics = [*(() if document.goal is None else ((document.goal, "goal"),)), *((metric, "guardrail") for metric in document.guardrails)]
    alpha = document.alpha_ppm / PPM / len(treatments)
    return [
        _effect(metric, role, evidence.metrics[metric.metric], arm, document.control, alpha, tuned_for(document))
        for metric, role in metrics
        for arm in treatments
        if metric.metric in evidence.metrics
    ]


def _of_values(metric: MetricDocument, role: str, moments: dict[str, stats.Moments], arm: str, control: str, alpha: float, planned: int) -> Effect:
    treated, base = moments[arm], moments[control]
    told = Effect(
        metric.metric, arm, role, metric.better, treated.n, base.n, round(treated.mean * PPM), round(base.mean * PPM), unit="value", of=metric.unit
    )
    told = msgspec.structs.replace(told, difference_ppm=round((treated.mean - base.mean) * PPM))
    try:
        low, high = bounds(treated, base, planned, alpha)
    except stats.BurnInError:
        return told
    margin = round(abs(base.mean) * metric.margin)
    signed = margin if metric.better == "lower" else -margin
    return msgspec.structs.replace(told, low_ppm=math.floor(low * PPM), high_ppm=math.ceil(high * PPM), margin_ppm=signed)


def tuned_for(document: ExperimentDocument) -> int:
    """Return the units of two arms together at which sequences are tightest: a tenth of what the plan makes likely, at least 1,000.

    A tenth, because a sequence tuned for n* is within about twice the fixed width from n*/10 to 10 n*, and eight times as wide at n*/100: what people
    look at first would say nothing. It follows from the plan, so it was chosen before the start.
    """
    return max(1000, 8 * sum(step.min_units for step in document.steps) // 10)


def _effect(metric: MetricDocument, role: str, found: MetricEvidence, arm: str, control: str, alpha: float, planned: int) -> Effect:
    n, control_n = found.units[arm], found.units[control]
    if not n or not control_n:
        return Effect(metric.metric, arm, role, metric.better, n, control_n)
    if found.moments is not None:
        return _of_values(metric, role, found.moments, arm, control, alpha, planned)
    bad, control_bad = found.events[arm], found.events[control]
    low, high = stats.product_difference_bounds(bad, n, control_bad, control_n, alpha, n_star=planned)
    value, control_value = bad / n, control_bad / control_n
    # Told as people know it; of a quantile as the share past its threshold, which better and worse are about.
    better = metric.better
    if found.events_past_margin is not None:
        better = "higher" if metric.counts_good_events else "lower"
    elif better == "higher":
        value, control_value, low, high = 1 - value, 1 - control_value, -high, -low
    return Effect(
        metric.metric,
        arm,
        role,
        better,
        n,
        control_n,
        round(value * PPM),
        round(control_value * PPM),
        round((value - control_value) * PPM),
        math.floor(low * PPM),
        math.ceil(high * PPM),
        None if metric.margin_unit != "pp" else metric.margin if metric.better == "lower" else -metric.margin,
        past=threshold_in_words(metric, found).strip(),
    )
