"""What every statistic shares: types, the normal distribution, the check of counts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.stats.late import special

Side = Literal["greater", "less"]
Array = NDArray[np.float64]


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal."""
    return float(special.ndtri(probability))


def normal_tail(z: float) -> float:
    """P(Z > z) of the standard normal."""
    return float(special.ndtr(-z))


def check_counts(events: int, n: int) -> None:
    """Refuse counts that cannot be."""
    if not 0 <= events <= n:
        raise ValueError(f"`{events}` events of `{n}` is impossible; hint: 0 <= events <= n")
