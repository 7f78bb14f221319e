"""Sample ratio mismatch: did the units arrive in the declared allocation?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.stats.late import special


def log_srm_e_value(counts: Sequence[int] | NDArray[np.int64], sum_log_share: float, *, concentration: float = 1.0) -> float:
    """Natural log of the Dirichlet-multinomial e-value against the declared allocation; alarm at e >= 1/alpha.

        ln e = lnG(K a) - lnG(K a + n) + sum_i [lnG(a + n_i) - lnG(a)] - sum_t ln theta_t(A_t)

    Args:
        counts: units by arm, first exposure of each; only arms that had a positive share.
        sum_log_share: sum over units of ln theta_t(A_t), the log of the share its arm had when the unit was assigned. With constant shares this
            is sum_i n_i ln theta_i (`sum_log_shares`); with varying ones add as you go.
        concentration: a, of the symmetric Dirichlet prior.

    Returns:
        ln e; 0 without data.

    Source: Lindon & Malek (2022), NeurIPS 35, eq. 4; varying theta_t as the predictable product of eq. 10.
    """
    n = np.asarray(counts, dtype=float)
    prior = concentration * n.size
    marginal = special.gammaln(prior) - special.gammaln(prior + n.sum())
    marginal += np.sum(special.gammaln(concentration + n) - special.gammaln(concentration))
    return float(marginal - sum_log_share)


def sum_log_shares(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Sum of n_i ln theta_i for constant shares theta; shares are scaled to sum to 1.

    Raises:
        ValueError: an arm with units and no share.
    """
    total = math.fsum(shares)
    if any(count and share <= 0 for count, share in zip(counts, shares, strict=True)):
        raise ValueError("an arm without share has units: this is a fault, not a sample ratio mismatch")
    return math.fsum(n * math.log(share / total) for n, share in zip(counts, shares, strict=True) if n)


def srm_chi_square(counts: Sequence[int], shares: Sequence[float]) -> float:
    """P-value of the chi-square test of the allocation at a fixed sample size; alert below 0.001.

    Degrees of freedom are the arms with a positive share, less one.

    Raises:
        ValueError: an expected count below 5, where the approximation fails, or fewer than two arms with a share.

    Source: Fabijan et al. (2019), KDD, "Diagnosing sample ratio mismatch", section 3.
    """
    observed = np.asarray(counts, dtype=float)
    weights = np.asarray(shares, dtype=float)
    positive = weights > 0
    if positive.sum() < 2:
        raise ValueError("a sample ratio needs at least two arms with a positive share")
    expected = observed.sum() * weights[positive] / weights.sum()
    if expected.min() < 5:
        raise ValueError(f"the smallest expected count is `{expected.min():.1f}`; at least 5 are needed")
    statistic = float(np.sum((observed[positive] - expected) ** 2 / expected))
    return float(special.chdtrc(int(positive.sum()) - 1, statistic))
