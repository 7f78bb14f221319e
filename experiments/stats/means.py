"""Means at one sample size chosen beforehand: Welch's test.

Looking at these before the planned size and stopping when they please voids them; use a confidence sequence (`asymptotic`, `betting`) or planned
looks (`group_sequential`) for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.stats.kinds import normal_quantile, normal_tail
from experiments.stats.late import special
from experiments.stats.moments import Moments


@dataclass(frozen=True, slots=True)
class Estimate:
    """An effect at a fixed sample size.

    Attributes:
        difference: point estimate.
        standard_error: of it.
        lower: lower limit.
        upper: upper limit.
        p_value: two-sided, of no effect.
        degrees_of_freedom: of Student's t; infinite for the normal.
    """

    difference: float
    standard_error: float
    lower: float
    upper: float
    p_value: float
    degrees_of_freedom: float = math.inf


def welch(treatment: Moments, control: Moments, alpha: float = 0.05) -> Estimate:
    """Difference of two means with unequal variances (treatment minus control).

        t = (m1 - m0) / sqrt(s1/n1 + s0/n0),   df = (s1/n1 + s0/n0)^2 / ((s1/n1)^2/(n1-1) + (s0/n0)^2/(n0-1))

    Assumes independent units and means that are close to normal; with heavy tails that takes many (Kohavi: n >= 355 skewness^2).

    Returns:
        The estimate; with two constant arms the interval is a point and p is 0 or 1.

    Raises:
        ValueError: an arm with fewer than two units.

    Source: Welch (1947), Biometrika 34:28; Satterthwaite (1946), Biometrics 2:110.
    """
    if min(treatment.n, control.n) < 2:
        raise ValueError(f"Welch's test needs two units an arm, got {treatment.n} and {control.n}")
    gap = treatment.mean - control.mean
    first, second = treatment.variance_of_mean, control.variance_of_mean
    squared = first + second
    if squared == 0:
        return Estimate(gap, 0.0, gap, gap, 1.0 if gap == 0 else 0.0)
    freedom = 1 / ((first / squared) ** 2 / (treatment.n - 1) + (second / squared) ** 2 / (control.n - 1))
    error = math.sqrt(squared)
    half = float(special.stdtrit(freedom, 1 - alpha / 2)) * error
    return Estimate(gap, error, gap - half, gap + half, 2 * float(special.stdtr(freedom, -abs(gap) / error)), freedom)


def normal_estimate(difference: float, variance: float, alpha: float = 0.05) -> Estimate:
    """Estimate of an effect whose estimator is approximately normal with the given variance."""
    if variance <= 0:
        return Estimate(difference, 0.0, difference, difference, 1.0 if difference == 0 else 0.0)
    error = math.sqrt(variance)
    half = normal_quantile(1 - alpha / 2) * error
    return Estimate(difference, error, difference - half, difference + half, 2 * normal_tail(abs(difference) / error))
