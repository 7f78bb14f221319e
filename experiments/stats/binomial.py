"""Rates, valid at all times: beta-binomial e-processes and the bounds that invert them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.asymptotic import asymptotic_rho
from experiments.stats.kinds import Array, Side, check_counts
from experiments.stats.late import optimize, special

BISECTION_STEPS = 60
"""Halvings of [0, 1] when a bound is inverted: past double precision near 1."""


def log_binomial_e_value(
    successes: ArrayLike, trials: ArrayLike, null: ArrayLike, *, side: Side, prior: tuple[ArrayLike, ArrayLike] = (1.0, 1.0)
) -> Array:
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
    a, b = (np.asarray(one, dtype=float) for one in prior)
    mixture = special.betaln(a + k, b + n - k) + _log_tail(a + k, b + n - k, theta, side)
    normaliser = special.betaln(a, b) + _log_tail(a, b, theta, side)
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


def bernoulli_bound(
    events: ArrayLike, n: ArrayLike, alpha: float, *, side: Literal["upper", "lower"], prior: float = 0.5, n_star: float | None = None
) -> Array:
    """One-sided confidence sequence of a Bernoulli probability: the nulls that `log_binomial_e_value` does not reject.

    Assumes that given the past each observation has the same probability (units enter once; a drifting rate needs the conditional test).

    Args:
        events: count of ones.
        n: count of observations.
        alpha: probability that the bound is ever wrong.
        side: which bound.
        prior: a = b of the mixing Beta.
        n_star: observations at which it should be tightest, instead of `prior` (`tuned_prior`, for the two-sided level 2 alpha).

    Returns:
        Bound in [0, 1], broadcast shape; 1 (upper) or 0 (lower) without data.

    Cost: 60 incomplete beta functions for each element, about 0.2 ms for a scalar.

    Source: inversion of `log_binomial_e_value`; Howard et al. (2021), Ann. Stat. 49:1055.
    """
    k, total = np.broadcast_arrays(np.asarray(events, dtype=float), np.asarray(n, dtype=float))
    if side == "lower":
        return np.asarray(1.0 - bernoulli_bound(total - k, total, alpha, side="upper", prior=prior, n_star=n_star))
    inside = np.divide(k, total, out=np.zeros(k.shape), where=total > 0)
    outside = np.ones(k.shape)
    threshold = math.log(1 / alpha)
    for _ in range(BISECTION_STEPS):
        middle = (inside + outside) / 2
        # Nulls of exactly 0 or 1 are not in the open interval; stay a hair inside.
        probe = np.clip(middle, 1e-300, 1 - 1e-16)
        if n_star is not None:
            # A prior centred closer to 0 or 1 than this has no finite density there.
            probe = np.clip(probe, 1e-9, 1 - 1e-9)
        mixing = (prior, prior) if n_star is None else tuned_prior(probe, n_star, min(0.5, 2 * alpha))
        rejected = log_binomial_e_value(k, total, probe, side="less", prior=mixing) >= threshold
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

    Source: `bernoulli_bound` twice, joined by Bonferroni.
    """
    half = alpha / 2
    upper = bernoulli_bound(treatment_events, treatment_n, half, side="upper") - bernoulli_bound(control_events, control_n, half, side="lower")
    lower = bernoulli_bound(treatment_events, treatment_n, half, side="lower") - bernoulli_bound(control_events, control_n, half, side="upper")
    return lower, upper


