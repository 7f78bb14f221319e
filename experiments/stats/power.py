"""Before the start: how many units, and what could be seen with those there are.

Rules: `n` is units of the *control*; the treatment gets `ratio` times as many. Everything is two-sided. Multipliers for what is not a fixed-size test
of independent units: `always_valid_inflation` (rates: `always_valid_rate_inflation`), `group_sequential.inflation`, `cuped_factor`, `design_effect`.

Example:
    >>> round(units_for_proportions(0.10, 0.11, alpha=0.05, power=0.8))
    14745
    >>> round(14745 * always_valid_rate_inflation(0.05, 0.8))
    29875
"""

from __future__ import annotations

import math
from functools import cache

from experiments.stats.asymptotic import asymptotic_half_width, asymptotic_rho
from experiments.stats.binomial import product_difference_bounds
from experiments.stats.kinds import normal_quantile
from experiments.stats.late import optimize, special


def units_for_mean(sd: float, effect: float, *, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0) -> float:
    """Units of the control for a difference of means.

        n = (1 + 1/ratio) sd^2 (z_{1-alpha/2} + z_{power})^2 / effect^2

    Assumes the same standard deviation in both arms. The other tail's tiny chance is left out.

    Source: van Belle (2008), Statistical Rules of Thumb, 2.1.
    """
    _check(alpha, power, ratio)
    if effect == 0 or not sd > 0:
        raise ValueError("the effect must not be 0 and the standard deviation must be above 0")
    return (1 + 1 / ratio) * (sd * (normal_quantile(1 - alpha / 2) + normal_quantile(power)) / effect) ** 2


def units_for_proportions(control: float, treatment: float, *, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0) -> float:
    """Units of the control for a difference of two proportions.

        n = ( z_{1-alpha/2} sqrt(pq (1 + 1/ratio)) + z_{power} sqrt(p0 q0 + p1 q1 / ratio) )^2 / (p1 - p0)^2,   p = (p0 + ratio p1) / (1 + ratio)

    Source: Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, eq. 4.14 (without continuity correction).
    """
    _check(alpha, power, ratio)
    if not (0 <= control <= 1 and 0 <= treatment <= 1) or control == treatment:
        raise ValueError(f"the rates {control:g} and {treatment:g} must lie in [0, 1] and differ")
    pooled = (control + ratio * treatment) / (1 + ratio)
    null = math.sqrt(pooled * (1 - pooled) * (1 + 1 / ratio))
    alternative = math.sqrt(control * (1 - control) + treatment * (1 - treatment) / ratio)
    return ((normal_quantile(1 - alpha / 2) * null + normal_quantile(power) * alternative) / (treatment - control)) ** 2


def detectable_difference(sd: float, n: float, *, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0) -> float:
    """Smallest difference of means seen with the given power at n units of the control: the inverse of `units_for_mean`."""
    _check(alpha, power, ratio)
    if not n > 0:
        return math.inf
    return (normal_quantile(1 - alpha / 2) + normal_quantile(power)) * sd * math.sqrt((1 + 1 / ratio) / n)


def detectable_rate(control: float, n: float, *, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0) -> float:
    """Smallest higher rate seen with the given power at n units of the control; 1 if none is."""
    _check(alpha, power, ratio)
    if control >= 1 or units_for_proportions(control, 1.0, alpha=alpha, power=power, ratio=ratio) > n:
        return 1.0

    def lacking(rate: float) -> float:
        return units_for_proportions(control, rate, alpha=alpha, power=power, ratio=ratio) - n

    return float(optimize.brentq(lacking, control + 1e-12, 1.0, xtol=1e-14))


def power_for_mean(sd: float, effect: float, n: float, *, alpha: float = 0.05, ratio: float = 1.0) -> float:
    """Power of the two-sided z-test, both tails, at n units of the control."""
    shift = abs(effect) / (sd * math.sqrt((1 + 1 / ratio) / n))
    z = normal_quantile(1 - alpha / 2)
    return float(special.ndtr(shift - z) + special.ndtr(-shift - z))


def always_valid_inflation(alpha: float = 0.05, power: float = 0.8) -> float:
    """Units of the asymptotic confidence sequence over a fixed-size test's, for the same power at the tuned n*; about 1.9.

        ((h + z_{power}) / (z_{1-alpha/2} + z_{power}))^2,    h = half-width at n = n* in standard errors

    An upper bound: the sequence may have crossed earlier, and mostly ends sooner than planned.

    Source: half-width from Waudby-Smith et al. (2024), Ann. Stat. 52:2613, eq. 7.
    """
    return _inflation(float(asymptotic_half_width(1.0, 1.0, alpha, asymptotic_rho(1.0, alpha))), alpha, power)


def always_valid_rate_inflation(alpha: float = 0.05, power: float = 0.8) -> float:
    """As `always_valid_inflation`, for rates by the product e-process (`product_difference_bounds`); about 2.0. Source: as there."""
    return _inflation(_product_half_width(alpha), alpha, power)


def _inflation(half_width: float, alpha: float, power: float) -> float:
    fixed = normal_quantile(1 - alpha / 2) + normal_quantile(power)
    return ((half_width + normal_quantile(power)) / fixed) ** 2


@cache
def _product_half_width(alpha: float) -> float:
    """Half-width at the tuned size in standard errors, read off arms so large that their counts are as good as normal."""
    n = 200_000
    return product_difference_bounds(n // 2, n, n // 2, n, alpha, n_star=2 * n)[1] / math.sqrt(0.5 / n)


def cuped_factor(correlation: float) -> float:
    """Units with CUPED over units without: 1 - rho^2. Source: Deng et al. (2013), section 3."""
    if not -1 <= correlation <= 1:
        raise ValueError(f"a correlation lies between -1 and 1, got {correlation:g}")
    return 1 - correlation**2


def design_effect(rows_per_unit: float, intraclass_correlation: float) -> float:
    """Rows needed over independent rows' number, when units have several: 1 + (m - 1) ICC. Source: Kish (1965), Survey Sampling, chapter 5."""
    if not rows_per_unit >= 1 or not -1 <= intraclass_correlation <= 1:
        raise ValueError("rows a unit must be at least 1 and the intraclass correlation lie between -1 and 1")
    return 1 + (rows_per_unit - 1) * intraclass_correlation


def allocation_factor(share: float) -> float:
    """Units in all over those of an equal split: 1 / (4 r (1 - r))."""
    if not 0 < share < 1:
        raise ValueError(f"`share` is {share:g}; it must lie between 0 and 1")
    return 1 / (4 * share * (1 - share))


def _check(alpha: float, power: float, ratio: float) -> None:
    if not 0 < alpha < 1 or not alpha < power < 1:
        raise ValueError(f"alpha {alpha:g} and power {power:g} must be probabilities with alpha below power")
    if not 0 < ratio < math.inf:
        raise ValueError(f"`ratio` is {ratio:g}; it must be above 0")
