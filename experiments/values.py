"""Metrics that are numbers, not yes or no: whether an arm's are worse. `experiments/observations.py` says what a unit's number is.

Rules: a unit counts once, by its first decision; a value outside the declared range is not used and is counted; ratios are compared by total over
total (delta method).

The judgement is the asymptotic confidence sequence of the difference of means, valid however often someone looks once each arm has its burn-in; it
refuses before that, and where all values are the same. Margins are relative: `2%` of the control's mean, which is itself only estimated: "not worse
by 2 %" is judged as the difference from 1.02 times the control (0.98 where higher is better). One-sided, so the two-sided sequence is asked for at
twice the level.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), Ann. Stat. 52:2613; ratios: Deng, Knoblich & Lu (2018), section 3.1.

Example:
    >>> judge_values(moments["challenger"], moments["champion"], better="higher", margin_ppm=20_000, n_star=4000, alphas=(0.05, 0.025)).outcome
    'fine'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from experiments import stats
from experiments.document import MetricDocument
from experiments.stats.ratios import linearised, require_denominator
from experiments.verdict import Outcome

Events = Mapping[str, tuple[str, int]]
"""Event id (`""` without one) -> (record id, value in ppm)."""


class Finding(msgspec.Struct, frozen=True):
    """What is proven of one arm's values."""

    outcome: Outcome
    better: bool
    said: str
    low: float
    high: float


def in_range(metric: MetricDocument, value_ppm: int) -> bool:
    """Say whether a value lies in the metric's declared range."""
    return (metric.low_ppm is None or value_ppm >= metric.low_ppm) and (metric.high_ppm is None or value_ppm <= metric.high_ppm)


def first_of(events: Events) -> int:
    """Return the value that was recorded first."""
    return min(events.values())[1]


def sum_of(events: Events) -> int:
    """Return the sum over distinct events."""
    return sum(value for _, value in events.values())


def moments_of(metric: MetricDocument, values: Sequence[Any]) -> stats.Moments:
    """Return an arm's moments in the metric's own unit, whatever the order of the values; those of a ratio are linearised.

    Args:
        metric: what is measured.
        values: one a unit, in ppm; pairs (metric, what it is per) of a ratio.
    """
    found = np.asarray(values, dtype=float) / 1e6
    if metric.type != "ratio" or not values:
        return stats.Moments.of(np.sort(found))
    try:
        joint = stats.JointMoments.of(found[np.lexsort(found.T)])
        if joint.n >= stats.BURN_IN_UNITS:
            require_denominator(joint)
        return linearised(joint)
    except ValueError:
        return stats.Moments(0, 0.0, 0.0)  # nothing to divide by in this arm: no observation


def bounds(treatment: stats.Moments, control: stats.Moments, n_star: float, alpha: float) -> tuple[float, float]:
    """Two-sided confidence sequence of treatment minus control. Raises `stats.BurnInError` below the burn-in."""
    return stats.asymptotic_difference(treatment, control, n_star=n_star, alpha=alpha)


def judge_values(
    treatment: stats.Moments,
    control: stats.Moments,
    *,
    better: Literal["lower", "higher"],
    margin_ppm: int,
    n_star: float,
    alphas: tuple[float, float],
) -> Finding:
    """Judge one arm against the control.

    Args:
        treatment: moments of its units.
        control: of the control's.
        better: which direction is good.
        margin_ppm: how much worse is acceptable, in ppm of the control's mean.
        n_star: units of both arms at which the sequence is tightest.
        alphas: of promotion and of harm, one-sided each.

    Raises:
        stats.BurnInError: an arm has too few units, or all values of both are the same.
    """
    alpha, alpha_harm = alphas
    sign = 1 if better == "lower" else -1
    low, high = sorted(sign * bound for bound in bounds(treatment, control, n_star, min(0.5, 2 * alpha)))
    harm_low = min(sign * bound for bound in bounds(treatment, control, n_star, min(0.5, 2 * alpha_harm)))
    slack = abs(control.mean) * margin_ppm / 1e6
    told = f"{treatment.mean - control.mean:+.4g}, between {min(sign * low, sign * high):+.4g} and {max(sign * low, sign * high):+.4g}"
    allowed = _scaled(control, 1 + sign * math.copysign(margin_ppm / 1e6, control.mean))
    if max(sign * bound for bound in bounds(treatment, allowed, n_star, min(0.5, 2 * alpha))) < 0:
        return Finding("fine", high < 0, f"{'better' if high < 0 else 'not worse by the margin'}, {told}", low, high)
    if harm_low > 0:
        return Finding("harm", False, f"worse, {told}", low, high)
    return Finding("hold", False, f"not proven fine, {told}, margin {slack:.4g}", low, high)


def log_harm_of_values(treatment: stats.Moments, control: stats.Moments, better: Literal["lower", "higher"], n_star: float) -> float:
    """Natural log of the e-value against "the treatment's mean is no worse", to the approximation of the sequence; only after its burn-in.

    The two-sided e-value where the treatment looks worse, and 1 where it does not. Source: `stats.log_asymptotic_e_value`.
    """
    worse = (treatment.mean - control.mean) * (1 if better == "lower" else -1)
    sd = stats.difference_sd(treatment, control)
    if worse <= 0 or sd == 0:
        return 0.0
    return max(0.0, float(stats.log_asymptotic_e_value(treatment.n + control.n, worse, sd, stats.asymptotic_rho(n_star))))


def _scaled(moments: stats.Moments, factor: float) -> stats.Moments:
    return stats.Moments(moments.n, moments.mean * factor, moments.variance * factor**2)
