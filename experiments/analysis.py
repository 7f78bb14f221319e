"""Analysis of an experiment on plain rows, for people's own files: no gateway, no log.

Rules: units, not rows, are compared; a unit's value is the mean of its rows. A unit seen in two arms is left out and counted. With one 0/1 value a
unit, intervals are exact (`always_valid`: two one-sample confidence sequences; `fixed`: Newcombe); otherwise asymptotic, and `always_valid` refuses
below 50 units an arm. The allocation is tested against the declared shares; a mismatch is in the result and makes `valid` false.

Example:
    >>> result = analyze(rows, unit="user", arm="variant", metrics=[Metric("bought", "proportion", "bought")], control="a")
    >>> result["comparisons"][0]["difference"]
    0.021
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments import stats

Method = Literal["always_valid", "fixed"]
BURN_IN_UNITS = 50
SRM_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class Metric:
    """One column to compare: `proportion` is 0 or 1 in every row, `mean` any number."""

    name: str
    type: Literal["proportion", "mean"]
    column: str


def parse_metric(text: str) -> Metric:
    """Read `NAME:TYPE[:COLUMN]`. Raises ValueError."""
    name, _, rest = text.partition(":")
    kind, _, column = rest.partition(":")
    if not name or kind not in ("proportion", "mean"):
        raise ValueError(f"`{text}` is not a metric; write `NAME:proportion` or `NAME:mean`, and `:COLUMN` if the column is called otherwise")
    return Metric(name, "proportion" if kind == "proportion" else "mean", column or name)


def analyze(
    rows: Iterable[Mapping[str, str]],
    *,
    unit: str,
    arm: str,
    metrics: Sequence[Metric],
    control: str,
    method: Method = "always_valid",
    alpha: float = 0.05,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compare every arm with the control.

    Args:
        rows: column -> text, as a CSV reader gives them.
        unit: column of the unit.
        arm: column of the arm.
        metrics: what to compare.
        control: arm the others are compared with.
        method: valid at all times, or at this size alone.
        alpha: error probability of each interval.
        shares: declared allocation by arm; equal if not given.

    Returns:
        JSON-able: `units` by arm, `in_two_arms`, `srm` and `comparisons`.

    Raises:
        ValueError: a column or the control is missing, or a value is no number, with the row.
    """
    arms, values, crossed = _by_unit(rows, unit, arm, metrics)
    units: dict[str, int] = {}
    for name in arms.values():
        units[name] = units.get(name, 0) + 1
    if control not in units:
        raise ValueError(f"the control `{control}` has no units; arms seen: {', '.join(f'`{name}`' for name in sorted(units)) or 'none'}")
    comparisons = []
    for metric in metrics:
        by_arm = {
            name: np.array([np.mean(values[one][metric.name]) for one, of in arms.items() if of == name and metric.name in values[one]])
            for name in units
        }
        exact = metric.type == "proportion" and all(bool(np.isin(found, (0.0, 1.0)).all()) for found in by_arm.values())
        for name in sorted(set(units) - {control}):
            interval = _exact if exact else _asymptotic
            found = interval(by_arm[name], by_arm[control], method, alpha)
            comparisons.append({"metric": metric.name, "arm": name, "control": control, "basis": "exact" if exact else "asymptotic", **found})
    srm = _srm(units, shares)
    return {
        "method": method,
        "alpha": alpha,
        "units": dict(sorted(units.items())),
        "in_two_arms": crossed,
        "srm": srm,
        "valid": not srm["mismatch"],
        "comparisons": comparisons,
    }


