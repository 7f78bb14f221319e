"""Analysis of an experiment on plain rows, for people's own files: no gateway, no log.

Rules: units, not rows, are compared; a unit seen in two arms is left out and counted. The allocation is tested against the declared shares, by units;
a mismatch is in the result and makes `valid` false. The first metric is the primary one: Holm over arms for it, BH (or e-BH) over arms for the rest.
Rows come in chunks and are dropped; what is kept are totals by unit, or with `is_sorted` only sufficient statistics.

Example:
    >>> result = analyze(read_rows(rows, "user", "variant", ["bought"]), [parse_metric("bought:proportion")], control="a")
    >>> result["comparisons"][0]["difference"]
    0.021
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments import stats
from experiments.comparison import Plan, compare
from experiments.rows import Array, Chunk
from experiments.sufficient import EMPTY, TYPES, Cell, Metric, cell_of
from experiments.unit_table import ArmNames, SortedUnits, Totals, UnitTable

SRM_ALPHA = 0.001
QUANTILE_BURN_IN_EVENTS = 10
"""Expected exceedances among the control's first rows that fix a threshold: 200 rows for p95."""
FORMAT = 1
"""Version of the JSON; it changes only when a key changes its meaning."""


def parse_metric(text: str) -> Metric:
    """Read `NAME:TYPE[:COLUMN]`; a ratio's column is `NUMERATOR/DENOMINATOR` or `NUMERATOR` (a row), a quantile's is `COLUMN@0.95`.

    Raises:
        ValueError: it is none of these.
    """
    name, _, rest = text.partition(":")
    kind, _, column = rest.partition(":")
    if not name or kind not in TYPES:
        raise ValueError(f"`{text}` is not a metric; write `NAME:TYPE` or `NAME:TYPE:COLUMN` with a type of {', '.join(TYPES)}")
    metric = Metric(name, kind, column or name)
    if kind == "ratio":
        above, slash, below = metric.column.partition("/")
        if not above or (slash and not below):
            raise ValueError(f"`{text}`: a ratio's column is `NUMERATOR/DENOMINATOR`, or `NUMERATOR` for a value a row")
        return replace(metric, column=above, denominator=below or None)
    if kind == "quantile":
        of, _, level = metric.column.rpartition("@")
        quantile = _level(level)
        if not of or quantile is None:
            raise ValueError(f"`{text}`: a quantile's column is `COLUMN@LEVEL`, for example `latency_ms@0.95`")
        return replace(metric, column=of, quantile=quantile)
    return metric


def needed_columns(metrics: Sequence[Metric], covariate: str | None) -> list[str]:
    """Columns of numbers that an analysis reads."""
    names = [name for metric in metrics for name in (metric.column, metric.denominator) if name is not None]
    return list(dict.fromkeys([*names, *([covariate] if covariate is not None else [])]))


