"""Planned looks: group-sequential boundaries by error spending.

Rules: alpha is spent by *information fraction* (units now over units planned), looks may be unequal and their number need not be known; what was
spent stays spent. Past the planned size (overrun) whatever is left is spent. Boundaries are two-sided and symmetric, on the scale of the z statistic.
Between looks there is no evidence: peek only at looks, or use a confidence sequence.

Example:
    >>> boundaries([0.2, 0.4, 0.6, 0.8, 1.0], 0.05, "obrien_fleming").round(3)
    array([4.877, 3.357, 2.68 , 2.29 , 2.031])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, partial
from itertools import pairwise
from typing import Literal

import numpy as np

from experiments.stats.kinds import Array, normal_quantile
from experiments.stats.late import optimize, special

Spending = Literal["obrien_fleming", "pocock"]

CLOSEST_LOOKS = 0.001
"""Least information between looks: the integration grid resolves the normal increment between two looks, which is this narrow."""
_FURTHEST = 9.0
"""Boundary used where nothing measurable is spent, in standard deviations: P(|Z| > 9) < 1e-18."""


def spent(fraction: float, alpha: float = 0.05, spending: Spending = "obrien_fleming") -> float:
    """Two-sided alpha that may have been used up by an information fraction.

        obrien_fleming   4 (1 - Phi(z_{1 - alpha/4} / sqrt(t)))       almost nothing early
        pocock           alpha ln(1 + (e - 1) t)                      evenly

    The first spends alpha/2 on each side with the one-sided function 2 (1 - Phi(z_{1-alpha/4}/sqrt t)).

    Source: Lan & DeMets (1983), Biometrika 70:659.
    """
    if fraction <= 0:
        return 0.0
    t = min(1.0, fraction)
    if spending == "obrien_fleming":
        return 4 * float(special.ndtr(-normal_quantile(1 - alpha / 4) / math.sqrt(t)))
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * t)
    raise ValueError(f"unknown spending `{spending}`; allowed: obrien_fleming, pocock")


def boundaries(fractions: Sequence[float], alpha: float = 0.05, spending: Spending = "obrien_fleming") -> Array:
    """Boundaries of |z| at the looks made so far.

    Args:
        fractions: information fractions of the looks, rising, above 0; at 1 and above everything is spent.
        alpha: two-sided level of the whole design.
        spending: how it is spent.

    Returns:
        One boundary a look; infinite where less than 1e-15 is to be spent.

    Raises:
        ValueError: fractions that do not rise, or a look after all is spent.

    Cost: about 5 ms a look. Source: Armitage, McPherson & Rowe (1969), JRSS-A 132:235 (recursion); Lan & DeMets (1983).
    """
    times = _checked(fractions)
    total = [spent(t, alpha, spending) for t in times]
    region = _Region(0.0, times)
    found = []
    for time, now, before in zip(times, total, [0.0, *total[:-1]], strict=True):
        increment = now - before
        if increment <= 1e-15:
            found.append(math.inf)
        elif region.time == 0:
            # The first look needs no integral, and near fraction 0 its tail is too thin for a search.
            found.append(-normal_quantile(increment / 2))
        else:
            found.append(_solved(partial(region.crossing, time), increment))
        region = region.onwards(time, min(found[-1], _FURTHEST))
    return np.array(found)


def crossing_probabilities(fractions: Sequence[float], bounds: Sequence[float], drift: float = 0.0) -> Array:
    """Probability of crossing +-bound first at each look, when z at fraction t has mean drift * sqrt(t).

    With drift 0 these are what was spent; with drift `effect * sqrt(full information)` their sum is the power.

    Source: Armitage, McPherson & Rowe (1969), JRSS-A 132:235.
    """
    times = _checked(fractions)
    region = _Region(drift, times)
    found = []
    for time, bound in zip(times, bounds, strict=True):
        found.append(region.crossing(time, bound))
        region = region.onwards(time, min(bound, _FURTHEST + abs(drift)))
    return np.array(found)


def classic_boundaries(looks: int, alpha: float = 0.05, shape: Spending = "pocock") -> Array:
    """The original designs with equal looks: constant boundaries (Pocock) or c sqrt(K / k) (O'Brien-Fleming).

    Source: Pocock (1977), Biometrika 64:191; O'Brien & Fleming (1979), Biometrics 35:549; tables in Jennison & Turnbull (2000), 2.1 and 2.3.
    """
    if not 1 <= looks <= 100:
        raise ValueError(f"`looks` is {looks}; 1 to 100 are possible")
    fractions = np.arange(1, looks + 1) / looks
    profile = np.ones(looks) if shape == "pocock" else np.sqrt(1 / fractions)
    constant = _solved(lambda c: float(crossing_probabilities(list(fractions), list(c * profile)).sum()), alpha)
    return np.asarray(constant * profile)


def inflation(fractions: Sequence[float], alpha: float = 0.05, power: float = 0.8, spending: Spending = "obrien_fleming") -> float:
    """Units needed at most, relative to a fixed-size test of the same power.

    Source: Jennison & Turnbull (2000), Group Sequential Methods, chapter 2.
    """
    bounds = list(boundaries(fractions, alpha, spending))
    fixed = normal_quantile(1 - alpha / 2) + normal_quantile(power)
    needed = float(optimize.brentq(lambda d: crossing_probabilities(fractions, bounds, d).sum() - power, fixed, 3 * fixed, xtol=1e-10))
    return (needed / fixed) ** 2


class _Region:
    """Sub-density of the score S(t) = z sqrt(t) on the paths that have not crossed yet, on Gauss-Legendre nodes."""

    def __init__(self, drift: float, times: Sequence[float]) -> None:
        self.drift, self.time = drift, 0.0
        self.narrowest = math.sqrt(min((b - a for a, b in pairwise(times)), default=1.0))
        self.nodes, self.mass = np.zeros(1), np.ones(1)

    def crossing(self, time: float, bound: float) -> float:
        """Probability of |z| >= bound at `time`, without having crossed before."""
        step = time - self.time
        centre = self.nodes + self.drift * step
        edge = bound * math.sqrt(time)
        tails = special.ndtr((centre - edge) / math.sqrt(step)) + special.ndtr((-edge - centre) / math.sqrt(step))
        return float(self.mass @ tails)

    def onwards(self, time: float, bound: float) -> _Region:
        """Return the region after a look that was not crossed."""
        step = time - self.time
        edge = bound * math.sqrt(time)
        # Nodes are at most pi edge / count apart: 1.6 to a standard deviation of the narrowest increment, where the rule is exact to 1e-9.
        roots, weights = _legendre(int(min(2048, max(96, 5 * edge / self.narrowest))))
        after = copy(self)
        after.time, after.nodes = time, roots * edge
        gaps = (after.nodes[:, None] - self.nodes[None, :] - self.drift * step) / math.sqrt(step)
        after.mass = np.exp(-(gaps**2) / 2) @ self.mass / math.sqrt(2 * math.pi * step) * weights * edge
        return after


@lru_cache(maxsize=16)
def _legendre(nodes: int) -> tuple[Array, Array]:
    roots, weights = special.roots_legendre(nodes)
    return roots, weights


def _solved(crossing: Callable[[float], float], target: float) -> float:
    return float(optimize.brentq(lambda z: crossing(z) - target, 1e-6, _FURTHEST + 1, xtol=1e-12))


def _checked(fractions: Sequence[float]) -> list[float]:
    times = [float(fraction) for fraction in fractions]
    if not times or not all(math.isfinite(t) and t > 0 for t in times):
        raise ValueError("information fractions must be numbers above 0")
    if any(after - before < CLOSEST_LOOKS for before, after in pairwise(times)):
        raise ValueError(f"information fractions must rise by at least {CLOSEST_LOOKS:g} from look to look, got {', '.join(f'{t:g}' for t in times)}")
    if len(times) > 1 and times[-2] >= 1:
        raise ValueError("a look after the planned size: everything was spent at the look before it")
    return times
