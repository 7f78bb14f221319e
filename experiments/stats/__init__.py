"""Statistics for experiments: intervals, e-values and confidence sequences, on arrays or mergeable sufficient statistics.

A leaf package: it imports nothing of ours, keeps no state, and has one file a family:

- *valid at all times* (look whenever you like): `binomial` (rates, exact), `rates` (two arms by their events), `betting` (bounded means, exact),
  `asymptotic` (means, ratios, CUPED, after a burn-in), `latency` (exceedances, paired buckets, quantile sequence).
- *at planned looks*: `group_sequential` (O'Brien-Fleming and Pocock spending).
- *at one size chosen beforehand*: `proportions`, `means` (Welch), `ratios` (delta method, Fieller).
- *under a prior*: `bayesian`.
- around them: `moments` (sufficient statistics), `covariates` (CUPED), `multiplicity` (Holm, BH, e-BH), `sample_ratio`, `power`.

Rules:

- *e-value*: a number whose expectation is at most 1 under the null at any stopping time; `e >= 1/alpha` rejects at level alpha however often
  someone looks (Ville's inequality). All e-values are returned as natural logarithms, because they overflow.
- *confidence sequence*: bounds that hold at all times at once with probability 1 - alpha. Looking every minute costs nothing.
- One value a *unit*: requests of one unit are not independent; use its total or mean (`moments`, `ratios`).
- Counts may be NumPy arrays where a docstring says "broadcast". `alpha` and shares are probabilities in (0, 1). No data gives the widest answer;
  an asymptotic method refuses before its burn-in. Which one when: `docs/statistics.md`.

Example:
    >>> wilson_interval(81, 263)
    (0.255..., 0.366...)
    >>> bool(log_binomial_e_value(30, 40, 0.5, side="greater") >= math.log(1 / 0.05))
    True
"""

from __future__ import annotations

from experiments.stats.asymptotic import (
    BURN_IN_EVENTS,
    BURN_IN_UNITS,
    BurnInError,
    asymptotic_difference,
    asymptotic_half_width,
    asymptotic_mean,
    asymptotic_rho,
    difference_sd,
    log_asymptotic_e_value,
)
from experiments.stats.bayesian import Posterior, beta_binomial, normal_normal
from experiments.stats.betting import betting_difference, betting_interval, difference_outcomes, log_betting_capital
from experiments.stats.binomial import (
    bernoulli_bound,
    difference_bounds,
    log_binomial_e_value,
    log_non_inferiority_e_value,
    product_difference_bounds,
    tuned_prior,
)
from experiments.stats.covariates import cuped, cuped_theta
from experiments.stats.group_sequential import boundaries, classic_boundaries, crossing_probabilities, inflation, spent
from experiments.stats.kinds import Array, Side, normal_quantile, normal_tail
from experiments.stats.latency import PairedBuckets, paired_buckets, past_threshold, quantile_interval, quantile_ranks
from experiments.stats.means import Estimate, normal_estimate, welch
from experiments.stats.moments import JointMoments, Moments
from experiments.stats.multiplicity import benjamini_hochberg, e_benjamini_hochberg, holm
from experiments.stats.proportions import (
    FEWEST_EXPECTED,
    Comparison,
    compare_proportions,
    fewest_expected,
    fisher_p_value,
    melded_interval,
    score_interval,
    wilson_interval,
)
from experiments.stats.rates import exact_rate_p_value, log_rate_e_value, rate_ratio_bounds
from experiments.stats.ratios import fieller_interval, linearised, ratio_difference, relative_lift
from experiments.stats.sample_ratio import log_srm_e_value, srm_chi_square, sum_log_shares

__all__ = [
    "BURN_IN_EVENTS",
    "BURN_IN_UNITS",
    "FEWEST_EXPECTED",
    "Array",
    "BurnInError",
    "Comparison",
    "Estimate",
    "JointMoments",
    "Moments",
    "PairedBuckets",
    "Posterior",
    "Side",
    "asymptotic_difference",
    "asymptotic_half_width",
    "asymptotic_mean",
    "asymptotic_rho",
    "benjamini_hochberg",
    "bernoulli_bound",
    "beta_binomial",
    "betting_difference",
    "betting_interval",
    "boundaries",
    "classic_boundaries",
    "compare_proportions",
    "crossing_probabilities",
    "cuped",
    "cuped_theta",
    "difference_bounds",
    "difference_outcomes",
    "difference_sd",
    "e_benjamini_hochberg",
    "exact_rate_p_value",
    "fewest_expected",
    "fieller_interval",
    "fisher_p_value",
    "holm",
    "inflation",
    "linearised",
    "log_asymptotic_e_value",
    "log_betting_capital",
    "log_binomial_e_value",
    "log_non_inferiority_e_value",
    "log_rate_e_value",
    "log_srm_e_value",
    "melded_interval",
    "normal_estimate",
    "normal_normal",
    "normal_quantile",
    "normal_tail",
    "paired_buckets",
    "past_threshold",
    "product_difference_bounds",
    "quantile_interval",
    "quantile_ranks",
    "rate_ratio_bounds",
    "ratio_difference",
    "relative_lift",
    "score_interval",
    "spent",
    "srm_chi_square",
    "sum_log_shares",
    "tuned_prior",
    "welch",
    "wilson_interval",
]
