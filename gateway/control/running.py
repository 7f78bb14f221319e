"""One configured experiment as the controller holds it: its document, its state, what was counted, and the verdict of that.

Example:
    found = Running(document, digest, initial(now_us), fold, window)
    found.judge()
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from experiments.breaker import Window
from experiments.document import ExperimentDocument
from experiments.evidence import FOREVER_US, Evidence, Fold
from experiments.judge import judge
from experiments.pairs import PairEvidence, PairFold, judge_pairs
from experiments.rollout import RolloutState
from experiments.slices import slice_findings
from experiments.verdict import NO_DATA, Verdict

_LOOK_GROWTH = 1.6


@dataclass(frozen=True, slots=True)
class Starting:
    """An epoch about to begin."""

    document: ExperimentDocument
    digest: str
    epoch: int
    reason: str
    is_draft: bool = False
    """Put on record alone: someone has to start it."""


@dataclass(slots=True)
class Running:
    """One configured experiment. Owned by `Rollouts`."""

    document: ExperimentDocument
    digest: str
    state: RolloutState
    fold: Fold | PairFold
    window: Window | None
    verdict: Verdict = field(default=NO_DATA)
    fed: int = 0
    """Observations since the last verdict; without any there is nothing new to judge but time."""
    due_us: int = 0
    """When time alone may call for a step; until then, and without new evidence, there is nothing to judge."""
    waiting: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Treatment calls whose `decision` was read and whose `outcome` was not."""

    looks: list[tuple[str, Evidence]] = field(default_factory=list)
    """Counts as they stood whenever the units had grown by `_LOOK_GROWTH`, for the page's picture; with the time of the record that made it so."""
    next_look: int = 25
    evidence: Evidence | None = None
    """Counts of the last verdict."""
    pairs: PairEvidence | None = None
    """The same of a shadow."""
    seen_until: str = ""
    """Time of the newest record taken in."""

    def look(self) -> None:
        """Keep the counts if the units have grown enough since they were last kept; not once it has ended: the verdict rests on what it had then."""
        is_going_on = self.state.phase in ("running", "paused")
        if is_going_on and isinstance(self.fold, Fold) and self.fold.unit_count >= self.next_look:
            self.looks.append((self.seen_until, self.fold.evidence()))
            self.next_look = math.ceil(self.fold.unit_count * _LOOK_GROWTH)

    def judge(self, until_us: int = FOREVER_US) -> None:
        """Judge what was fed since the last verdict; `until_us` is the judge's own time, which no record's clock runs ahead of."""
        self.fed = 0
        if isinstance(self.fold, PairFold):
            self.pairs = self.fold.evidence(until_us)
            self.verdict = judge_pairs(self.document, self.pairs)
        else:
            self.evidence = self.fold.evidence(until_us=until_us)
            self.verdict = judge(self.document, self.evidence)
            if self.document.strategy == "champion_challenger" and self.document.segments:
                findings = slice_findings(self.document, self.fold.segment_evidence(until_us))
                self.verdict = replace(self.verdict, losing=tuple(found.words for found in findings if found.finding == "shown worse"))

    def is_watched(self, now_us: int) -> bool:
        """Say whether anything may still move it: it runs or is paused, or a switch is still within its breaker's time."""
        keeps = self.document.strategy == "blue_green" and now_us < self.state.entered_us + self.document.keep_warm_us
        return self.state.phase in ("running", "paused") or (self.state.phase == "promoted" and keeps and self.window is not None)