def log_non_inferiority_e_value(
    treatment_events: int,
    treatment_n: int,
    control_events: int,
    control_n: int,
    margin: float,
    *,
    prior: float = 0.5,
    n_star: float | None = None,
    alpha: float = 0.05,
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
        margin: in (-1, 1), absolute.
        prior: a = b of both mixing Betas.
        n_star: units of both arms together at which it should be tightest, instead of `prior`: Betas centred at each null (`tuned_prior`).
        alpha: two-sided level the tuning is for.

    Returns:
        ln e; at most 0 without data in both arms.

    Source: products of e-values of independent streams as in Turner, Ly & Gruenwald (2024), J. Stat. Plan. Inference 230:106116, section 2; nuisance
    removed by the infimum (Ramdas, Gruenwald, Vovk & Shafer 2023, Stat. Sci. 38:576, section 3.2).
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if not -1 < margin < 1:
        raise ValueError(f"the margin {margin:g} must lie between -1 and 1")

    def at(rates: Array) -> Array:
        shifted = rates + margin
        priors = ((prior, prior), (prior, prior)) if n_star is None else (tuned_prior(rates, n_star, alpha), tuned_prior(shifted, n_star, alpha))
        control = log_binomial_e_value(control_events, control_n, rates, side="greater", prior=priors[0])
        treatment = log_binomial_e_value(treatment_events, treatment_n, shifted, side="less", prior=priors[1])
        return control + treatment

    low, high = max(0.0, -margin) + 1e-9, min(1.0, 1 - margin) - 1e-9
    # Evenly in the angle arcsin(sqrt(p)), where binomial likelihoods are equally wide everywhere; then twice more around the least.
    angles = np.linspace(math.asin(math.sqrt(low)), math.asin(math.sqrt(high)), 257)
    for _ in range(2):
        values = at(np.sin(angles) ** 2)
        least = int(np.argmin(values))
        angles = np.linspace(angles[max(0, least - 1)], angles[min(angles.size - 1, least + 1)], 65)
    return float(np.min(at(np.sin(angles) ** 2)))


def product_difference_bounds(
    treatment_events: int, treatment_n: int, control_events: int, control_n: int, alpha: float = 0.05, *, n_star: float
) -> tuple[float, float]:
    """Two-sided confidence sequence of p_treatment - p_control: the margins that the product e-process of either side does not reject.

    Each side holds at level alpha/2 over all time. Exact for Bernoulli units at any size; with the tuned prior about 1.6 times as wide as a
    fixed-size interval near `n_star`, where `difference_bounds` is more than twice as wide.

    Args:
        treatment_events: count of ones.
        treatment_n: units.
        control_events: count of ones.
        control_n: units.
        alpha: two-sided level.
        n_star: units of both arms together at which it should be tightest; choose it before the start.

    Returns:
        (lower, upper) in [-1, 1], to 1e-7; (-1, 1) while an arm has no data.

    Cost: about 25 evaluations of `log_non_inferiority_e_value` a side.

    Source: as `log_non_inferiority_e_value`.
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if treatment_n == 0 or control_n == 0:
        return -1.0, 1.0
    mirrored = (control_events, control_n, treatment_events, treatment_n)
    straight = (treatment_events, treatment_n, control_events, control_n)
    return -_upper_margin(mirrored, alpha, n_star), _upper_margin(straight, alpha, n_star)


def _upper_margin(counts: tuple[int, int, int, int], alpha: float, n_star: float) -> float:
    """Least margin above the estimate that is rejected at alpha/2."""
    treatment_events, treatment_n, control_events, control_n = counts
    inside = treatment_events / treatment_n - control_events / control_n

    def short(margin: float) -> float:
        """How far the evidence falls short of rejecting a margin; rises with the margin."""
        return log_non_inferiority_e_value(*counts, margin, n_star=n_star, alpha=alpha) - math.log(2 / alpha)

    # Steps that double find a rejected margin near the estimate, so that the root is looked for where the evidence is nearly quadratic in it.
    width, most = 0.5 / math.sqrt(min(treatment_n, control_n)), 1 - 1e-6
    while (outside := min(inside + width, most)) < most and short(outside) < 0:
        inside, width = outside, 2 * width
    if outside >= most and short(most) < 0:
        return 1.0
    root = float(optimize.brentq(short, max(inside, -most), outside, xtol=1e-8)) if short(max(inside, -most)) < 0 else inside
    return min(1.0, root + 1e-7)


def tuned_prior(null: ArrayLike, n_star: float, alpha: float = 0.05) -> tuple[Array, Array]:
    """Beta mixing distribution centred at the null that makes a sequence tightest near `n_star` trials. Choose it before the start.

    A Beta with mean `null` and concentration c has variance null (1 - null) / (c + 1), that of a normal mixture with rho^2 = 1 / (c + 1);
    rho^2 as in `asymptotic_rho`.

    Args:
        null: probability at the edge of the null; broadcasts.
        n_star: trials at which it should be tightest.
        alpha: two-sided level.
    """
    if not n_star > 0:
        raise ValueError(f"`n_star` is {n_star:g}; it must be above 0")
    concentration = max(1.0, asymptotic_rho(n_star, alpha) ** -2 - 1)
    theta = np.asarray(null, dtype=float)
    return concentration * theta, concentration * (1 - theta)
