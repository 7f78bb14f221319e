"""Statistics for experiments: intervals, e-values and confidence sequences, from sufficient statistics.

A leaf module: it imports nothing of ours, keeps no state, and takes counts, moments or arrays. Rules:

- *e-value*: a number whose expectation is at most 1 under the null at any stopping time; `e >= 1/alpha` rejects at level alpha however often
  someone looks (Ville's inequality). All e-values are returned as natural logarithms, because they overflow.
- *confidence sequence*: bounds that hold at all times at once with probability 1 - alpha. Looking every minute costs nothing.
- *fixed* functions (`wilson_interval`, `compare_proportions`, `srm_chi_square`) hold at one sample size chosen beforehand. They are for reports.
- Counts may be NumPy arrays: the functions broadcast. `alpha` and shares are probabilities in (0, 1). No data gives the widest answer.

Example:
    >>> wilson_interval(81, 263)
    (0.255..., 0.366...)
    >>> bool(log_binomial_e_value(30, 40, 0.5, side="greater") >= math.log(1 / 0.05))
    True
"""

from __future__ import annotations

from experiments.stats.asymptotic import asymptotic_difference, asymptotic_half_width, asymptotic_rho
from experiments.stats.betting import betting_interval
from experiments.stats.binomial import bernoulli_bound, difference_bounds, log_binomial_e_value, log_non_inferiority_e_value
from experiments.stats.kinds import Array, Side, normal_quantile, normal_tail
from experiments.stats.moments import Moments
from experiments.stats.proportions import Comparison, compare_proportions, wilson_interval
from experiments.stats.sample_ratio import log_srm_e_value, srm_chi_square, sum_log_shares

__all__ = [
    "Array",
    "Comparison",
    "Moments",
    "Side",
    "asymptotic_difference",
    "asymptotic_half_width",
    "asymptotic_rho",
    "bernoulli_bound",
    "betting_interval",
    "compare_proportions",
    "difference_bounds",
    "log_binomial_e_value",
    "log_non_inferiority_e_value",
    "log_srm_e_value",
    "normal_quantile",
    "normal_tail",
    "srm_chi_square",
    "sum_log_shares",
    "wilson_interval",
]
