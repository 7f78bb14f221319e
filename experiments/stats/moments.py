"""Mergeable sufficient statistics of unit values: rows can be dropped as soon as their unit is complete.

Rules: one entry a *unit*, never a request (clustering: a unit's requests are not independent, its total or mean is one value). Merging is
associative, so chunks, files and workers can be combined in any order. Variances have divisor n unless said otherwise.

Example:
    >>> totals = JointMoments.of(np.column_stack([clicks_by_unit, views_by_unit]))
    >>> totals.mean[0] / totals.mean[1]          # clicks a view
    0.031
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments.stats.kinds import Array


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and variance (divisor n) of one arm's unit values; merge with `+`."""

    n: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Moments of an array. Raises ValueError for a value that is not finite."""
        x = np.asarray(values, dtype=float)
        if x.size == 0:
            return cls(0, 0.0, 0.0)
        if not np.all(np.isfinite(x)):
            raise ValueError("a value is not finite; hint: leave out missing values and count them")
        return cls(x.size, float(x.mean()), float(x.var()))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        within = self.n * self.variance + other.n * other.variance
        return Moments(n, mean, (within + gap * gap * self.n * other.n / n) / n)

    @property
    def sample_variance(self) -> float:
        """Variance with divisor n - 1; 0 below two values."""
        return self.variance * self.n / (self.n - 1) if self.n > 1 else 0.0

    @property
    def variance_of_mean(self) -> float:
        """Squared standard error of the mean."""
        return self.sample_variance / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class JointMoments:
    """Count, means and scatter of several values a unit has (outcome, denominator, covariate); merge with `+`.

    Attributes:
        n: units.
        mean: shape (d,).
        scatter: shape (d, d), sums of products of deviations from the mean.
    """

    n: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, values: ArrayLike) -> JointMoments:
        """Moments of an array of shape (units, d).

        Raises:
            ValueError: a value that is not finite, or so large that its square is not.
        """
        x = np.asarray(values, dtype=float)
        if x.ndim != 2:
            raise ValueError(f"`values` has {x.ndim} dimensions; one row a unit and one column a value are needed")
        if x.shape[0] == 0:
            return cls(0, np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1])))
        if not np.all(np.isfinite(x)):
            raise ValueError("a value is not finite; hint: leave out missing values and count them")
        with np.errstate(over="ignore", invalid="ignore"):
            mean = x.mean(axis=0)
            deviations = x - mean
            scatter = deviations.T @ deviations
        if not np.all(np.isfinite(scatter)):
            raise ValueError("values are so large that their variance overflows; hint: rescale the column or cap it")
        return cls(x.shape[0], mean, scatter)

    def __add__(self, other: JointMoments) -> JointMoments:
        """Moments of both samples together (Chan, Golub & LeVeque 1983, eq. 2.1, with outer products)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        return JointMoments(n, self.mean + gap * (other.n / n), self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n))

    @property
    def covariance(self) -> Array:
        """Covariance with divisor n, shape (d, d); zeros without data."""
        return np.asarray(self.scatter / self.n if self.n else self.scatter)

    def along(self, weights: ArrayLike, offset: float = 0.0) -> Moments:
        """Moments of the linear combination `values @ weights + offset`."""
        w = np.asarray(weights, dtype=float)
        return Moments(self.n, float(self.mean @ w) + offset, max(0.0, float(w @ self.covariance @ w)))

    def mapped(self, weights: ArrayLike, offset: ArrayLike = 0.0) -> JointMoments:
        """Moments of linear combinations: `weights` has shape (k, d), one row a combination."""
        w = np.asarray(weights, dtype=float)
        return JointMoments(self.n, w @ self.mean + np.asarray(offset, dtype=float), w @ self.scatter @ w.T)
