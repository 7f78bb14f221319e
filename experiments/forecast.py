"""What an experiment can show, before it starts: units by week, the smallest difference it would find, and whether its deadline is long enough.

Sizes are those of the very tests that judge it (`experiments/judge.py`), at 80 % power at the last look: the judge is asked about the counts that
only 20 % of the runs fall behind. Looking on the way, it mostly ends sooner. Rules:
- `units_per_day` are taken as new units every day. Units that come back every day bring less: then the first day's count is nearly all there is.
- Arms collect units as the ramp says: each step for its hold, the last one until the deadline.
- A margin in percentage points is looked at as if nothing differed; a deadline that passes before it is proven is too short, and the experiment would
  end undecided although nothing is wrong with the challenger.
- Numbers (means, counts, ratios) are left out: how much they vary is not known before.

Example:
    >>> forecast(document, units_per_day=20_000, rates={"errors": 0.01}).metrics[0].needed_units
    14844
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec

from experiments import stats
from experiments.document import ExperimentDocument, MetricDocument
from experiments.effects import tuned_for
from experiments.judge import harm_log_e
from experiments.shares import WHOLE
from experiments.stats import normal_quantile

POWER = 0.8
MIN_UNITS = 2
WEEKS = (1, 2, 3, 4, 6, 8)
_DAY_US = 86_400_000_000
ASSUMED_RATES: Mapping[str, float] = {"errors": 0.01, "diverted": 0.001, "label": 0.1, "reward": 0.1}
"""Rates of bad events taken where nobody says better, by kind of metric."""


class MetricForecast(msgspec.Struct, frozen=True, omit_defaults=True):
    """What can be shown of one metric."""

    metric: str
    role: str
    rate: float
    """Of bad events, in the control."""
    is_assumed: bool
    detectable: dict[int, float]
    """Week -> smallest rise of the rate that would be found."""
    margin: float | None = None
    needed_units: int | None = None
    """Units an arm to prove the margin when nothing differs."""
    needed_days: float | None = None
    """Days until then on this ramp; infinite where it never gets there."""


class Forecast(msgspec.Struct, frozen=True):
    """What an experiment can show."""

    units_by_week: dict[int, int]
    """Week -> units an arm that is compared."""
    metrics: tuple[MetricForecast, ...]
    deadline_days: float | None

    @property
    def too_short_for(self) -> list[MetricForecast]:
        """Return the metrics whose margin cannot be proven before the deadline."""
        limit = self.deadline_days
        return [] if limit is None else [one for one in self.metrics if one.needed_days is not None and one.needed_days > limit]


def forecast(document: ExperimentDocument, *, units_per_day: float, rates: Mapping[str, float]) -> Forecast:
    """Forecast an experiment.

    Args:
        document: compiled.
        units_per_day: new units of the model a day, all of them.
        rates: metric -> rate of bad events in the control; what is missing is assumed.

    Raises:
        ValueError: no units, or a rate outside (0, 1).
    """
    if not units_per_day > 0 or any(not 0 < rate < 1 for rate in rates.values()):
        raise ValueError("units a day must be above 0 and rates between 0 and 1")
    metrics = [*(() if document.goal is None else ((document.goal, "goal"),)), *((metric, "guardrail") for metric in document.guardrails)]
    treatments = len(document.arms) - 1
    # As the judge splits them.
    alpha, alpha_harm = document.alpha_ppm / 1e6 / treatments, document.alpha_harm_ppm / 1e6 / max(1, len(metrics) * treatments)
    return Forecast(
        {week: math.floor(_units_an_arm(document, units_per_day, 7 * week)) for week in WEEKS},
        tuple(_metric(document, metric, role, units_per_day, rates, (alpha, alpha_harm)) for metric, role in metrics if _is_rate(metric)),
        None if document.deadline_us is None else document.deadline_us / _DAY_US,
    )


def _is_rate(metric: MetricDocument) -> bool:
    return metric.kind != "latency" and metric.type == "proportion" and metric.is_identified


def _units_an_arm(document: ExperimentDocument, units_per_day: float, days: float) -> float:
    """Units the smallest compared arm has seen after some days on the ramp."""
    total, left = 0.0, days
    for number, step in enumerate(document.steps):
        is_last = number + 1 == len(document.steps)
        spent = left if is_last else min(left, step.hold_us / _DAY_US)
        if step.tested and step.shares:
            total += spent * units_per_day * step.exposure / WHOLE * min(step.shares.values()) / WHOLE
        left -= spent
    return total


def _metric(
    document: ExperimentDocument, metric: MetricDocument, role: str, units_per_day: float, rates: Mapping[str, float], alphas: tuple[float, float]
) -> MetricForecast:
    rate = rates.get(metric.metric, ASSUMED_RATES[metric.kind])
    alpha, alpha_harm = alphas
    found = {week: _detectable(rate, _units_an_arm(document, units_per_day, 7 * week), alpha_harm) - rate for week in WEEKS}
    forecast = MetricForecast(metric.metric, role, rate, metric.metric not in rates, found)
    if metric.margin_unit != "pp" or metric.margin == 0:
        return forecast
    margin = metric.margin / 1e6
    needed = _needed(rate, margin, alpha, tuned_for(document))
    return msgspec.structs.replace(forecast, margin=margin, needed_units=math.ceil(needed), needed_days=_days_until(document, units_per_day, needed))


def _needed(rate: float, margin: float, alpha: float, n_star: int) -> float:
    """Units an arm at which the judge proves a margin in 80 % of the runs when nothing differs."""

    def is_proven(units: float) -> bool:
        events, control_events = _counts(units, rate, rate, unlucky=1)
        n = round(units)
        log_e = stats.log_non_inferiority_e_value(events, n, control_events, n, margin, n_star=n_star, alpha=alpha)
        return log_e >= math.log(1 / alpha)

    return _first(is_proven, 2.0, 1e12)


def _detectable(rate: float, units: float, alpha_harm: float) -> float:
    """Rate of a treatment that the judge finds harmful in 80 % of the runs by so many units an arm; infinite if there is none."""

    def is_found(treated: float) -> bool:
        events, control_events = _counts(units, treated, rate, unlucky=-1)
        return harm_log_e(events, control_events, 0.5) >= math.log(1 / alpha_harm)

    return _first(is_found, rate, 1.0) if units >= MIN_UNITS and is_found(1.0) else math.inf


def _counts(units: float, treated: float, control: float, *, unlucky: int) -> tuple[int, int]:
    """Bad events of both arms when their difference is as far on the wrong side (`unlucky`: 1 too high, -1 too low) as 20 % of the runs exceed."""
    spread = units * (treated * (1 - treated) + control * (1 - control))
    shift = unlucky * normal_quantile(POWER) * math.sqrt(spread) / 2
    events, control_events = (min(max(0, round(units * rate + side)), round(units)) for rate, side in ((treated, shift), (control, -shift)))
    return events, control_events


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Smallest number between the two from which a statement holds, to a thousandth; `high` if it holds nowhere before."""
    while high - low > 1e-3 * high and high - low > 1e-7:
        middle = math.sqrt(low * high) if low > 0 else high / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _days_until(document: ExperimentDocument, units_per_day: float, units: float) -> float:
    """Days on the ramp until the smallest arm has that many units; infinite after ten years."""
    low, high = 0.0, 3650.0
    if _units_an_arm(document, units_per_day, high) < units:
        return math.inf
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if _units_an_arm(document, units_per_day, middle) >= units else (middle, high)
    return high
