"""Mergeable sufficient statistics of unit values."""

from __future__ import annotations

from dataclasses import dataclass


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
