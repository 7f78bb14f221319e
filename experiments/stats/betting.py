"""Bounded means, valid at all times and exact: betting.

A gambler bets against a candidate mean with stakes that depend on the past alone; whoever gets rich against it has refuted it. Exact for any values
with a declared range, dependent or not, as long as each has the same conditional mean given the past - no burn-in, no tails to worry about.

Rules: values lie in [0, 1] (scale by the *declared* range, never by the seen one), in order of arrival, one a unit. `n_star` tunes the stakes to be
tightest there; without it they suit no size in particular and the interval is wider.

Example:
    >>> betting_interval(values, 0.05, n_star=1000)
    (0.071, 0.118)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.kinds import Array

_BLOCK = 4096


def log_betting_capital(values: ArrayLike, mean: float, alpha: float = 0.05, *, n_star: float | None = None) -> Array:
    """Natural log of the hedged capital against one mean, after each value; the mean is refuted once it reached ln(1/alpha).

        K_t(m) = 1/2 max( prod(1 + min(l_i, c/m)(x_i - m)), prod(1 - min(l_i, c/(1-m))(x_i - m)) ),   c = 1/2
        l_t = sqrt( 2 ln(2/alpha) / (s2_{t-1} t ln(1+t)) )       or, tuned,   sqrt( 2 ln(2/alpha) / (s2_{t-1} n_star) )

    Args:
        values: in [0, 1], time along the last axis.
        mean: in (0, 1).
        alpha: level the stakes are for.
        n_star: values at which it should be tightest.

    Returns:
        Array of the shape of `values`.

    Raises:
        ValueError: a value outside [0, 1].

    Source: Waudby-Smith & Ramdas (2024), JRSS-B 86:1, eq. 26-29 (Theorem 3); tuned stakes as in eq. 26 with n fixed. DOI 10.1093/jrsssb/qkad009
    """
    x = _checked(values)
    bets = _stakes(x, alpha, n_star)
    up = np.cumsum(np.log1p(np.minimum(bets, 0.5 / mean) * (x - mean)), axis=-1)
    down = np.cumsum(np.log1p(-np.minimum(bets, 0.5 / (1 - mean)) * (x - mean)), axis=-1)
    return np.asarray(np.maximum(up, down) - math.log(2))


def betting_interval(values: Sequence[float] | Array, alpha: float = 0.05, *, grid: int = 1000, n_star: float | None = None) -> tuple[float, float]:
    """Exact confidence sequence of the mean of values in [0, 1], in their order of arrival, at the last of them.

    A mean m is excluded once its capital (`log_betting_capital`) reached 1/alpha at any time.

    Returns:
        (lower, upper), widened outwards to the grid; (0, 1) without data.

    Raises:
        ValueError: a value outside [0, 1].

    Cost: len(values) x grid multiplications, in blocks of 4,096 values.

    Source: as `log_betting_capital`.
    """
    x = _checked(values)
    if x.size == 0:
        return 0.0, 1.0
    bets = _stakes(x, alpha, n_star)
    means = (np.arange(grid) + 0.5) / grid
    alive = np.ones(grid, dtype=bool)
    plus, minus = np.zeros(grid), np.zeros(grid)
    for start in range(0, x.size, _BLOCK):
        block, bet = x[start : start + _BLOCK, None], bets[start : start + _BLOCK, None]
        up = plus + np.cumsum(np.log1p(np.minimum(bet, 0.5 / means) * (block - means)), axis=0)
        down = minus + np.cumsum(np.log1p(-np.minimum(bet, 0.5 / (1 - means)) * (block - means)), axis=0)
        alive &= np.maximum(up, down).max(axis=0) < math.log(2 / alpha)
        plus, minus = up[-1], down[-1]
    kept = means[alive]
    if kept.size == 0:
        # Only a shift of the mean empties the sequence; the running mean is then the honest point.
        return float(x.mean()), float(x.mean())
    return max(0.0, float(kept[0]) - 1 / grid), min(1.0, float(kept[-1]) + 1 / grid)


def difference_outcomes(values: ArrayLike, treated: ArrayLike, share: float) -> Array:
    """Pseudo-outcomes in [0, 1] whose mean tells the difference of two arms' means, for exact inference on bounded values.

        d_i = (y_i - m_{i-1}) (A_i / share - (1 - A_i) / (1 - share)),      x_i = (d_i + w) / (2 w),   w = max(1/share, 1/(1-share))

    m_{i-1} is the mean of the values before i (1/2 at first). Given the past, E[d_i] is the difference; so with (lower, upper) a betting interval of
    x, the difference lies in (w (2 lower - 1), w (2 upper - 1)).

    Args:
        values: y in [0, 1], in order of arrival, time along the last axis.
        treated: whether each is the treatment's.
        share: probability with which each was drawn for the treatment.

    Source: centred inverse-probability weighting as in Waudby-Smith et al. (2024, off-policy), ACM/IMS J. Data Sci. 1:3.
    """
    y, arm = _checked(values), np.asarray(treated, dtype=bool)
    if not 0 < share < 1:
        raise ValueError(f"`share` is {share:g}; it must lie between 0 and 1")
    count = np.arange(y.shape[-1])
    before = (0.5 + np.cumsum(y, axis=-1) - y) / (count + 1)
    weight = np.where(arm, 1 / share, -1 / (1 - share))
    widest = max(1 / share, 1 / (1 - share))
    return np.asarray(((y - before) * weight + widest) / (2 * widest))


def betting_difference(
    values: ArrayLike, treated: ArrayLike, share: float, alpha: float = 0.05, *, n_star: float | None = None
) -> tuple[float, float]:
    """Exact confidence sequence of the difference of two arms' means, for values in [0, 1] and draws with a known share.

    Returns:
        (lower, upper); (-1, 1) at the widest. Source: `difference_outcomes`, `betting_interval`.
    """
    lower, upper = betting_interval(difference_outcomes(values, treated, share), alpha, grid=4000, n_star=n_star)
    widest = max(1 / share, 1 / (1 - share))
    return max(-1.0, widest * (2 * lower - 1)), min(1.0, widest * (2 * upper - 1))


def _stakes(x: Array, alpha: float, n_star: float | None) -> Array:
    count = np.arange(1, x.shape[-1] + 1)
    running_mean = (0.5 + np.cumsum(x, axis=-1)) / (count + 1)
    variance = (0.25 + np.cumsum((x - running_mean) ** 2, axis=-1)) / (count + 1)
    past = np.concatenate((np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]), axis=-1)
    horizon = count * np.log1p(count) if n_star is None else n_star
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (past * horizon)))


def _checked(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=float)
    # Written so that NaN is refused too.
    if not np.all((x >= 0) & (x <= 1)):
        raise ValueError("`values` must lie in [0, 1]; scale them by their declared range")
    return x
