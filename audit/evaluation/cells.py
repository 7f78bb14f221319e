"""Counters of one group of calls. Everything here adds up, so any coarser view is a sum of cells.

Example:
    cell = Cell()
    cell.merge(other)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from audit.entry import Usage
from audit.evaluation.histogram import Histogram

SCORE_BINS = 1000
"""Scores are kept in bins of 0.1 %; within one bin they count as tied."""


class CellKey(NamedTuple):
    """Who served, and under which assignment; empty text where there was no experiment."""

    model: str
    version: str
    experiment: str
    assigned: str
    served: str


@dataclass(slots=True)
class ScoreSums:
    """Scores of rows with one label: count and power sums in ppm, exact."""

    n: int = 0
    powers: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def add(self, score_ppm: int) -> None:
        """Count one score."""
        self.n += 1
        for exponent in range(4):
            self.powers[exponent] += score_ppm ** (exponent + 1)

    def merge(self, other: ScoreSums) -> None:
        """Add another's sums."""
        self.n += other.n
        self.powers = [mine + theirs for mine, theirs in zip(self.powers, other.powers, strict=True)]


@dataclass(slots=True)
class RewardSums:
    """Rewards of one metric: count, sum and sum of squares in ppm, exact."""

    n: int = 0
    total: int = 0
    squares: int = 0

    def add(self, value_ppm: int) -> None:
        """Count one reward."""
        self.n += 1
        self.total += value_ppm
        self.squares += value_ppm * value_ppm

    def merge(self, other: RewardSums) -> None:
        """Add another's sums."""
        self.n += other.n
        self.total += other.total
        self.squares += other.squares


@dataclass(slots=True)
class Cell:
    """Counters of one `CellKey`, or a sum of such. Owner: the fold.

    `calls` = `answered` + `refused` + `failed` + `unfinished`; quality counts answered rows with a prediction only.
    """

    calls: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    unfinished: int = 0
    moved: int = 0  # served another arm than assigned
    rows: int = 0
    status: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    ineligible: Counter[tuple[str, str]] = field(default_factory=Counter)
    latency_us: Histogram = field(default_factory=Histogram)
    added_us: Histogram = field(default_factory=Histogram)
    delay_s: Histogram = field(default_factory=Histogram)
    predictions: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)  # (prediction, label)
    score_bins: Counter[tuple[str, int]] = field(default_factory=Counter)  # (label, bin)
    scores: dict[str, ScoreSums] = field(default_factory=dict)  # by label
    rewards: dict[str, RewardSums] = field(default_factory=dict)  # by metric
    usage: Counter[str] = field(default_factory=Counter)  # calls that said and did not say what they consumed, tokens by kind
    cost_nano: Counter[str] = field(default_factory=Counter)  # by currency
    priced: Counter[str] = field(default_factory=Counter)  # calls, by currency

    def merge(self, other: Cell) -> None:
        """Add another cell's counts."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for name in _HISTOGRAMS:
            getattr(self, name).merge(getattr(other, name))
        for label, sums in other.scores.items():
            self.scores.setdefault(label, ScoreSums()).merge(sums)
        for metric, rewards in other.rewards.items():
            self.rewards.setdefault(metric, RewardSums()).merge(rewards)

    def named(self, names: Mapping[str, str]) -> Cell:
        """Return the same counts with classes under other names: recorded -> as told; what is not there stays."""
        told = Cell()
        told.merge(self)
        told.predictions, told.confusion, told.score_bins, told.scores = Counter(), Counter(), Counter(), {}
        for recorded, count in self.predictions.items():
            told.predictions[names.get(recorded, recorded)] += count
        for (prediction, label), count in self.confusion.items():
            told.confusion[names.get(prediction, prediction), names.get(label, label)] += count
        for (label, place), count in self.score_bins.items():
            told.score_bins[names.get(label, label), place] += count
        for label, sums in self.scores.items():
            told.scores.setdefault(names.get(label, label), ScoreSums()).merge(sums)
        return told

    def add_usage(self, usage: Usage) -> None:
        """Count what one call consumed; a model whose file says nothing of it counts as neither."""
        tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        for kind, count in tokens.items():
            if count is not None:
                self.usage[kind] += count
        if usage.cost_nano is not None:
            self.cost_nano[usage.currency] += usage.cost_nano
            self.priced[usage.currency] += 1
        self.usage["said"] += usage.cost_nano is not None or any(count is not None for count in tokens.values())
        self.usage["unread"] += bool(usage.unread)

    def add_label(self, prediction: str, label: str, score_ppm: int | None) -> None:
        """Count one labelled row."""
        self.confusion[prediction, label] += 1
        if score_ppm is not None and 0 <= score_ppm <= 1_000_000:
            self.score_bins[label, score_ppm * SCORE_BINS // 1_000_000] += 1
            self.scores.setdefault(label, ScoreSums()).add(score_ppm)


_NUMBERS = ("calls", "answered", "refused", "failed", "unfinished", "moved", "rows")
_COUNTERS = ("status", "codes", "rules", "warnings", "ineligible", "predictions", "confusion", "score_bins", "usage", "cost_nano", "priced")
_HISTOGRAMS = ("latency_us", "added_us", "delay_s")
