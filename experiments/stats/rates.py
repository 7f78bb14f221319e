"""Two arms' rates compared by their events alone, valid at all times and untouched by a drifting base rate.

Given that an event happened, its arm is Bernoulli: with allocation `share` to the treatment and rate ratio r = rate_treatment / rate_control,

    P(event is the treatment's) = share r / (share r + 1 - share)

whatever the base rate does. So no effect is one binomial null, and a confidence sequence of the ratio is that of the binomial, transformed.

Assumes arms drawn anew for every observation (request draws), or one observation a unit (first event of a sticky unit): ten requests of a sticky unit
are not ten observations. Then use ratios of unit totals (`ratios`) or unit indicators.

Example:
    >>> rate_ratio_bounds(48, 16, 0.5, 0.05)
    (1.3..., 6.9...)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.binomial import log_binomial_e_value, tuned_prior
from experiments.stats.kinds import Array, Side, check_counts
from experiments.stats.late import special


def log_rate_e_value(
    treatment_events: ArrayLike,
    control_events: ArrayLike,
    share: float,
    *,
    side: Side | None = None,
    n_star: float | None = None,
    alpha: float = 0.05,
) -> Array:
    """Natural log of the e-process against "the treatment's rate is not higher (lower, different)".

    Args:
        treatment_events: count.
        control_events: count.
        share: the treatment's part of the allocation of the two, in (0, 1).
        side: `greater`, `less`, or None for both: the mean of the two e-values.
        n_star: events at which it is tightest; None for a uniform prior.
        alpha: level the tuning is for.

    Returns:
        ln e, broadcast shape; 0 without events.

    Source: Lindon & Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS 35.
    """
    prior = (1.0, 1.0) if n_star is None else tuned_prior(share, n_star, alpha)
    k = np.asarray(treatment_events, dtype=float)
    n = k + np.asarray(control_events, dtype=float)
    if side is not None:
        return log_binomial_e_value(k, n, share, side=side, prior=prior)
    both = [log_binomial_e_value(k, n, share, side=one, prior=prior) for one in ("greater", "less")]
    return np.asarray(np.logaddexp(both[0], both[1]) - math.log(2))


def rate_ratio_bounds(
    treatment_events: int, control_events: int, share: float, alpha: float = 0.05, *, n_star: float | None = None
) -> tuple[float, float]:
    """Two-sided confidence sequence of the ratio of the two rates: the ratios that the e-process does not reject.

    Returns:
        (lower, upper) in [0, inf]; (0, inf) without events.

    Source: Lindon & Malek (2022), NeurIPS 35, with the binomial probability mapped to the ratio of the rates.
    """
    check_counts(treatment_events, treatment_events + control_events)
    if not 0 < share < 1:
        raise ValueError(f"`share` is {share:g}; it must lie between 0 and 1")
    k, n = treatment_events, treatment_events + control_events
    if n == 0:
        return 0.0, math.inf
    lower = 0.0 if k == 0 else _ratio(_bound(k, n, alpha, "greater", n_star), share)
    upper = math.inf if k == n else _ratio(_bound(k, n, alpha, "less", n_star), share)
    return lower, upper


def _bound(k: int, n: int, alpha: float, side: Side, n_star: float | None) -> float:
    """Probability furthest from k / n that is not rejected at alpha/2, by halving."""
    inside, outside = k / n, 0.0 if side == "greater" else 1.0
    for _ in range(60):
        middle = (inside + outside) / 2
        theta = min(max(middle, 1e-9), 1 - 1e-9)
        prior = (1.0, 1.0) if n_star is None else tuned_prior(theta, n_star, alpha)
        rejected = float(log_binomial_e_value(k, n, theta, side=side, prior=prior)) >= math.log(2 / alpha)
        inside, outside = (inside, middle) if rejected else (middle, outside)
    return outside


def _ratio(theta: float, share: float) -> float:
    if theta >= 1:
        return math.inf
    return theta / (1 - theta) * (1 - share) / share


def exact_rate_p_value(treatment_events: int, control_events: int, share: float) -> float:
    """Two-sided p-value of equal rates at one sample size chosen beforehand: twice the smaller binomial tail, at most 1.

    Source: Przyborowski & Wilenski (1940), Biometrika 31:313.
    """
    n = treatment_events + control_events
    check_counts(treatment_events, n)
    if n == 0:
        return 1.0
    above = float(special.bdtrc(treatment_events - 1, n, share)) if treatment_events > 0 else 1.0
    below = float(special.bdtr(treatment_events, n, share))
    return min(1.0, 2 * min(above, below))
