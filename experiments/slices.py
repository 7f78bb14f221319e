"""Declared segments looked at one by one: no slice may be shown worse before a challenger takes over.

A mean can hide a group that loses. For each segment that has enough units (50 an arm; for values, whose evidence is asymptotic, 500), each metric is
tested for harm as in the whole (`experiments/judge.py`), and the tests together keep the declared error probability (Holm 1979 on p = 1/e, which is
valid at any time because e is).
A slice with too few units is listed as such: it is neither good nor bad, and hiding it would be a lie.

Example:
    >>> [found.words for found in slice_findings(document, fold.segment_evidence())]
    ['country=CH errors: `challenger` shown worse']
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from experiments import stats
from experiments.document import ExperimentDocument
from experiments.effects import tuned_for
from experiments.evidence import Evidence
from experiments.judge import harm_log_e
from experiments.values import log_harm_of_values

FEWEST_UNITS = 50
Finding = Literal["shown worse", "not shown worse", "insufficient"]


class SliceFinding(msgspec.Struct, frozen=True):
    """One metric of one arm in one segment."""

    segment: str
    metric: str
    arm: str
    finding: Finding
    log_e: float = 0.0

    @property
    def words(self) -> str:
        """Return the finding as people read it."""
        return f"{self.segment} {self.metric}: `{self.arm}` {self.finding}"


def slice_findings(document: ExperimentDocument, by_segment: Mapping[str, Evidence]) -> list[SliceFinding]:
    """Return every declared segment's findings, in the order of segments, metrics and arms."""
    shares = document.steps[0].shares
    metrics = [*(() if document.goal is None else (document.goal,)), *document.guardrails]
    found: list[SliceFinding] = []
    for segment, evidence in sorted(by_segment.items()):
        for metric in metrics:
            counts = evidence.metrics[metric.metric]
            for arm in sorted(set(document.arms) - {document.control}):
                fewest = FEWEST_UNITS if counts.moments is None else stats.BURN_IN_UNITS
                is_small = min(counts.units[arm], counts.units[document.control]) < fewest
                if is_small or not shares or not metric.is_identified:  # without a declared split nothing is tested
                    found.append(SliceFinding(segment, metric.metric, arm, "insufficient"))
                    continue
                if counts.moments is not None:
                    log_e = log_harm_of_values(counts.moments[arm], counts.moments[document.control], metric.better, tuned_for(document))
                else:
                    share = shares[arm] / (shares[arm] + shares[document.control])
                    log_e = harm_log_e(counts.events[arm], counts.events[document.control], share, counts_good=metric.counts_good_events)
                found.append(SliceFinding(segment, metric.metric, arm, "not shown worse", log_e))
    return _holm(found, document.alpha_ppm / 1e6)


def _holm(found: list[SliceFinding], alpha: float) -> list[SliceFinding]:
    """Mark what Holm's procedure rejects: the strongest first, each against alpha over how many are left."""
    tested = sorted((index for index, one in enumerate(found) if one.finding != "insufficient"), key=lambda index: -found[index].log_e)
    marked = list(found)
    for rank, index in enumerate(tested):
        if found[index].log_e < math.log((len(tested) - rank) / alpha):
            break
        marked[index] = msgspec.structs.replace(found[index], finding="shown worse")
    return marked
