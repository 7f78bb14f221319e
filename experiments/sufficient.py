"""Sufficient statistics of one metric and arm: what is left of the units, and all that a comparison needs.

Rules: cells merge with `+`, so files, chunks and machines can be combined; a unit seen in two arms is in no cell. With a covariate the units are kept
in two halves (by number, even and odd) for cross-fitting, and those without a covariate apart: they take part unadjusted.

| type | value of a unit | compared |
|---|---|---|
| `proportion`, `mean` | mean of its rows | means over units |
| `count` | sum of its rows, 0 if none has a value | means over units |
| `ratio` | sum of the column, sum of the denominator (or its rows) | ratio of the totals, by the delta method |
| `quantile` | rows past a threshold fixed beforehand, rows | ratio of the totals |

Example:
    >>> cell_of(totals, Metric("bought", "proportion", "bought"), None, arm=0).ones
    31
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.rows import Array
from experiments.stats import JointMoments
from experiments.unit_table import Totals

MetricType = Literal["proportion", "mean", "count", "ratio", "quantile"]
TYPES: tuple[MetricType, ...] = ("proportion", "mean", "count", "ratio", "quantile")
NO_COVARIATE = 2
"""Index of the part without a covariate; 0 and 1 are the halves."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing to compare.

    Attributes:
        name: what it is called in the result.
        type: see the module.
        column: where its values are.
        denominator: of a `ratio`; None counts the rows that have a value.
        quantile: of a `quantile`, in (0, 1).
    """

    name: str
    type: MetricType
    column: str
    denominator: str | None = None
    quantile: float | None = None

    @property
    def value_column(self) -> str:
        """Column of unit tables that holds it: exceedances of a quantile have their own."""
        return f"{self.column} past its threshold ({self.name})" if self.type == "quantile" else self.column

    @property
    def is_ratio(self) -> bool:
        """Whether it is a ratio of totals."""
        return self.type in ("ratio", "quantile")


@dataclass(frozen=True, slots=True)
class Cell:
    """Units of one arm, for one metric.

    Attributes:
        parts: moments of (value, denominator, covariate) of the two halves and of the units without a covariate.
        ones: units whose value is exactly 1.
        zeros: units whose value is exactly 0.
    """

    parts: tuple[JointMoments, JointMoments, JointMoments]
    ones: int
    zeros: int

    def __add__(self, other: Cell) -> Cell:
        """Both together."""
        first, second, third = (mine + theirs for mine, theirs in zip(self.parts, other.parts, strict=True))
        return Cell((first, second, third), self.ones + other.ones, self.zeros + other.zeros)

    @property
    def whole(self) -> JointMoments:
        """All units."""
        return self.parts[0] + self.parts[1] + self.parts[2]

    @property
    def n(self) -> int:
        """Units with a value."""
        return sum(part.n for part in self.parts)

    @property
    def is_binary(self) -> bool:
        """Whether every unit's value is 0 or 1."""
        return self.ones + self.zeros == self.n


_NOTHING = JointMoments(0, np.zeros(3), np.zeros((3, 3)))
EMPTY = Cell((_NOTHING, _NOTHING, _NOTHING), 0, 0)
"""The cell of an arm without units."""


def cell_of(totals: Totals, metric: Metric, covariate: str | None, arm: int) -> Cell:
    """Summarise one arm's units.

    Args:
        totals: complete units.
        metric: what to compare.
        covariate: column of the covariate, if there is one.
        arm: code of the arm.

    Raises:
        ValueError: values so large that their variance overflows.
    """
    kept = totals.arms == arm
    column = metric.value_column
    sums, counts = totals.sums[column], totals.counts[column]
    if metric.type == "count":
        value, below = sums, np.ones(sums.size)
    elif metric.is_ratio:
        value, below = sums, counts if metric.denominator is None else totals.sums[metric.denominator]
        kept = kept & (counts > 0) if metric.denominator is None else kept & (counts > 0) & (totals.counts[metric.denominator] > 0)
    else:
        kept = kept & (counts > 0)
        value, below = sums / np.maximum(counts, 1), np.ones(sums.size)
    given, before = _covariate(totals, covariate)
    part = np.where(given, (totals.first + np.arange(kept.size)) % 2, NO_COVARIATE)
    columns = np.column_stack([value, below, before])
    first, second, third = (JointMoments.of(columns[kept & (part == which)]) for which in range(3))
    return Cell((first, second, third), int(np.sum(value[kept] == 1)), int(np.sum(value[kept] == 0)))


def _covariate(totals: Totals, covariate: str | None) -> tuple[NDArray[np.bool_], Array]:
    if covariate is None:
        return np.zeros(totals.arms.size, dtype=np.bool_), np.zeros(totals.arms.size)
    counts = totals.counts[covariate]
    return counts > 0, totals.sums[covariate] / np.maximum(counts, 1)
