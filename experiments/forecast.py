"""What an experiment can show, before it starts: units by week, the smallest difference it would find, and whether its deadline is long enough.

Sizes are for the always-valid tests that judge it: the fixed-size formula times the price of looking whenever one likes
(`stats.always_valid_inflation`), at 80 % power. Rules:
- `units_per_day` are taken as new units every day. Units that come back every day bring less: then the first day's count is nearly all there is.
- Arms collect units as the ramp says: each step for its hold, the last one until the deadline.
- A margin in percentage points needs (z_alpha + z_power)^2 * 2 p (1-p) / margin^2 units an arm when nothing differs; a deadline that passes before is
  too short, and the experiment would end undecided although nothing is wrong with the challenger.

Example:
    >>> forecast(document, units_per_day=20_000, rates={"errors": 0.01}).metrics[0].needed_units
    9130
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from experiments.document import ExperimentDocument, MetricDocument
from experiments.shares import WHOLE
from experiments.stats.power import always_valid_inflation, detectable_rate, units_for_mean

POWER = 0.8
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
    return Forecast(
        {week: math.floor(_units_an_arm(document, units_per_day, 7 * week)) for week in WEEKS},
        tuple(_metric(document, metric, role, units_per_day, rates) for metric, role in metrics if metric.kind != "latency"),
        None if document.deadline_us is None else document.deadline_us / _DAY_US,
    )


def _units_an_arm(document: ExperimentDocument, units_per_day: float, days: float) -> float:
    """Units the smallest compared arm has seen after some days on the ramp."""
    total, left = 0.0, days
    for number, step in enumerate(document.steps):
        is_last = number + 1 == len(document.steps)
        spent = left if is_last else min(left, step.hold_us / _DAY_US)
        if step.tested:
            total += spent * units_per_day * step.exposure / WHOLE * min(step.shares.values()) / WHOLE
        left -= spent
    return total


def _metric(document: ExperimentDocument, metric: MetricDocument, role: str, units_per_day: float, rates: Mapping[str, float]) -> MetricForecast:
    rate = rates.get(metric.metric, ASSUMED_RATES[metric.kind])
    alpha = document.alpha_ppm / 1e6
    inflation = always_valid_inflation(alpha, POWER)
    found = {}
    for week in WEEKS:
        n = _units_an_arm(document, units_per_day, 7 * week) / inflation
        found[week] = detectable_rate(rate, n, alpha=alpha, power=POWER) - rate if n >= 2 else math.inf
    forecast = MetricForecast(metric.metric, role, rate, metric.metric not in rates, found)
    if metric.margin_unit != "pp" or metric.margin == 0:
        return forecast
    margin = metric.margin / 1e6
    # One-sided at alpha: the two-sided formula at twice that.
    needed = units_for_mean(math.sqrt(rate * (1 - rate)), margin, alpha=min(0.5, 2 * alpha), power=POWER) * inflation
    return msgspec.structs.replace(forecast, margin=margin, needed_units=math.ceil(needed), needed_days=_days_until(document, units_per_day, needed))


def _days_until(document: ExperimentDocument, units_per_day: float, units: float) -> float:
    """Days on the ramp until the smallest arm has that many units; infinite after ten years."""
    low, high = 0.0, 3650.0
    if _units_an_arm(document, units_per_day, high) < units:
        return math.inf
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if _units_an_arm(document, units_per_day, middle) >= units else (middle, high)
    return high
