"""Two passes over the leaves of a log: first the feedback, then the calls it answers.

Why two: labels come days after their decisions. Holding every decision until its label arrives costs memory per call; holding the labels costs memory
per label, of which there are fewer, and a label that reached the log before its call is joined all the same.

Memory: the label book (0.5 kB per feedback record), one entry per decision still without its outcome, and counters: one cell per
(model, version, experiment, assigned, served) and one per (hour, model, version) with traffic. Nothing grows with the number of calls.

Rules:
- A call is *refused* by policy, limits or contract (4xx), *failed* when an upstream or the gateway did (5xx or no status), else *answered*.
- A decision without outcome at the end of the log is *unfinished*: stated, not guessed.
- Unreadable leaves are counted.

Example:
    evaluation = evaluate(lambda: follow(data, 0), Scope(model="credit-risk"), size=4096)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from audit.entry import CALL_TYPES, Entry, read_entry, time_us
from audit.evaluation.cells import Cell, CellKey, RewardSums
from audit.evaluation.labels import LABEL_METRIC, Feedback, LabelBook

Leaves = Callable[[], Iterable[tuple[int, bytes]]]
HOUR_US = 3_600_000_000
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which calls are evaluated; None means all."""

    model: str | None = None
    tenant: str | None = None

    def covers(self, entry: Entry) -> bool:
        """Whether a call belongs to the scope."""
        return (self.model is None or entry.model_name == self.model) and (self.tenant is None or entry.tenant == self.tenant)


@dataclass(slots=True)
class HourCell:
    """Traffic of one version in one hour, by time of decision. Owner: the fold."""

    calls: int = 0
    refused: int = 0
    failed: int = 0
    labelled: int = 0
    correct: int = 0


@dataclass(slots=True)
class Evaluation:
    """The result. Owner: the fold until `evaluate` returns; nobody changes it afterwards."""

    scope: Scope
    cells: dict[CellKey, Cell] = field(default_factory=dict)
    hours: dict[tuple[int, str, str], HourCell] = field(default_factory=dict)  # (start of hour in µs, model, version)
    denials: Counter[str] = field(default_factory=Counter)  # before authentication, by reason
    first_time: str = ""
    last_time: str = ""
    unreadable: int = 0
    lost: int = 0
    erased: dict[str, int] = field(default_factory=dict)  # erasure -> entries of the vault; one that was recorded twice counts once
    feedback: int = 0
    joined: int = 0


@dataclass(slots=True)
class _Fold:
    """State of the second pass."""

    book: LabelBook
    result: Evaluation
    open_decisions: dict[str, Entry] = field(default_factory=dict)


def evaluate(leaves: Leaves, scope: Scope, *, size: int) -> Evaluation:
    """Fold the first `size` leaves.

    Args:
        leaves: called twice; yields (index, leaf bytes) in index order from 0.
        scope: which calls.
        size: number of leaves that count.

    Raises:
        TooManyLabels: when the feedback does not fit `labels.LABEL_LIMIT`.
    """
    book = LabelBook()
    for idx, leaf in _below(leaves(), size):
        # A canonical leaf spells its type exactly so; the entry is checked again. Saves decoding every call twice.
        if b'"type":"label"' in leaf or b'"type":"reward"' in leaf:
            entry = read_entry(leaf)
            if entry is not None:
                book.add(idx, entry)
    fold = _Fold(book, Evaluation(scope))
    for _, leaf in _below(leaves(), size):
        _take(fold, read_entry(leaf))
    for decision in fold.open_decisions.values():
        _close(fold, decision, None)
    fold.result.feedback = book.count
    return fold.result


def _below(leaves: Iterable[tuple[int, bytes]], size: int) -> Iterable[tuple[int, bytes]]:
    return takewhile(lambda pair: pair[0] < size, leaves)


def _take(fold: _Fold, entry: Entry | None) -> None:
    result = fold.result
    if entry is None:
        result.unreadable += 1
    elif entry.type == "call":
        _close(fold, entry, entry)
    elif entry.type == "decision":
        fold.open_decisions[entry.id] = entry
    elif entry.type == "outcome":
        decision = fold.open_decisions.pop(entry.decision_id or "", None)
        if decision is not None:
            _close(fold, decision, entry)
    elif entry.type == "denial.count":
        result.denials[entry.reason or "unknown"] += entry.count or 0
    elif entry.type == "erasure" and isinstance(entry.erasure, str) and isinstance(entry.entries, int):
        if result.scope.tenant in {None, entry.tenant}:
            result.erased[entry.erasure] = entry.entries
    elif entry.type == "log.lost" and isinstance(entry.from_, int) and isinstance(entry.to, int):
        result.lost += max(entry.to - entry.from_ + 1, 0)


