"""A log-linear histogram of non-negative integers: mergeable, bounded, without floats.

Buckets are exact below 64; above, each power of two is cut into 32 equal buckets, so a quantile is at most 3.2 % above the value it stands for.
At most about 1,900 buckets for 64-bit values; only those that occur are kept.

Example:
    >>> histogram = Histogram()
    >>> for value in (5, 7, 900):
    ...     histogram.add(value)
    >>> histogram.quantile(50, 100)
    7
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SUB_BITS = 5
"""log2 of the buckets in one power of two."""


@dataclass(slots=True)
class Histogram:
    """Counts by bucket. Owner: the cell that holds it."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, value: int) -> None:
        """Count one value; negative ones count as 0."""
        self.counts[bucket_of(max(value, 0))] += 1

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        self.counts.update(other.counts)

    @property
    def n(self) -> int:
        """Number of values."""
        return self.counts.total()

    def quantile(self, numerator: int, denominator: int) -> int | None:
        """Upper edge of the bucket that holds the value of rank ceil(n * numerator / denominator); None without values."""
        rank = -(-self.n * numerator // denominator)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return upper_edge(bucket)
        return None


def bucket_of(value: int) -> int:
    """Bucket of a value: monotone, exact below 2**(SUB_BITS + 1)."""
    shift = max(value.bit_length() - SUB_BITS - 1, 0)
    return (shift << SUB_BITS) + (value >> shift)


def upper_edge(bucket: int) -> int:
    """Largest value in a bucket."""
    shift = max((bucket >> SUB_BITS) - 1, 0)
    return ((bucket - (shift << SUB_BITS) + 1) << shift) - 1