def analyze(
    chunks: Iterable[Chunk],
    metrics: Sequence[Metric],
    *,
    control: str,
    plan: Plan | None = None,
    covariate: str | None = None,
    shares: Mapping[str, float] | None = None,
    is_sorted: bool = False,
) -> dict[str, Any]:
    """Compare every arm with the control.

    Args:
        chunks: rows, with the columns of `needed_columns`.
        metrics: what to compare; the first is the primary one.
        control: arm the others are compared with.
        plan: how; `Plan()` is always valid at 5 %.
        covariate: column of a value known before the exposure, for CUPED; a unit's is the mean of its rows.
        shares: declared allocation by arm; equal if not given. A declared arm without units is compared as `no data`.
        is_sorted: rows are sorted by unit, so memory does not grow with the units.

    Returns:
        JSON-able: `format`, `method`, `alpha`, `units` by arm, `in_two_arms`, `rows`, `srm`, `valid` and `comparisons` (see `comparison.compare`).

    Raises:
        ValueError: the control is missing or there is no other arm, a value is out of range, with the row; or as `rows.read_file`.
    """
    plan = plan or Plan()
    if not metrics or len({metric.name for metric in metrics}) < len(metrics):
        raise ValueError("at least one metric is needed, and no name twice")
    cells, units, crossed, rows, thresholds = _folded(chunks, metrics, control, covariate, is_sorted=is_sorted)
    if units.get(control, 0) == 0:
        raise ValueError(f"the control `{control}` has no units; arms seen: {', '.join(f'`{name}`' for name in sorted(units)) or 'none'}")
    for name, share in (shares or {}).items():
        if share > 0:
            units.setdefault(name, 0)
    if len(units) == 1:
        raise ValueError(f"there is only the arm `{control}`: nothing to compare it with")
    comparisons = []
    for metric in metrics:
        for name in sorted(set(units) - {control}):
            found = compare(cells.get((metric.name, name), EMPTY), cells[metric.name, control], metric, plan, adjusts=covariate is not None)
            role = "primary" if metric is metrics[0] else "secondary"
            of_quantile = {"threshold": thresholds.get(metric.name), "quantile": metric.quantile} if metric.type == "quantile" else {}
            comparisons.append({"metric": metric.name, "type": metric.type, "role": role, "arm": name, "control": control, **of_quantile, **found})
    _correct(comparisons, plan.alpha)
    srm = sample_ratio(units, shares)
    return {
        "format": FORMAT,
        "method": plan.method,
        "alpha": plan.alpha,
        "planned_units": plan.planned_units,
        "tuned_for_units": plan.n_star,
        "units": dict(sorted(units.items())),
        "in_two_arms": crossed,
        "rows": rows,
        "covariate": covariate,
        "srm": srm,
        "valid": not srm["mismatch"],
        "comparisons": comparisons,
    }


def sample_ratio(units: Mapping[str, int], shares: Mapping[str, float] | None) -> dict[str, Any]:
    """Test the allocation of units, by e-value (valid whenever looked at) and chi-square (at this size).

    Raises:
        ValueError: an arm with units and without a declared share.
    """
    declared = dict(shares) if shares is not None else dict.fromkeys(units, 1.0)
    arms = sorted(declared)
    if unknown := sorted(set(units) - set(declared)):
        raise ValueError(f"arm `{unknown[0]}` has units and no declared share")
    counts, weights = [units.get(name, 0) for name in arms], [declared[name] for name in arms]
    log_e = stats.log_srm_e_value(counts, stats.sum_log_shares(counts, weights))
    try:
        p_value: float | None = stats.srm_chi_square(counts, weights)
    except ValueError:
        p_value = None
    return {
        "shares": "declared" if shares is not None else "assumed equal",
        "log_e_value": log_e,
        "chi_square_p_value": p_value,
        "mismatch": log_e >= math.log(1 / SRM_ALPHA),
    }


# --- rows to cells ----------------------------------------------------------------------------------------------------


def _folded(
    chunks: Iterable[Chunk], metrics: Sequence[Metric], control: str, covariate: str | None, *, is_sorted: bool
) -> tuple[dict[tuple[str, str], Cell], dict[str, int], int, int, dict[str, float]]:
    columns = list(dict.fromkeys([*needed_columns(metrics, covariate), *(metric.value_column for metric in metrics)]))
    thresholds = {metric.name: _Threshold(metric, control) for metric in metrics if metric.type == "quantile"}
    cells: dict[tuple[str, str], Cell] = {}
    units: dict[str, int] = {}
    crossed = rows = 0
    names, batches = _batches(_prepared(chunks, metrics, thresholds), columns, is_sorted=is_sorted)
    for totals in batches:
        rows += int(totals.rows.sum())
        crossed += int(np.sum(totals.arms == -1))
        for name, code in names.codes.items():
            units[name] = units.get(name, 0) + int(np.sum(totals.arms == code))
            for metric in metrics:
                cell = cell_of(totals, metric, covariate, code)
                before = cells.get((metric.name, name))
                cells[metric.name, name] = cell if before is None else before + cell
    return cells, units, crossed, rows, {name: one.value for name, one in thresholds.items() if one.value is not None}