def _by_unit(
    rows: Iterable[Mapping[str, str]], unit: str, arm: str, metrics: Sequence[Metric]
) -> tuple[dict[str, str], dict[str, dict[str, list[float]]], int]:
    arms: dict[str, str] = {}
    values: dict[str, dict[str, list[float]]] = {}
    crossed: set[str] = set()
    for number, row in enumerate(rows, start=2):
        missing = [column for column in (unit, arm, *(metric.column for metric in metrics)) if row.get(column) is None]
        if missing:
            raise ValueError(f"row {number} has no column `{missing[0]}`; columns: {', '.join(f'`{name}`' for name in row if name)}")
        one = row[unit]
        if not one:
            raise ValueError(f"row {number} has an empty unit; hint: leave out rows without a unit")
        if arms.setdefault(one, row[arm]) != row[arm]:
            crossed.add(one)
        for metric in metrics:
            if row[metric.column] != "":
                values.setdefault(one, {}).setdefault(metric.name, []).append(_number(row[metric.column], metric, number))
    kept = {one: name for one, name in arms.items() if one not in crossed}
    return kept, {one: values.get(one, {}) for one in kept}, len(crossed)


def _number(text: str, metric: Metric, row: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (metric.type == "proportion" and value not in (0, 1)):
        wanted = "0 or 1" if metric.type == "proportion" else "a number"
        raise ValueError(f"row {row}: `{text}` in column `{metric.column}` is not {wanted}")
    return value


def _exact(treatment: stats.Array, control: stats.Array, method: Method, alpha: float) -> dict[str, Any]:
    k1, n1, k0, n0 = int(treatment.sum()), treatment.size, int(control.sum()), control.size
    fixed = stats.compare_proportions(k1, n1, k0, n0, alpha)
    found: dict[str, Any] = {"n": [n1, n0], "means": _means(treatment, control), "difference": fixed.difference if n1 and n0 else None}
    if method == "fixed":
        return found | {"lower": fixed.lower, "upper": fixed.upper, "p_value": fixed.p_value}
    lower, upper = stats.difference_bounds(k1, n1, k0, n0, alpha / 2)
    return found | {"lower": float(lower), "upper": float(upper)}


def _asymptotic(treatment: stats.Array, control: stats.Array, method: Method, alpha: float) -> dict[str, Any]:
    n1, n0 = treatment.size, control.size
    found: dict[str, Any] = {"n": [n1, n0], "means": _means(treatment, control), "difference": None, "lower": None, "upper": None}
    if min(n1, n0) < (BURN_IN_UNITS if method == "always_valid" else 2):
        return found | {"note": f"too few units for an asymptotic interval; at least {BURN_IN_UNITS} in every arm"}
    gap = float(treatment.mean() - control.mean())
    if method == "always_valid":
        moments = [stats.Moments(arm.size, float(arm.mean()), float(arm.var())) for arm in (treatment, control)]
        lower, upper = stats.asymptotic_difference(*moments, n_star=1000, alpha=alpha)
        return found | {"difference": gap, "lower": lower, "upper": upper}
    spread = math.sqrt(treatment.var(ddof=1) / n1 + control.var(ddof=1) / n0)
    half = stats.normal_quantile(1 - alpha / 2) * spread
    p_value = 2 * stats.normal_tail(abs(gap) / spread) if spread > 0 else 1.0
    return found | {"difference": gap, "lower": gap - half, "upper": gap + half, "p_value": p_value}


def _means(treatment: stats.Array, control: stats.Array) -> list[float | None]:
    return [float(arm.mean()) if arm.size else None for arm in (treatment, control)]


def _srm(units: Mapping[str, int], shares: Mapping[str, float] | None) -> dict[str, Any]:
    declared = dict(shares) if shares is not None else dict.fromkeys(units, 1.0)
    arms = sorted(declared)
    if unknown := sorted(set(units) - set(declared)):
        raise ValueError(f"arm `{unknown[0]}` has units and no declared share")
    counts, weights = [units.get(name, 0) for name in arms], [declared[name] for name in arms]
    log_e = stats.log_srm_e_value(counts, stats.sum_log_shares(counts, weights))
    return {"shares": "declared" if shares is not None else "assumed equal", "log_e_value": log_e, "mismatch": log_e >= math.log(1 / SRM_ALPHA)}
