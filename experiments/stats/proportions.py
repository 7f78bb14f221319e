"""Proportions at one sample size chosen beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.stats.kinds import check_counts, normal_quantile, normal_tail


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two proportions at a fixed sample size: treatment minus control.

    Attributes:
        difference: point estimate, p_treatment - p_control.
        lower: lower limit of the difference.
        upper: upper limit of the difference.
        p_value: two-sided, of equality.
    """

    difference: float
    lower: float
    upper: float
    p_value: float


def wilson_interval(events: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval of one proportion at a fixed sample size.

    Returns:
        (lower, upper) in [0, 1]; (0, 1) without data.

    Source: Wilson (1927), JASA 22:209; Newcombe (1998), Stat. Med. 17:857, method 3.
    """
    check_counts(events, n)
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(1 - alpha / 2)
    centre = (events + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(events * (n - events) / n + z * z / 4)
    lower = 0.0 if events == 0 else max(0.0, centre - half)
    upper = 1.0 if events == n else min(1.0, centre + half)
    return lower, upper


def compare_proportions(treatment_events: int, treatment_n: int, control_events: int, control_n: int, alpha: float = 0.05) -> Comparison:
    """Difference of two proportions at a fixed sample size: hybrid score interval and pooled z-test.

    Returns:
        `Comparison`; (-1, 1) and p = 1 when an arm has no data.

    Source: Newcombe (1998), Stat. Med. 17:873, method 10.
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if treatment_n == 0 or control_n == 0:
        return Comparison(0.0, -1.0, 1.0, 1.0)
    p1, p0 = treatment_events / treatment_n, control_events / control_n
    low1, high1 = wilson_interval(treatment_events, treatment_n, alpha)
    low0, high0 = wilson_interval(control_events, control_n, alpha)
    difference = p1 - p0
    lower = difference - math.hypot(p1 - low1, high0 - p0)
    upper = difference + math.hypot(high1 - p1, p0 - low0)
    pooled = (treatment_events + control_events) / (treatment_n + control_n)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / treatment_n + 1 / control_n))
    p_value = 1.0 if spread == 0 else 2 * normal_tail(abs(difference) / spread)
    return Comparison(difference, lower, upper, p_value)
