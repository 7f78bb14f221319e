"""Bayesian comparisons, with the prior shown.

Rules: every result is a statement under a prior, so the prior is an argument, is in the result, and `sensitivity` gives the answer under others.
These are not error probabilities: stopping as soon as P(better) > 0.95 under a flat prior raises false alarms by peeking like a z-test does. Use them
to describe, and a confidence sequence to decide.

Example:
    >>> beta_binomial(56, 70, 48, 80).probability_better
    0.995...
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from experiments.stats.kinds import Array, check_counts, normal_quantile
from experiments.stats.late import special

BetaPrior = tuple[float, float]
NODES = 600
"""Gauss-Legendre nodes of the quadrature in the angle arcsin(sqrt(p))."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """What data and prior say of treatment minus control.

    Attributes:
        probability_better: P(treatment > control).
        expected_difference: posterior mean of the difference.
        lower: lower end of the equal-tailed credible interval.
        upper: its upper end.
        expected_loss: E[max(control - treatment, 0)]: what is lost on average by choosing the treatment.
        prior: in words.
    """

    probability_better: float
    expected_difference: float
    lower: float
    upper: float
    expected_loss: float
    prior: str


def beta_binomial(
    treatment_events: int, treatment_n: int, control_events: int, control_n: int, *, prior: BetaPrior = (1.0, 1.0), alpha: float = 0.05
) -> Posterior:
    """Two proportions with independent Beta priors; "better" means a higher rate.

        p_i | data ~ Beta(a + k_i, b + n_i - k_i)
        P(p1 > p0) = integral of f0(p) (1 - F1(p)) dp,     expected loss = integral of f0(p) E[(p - p1)+] dp

    Integrals by Gauss-Legendre quadrature in phi = arcsin(sqrt(p)), where the densities have no singularity for a, b >= 1/2.

    Raises:
        ValueError: impossible counts, or a prior below 1/2.

    Source: Gelman et al., Bayesian Data Analysis (3rd ed.), 2.4; expected loss as in Stucchi (2015), "Bayesian A/B testing at VWO".
    """
    check_counts(treatment_events, treatment_n)
    check_counts(control_events, control_n)
    if min(prior) < 0.5:
        raise ValueError(f"the prior Beta({prior[0]:g}, {prior[1]:g}) has a parameter below 0.5")
    a1, b1 = prior[0] + treatment_events, prior[1] + treatment_n - treatment_events
    a0, b0 = prior[0] + control_events, prior[1] + control_n - control_events
    rates, weights = _nodes(a0, b0)
    mean1 = a1 / (a1 + b1)
    # E[(p - X)+] = p F(p) - E[X; X < p], and x Beta(a, b) is mean * Beta(a + 1, b).
    shortfall = rates * special.betainc(a1, b1, rates) - mean1 * special.betainc(a1 + 1, b1, rates)
    return Posterior(
        probability_better=float(weights @ special.betaincc(a1, b1, rates)),
        expected_difference=mean1 - a0 / (a0 + b0),
        lower=_difference_quantile((a1, b1), rates, weights, alpha / 2),
        upper=_difference_quantile((a1, b1), rates, weights, 1 - alpha / 2),
        expected_loss=max(0.0, float(weights @ shortfall)),
        prior=f"each rate Beta({prior[0]:g}, {prior[1]:g})",
    )


def normal_normal(difference: float, standard_error: float, *, prior_mean: float = 0.0, prior_sd: float, alpha: float = 0.05) -> Posterior:
    """A difference with a normal likelihood and a normal prior.

        precision = 1/se^2 + 1/sd^2,   mean = (difference/se^2 + prior_mean/sd^2) / precision

    Assumes the estimator is close to normal with a known standard error (many units).

    Source: Gelman et al., Bayesian Data Analysis (3rd ed.), 2.5.
    """
    if not (standard_error > 0 and prior_sd > 0):
        raise ValueError("the standard error and the prior's standard deviation must be above 0")
    precision = standard_error**-2 + prior_sd**-2
    mean = (difference * standard_error**-2 + prior_mean * prior_sd**-2) / precision
    sd = precision**-0.5
    half = normal_quantile(1 - alpha / 2) * sd
    z = mean / sd
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return Posterior(
        probability_better=float(special.ndtr(z)),
        expected_difference=mean,
        lower=mean - half,
        upper=mean + half,
        expected_loss=max(0.0, sd * density - mean * float(special.ndtr(-z))),
        prior=f"difference Normal(mean {prior_mean:g}, sd {prior_sd:g})",
    )


def _nodes(a: float, b: float) -> tuple[Array, Array]:
    """Points p and weights w with sum w f(p) = E[f(X)], X ~ Beta(a, b): Gauss-Legendre over 12 standard deviations of arcsin(sqrt(X))."""
    roots, weights = special.roots_legendre(NODES)
    centre, spread = math.asin(math.sqrt(a / (a + b))), 0.5 / math.sqrt(a + b)
    low, high = max(0.0, centre - 12 * spread), min(math.pi / 2, centre + 12 * spread)
    angles = (low + high) / 2 + (high - low) / 2 * roots
    p = np.sin(angles) ** 2
    log_density = math.log(2) + (2 * a - 1) * np.log(np.sin(angles)) + (2 * b - 1) * np.log(np.cos(angles)) - special.betaln(a, b)
    mass = np.exp(log_density) * weights * (high - low) / 2
    return p, np.asarray(mass / mass.sum())


def _difference_quantile(treatment: tuple[float, float], rates: Array, weights: Array, level: float) -> float:
    """Quantile of X1 - X0, X0 on the nodes: halving of [-1, 1]."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(weights @ special.betainc(*treatment, np.clip(rates + middle, 0.0, 1.0))) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