def _batches(chunks: Iterator[Chunk], columns: Sequence[str], *, is_sorted: bool) -> tuple[ArmNames, Iterator[Totals]]:
    if is_sorted:
        streaming = SortedUnits(columns)
        return streaming.arm_names, _streamed(streaming, chunks)
    table = UnitTable(columns)
    return table.arm_names, _tabled(table, chunks)


def _streamed(units: SortedUnits, chunks: Iterator[Chunk]) -> Iterator[Totals]:
    for chunk in chunks:
        yield units.add(chunk)
    last = units.finish()
    if last is not None:
        yield last


def _tabled(table: UnitTable, chunks: Iterator[Chunk]) -> Iterator[Totals]:
    for chunk in chunks:
        table.add(chunk)
    yield table.totals()


def _prepared(chunks: Iterable[Chunk], metrics: Sequence[Metric], thresholds: Mapping[str, _Threshold]) -> Iterator[Chunk]:
    """Check proportions, and add the exceedances of quantiles."""
    for chunk in chunks:
        values = dict(chunk.values)
        for metric in metrics:
            if metric.type == "proportion":
                _are_binary(chunk, metric.column)
            elif metric.type == "quantile":
                values[metric.value_column] = thresholds[metric.name].exceedances(chunk)
        yield replace(chunk, values=values)


def _are_binary(chunk: Chunk, column: str) -> None:
    values = chunk.values[column]
    wrong = ~((values == 0) | (values == 1) | np.isnan(values))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"row {chunk.first_row + at}: `{values[at]:g}` in column `{column}` is not 0 or 1; hint: a number has type `mean`")


class _Threshold:
    """A quantile metric's threshold, fixed from the control's first rows; those rows count for nothing else. Owned by one analysis."""

    def __init__(self, metric: Metric, control: str) -> None:
        self._column, self._control, self._quantile = metric.column, control, metric.quantile or 0.5
        self._needed = math.ceil(QUANTILE_BURN_IN_EVENTS / min(self._quantile, 1 - self._quantile))
        # Mutable state, changed by `exceedances` alone.
        self._first: list[float] = []
        self.value: float | None = None

    def exceedances(self, chunk: Chunk) -> Array:
        """1 past the threshold, 0 below, NaN for rows before it was known or without a value."""
        values = chunk.values[self._column]
        start = 0
        if self.value is None:
            there = [at for at, arm in enumerate(chunk.arms) if arm == self._control and not math.isnan(values[at])]
            taken = there[: self._needed - len(self._first)]
            self._first += [float(values[at]) for at in taken]
            if len(self._first) < self._needed:
                return np.full(values.size, np.nan)
            self.value = stats.past_threshold(self._first, self._quantile)
            start = taken[-1] + 1
        past: Array = np.where(np.isnan(values), np.nan, (values > self.value).astype(float))
        past[:start] = np.nan
        return past


def _correct(comparisons: list[dict[str, Any]], alpha: float) -> None:
    """Add `p_adjusted` and `shown_after_correction`, each role apart."""
    for role, adjust in (("primary", stats.holm), ("secondary", stats.benjamini_hochberg)):
        family = [found for found in comparisons if found["role"] == role]
        for found in family:
            found["p_adjusted"] = found["shown_after_correction"] = None
        tested = [found for found in family if found["p_value"] is not None]
        for found, p_value in zip(tested, adjust([found["p_value"] for found in tested]), strict=True):
            found["p_adjusted"], found["shown_after_correction"] = float(p_value), bool(p_value <= alpha)
        watched = [found for found in family if found["log_e_value"] is not None]
        # Of one look at one data set these are e-values of one time, so e-BH applies; for one arm it is e >= 1 / alpha.
        for found, shown in zip(watched, stats.e_benjamini_hochberg([found["log_e_value"] for found in watched], alpha), strict=True):
            found["shown_after_correction"] = bool(shown)


def _level(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1 else None
