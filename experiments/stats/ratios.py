"""Ratios of means: metrics per request when units are randomised, and relative lifts.

A rate per request under assignment by unit is a ratio of two unit totals (failures a unit over requests a unit). Treating its requests as independent
raised 25 % false alarms at 5 %; the delta method over units does not.

Example:
    >>> treatment = JointMoments.of(np.column_stack([failures, requests]))   # one row a unit
    >>> ratio_difference(treatment, control).lower
    0.0012
"""

from __future__ import annotations

import math

from experiments.stats.kinds import normal_quantile
from experiments.stats.means import Estimate, normal_estimate
from experiments.stats.moments import JointMoments, Moments

FEWEST_ERRORS = 4.0
"""Standard errors that a mean denominator has to be away from 0. Four: below that Fieller's interval is visibly lopsided, or unbounded."""


def linearised(joint: JointMoments, numerator: int = 0, denominator: int = 1) -> Moments:
    """Unit values whose mean is the ratio R = mean(x) / mean(y), to first order: L = R + (x - R y) / mean(y).

    So `variance / n` is the delta-method variance of R:

        Var(R) = (1/n) (s_xx / y^2 - 2 x s_xy / y^3 + x^2 s_yy / y^4)        (means x, y; covariances s)

    Assumes the mean denominator is many standard errors from 0 (`require_denominator`); else use `fieller_interval`.

    Raises:
        ValueError: a mean denominator of 0.

    Source: Deng, Knoblich & Lu (2018), KDD, "Applying the delta method in metric analytics", section 3.
    """
    below = float(joint.mean[denominator])
    if below == 0:
        raise ValueError("the denominator of the ratio is 0 on average")
    ratio = float(joint.mean[numerator]) / below
    weights = [0.0] * joint.mean.size
    weights[numerator], weights[denominator] = 1 / below, -ratio / below
    return joint.along(weights, offset=ratio)


def require_denominator(joint: JointMoments, denominator: int = 1) -> None:
    """Refuse a mean denominator so close to 0 that the first order is not enough. Raises ValueError."""
    if joint.n == 0:
        return
    below, error = abs(float(joint.mean[denominator])), float(joint.covariance[denominator, denominator] / joint.n) ** 0.5
    if below < FEWEST_ERRORS * error:
        raise ValueError(f"the mean denominator of the ratio is {below / error:.1f} standard errors from 0; {FEWEST_ERRORS:g} are needed")


def ratio_difference(treatment: JointMoments, control: JointMoments, alpha: float = 0.05) -> Estimate:
    """Difference of two ratios of unit totals at a fixed sample size, by the delta method. Source: `linearised`, with its assumptions."""
    first, second = linearised(treatment), linearised(control)
    if min(first.n, second.n) < 2:
        raise ValueError(f"a ratio needs two units an arm, got {first.n} and {second.n}")
    return normal_estimate(first.mean - second.mean, first.variance_of_mean + second.variance_of_mean, alpha)


def relative_lift(treatment: Moments, control: Moments, alpha: float = 0.05) -> Estimate:
    """Relative lift (m1 - m0) / |m0| at a fixed sample size, by the delta method.

        Var = s1 / (n1 m0^2) + m1^2 s0 / (n0 m0^4)

    With a negative baseline the sign is that of m1 - m0. Assumes m0 is many standard errors from 0; else use `fieller_interval`.

    Raises:
        ValueError: a control mean of 0, or fewer than two units an arm.

    Source: Deng, Knoblich & Lu (2018), section 3.
    """
    if control.mean == 0:
        raise ValueError("the control's mean is 0, so no lift relative to it exists")
    if min(treatment.n, control.n) < 2:
        raise ValueError(f"a lift needs two units an arm, got {treatment.n} and {control.n}")
    base = abs(control.mean)
    variance = treatment.variance_of_mean / base**2 + treatment.mean**2 * control.variance_of_mean / base**4
    return normal_estimate((treatment.mean - control.mean) / base, variance, alpha)


def fieller_interval(treatment: Moments, control: Moments, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of the ratio of means m1 / m0 of independent arms, also with a noisy denominator.

    The r for which m1 - r m0 is not significantly different from 0; with g = z^2 v0 / m0^2 and v the squared standard errors:

        ( R +- (z / m0) sqrt( v1 (1 - g) + R^2 v0 ) ) / (1 - g)

    Returns:
        (lower, upper); (-inf, inf) if the denominator is not significantly different from 0 (g >= 1): no bounded set has the level.

    Source: Fieller (1954), JRSS-B 16:175.
    """
    if min(treatment.n, control.n) < 2 or control.mean == 0:
        return -math.inf, math.inf
    z = normal_quantile(1 - alpha / 2)
    first, second = treatment.variance_of_mean, control.variance_of_mean
    g = z * z * second / control.mean**2
    if g >= 1:
        return -math.inf, math.inf
    ratio = treatment.mean / control.mean
    half = z / abs(control.mean) * math.sqrt(first * (1 - g) + ratio**2 * second)
    return (ratio - half) / (1 - g), (ratio + half) / (1 - g)
