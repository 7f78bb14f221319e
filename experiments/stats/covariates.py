"""CUPED: variance removed by what was known of a unit before its exposure.

Rules: the covariate is from before (or at) the unit's first exposure, because anything later may be an effect; theta is cross-fitted, each half of
the units being adjusted with the theta of the other half, so the adjusted mean is unbiased at any size; one theta a metric and look.

Example:
    >>> treatment, control = cuped([treatment_halves, control_halves])       # JointMoments of (outcome, covariate)
    >>> welch(treatment, control).standard_error
    0.7
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from experiments.stats.moments import JointMoments, Moments

MIN_UNITS_FOR_THETA = 20
"""Units in each half below which theta is 0: a slope of a handful of units adds variance."""


def cuped_theta(arms: Sequence[JointMoments], outcome: int = 0, covariate: int = 1) -> float:
    """Slope cov(Y, X) / var(X), pooled within arms; 0 where the covariate does not vary.

    Source: Deng, Xu, Kohavi & Walker (2013), WSDM, "Improving the sensitivity of online controlled experiments".
    """
    together = sum(float(arm.scatter[outcome, covariate]) for arm in arms)
    alone = sum(float(arm.scatter[covariate, covariate]) for arm in arms)
    return together / alone if alone > 0 else 0.0


def cuped(arms: Sequence[Sequence[JointMoments]], outcome: int = 0, covariate: int = 1) -> list[Moments]:
    """Adjusted moments of every arm: Y - theta (X - mean X over all arms); the variance falls by the factor 1 - rho^2.

    Args:
        arms: for each arm its two halves (the same split of units in every arm, made without regard to the outcome).
        outcome: index of Y.
        covariate: index of X.

    Returns:
        Moments by arm, in the order given. Differences of their means estimate the same effect as unadjusted ones.

    Raises:
        ValueError: not exactly two halves.

    Source: Deng et al. (2013), section 3; cross-fitting as in Guo, Coey, Konutgan, Li, Schoener & Goldman (2021), NeurIPS.
    """
    if any(len(halves) != 2 for halves in arms):
        raise ValueError("every arm needs exactly two halves to cross-fit")
    whole = reduce(add, (half for halves in arms for half in halves))
    centre = float(whole.mean[covariate])
    thetas = []
    for other in (1, 0):
        parts = [halves[other] for halves in arms]
        thetas.append(cuped_theta(parts, outcome, covariate) if sum(part.n for part in parts) >= MIN_UNITS_FOR_THETA else 0.0)
    adjusted = []
    for halves in arms:
        pieces = []
        for half, theta in zip(halves, thetas, strict=True):
            weights = [0.0] * half.mean.size
            weights[outcome], weights[covariate] = 1.0, -theta
            pieces.append(half.along(weights, offset=theta * centre))
        adjusted.append(pieces[0] + pieces[1])
    return adjusted


def correlation(arms: Sequence[JointMoments], outcome: int = 0, covariate: int = 1) -> float:
    """Correlation rho of outcome and covariate within arms; CUPED needs 1 - rho^2 of the units."""
    together = sum(float(arm.scatter[outcome, covariate]) for arm in arms)
    alone = sum(float(arm.scatter[covariate, covariate]) for arm in arms) * sum(float(arm.scatter[outcome, outcome]) for arm in arms)
    return float(together / alone**0.5) if alone > 0 else 0.0
