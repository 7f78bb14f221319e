"""Latency: quantiles compared by exceedances, by paired time buckets, or - labelled - by a quantile sequence.

Latencies are autocorrelated (a slow minute is slow for everyone), so a test that takes them for independent draws alarms falsely. Two ways out:

- *exceedances*: a threshold fixed from the past (the control's quantile in a burn-in that is then left out); given that a call exceeds it, its arm is
  Bernoulli(allocation) under no effect, however slow the minute is. Exact for request draws: `rates.log_rate_e_value` on the counts.
- *paired buckets*: one number a time bucket and arm (its own quantile), differences of pairs; shocks common to both arms cancel. Exact by signs
  where arms are exchangeable within a bucket, asymptotic for the size of the difference. Buckets must be longer than an arm's own memory.

`quantile_ranks` is for independent draws only and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.asymptotic import asymptotic_mean
from experiments.stats.binomial import log_binomial_e_value, tuned_prior
from experiments.stats.kinds import Array
from experiments.stats.moments import Moments

BURN_IN_BUCKETS = 100
"""Buckets below which no sequence of their mean is given: each is a statistic of many calls, and a difference of two alike."""
IID_ONLY = "iid only"
"""Label of every bare quantile sequence."""


def past_threshold(burn_in: ArrayLike, quantile: float) -> float:
    """Threshold for exceedances: the order statistic ceil(n q) of the control's first values, which are then not counted.

    Both arms meet the same threshold, so it need not be exact. Ten expected exceedances (200 values for p95) are plenty.

    Raises:
        ValueError: no values, one that is not finite, or a quantile outside (0, 1).

    Source: order statistic as in Hyndman & Fan (1996), Am. Stat. 50:361, definition 1.
    """
    values = np.sort(np.asarray(burn_in, dtype=float))
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("a threshold needs finite values to be fixed from")
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile {quantile:g} must lie between 0 and 1")
    return float(values[math.ceil(values.size * quantile) - 1])


@dataclass(frozen=True, slots=True)
class PairedBuckets:
    """Differences of paired buckets, treatment minus control.

    Attributes:
        buckets: pairs with both arms present.
        mean: of the differences.
        lower: lower end of the asymptotic confidence sequence of the mean.
        upper: its upper end.
        log_e_slower: natural log of the sign test's e-value against "not slower".
    """

    buckets: int
    mean: float
    lower: float
    upper: float
    log_e_slower: float


def paired_buckets(differences: ArrayLike, *, n_star: float, alpha: float = 0.05) -> PairedBuckets:
    """Compare arms by differences of one statistic (such as the p95) of equally long, simultaneous time buckets.

    *Signs*: under exchangeable arms a difference is positive with probability 1/2 given the past; ties count for neither. *Mean*: asymptotic
    confidence sequence over buckets, after its burn-in.

    Args:
        differences: one a bucket in which both arms were seen, in time order; equally many calls an arm, because the sampling error of a
            quantile is skewed and a smaller arm would be slower by chance.
        n_star: buckets at which it should be tightest.
        alpha: two-sided level.

    Raises:
        BurnInError: too few buckets.

    Source: sign e-process as `log_binomial_e_value`; sequence as `asymptotic_mean`.
    """
    gaps = np.asarray(differences, dtype=float)
    moments = Moments.of(gaps)
    lower, upper = asymptotic_mean(moments, n_star=n_star, alpha=alpha, min_units=BURN_IN_BUCKETS)
    slower, faster = int(np.sum(gaps > 0)), int(np.sum(gaps < 0))
    log_e = float(log_binomial_e_value(slower, slower + faster, 0.5, side="greater", prior=tuned_prior(0.5, n_star, alpha)))
    return PairedBuckets(gaps.size, moments.mean, lower, upper, log_e)


def quantile_ranks(n: int, quantile: float, alpha: float = 0.05, *, n_star: float | None = None) -> tuple[int, int]:
    """Order statistics between which the quantile lies at all times at once; *iid only* (`IID_ONLY`).

    The count of values at or below the true quantile is Binomial(n, q); the counts k that its two-sided beta-binomial e-process does not reject are
    the possible ranks.

    Returns:
        (lower, upper) with the quantile in [x_(lower), x_(upper)] (ranks from 1); 0 and n + 1 stand for no bound.

    Source: Howard & Ramdas (2022), "Sequential estimation of quantiles", Bernoulli 28:1704 (beta-binomial).
    """
    counts = np.arange(n + 1)
    threshold = math.log(2 / alpha)
    prior = tuned_prior(quantile, n_star if n_star is not None else max(n, 1), alpha)
    kept = np.ones(n + 1, dtype=np.bool_)
    for side in ("greater", "less"):
        kept &= np.asarray(log_binomial_e_value(counts, n, quantile, side=side, prior=prior)) < threshold
    possible = np.nonzero(kept)[0]
    return int(possible[0]), int(possible[-1]) + 1


def quantile_interval(values: ArrayLike, quantile: float, alpha: float = 0.05, *, n_star: float | None = None) -> tuple[float, float]:
    """Confidence sequence of a quantile of independent draws; *iid only*. Infinite where the ranks give no bound. Source: `quantile_ranks`."""
    ordered: Array = np.sort(np.asarray(values, dtype=float))
    if np.any(np.isnan(ordered)):
        raise ValueError("a value is not a number")
    lower, upper = quantile_ranks(ordered.size, quantile, alpha, n_star=n_star)
    return (
        -math.inf if lower == 0 else float(ordered[lower - 1]),
        math.inf if upper > ordered.size else float(ordered[upper - 1]),
    )
