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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Side = Literal["greater", "less"]
Array = NDArray[np.float64]

BISECTION_STEPS = 60
"""Halvings of [0, 1] when a bound is inverted: past double precision near 1."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two proportions at a fixed sample size: treatment minus control.

    Attributes:
        difference: point estimate, p_treatment - p_control.
        lower: lower limit of the difference.
        upper: upper limit of the difference.
        p_value: two-sided, of equality.
    """

    difference: float
    lower: float
    upper: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and variance (divisor n) of one arm's unit values; merge with `+`."""

    n: int
    mean: float
    variance: float

    def __add__(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        within = self.n * self.variance + other.n * other.variance
        return Moments(n, mean, (within + gap * gap * self.n * other.n / n) / n)


# --- fixed sample size ------------------------------------------------------------------------------------------------


def wilson_interval(events: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval of one proportion at a fixed sample size.

    Returns:
        (lower, upper) in [0, 1]; (0, 1) without data.

    Source: Wilson (1927), JASA 22:209; Newcombe (1998), Stat. Med. 17:857, method 3.
    """
    _check_counts(events, n)
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(1 - alpha / 2)
    centre = (events + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(events * (n - events) / n + z * z / 4)
    lower = 0.0 if events == 0 else max(0.0, centre - half)
    upper = 1.0 if events == n else min(1.0, centre + half)
    return lower, upper


def compare_proportions(treatment_events: int, treatment_n: int, control_events: int, control_n: int, alpha: float = 0.05) -> Comparison:
    """Difference of two proportions at a fixed sample size: hybrid score interval and pooled z-test.

    Returns:
        `Comparison`; (-1, 1) and p = 1 when an arm has no data.

    Source: Newcombe (1998), Stat. Med. 17:873, method 10.
    """
    _check_counts(treatment_events, treatment_n)
    _check_counts(control_events, control_n)
    if treatment_n == 0 or control_n == 0:
        return Comparison(0.0, -1.0, 1.0, 1.0)
    p1, p0 = treatment_events / treatment_n, control_events / control_n
    low1, high1 = wilson_interval(treatment_events, treatment_n, alpha)
    low0, high0 = wilson_interval(control_events, control_n, alpha)
    difference = p1 - p0
    lower = difference - math.hypot(p1 - low1, high0 - p0)
    upper = difference + math.hypot(high1 - p1, p0 - low0)
    pooled = (treatment_events + control_events) / (treatment_n + control_n)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / treatment_n + 1 / control_n))
    p_value = 1.0 if spread == 0 else 2 * normal_tail(abs(difference) / spread)
    return Comparison(difference, lower, upper, p_value)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal."""
    return float(special.ndtri(probability))


def normal_tail(z: float) -> float:
    """P(Z > z) of the standard normal."""
    return float(special.ndtr(-z))


# --- e-values and bounds for rates ------------------------------------------------------------------------------------


def log_binomial_e_value(successes: ArrayLike, trials: ArrayLike, null: ArrayLike, *, side: Side, prior: tuple[float, float] = (1.0, 1.0)) -> Array:
    """Natural log of a one-sided beta-binomial e-process for a Bernoulli probability.

    The alternative is Beta(`prior`) cut off at the null, so the value is a test martingale at `theta = null` and, the likelihood ratio being
    monotone, a supermartingale on the whole composite null (`theta <= null` for `greater`, `theta >= null` for `less`):

        e = B(a+k, b+n-k) P(T' beyond null) / (B(a, b) P(T beyond null)) / (null^k (1-null)^(n-k)),   T' ~ Beta(a+k, b+n-k), T ~ Beta(a, b)

    *Rates of two arms.* Let `trials` be all events (failed first calls of units) in both arms and `successes` those in the treatment. Under no
    effect each event lies in the treatment with probability `null` = the treatment's share of the allocation, whatever the base rate does.

    Args:
        successes: count k, 0 <= k <= n.
        trials: count n.
        null: probability in (0, 1) at the edge of the null.
        side: direction of the alternative.
        prior: (a, b) of the mixing distribution.

    Returns:
        ln e, broadcast shape; 0 without data.

    Source: Lindon & Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS 35, eq. 4 with a truncated prior;
    Howard, Ramdas, McAuliffe & Sekhon (2021), Ann. Stat. 49:1055, Prop. 7 (one-sided beta-binomial mixture).
    """
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    theta = np.asarray(null, dtype=float)
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("`successes` must lie between 0 and `trials`")
    a, b = prior
    mixture = special.betaln(a + k, b + n - k) + _log_tail(a + k, b + n - k, theta, side)
    normaliser = special.betaln(a, b) + _log_tail(np.asarray(a), np.asarray(b), theta, side)
    likelihood = special.xlogy(k, theta) + special.xlog1py(n - k, -theta)
    return np.asarray(mixture - normaliser - likelihood, dtype=float)


def _log_tail(a: Array, b: Array, cut: Array, side: Side) -> Array:
    """Natural log of P(Beta(a, b) > cut) or P(Beta(a, b) < cut), also where the probability underflows.

    There it is the first term of the series I_x(a, b) = x^a (1-x)^b / (a B(a, b)) * (1 + ...), whose terms are all positive (DLMF 8.17.8): a lower
    bound, so that an e-value made from it is never too large.
    """
    if side == "greater":
        a, b, cut, rest = b, a, 1 - cut, cut
        tail = special.betaincc(b, a, rest)
    else:
        tail = special.betainc(a, b, cut)
    with np.errstate(divide="ignore"):
        first_term = special.xlogy(a, cut) + special.xlog1py(b, -cut) - np.log(a) - special.betaln(a, b)
        return np.asarray(np.where(tail > 1e-290, np.log(tail), first_term))


def bernoulli_bound(events: ArrayLike, n: ArrayLike, alpha: float, *, side: Literal["upper", "lower"], prior: float = 0.5) -> Array:
    """One-sided confidence sequence of a Bernoulli probability: the nulls that `log_binomial_e_value` does not reject.

    Assumes that given the past each observation has the same probability (units enter once; a drifting rate needs the conditional test).

    Args:
        events: count of ones.
        n: count of observations.
        alpha: probability that the bound is ever wrong.
        side: which bound.
        prior: a = b of the mixing Beta.

    Returns:
        Bound in [0, 1], broadcast shape; 1 (upper) or 0 (lower) without data.

    Cost: 60 incomplete beta functions for each element, about 0.2 ms for a scalar.
    """
    k, total = np.broadcast_arrays(np.asarray(events, dtype=float), np.asarray(n, dtype=float))
    if side == "lower":
        return np.asarray(1.0 - bernoulli_bound(total - k, total, alpha, side="upper", prior=prior))
    inside = np.divide(k, total, out=np.zeros(k.shape), where=total > 0)
    outside = np.ones(k.shape)
    threshold = math.log(1 / alpha)
    for _ in range(BISECTION_STEPS):
        middle = (inside + outside) / 2
        # Nulls of exactly 0 or 1 are not in the open interval; stay a hair inside.
        probe = np.clip(middle, 1e-300, 1 - 1e-16)
        rejected = log_binomial_e_value(k, total, probe, side="less", prior=(prior, prior)) >= threshold
        outside = np.where(rejected, middle, outside)
        inside = np.where(rejected, inside, middle)
    return np.asarray(np.where((total == 0) | (k == total), 1.0, outside))


def difference_bounds(
    treatment_events: ArrayLike, treatment_n: ArrayLike, control_events: ArrayLike, control_n: ArrayLike, alpha: float
) -> tuple[Array, Array]:
    """Two one-sided confidence sequences of p_treatment - p_control, each at level `alpha`, for absolute margins.

    Each side joins two one-sample sequences at alpha/2 (union bound): exact for Bernoulli data at any size, wider than the asymptotic one.

    Returns:
        (lower, upper); each alone is wrong with probability at most alpha over all time.
    """
    half = alpha / 2
    upper = bernoulli_bound(treatment_events, treatment_n, half, side="upper") - bernoulli_bound(control_events, control_n, half, side="lower")
    lower = bernoulli_bound(treatment_events, treatment_n, half, side="lower") - bernoulli_bound(control_events, control_n, half, side="upper")
    return lower, upper


def log_non_inferiority_e_value(
    treatment_events: int, treatment_n: int, control_events: int, control_n: int, margin: float, *, prior: float = 0.5
) -> float:
    """Natural log of an e-value against "the treatment's rate is at least the control's plus `margin`".

    For each possible control rate p, one e-process says the control's rate is above p, another that the treatment's is below p + margin; under
    the null with control rate p both nulls hold, the arms are independent, and the product is an e-process. The least favourable p bounds them all:

        e = inf over p of e_control(p; greater) * e_treatment(p + margin; less)

    Exact for Bernoulli units at any size, and much tighter than two sequences at alpha/2 (`difference_bounds`), because the arms' deviations are
    added in the exponent instead of in the bounds. Assumes as `bernoulli_bound` does.

    Args:
        treatment_events: count of bad events.
        treatment_n: units.
        control_events: count of bad events.
        control_n: units.
        margin: in (0, 1), absolute.
        prior: a = b of both mixing Betas.

    Returns:
        ln e; at most 0 without data in both arms.

    Source: products of e-values of independent streams as in Turner, Ly & Gruenwald (2024), J. Stat. Plan. Inference 230:106116, section 2; nuisance
    removed by the infimum (Ramdas, Gruenwald, Vovk & Shafer 2023, Stat. Sci. 38:576, section 3.2).
    """
    _check_counts(treatment_events, treatment_n)
    _check_counts(control_events, control_n)

    def at(rates: Array) -> Array:
        control = log_binomial_e_value(control_events, control_n, rates, side="greater", prior=(prior, prior))
        treatment = log_binomial_e_value(treatment_events, treatment_n, rates + margin, side="less", prior=(prior, prior))
        return control + treatment

    low, high = 1e-9, 1 - margin - 1e-9
    # Evenly in the angle arcsin(sqrt(p)), where binomial likelihoods are equally wide everywhere; then twice more around the least.
    angles = np.linspace(math.asin(math.sqrt(low)), math.asin(math.sqrt(high)), 257)
    for _ in range(2):
        values = at(np.sin(angles) ** 2)
        least = int(np.argmin(values))
        angles = np.linspace(angles[max(0, least - 1)], angles[min(angles.size - 1, least + 1)], 65)
    return float(np.min(at(np.sin(angles) ** 2)))


# --- confidence sequences for means -----------------------------------------------------------------------------------


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


# --- sample ratio mismatch --------------------------------------------------------------------------------------------


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


def _check_counts(events: int, n: int) -> None:
    if not 0 <= events <= n:
        raise ValueError(f"`{events}` events of `{n}` is impossible; hint: 0 <= events <= n")
