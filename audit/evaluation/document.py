"""`Evaluation` -> the plain document that reports sign: text, integers, lists, mappings; no floats, no times of its own.

Rules:
- Sorted everywhere, so that the same records give the same bytes.
- By version for everyone; by arm, assigned and served apart, for every experiment. Assigned is what a comparison may use (intention to treat).
- Whatever the numbers do not cover is a sentence in `limits`.

Example:
    describe(evaluation, observed_when={"credit-risk": "prediction == 1"})["models"][0]["quality"]["accuracy"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from audit.entry import time_text
from audit.evaluation.cells import Cell, CellKey
from audit.evaluation.fold import HOUR_US, Evaluation, HourCell
from audit.evaluation.histogram import Histogram
from audit.evaluation.quality import Classes, label_coverage, quality, reward_mean

Document = dict[str, Any]
DAY_US = 24 * HOUR_US
HOURLY_LIMIT_US = 3 * DAY_US
"""Logs up to this long are charted by the hour, longer ones by the day."""


def describe(
    evaluation: Evaluation,
    *,
    observed_when: Mapping[str, str] | None = None,
    positive: str | None = None,
    classes: Mapping[str, Mapping[str, str]] | None = None,
) -> Document:
    """Build the document.

    Args:
        evaluation: the fold's result.
        observed_when: `labels.observed_when` by model, for models that have it; None when the configuration is not at hand.
        positive: the positive class, where neither {0, 1} nor {false, true} tells.
        classes: model -> name in records -> class, of declared classes that are recorded under a name.
    """
    conditions = observed_when or {}
    names = sorted({key.model for key in evaluation.cells})
    models = [_model(evaluation, name, conditions.get(name), positive, (classes or {}).get(name, {})) for name in names]
    total = _sum(evaluation.cells.values())
    return {
        "scope": {"model": evaluation.scope.model, "tenant": evaluation.scope.tenant},
        "period": {"first": evaluation.first_time or None, "last": evaluation.last_time or None},
        "traffic": _traffic(total),
        "denied_before_authentication": _counts(evaluation.denials),
        "feedback": {"records": evaluation.feedback, "in_force": evaluation.joined},
        "models": models,
        "limits": _limits(evaluation, total, observed_when),
    }


def _model(evaluation: Evaluation, name: str, observed_when: str | None, positive: str | None, named: Mapping[str, str]) -> Document:
    cells = {key: cell.named(named) if named else cell for key, cell in evaluation.cells.items() if key.model == name}
    total = _sum(cells.values())
    classes = Classes.of(total, positive)

    def group(cell: Cell) -> Document:
        return _group(cell, classes, observed_when)

    return {
        "model": name,
        "classes": list(classes.seen),
        "positive": classes.positive,
        "labels_observed_when": observed_when,
        **group(total),
        "versions": [{"version": version, **group(cell)} for version, cell in _grouped(cells, lambda key: key.version)],
        "experiments": [
            _experiment({key: cell for key, cell in cells.items() if key.experiment == experiment}, experiment, group)
            for experiment in sorted({key.experiment for key in cells if key.experiment})
        ],
        "timeline": _timeline(evaluation, name),
    }


def _experiment(cells: dict[CellKey, Cell], name: str, group: Callable[[Cell], Document]) -> Document:
    return {
        "experiment": name,
        "by_assigned_arm": [{"arm": arm, **group(cell)} for arm, cell in _grouped(cells, lambda key: key.assigned)],
        "by_served_arm": [{"arm": arm, **group(cell)} for arm, cell in _grouped(cells, lambda key: key.served)],
    }


def _group(cell: Cell, classes: Classes, observed_when: str | None) -> Document:
    return {
        "traffic": _traffic(cell),
        "latency_us": _quantiles(cell.latency_us),
        "added_us": _quantiles(cell.added_us),
        "labels": {
            "predicted_rows": cell.predictions.total(),
            "labelled_rows": cell.confusion.total(),
            "coverage": label_coverage(cell),
            "delay_s": _quantiles(cell.delay_s),
        },
        "predictions": _counts(cell.predictions),
        "confusion": [{"prediction": prediction, "label": label, "rows": rows} for (prediction, label), rows in sorted(cell.confusion.items())],
        "quality": quality(cell, classes, observed_when),
        "usage": _usage(cell),
        "rewards": [{"metric": metric, **reward_mean(sums.n, sums.total, sums.squares)} for metric, sums in sorted(cell.rewards.items())],
    }


def _usage(cell: Cell) -> Document | None:
    """What calls consumed, whatever became of them; None where no call was to say it."""
    said, unread = cell.usage["said"], cell.usage["unread"]
    if not said and not unread:
        return None
    return {
        "calls": said,
        "unread": unread,
        "input_tokens": cell.usage["input_tokens"],
        "output_tokens": cell.usage["output_tokens"],
        "cost": [
            {
                "currency": currency,
                "calls": calls,
                "total_micro": (cell.cost_nano[currency] + 500) // 1000,
                "per_call_nano": (2 * cell.cost_nano[currency] + calls) // (2 * calls),
            }
            for currency, calls in sorted(cell.priced.items())
        ],
    }


def _traffic(cell: Cell) -> Document:
    return {
        "calls": cell.calls,
        "answered": cell.answered,
        "refused": cell.refused,
        "failed": cell.failed,
        "unfinished": cell.unfinished,
        "rows": cell.rows,
        "served_other_than_assigned": cell.moved,
        "status": _counts({str(status): count for status, count in cell.status.items()}),
        "refusal_codes": _counts(cell.codes),
        "policy_rules": _counts(cell.rules),
        "policy_warnings": _counts(cell.warnings),
        "ineligible": [{"arm": arm, "reason": reason, "calls": calls} for (arm, reason), calls in sorted(cell.ineligible.items())],
    }


def _counts(counter: Mapping[str, int]) -> list[Document]:
    """Most frequent first, then by name."""
    return [{"name": name, "count": count} for name, count in sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))]


def _quantiles(histogram: Histogram) -> Document:
    return {
        "n": histogram.n,
        "p50": histogram.quantile(50, 100),
        "p95": histogram.quantile(95, 100),
        "p99": histogram.quantile(99, 100),
    }


def _timeline(evaluation: Evaluation, model: str) -> Document:
    hours = {key: cell for key, cell in evaluation.hours.items() if key[1] == model}
    starts = [start for start, _, _ in hours]
    width_us = HOUR_US if not starts or max(starts) - min(starts) < HOURLY_LIMIT_US else DAY_US
    points: dict[tuple[int, str], HourCell] = {}
    for (start_us, _, version), cell in hours.items():
        point = points.setdefault((start_us - start_us % width_us, version), HourCell())
        for name in HourCell.__slots__:
            setattr(point, name, getattr(point, name) + getattr(cell, name))
    return {
        "width_s": width_us // 1_000_000,
        "points": [
            {"start": time_text(start_us), "version": version, **{name: getattr(point, name) for name in HourCell.__slots__}}
            for (start_us, version), point in sorted(points.items())
        ],
    }


def _limits(evaluation: Evaluation, total: Cell, conditions: Mapping[str, str] | None) -> list[str]:
    said = [
        "Covers what passed through the gateway and is in this log; calls that went around it are not in any number here.",
        (
            "Intervals are 95 % at one look and count each row as independent: rows that share a unit make them too narrow. "
            "For a decision between arms use the experiment's own evidence."
        ),
        "Quantiles are upper edges of buckets, at most 3.2 % above the value; scores are binned by 0.1 % for the area under the curve.",
    ]
    if total.confusion.total() < total.predictions.total():
        said.append("Not every prediction has a label yet; labels may still come and may be corrected.")
    if conditions is None:
        said.append("The configuration in force is not at hand: if labels cannot come for every row, quality is not identified here.")
    said += [f"{model}: labels are observed only when {text}." for model, text in sorted((conditions or {}).items())]
    if evaluation.lost:
        said.append(f"{evaluation.lost} records were lost before they were committed (`log.lost`).")
    if evaluation.erased:
        said.append(
            f"{len(evaluation.erased)} erasures took {sum(evaluation.erased.values())} entries out of the vault. "
            "Every number here is made from the log alone and is the same as before."
        )
    if total.usage["unread"]:
        said.append(f"{total.usage['unread']} replies did not say what they consumed: totals of tokens and cost are of the others.")
    if total.unfinished:
        said.append(f"{total.unfinished} decisions have no outcome in the log.")
    if evaluation.unreadable:
        said.append(f"{evaluation.unreadable} leaves are not records this version can read.")
    return said


def _grouped(cells: Mapping[CellKey, Cell], part: Callable[[CellKey], str]) -> list[tuple[str, Cell]]:
    names = Counter(part(key) for key in cells)
    return [(name, _sum(cell for key, cell in cells.items() if part(key) == name)) for name in sorted(names)]


def _sum(cells: Iterable[Cell]) -> Cell:
    total = Cell()
    for cell in cells:
        total.merge(cell)
    return total
