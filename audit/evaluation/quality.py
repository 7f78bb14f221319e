"""Counts of one cell -> quality metrics with their intervals, or the reason why there are none.

Every metric is one of four plain documents, told apart by `state`:

- `estimated`: value and 95 % interval, in ppm, and n
- `insufficient_evidence`: no row to compute it from; nothing is assumed in its place
- `not_identified`: labels arrive only for some rows (`labels.observed_when`), so the rows at hand do not determine it. Where the data limit it,
  `low_ppm` and `high_ppm` are worst-case bounds over all labels the missing rows could have (C. F. Manski, Am. Econ. Rev. 80 (1990) 319-323)
- `not_applicable`: it is defined for two classes with a known positive one

`score_ppm` is read as the probability of the positive class.

The positive class is `1` of {0, 1}, `true` of {false, true}, or the one the caller names; it is never guessed.

Example:
    quality(cell, Classes.of(cell), observed_when=None)["accuracy"]
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from audit.evaluation.cells import Cell
from audit.evaluation.intervals import Interval, half_width_ppm, mean_variance, normal, to_ppm, wilson

Metric = dict[str, Any]

METRICS = ("accuracy", "error", "tpr", "fpr", "precision", "brier", "auroc")
_NEGATIVE_OF = {"1": "0", "true": "false", "True": "False"}
_SIMPLE_CONDITION = re.compile(r"""\s*prediction\s*==\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_.-]+))\s*""")


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of one model as seen in predictions and labels, and the positive one if it is known."""

    seen: tuple[str, ...]
    positive: str | None

    @classmethod
    def of(cls, cell: Cell, positive: str | None = None) -> Classes:
        """Read the classes from all of a model's counts.

        Args:
            cell: sum over the model's cells.
            positive: the positive class, where the caller knows it.
        """
        seen = set(cell.predictions) | {label for _, label in cell.confusion}
        if positive is None:
            known = [one for one, zero in _NEGATIVE_OF.items() if seen and seen <= {one, zero}]
            positive = known[0] if known else None
        elif len(seen | {positive}) > 2:
            positive = None
        return cls(tuple(sorted(seen)), positive)


def quality(cell: Cell, classes: Classes, observed_when: str | None) -> dict[str, Metric]:
    """All metrics of one cell, keyed as in `METRICS`.

    Args:
        cell: the counts.
        classes: of the cell's model.
        observed_when: the route's `labels.observed_when`, as text; None when every row can get a label.
    """
    accuracy = _accuracy(cell, observed_when)
    metrics = {"accuracy": accuracy, "error": _complement(accuracy)}
    metrics.update(_rates(cell, classes, observed_when))
    metrics.update(_score_metrics(cell, classes, observed_when))
    return metrics


def label_coverage(cell: Cell) -> Metric:
    """Share of predicted rows that have a label."""
    return _proportion(cell.confusion.total(), cell.predictions.total(), "no predicted row")


def _accuracy(cell: Cell, observed_when: str | None) -> Metric:
    correct = sum(count for (prediction, label), count in cell.confusion.items() if prediction == label)
    n = cell.confusion.total()
    if observed_when is None:
        return _proportion(correct, n, "no labelled row")
    rows = cell.predictions.total()
    return _unidentified(observed_when, n, (correct, rows), (correct + rows - n, rows))


def _complement(metric: Metric) -> Metric:
    turned = dict(metric)
    if "value_ppm" in metric:
        turned["value_ppm"] = 1_000_000 - metric["value_ppm"]
        turned["events"] = metric["n"] - metric["events"]
    if "low_ppm" in metric:
        turned.update(low_ppm=1_000_000 - metric["high_ppm"], high_ppm=1_000_000 - metric["low_ppm"])
    return turned


def _rates(cell: Cell, classes: Classes, observed_when: str | None) -> dict[str, Metric]:
    if classes.positive is None:
        return {name: _not_applicable("no positive class is known") for name in ("tpr", "fpr", "precision")}
    table: Counter[tuple[bool, bool]] = Counter()
    for (prediction, label), count in cell.confusion.items():
        table[prediction == classes.positive, label == classes.positive] += count
    hits, false_alarms = table[True, True], table[True, False]
    misses, rejections = table[False, True], table[False, False]
    precision = _proportion(hits, hits + false_alarms, "no labelled row was predicted positive")
    if observed_when is None:
        return {
            "tpr": _proportion(hits, hits + misses, "no labelled row is positive"),
            "fpr": _proportion(false_alarms, false_alarms + rejections, "no labelled row is negative"),
            "precision": precision,
        }
    predicted_positive = cell.predictions[classes.positive]
    open_positive = predicted_positive - hits - false_alarms
    open_negative = cell.predictions.total() - predicted_positive - misses - rejections
    n = table.total()
    if _condition_class(observed_when) != classes.positive:
        precision = _unidentified(observed_when, n, (hits, predicted_positive), (hits + open_positive, predicted_positive))
    return {
        "tpr": _unidentified(observed_when, n, (hits, hits + misses + open_negative), (hits + open_positive, hits + open_positive + misses)),
        "fpr": _unidentified(
            observed_when,
            n,
            (false_alarms, false_alarms + rejections + open_negative),
            (false_alarms + open_positive, false_alarms + open_positive + rejections),
        ),
        "precision": precision,
    }