def _close(fold: _Fold, decision: Entry, end: Entry | None) -> None:
    """Count one call. `end` is the record that tells how it ended: itself for `call`, the outcome, or None."""
    result = fold.result
    if decision.type not in CALL_TYPES or not result.scope.covers(decision):
        return
    result.first_time = min(filter(None, (result.first_time, decision.time)))
    result.last_time = max(result.last_time, decision.time)
    key = _key(decision)
    cell = result.cells.setdefault(key, Cell())
    decided_us = time_us(decision.time) or 0
    hour = result.hours.setdefault((decided_us - decided_us % HOUR_US, key.model, key.version), HourCell())
    _count_decision(cell, key, decision)
    hour.calls += 1
    outcome = end.outcome if end is not None else None
    if end is None or outcome is None:
        cell.unfinished += 1
        return
    cell.status[outcome.status] += 1
    if outcome.code is not None:
        cell.codes[outcome.code] += 1
    if end.usage is not None:
        cell.add_usage(end.usage)
    if 400 <= outcome.status < 500:
        cell.refused += 1
        hour.refused += 1
    elif outcome.status >= 500 or outcome.status < 100:
        cell.failed += 1
        hour.failed += 1
    else:
        cell.answered += 1
        _count_answer(fold, cell, hour, decision, end)


def _key(decision: Entry) -> CellKey:
    route = decision.route
    experiment = route.experiment if route is not None else None
    return CellKey(
        decision.model_name or "",
        decision.model_version or "",
        experiment or "",
        (route.assigned if route is not None and experiment else None) or "",
        (route.served if route is not None and experiment else None) or "",
    )


def _count_decision(cell: Cell, key: CellKey, decision: Entry) -> None:
    cell.calls += 1
    cell.moved += bool(key.assigned and key.served and key.assigned != key.served)
    if decision.policy is not None:
        counter = {"deny": cell.rules, "allow_with_warnings": cell.warnings}.get(decision.policy.decision)
        if counter is not None:
            counter.update({reason.id for reason in decision.policy.reasons})
    if decision.route is not None:
        cell.ineligible.update((candidate.arm, candidate.reason) for candidate in decision.route.eligible if candidate.reason)


def _count_answer(fold: _Fold, cell: Cell, hour: HourCell, decision: Entry, end: Entry) -> None:
    outcome = end.outcome
    if outcome is not None and outcome.latency_us is not None:
        cell.latency_us.add(outcome.latency_us)
        upstream = outcome.stages.get("upstream_us")
        if upstream is not None:
            cell.added_us.add(outcome.latency_us - upstream)
    predictions = _per_row(end.prediction)
    scores = _per_row(end.score_ppm)
    cell.rows += max(end.usage.rows if end.usage is not None else 1, len(predictions))
    cell.predictions.update(str(prediction) for prediction in predictions)
    for (row, metric), feedback in sorted(fold.book.of(decision.id, decision.tenant, decision.model_name or "").items()):
        if metric != LABEL_METRIC:
            cell.rewards.setdefault(metric, RewardSums()).add(feedback.value_ppm)
            fold.result.joined += 1
        elif 0 <= row < len(predictions):
            fold.result.joined += 1
            score = scores[row] if row < len(scores) else None
            _count_label(cell, hour, str(predictions[row]), score, feedback, time_us(decision.time))


def _count_label(cell: Cell, hour: HourCell, prediction: str, score_ppm: int | None, feedback: Feedback, decided_us: int | None) -> None:
    cell.add_label(prediction, feedback.label, score_ppm)
    hour.labelled += 1
    hour.correct += prediction == feedback.label
    if decided_us is not None and feedback.known_us is not None:
        cell.delay_s.add((feedback.known_us - decided_us) // 1_000_000)


def _per_row(value: Value | tuple[Value, ...] | None) -> tuple[Value, ...]:
    """A recorded value as one per row: batches carry a list, single calls the bare value."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
