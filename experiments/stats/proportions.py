"""Proportions at one sample size chosen beforehand: a test and the interval that belongs to it.

Rules: p-value and interval are one procedure turned round, so `p <= alpha` exactly where the interval leaves 0 out. Where any of the four cells
(yes and no of both arms) is expected to hold fewer than five units under no difference, the normal approximation is not believed: Fisher's exact test
with its melded interval; otherwise the score test with the score interval.

Example:
    >>> compare_proportions(1, 1, 3, 500)
    Comparison(difference=0.994, lower=0.009..., upper=0.998..., p_value=0.0159..., test='fisher')
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.stats.kinds import Array, check_counts, normal_quantile, normal_tail
from experiments.stats.late import optimize, special

FEWEST_EXPECTED = 5.0
"""Expected units of a cell below which the normal approximation is not used (Cochran 1954, Biometrics 10:417)."""
Test = Literal["fisher", "score"]
_ABSOLUTE = 1e-13
_PANELS = np.array(
    [math.erfc(-z / math.sqrt(2)) / 2 for z in (-7.8, -6.5, -5, -4, -3, -2, -1.3, -0.6, 0, 0.6, 1.3, 2, 3, 4, 5, 6.5, 7.8)]  # the normal distribution
)
"""Quantile levels between which a beta density is smooth enough for Gauss-Legendre; 3e-15 is left out at either end."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two proportions at a fixed sample size: treatment minus control.

    Attributes:
        difference: point estimate, p_treatment - p_control.
        lower: lower limit of the difference.
        upper: upper limit of the difference.
        p_value: two-sided, of equality.
        test: `fisher` (exact, with melded limits) or `score` (asymptotic).
    """

    difference: float
    lower: float
    upper: float
    p_value: float
    test: Test


def wilson_interval(events: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval of one proportion at a fixed sample size.

    Returns:
        (lower, upper) in [0, 1]; (0, 1) without data.

    Source: Wilson (1927), JASA 22:209; Newcombe (1998), Stat. Med. 17:857, method 3.
    """
    check_counts(events, n)
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(1 - alpha / 2)
    centre = (events + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(events * (n - events) / n + z * z / 4)
    lower = 0.0 if events == 0 else max(0.0, centre - half)
    upper = 1.0 if events == n else min(1.0, centre + half)
    return lower, upper


def compare_proportions(treatment_events: int, treatment_n: int, control_events: int, control_n: int, alpha: float = 0.05) -> Comparison:
    """Difference of two proportions at a fixed sample size: Fisher's exact test in small cells, the score test elsewhere, each with its interval.

    Returns:
        `Comparison`; (-1, 1) and p = 1 when an arm has no data.

    Source: `fisher_p_value`, `melded_interval`, `score_interval`.
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if treatment_n == 0 or control_n == 0:
        return Comparison(0.0, -1.0, 1.0, 1.0, "fisher")
    counts = treatment_events, treatment_n, control_events, control_n
    difference = treatment_events / treatment_n - control_events / control_n
    events = treatment_events + control_events
    if fewest_expected(*counts) < FEWEST_EXPECTED:
        return Comparison(difference, *melded_interval(*counts, alpha), fisher_p_value(*counts), "fisher")
    pooled = events / (treatment_n + control_n)
    z = difference / math.sqrt(pooled * (1 - pooled) * (1 / treatment_n + 1 / control_n))
    return Comparison(difference, *score_interval(*counts, alpha), 2 * normal_tail(abs(z)), "score")


def fewest_expected(treatment_events: int, treatment_n: int, control_events: int, control_n: int) -> float:
    """Units expected in the smallest of the four cells if there is no difference. Source: Cochran (1954), Biometrics 10:417."""
    events, units = treatment_events + control_events, treatment_n + control_n
    return min(treatment_n, control_n) * (min(events, units - events) / units)


# --- exact ------------------------------------------------------------------------------------------------------------


def fisher_p_value(treatment_events: int, treatment_n: int, control_events: int, control_n: int) -> float:
    """Two-sided p-value of Fisher's exact test: twice the smaller hypergeometric tail, at most 1.

    Doubled rather than summed over the less likely tables, because only the doubled one belongs to an interval (Fay 2010, Biostatistics 11:373).

    Source: Fisher (1935), JRSS 98:39; the conditional distribution of the treatment's events given all events.
    """
    return min(1.0, 2 * min(_fisher_tails(treatment_events, treatment_n, control_events, control_n)))


def _fisher_tails(events: int, n: int, control_events: int, control_n: int) -> tuple[float, float]:
    """P(treatment events >= those seen) and P(<= those seen), given the margins.

    By ratios of neighbouring probabilities, p(k + 1) / p(k) = (K - k)(n - k) / ((k + 1)(N - K - n + k + 1)), which lose nothing in large counts.
    """
    total = events + control_events
    lowest, highest = max(0, total - control_n), min(n, total)
    k = np.arange(lowest, highest)
    steps = np.log(total - k) + np.log(n - k) - np.log(k + 1) - np.log(control_n - total + k + 1.0)
    log_mass = np.concatenate([[0.0], np.cumsum(steps)])
    mass = np.exp(log_mass - log_mass.max())
    at = events - lowest
    return float(mass[at:].sum() / mass.sum()), float(mass[: at + 1].sum() / mass.sum())


def melded_interval(treatment_events: int, treatment_n: int, control_events: int, control_n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of a difference of proportions (treatment minus control) that leaves 0 out exactly where `fisher_p_value` is at most alpha.

    With independent T, the confidence distributions of Clopper-Pearson limits (Beta(k, n-k+1) below, Beta(k+1, n-k) above), the lower limit
    is the alpha/2 quantile of T_lower,treatment - T_upper,control, the upper one the 1 - alpha/2 quantile of T_upper,treatment - T_lower,control.

    Returns:
        (lower, upper) in [-1, 1]; (-1, 1) without data in an arm.

    Source: Fay, Proschan & Brittain (2015), Biometrics 71:146, section 4.2.
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if treatment_n == 0 or control_n == 0:
        return -1.0, 1.0
    counts = treatment_events, treatment_n, control_events, control_n
    lower = _melded_lower(*counts, alpha)
    upper = -_melded_lower(control_events, control_n, treatment_events, treatment_n, alpha)
    # At 0 the two are the same number by theory; the test, which is summed and not integrated, has the word on which side of it a limit lies.
    above, below = _fisher_tails(*counts)
    lower = max(lower, _ABSOLUTE) if above <= alpha / 2 else min(lower, 0.0)
    upper = min(upper, -_ABSOLUTE) if below <= alpha / 2 else max(upper, 0.0)
    return lower, upper


def _melded_lower(events: int, n: int, control_events: int, control_n: int, alpha: float) -> float:
    """Quantile alpha/2 of Beta(k1, n1-k1+1) - Beta(k0+1, n0-k0); a parameter of 0 puts all mass on 0, or on 1."""
    if events == 0 and control_events == control_n:
        return -1.0
    if events == 0:
        return -float(special.betaincinv(control_events + 1, control_n - control_events, 1 - alpha / 2))
    if control_events == control_n:
        return float(special.betaincinv(events, n - events + 1, alpha / 2)) - 1.0
    first, second = (events, n - events + 1), (control_events + 1, control_n - control_events)
    return float(optimize.brentq(lambda gap: _beta_gap(first, second, gap) - alpha / 2, -1.0, 1.0, xtol=1e-13, rtol=1e-13))


def _beta_gap(first: tuple[int, int], second: tuple[int, int], gap: float) -> float:
    """P(A - B <= gap) of independent betas: the integral over b of P(A <= b + gap), by Gauss-Legendre between quantiles of both."""
    edges = np.concatenate([special.betaincinv(*second, _PANELS), special.betaincinv(*first, _PANELS) - gap, [-gap, 1 - gap]])
    edges = np.unique(np.clip(edges, special.betaincinv(*second, _PANELS[0]), special.betaincinv(*second, _PANELS[-1])))
    half = np.diff(edges)[:, None] / 2
    at = edges[:-1, None] + half * (1 + _NODES)
    found = _beta_density(second, at) * special.betainc(*first, np.clip(at + gap, 0, 1)) * half * _WEIGHTS
    return float(found.sum() + _PANELS[0] * special.betainc(*first, np.clip(edges[-1] + gap, 0, 1)))


def _beta_density(shape: tuple[int, int], at: Array) -> Array:
    a, b = shape
    return np.asarray(np.exp(special.xlogy(a - 1, at) + special.xlog1py(b - 1, -at) - special.betaln(a, b)))


# --- asymptotic -------------------------------------------------------------------------------------------------------


def score_interval(treatment_events: int, treatment_n: int, control_events: int, control_n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of a difference of proportions (treatment minus control): the differences that the score test does not reject.

        |p1 - p0 - d| <= z_{1-alpha/2} sqrt( r1 (1 - r1) / n1 + r0 (1 - r0) / n0 ),   r1 - r0 = d, of the largest likelihood

    At d = 0 it is the pooled z-test.

    Returns:
        (lower, upper) in [-1, 1]; (-1, 1) without data in an arm.

    Source: Mee (1984), Biometrics 40:1175; restricted estimates as in Miettinen & Nurminen (1985), Stat. Med. 4:213, appendix I.
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if treatment_n == 0 or control_n == 0:
        return -1.0, 1.0
    z = normal_quantile(1 - alpha / 2)
    counts = treatment_events, treatment_n, control_events, control_n
    gap = treatment_events / treatment_n - control_events / control_n

    def beyond(difference: float) -> float:
        return gap - difference - z * _score_error(*counts, difference)

    def short(difference: float) -> float:
        return difference - gap - z * _score_error(*counts, difference)

    return _root(beyond, -1.0, gap), -_root(lambda d: short(-d), -1.0, -gap)


def _root(crossing: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is above 0 at `low` falls to 0 before `high`, by halving; `low` where it is not above.

    By its sign alone: at `high` it is 0 again where both arms have only yes or only no.
    """
    if crossing(low) <= 0:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if crossing(middle) > 0 else (low, middle)
    return low


def _score_error(k1: int, n1: int, k0: int, n0: int, difference: float) -> float:
    """Standard error at the likeliest rates whose difference is the given one: the root of a cubic in the control's rate."""
    n, events = n1 + n0, k1 + k0
    # Derivative of the likelihood in r0, with r1 = r0 + d: a r0^3 + b r0^2 + c r0 + e = 0.
    b = (n1 + 2 * n0) * difference - n - events
    c = (n0 * difference - n - 2 * k0) * difference + events
    e = k0 * difference * (1 - difference)
    v = b**3 / (3 * n) ** 3 - b * c / (6 * n * n) + e / (2 * n)
    u = math.copysign(math.sqrt(max(0.0, b * b / (3 * n) ** 2 - c / (3 * n))), v)
    angle = math.pi if u == 0 else math.pi + math.acos(max(-1.0, min(1.0, v / u**3)))
    r0 = 2 * u * math.cos(angle / 3) - b / (3 * n)
    r0 = min(max(r0, 0.0, -difference), 1.0, 1.0 - difference)
    r1 = min(max(r0 + difference, 0.0), 1.0)
    return math.sqrt(r1 * (1 - r1) / n1 + r0 * (1 - r0) / n0)
