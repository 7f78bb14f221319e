"""Asymptotic confidence sequences: valid at all times once enough units are in, and refused before.

They hold for anything that is a mean of unit values to first order: means, differences, CUPED-adjusted outcomes (`covariates.cuped`), ratios
(`ratios.linearised`). The price of looking whenever one likes is a width of 1.55 times the fixed one at the tuned n*.

Rules: fix `n_star` before the start; below the burn-in the functions raise `BurnInError` ("too few" is an answer, an interval that looks like one is
not). A mean that a few units decide stays a mean that a few units decide: cap the value beforehand.

Example:
    >>> asymptotic_difference(treatment, control, n_star=20_000)
    (0.012, 0.055)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.kinds import Array
from experiments.stats.moments import Moments

BURN_IN_UNITS = 500
"""Units an arm below which no sequence of means is given; chosen by simulation (`docs/statistics.md`)."""
BURN_IN_EVENTS = 50
"""Events an arm below which no sequence of a rate is given."""


_ROUNDING = 1e-9
"""Relative spread below which values differ by nothing but how their mean was rounded."""


class BurnInError(ValueError):
    """Too little data for an asymptotic statement; more may come."""


def asymptotic_rho(n_star: float, alpha: float = 0.05) -> float:
    """Tuning of the asymptotic confidence sequence that is tightest near `n_star` observations. Choose it before the start.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), Ann. Stat. 52:2613, Appendix B.2: rho^2 = (-2 ln a + ln(-2 ln a + 1)) / n*.
    """
    spread = -2 * math.log(alpha)
    return math.sqrt((spread + math.log(spread + 1)) / n_star)


def asymptotic_half_width(n: ArrayLike, sd: ArrayLike, alpha: float, rho: float) -> Array:
    """Half-width of the two-sided asymptotic confidence sequence of a mean.

        sd * sqrt( 2 (n rho^2 + 1) / (n^2 rho^2) * ln( sqrt(n rho^2 + 1) / alpha ) )

    The bare formula, without the burn-in: `asymptotic_mean` and `asymptotic_difference` refuse where it does not hold. Infinite without data.

    Source: Waudby-Smith et al. (2024), Ann. Stat. 52:2613, Theorem 2.2, eq. 7. arXiv 2103.06476
    """
    count = np.asarray(n, dtype=float)
    grown = count * rho**2 + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.sqrt(2 * grown / (count**2 * rho**2) * np.log(np.sqrt(grown) / alpha))
    return np.asarray(np.where(count > 0, np.asarray(sd) * width, np.inf))


def log_asymptotic_e_value(n: ArrayLike, estimate: ArrayLike, sd: ArrayLike, rho: float) -> Array:
    """Natural log of the normal-mixture e-value whose inversion is the sequence, for e-BH; an e-value to the same approximation.

        ln e = n^2 rho^2 (estimate / sd)^2 / (2 (n rho^2 + 1)) - ln(n rho^2 + 1) / 2

    Source: Robbins (1970), Ann. Math. Stat. 41:1397; Waudby-Smith et al. (2024), Appendix A.
    """
    count = np.asarray(n, dtype=float)
    grown = count * rho**2 + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(np.asarray(sd) > 0, np.asarray(estimate, dtype=float) / np.asarray(sd), np.inf * np.sign(estimate))
        z = np.where(np.asarray(estimate) == 0, 0.0, z)
        return np.asarray((count * rho * z) ** 2 / (2 * grown) - np.log(grown) / 2)


def asymptotic_mean(moments: Moments, *, n_star: float, alpha: float = 0.05, min_units: int = BURN_IN_UNITS) -> tuple[float, float]:
    """Two-sided asymptotic confidence sequence of one mean.

    Raises:
        BurnInError: fewer than `min_units` units.

    Source: Waudby-Smith et al. (2024), Ann. Stat. 52:2613, Theorem 2.2.
    """
    _burnt_in(min_units, moments)
    half = float(asymptotic_half_width(moments.n, math.sqrt(moments.variance), alpha, asymptotic_rho(n_star, alpha)))
    return moments.mean - half, moments.mean + half


def asymptotic_difference(
    treatment: Moments, control: Moments, *, n_star: float, alpha: float = 0.05, min_units: int = BURN_IN_UNITS
) -> tuple[float, float]:
    """Two-sided asymptotic confidence sequence of the difference of two arms' means (treatment minus control).

    The pseudo-outcomes of a randomised comparison adjusted by arm means have variance n (v1/n1 + v0/n0) with n = n1 + n0.

    Args:
        treatment: moments of its units.
        control: moments of its units.
        n_star: units of both arms together at which it should be tightest.
        alpha: two-sided level.
        min_units: burn-in, units an arm.

    Returns:
        (lower, upper).

    Raises:
        BurnInError: an arm with fewer than `min_units` units, or two arms without any spread.

    Source: Waudby-Smith et al. (2024), Ann. Stat. 52:2613, section 3 (randomised experiments).
    """
    _burnt_in(min_units, treatment, control)
    n, sd = treatment.n + control.n, difference_sd(treatment, control)
    if sd <= _ROUNDING * max(abs(treatment.mean), abs(control.mean)):
        raise BurnInError("all values of an arm are the same, so nothing is known of how they vary")
    half = float(asymptotic_half_width(n, sd, alpha, asymptotic_rho(n_star, alpha)))
    gap = treatment.mean - control.mean
    return gap - half, gap + half


def difference_sd(treatment: Moments, control: Moments) -> float:
    """Standard deviation of a comparison's pseudo-outcomes: sqrt(n (v1/n1 + v0/n0)). Source: as `asymptotic_difference`."""
    return math.sqrt((treatment.n + control.n) * (treatment.variance / treatment.n + control.variance / control.n))


def _burnt_in(min_units: int, *arms: Moments) -> None:
    fewest = min(arm.n for arm in arms)
    if fewest < max(2, min_units):
        raise BurnInError(f"{fewest} units in an arm; an asymptotic confidence sequence needs {max(2, min_units)}")
