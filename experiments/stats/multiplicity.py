"""Several metrics or arms at once: Holm, Benjamini-Hochberg, e-BH.

Rules: never take the smallest p of many as if it were one. Holm for the primary metric over arms (no false alarm at all, probability alpha); BH for
secondary metrics (at most alpha of the findings are false, on average); e-BH for always-valid evidence. Guardrails are tested at their full alpha
without correction upwards: missing harm costs more than a false alarm, and promotion needs all of them anyway.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.kinds import Array


def holm(p_values: ArrayLike) -> Array:
    """Adjusted p-values; rejecting those <= alpha keeps the probability of any false rejection below alpha, under any dependence.

        p'_(i) = max over j <= i of min(1, (k - j + 1) p_(j))

    Source: Holm (1979), Scand. J. Stat. 6:65.
    """
    p, order = _sorted(p_values)
    adjusted = np.maximum.accumulate(np.minimum(1.0, p * np.arange(p.size, 0, -1)))
    return _restored(adjusted, order)


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """Adjusted p-values; rejecting those <= alpha keeps the expected share of false rejections below alpha.

        p'_(i) = min over j >= i of min(1, (k / j) p_(j))

    Assumes independence or positive regression dependence (metrics that rise together).

    Source: Benjamini & Hochberg (1995), JRSS-B 57:289.
    """
    p, order = _sorted(p_values)
    adjusted = np.minimum.accumulate(np.minimum(1.0, p * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    return _restored(adjusted, order)


def e_benjamini_hochberg(log_e_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected by e-BH: the k* with the largest e, k* = max{k : k e_(k) / K >= 1 / alpha}.

    The expected share of false rejections is at most alpha under any dependence - for e-values of one filtration read at one time (e-processes of
    different clocks, each at its own best moment, are not).

    Args:
        log_e_values: natural logarithms.
        alpha: in (0, 1).

    Source: Wang & Ramdas (2022), JRSS-B 84:822, "False discovery rate control with e-values".
    """
    log_e = np.asarray(log_e_values, dtype=float)
    if log_e.ndim != 1 or np.any(np.isnan(log_e)):
        raise ValueError("`log_e_values` must be one list of numbers")
    order = np.argsort(-log_e, kind="stable")
    enough = log_e[order] + np.log(np.arange(1, log_e.size + 1)) - math.log(max(1, log_e.size)) >= math.log(1 / alpha)
    rejected = np.zeros(log_e.size, dtype=np.bool_)
    if enough.any():
        rejected[order[: int(np.nonzero(enough)[0][-1]) + 1]] = True
    return rejected


def _sorted(p_values: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or np.any(~((p >= 0) & (p <= 1))):
        raise ValueError("p-values must be one list of numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    return p[order], order


def _restored(adjusted: Array, order: NDArray[np.int64]) -> Array:
    restored = np.empty_like(adjusted)
    restored[order] = adjusted
    return restored
