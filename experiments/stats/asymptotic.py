"""Asymptotic confidence sequences: valid at all times once enough units are in."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.kinds import Array
from experiments.stats.moments import Moments


def asymptotic_rho(n_star: float, alpha: float = 0.05) -> float:
    """Tuning of the asymptotic confidence sequence that is tightest near `n_star` observations. Choose it before the start.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), Ann. Stat. 52:2613, Appendix B.2: rho^2 = (-2 ln a + ln(-2 ln a + 1)) / n*.
    """
    spread = -2 * math.log(alpha)
    return math.sqrt((spread + math.log(spread + 1)) / n_star)


def asymptotic_half_width(n: ArrayLike, sd: ArrayLike, alpha: float, rho: float) -> Array:
    """Half-width of the two-sided asymptotic confidence sequence of a mean.

        sd * sqrt( 2 (n rho^2 + 1) / (n^2 rho^2) * ln( sqrt(n rho^2 + 1) / alpha ) )

    Needs a burn-in: not safe for rare events (require >= 50 events an arm). Infinite without data.

    Source: Waudby-Smith et al. (2024), Ann. Stat. 52:2613, Theorem 2.2, eq. 7. arXiv 2103.06476
    """
    count = np.asarray(n, dtype=float)
    grown = count * rho**2 + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.sqrt(2 * grown / (count**2 * rho**2) * np.log(np.sqrt(grown) / alpha))
    return np.asarray(np.where(count > 0, np.asarray(sd) * width, np.inf))


def asymptotic_difference(treatment: Moments, control: Moments, *, n_star: float, alpha: float = 0.05) -> tuple[float, float]:
    """Two-sided asymptotic confidence sequence of the difference of two arms' means (treatment minus control).

    The pseudo-outcomes of a randomised comparison adjusted by arm means have variance n (v1/n1 + v0/n0) with n = n1 + n0.

    Returns:
        (lower, upper); infinite while an arm has fewer than two units.
    """
    if min(treatment.n, control.n) < 2:
        return -math.inf, math.inf
    n = treatment.n + control.n
    sd = math.sqrt(n * (treatment.variance / treatment.n + control.variance / control.n))
    half = float(asymptotic_half_width(n, sd, alpha, asymptotic_rho(n_star, alpha)))
    gap = treatment.mean - control.mean
    return gap - half, gap + half
