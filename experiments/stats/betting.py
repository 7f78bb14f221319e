"""Bounded means, valid at all times and exact: betting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.stats.kinds import Array


def betting_interval(values: Sequence[float] | Array, alpha: float = 0.05, *, grid: int = 1000) -> tuple[float, float]:
    """Exact confidence sequence of the mean of values in [0, 1], in their order of arrival, at the last of them.

    The hedged capital process with predictable plug-in bets; a mean m is excluded once its capital reached 1/alpha at any time:

        K_t(m) = 1/2 max( prod(1 + min(l_i, c/m)(x_i - m)), prod(1 - min(l_i, c/(1-m))(x_i - m)) ),   c = 1/2
        l_t = sqrt( 2 ln(2/alpha) / (s2_{t-1} t ln(1+t)) ),   s2 and its mean from the past alone

    Returns:
        (lower, upper), widened outwards to the grid; (0, 1) without data.

    Raises:
        ValueError: a value outside [0, 1].

    Cost: len(values) x grid multiplications, in blocks of 4,096 values.

    Source: Waudby-Smith & Ramdas (2024), JRSS-B 86:1, eq. 26-29 (Theorem 3). DOI 10.1093/jrsssb/qkad009
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        return 0.0, 1.0
    if np.any(x < 0) or np.any(x > 1):
        raise ValueError("`values` must lie in [0, 1]; scale them by their declared range")
    count = np.arange(1, x.size + 1)
    running_mean = (0.5 + np.cumsum(x)) / (count + 1)
    variance = (0.25 + np.cumsum((x - running_mean) ** 2)) / (count + 1)
    past = np.concatenate(([0.25], variance[:-1]))
    bets = np.sqrt(2 * math.log(2 / alpha) / (past * count * np.log1p(count)))

    means = (np.arange(grid) + 0.5) / grid
    alive = np.ones(grid, dtype=bool)
    plus, minus = np.zeros(grid), np.zeros(grid)
    for start in range(0, x.size, 4096):
        block, bet = x[start : start + 4096, None], bets[start : start + 4096, None]
        up = plus + np.cumsum(np.log1p(np.minimum(bet, 0.5 / means) * (block - means)), axis=0)
        down = minus + np.cumsum(np.log1p(-np.minimum(bet, 0.5 / (1 - means)) * (block - means)), axis=0)
        alive &= np.maximum(up, down).max(axis=0) < math.log(2 / alpha)
        plus, minus = up[-1], down[-1]
    kept = means[alive]
    if kept.size == 0:
        # Only a shift of the mean empties the sequence; the running mean is then the honest point.
        return float(x.mean()), float(x.mean())
    return max(0.0, float(kept[0]) - 1 / grid), min(1.0, float(kept[-1]) + 1 / grid)