def _score_metrics(cell: Cell, classes: Classes, observed_when: str | None) -> dict[str, Metric]:
    if classes.positive is None:
        return {name: _not_applicable("no positive class is known") for name in ("brier", "auroc")}
    if observed_when is not None:
        n = sum(sums.n for sums in cell.scores.values())
        return {name: _unidentified(observed_when, n, (0, 1), (1, 1)) for name in ("brier", "auroc")}
    return {"brier": _brier(cell, classes.positive), "auroc": _auroc(cell, classes.positive)}


def _brier(cell: Cell, positive: str) -> Metric:
    """Mean squared distance of score and truth (G. W. Brier, Mon. Weather Rev. 78 (1950) 1-3), exact from power sums."""
    n, total, squares = 0, Fraction(0), Fraction(0)
    for label, sums in cell.scores.items():
        first, second, third, fourth = (Fraction(power, 10 ** (6 * (place + 1))) for place, power in enumerate(sums.powers))
        n += sums.n
        if label == positive:
            total += sums.n - 2 * first + second
            squares += sums.n - 4 * first + 6 * second - 4 * third + fourth
        else:
            total += second
            squares += fourth
    if n == 0:
        return _insufficient("no labelled row has a score")
    return _estimated(normal(total / n, mean_variance(n, total, squares)), n)


def _auroc(cell: Cell, positive: str) -> Metric:
    """Area under the ROC curve on binned scores; ties count half. Variance: DeLong et al., Biometrics 44 (1988) 837-845, doi:10.2307/2531595."""
    ones: Counter[int] = Counter()
    zeros: Counter[int] = Counter()
    for (label, place), count in cell.score_bins.items():
        (ones if label == positive else zeros)[place] += count
    n1, n0 = ones.total(), zeros.total()
    if n1 == 0 or n0 == 0:
        return _insufficient("scores of both classes are needed")
    below_ones, below_zeros = _placements(ones, zeros), _placements(zeros, ones)
    twice = sum(count * below_ones[place] for place, count in ones.items())
    area = Fraction(twice, 2 * n0 * n1)
    spread1 = mean_variance(
        n1, Fraction(twice, 2 * n0), sum((count * Fraction(below_ones[p], 2 * n0) ** 2 for p, count in ones.items()), Fraction(0))
    )
    spread0 = mean_variance(
        n0,
        Fraction(2 * n0 * n1 - twice, 2 * n1),
        sum((count * Fraction(below_zeros[p], 2 * n1) ** 2 for p, count in zeros.items()), Fraction(0)),
    )
    return _estimated(normal(area, spread1 + spread0), n0 + n1)


def _placements(own: Counter[int], other: Counter[int]) -> dict[int, int]:
    """For each bin of `own`: twice the others below it plus the others in it."""
    placed, below, rest = {}, 0, sorted(other)
    position = 0
    for place in sorted(own):
        while position < len(rest) and rest[position] < place:
            below += other[rest[position]]
            position += 1
        placed[place] = 2 * below + other[place]
    return placed


def reward_mean(n: int, total: int, squares: int) -> Metric:
    """Mean reward in ppm with its normal interval, not cut to [0, 1]."""
    value = to_ppm(Fraction(total, n * 1_000_000))
    half = half_width_ppm(mean_variance(n, Fraction(total, 10**6), Fraction(squares, 10**12)))
    return {"state": "estimated", "value_ppm": value, "low_ppm": value - half, "high_ppm": value + half, "n": n}


def _proportion(events: int, n: int, why_none: str) -> Metric:
    if n == 0:
        return _insufficient(why_none)
    return {**_estimated(wilson(events, n), n), "events": events}


def _estimated(interval: Interval, n: int) -> Metric:
    return {"state": "estimated", "value_ppm": interval.value_ppm, "low_ppm": interval.low_ppm, "high_ppm": interval.high_ppm, "n": n}


def _insufficient(why: str) -> Metric:
    return {"state": "insufficient_evidence", "why": why, "n": 0}


def _not_applicable(why: str) -> Metric:
    return {"state": "not_applicable", "why": why}


def _unidentified(observed_when: str, n: int, low: tuple[int, int], high: tuple[int, int]) -> Metric:
    bounds = {"low_ppm": to_ppm(Fraction(*low)) if low[1] else 0, "high_ppm": to_ppm(Fraction(*high)) if high[1] else 1_000_000}
    return {"state": "not_identified", "why": f"labels are observed only when {observed_when}", "n": n, **bounds}


def _condition_class(observed_when: str) -> str | None:
    """The class of a condition `prediction == CLASS`; None for any other condition, which then identifies nothing."""
    found = _SIMPLE_CONDITION.fullmatch(observed_when)
    return found[1] or found[2] or found[3] if found else None
