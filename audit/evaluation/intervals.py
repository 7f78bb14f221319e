"""Intervals in integer arithmetic, so that every machine prints the same digits.

Rules:
- Counts in, parts per million out. No floats: a signed report must have the same bytes everywhere, and libm does not promise its last digit.
- Level is 95 % two-sided throughout, z = 1.959963984540054.
- Every row counts as independent. Rows that share a unit make these intervals too narrow; reports say so.

Example:
    >>> wilson(81, 263)
    Interval(value_ppm=307985, low_ppm=255288, high_ppm=366210)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

PPM = 1_000_000
_Z = Fraction(1_959_963_984_540_054, 10**15)
_SCALE = 10**15


@dataclass(frozen=True, slots=True)
class Interval:
    """A point and its 95 % interval, in parts per million."""

    value_ppm: int
    low_ppm: int
    high_ppm: int


def wilson(events: int, n: int) -> Interval:
    """Wilson's score interval of a proportion.

    Formula: (2k + z² ± z sqrt(z² + 4k(n-k)/n)) / 2(n + z²). Source: E. B. Wilson, JASA 22 (1927) 209-212, doi:10.1080/01621459.1927.10502953.

    Args:
        events: successes k, 0 <= k <= n.
        n: trials, at least 1.

    Raises:
        ValueError: when the counts are not such.
    """
    if not 0 <= events <= n or n < 1:
        raise ValueError(f"wilson needs 0 <= events <= n and n >= 1, not events `{events}`, n `{n}`")
    square = _Z * _Z
    half = _Z * _root(square + Fraction(4 * events * (n - events), n))
    centre, width = 2 * events + square, 2 * (n + square)
    return Interval(to_ppm(Fraction(events, n)), _floor_ppm((centre - half) / width), _ceil_ppm((centre + half) / width))


def normal(value: Fraction, variance: Fraction) -> Interval:
    """Interval value ± z sqrt(variance), cut to [0, 1]; `variance` is that of the estimate."""
    half = _Z * _root(variance)
    return Interval(to_ppm(value), _floor_ppm(max(value - half, Fraction(0))), _ceil_ppm(min(value + half, Fraction(1))))


def half_width_ppm(variance: Fraction) -> int:
    """Half width z sqrt(variance) in parts per million, rounded up: for the interval of an estimate that no range limits."""
    return math.ceil(_Z * _root(variance) * PPM)


def mean_variance(n: int, total: Fraction, squares: Fraction) -> Fraction:
    """Variance of a mean from n values, their sum and sum of squares (divisor n - 1); 0 for one value."""
    if n < 2:
        return Fraction(0)
    return max((squares - total * total / n) / ((n - 1) * n), Fraction(0))


def to_ppm(value: Fraction) -> int:
    """Nearest part per million, halves to even."""
    return round(value * PPM)


def _root(value: Fraction) -> Fraction:
    """Square root to 15 decimals, rounded down."""
    return Fraction(math.isqrt(value.numerator * _SCALE * _SCALE // value.denominator), _SCALE)


def _floor_ppm(value: Fraction) -> int:
    return max(math.floor(value * PPM + Fraction(1, 10**6)), 0)  # the last digit of the root must not cost a whole part


def _ceil_ppm(value: Fraction) -> int:
    return min(math.ceil(value * PPM - Fraction(1, 10**6)), PPM)
