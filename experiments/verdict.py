"""What evidence says: harm, fine, or hold. Made by `experiments/judge.py`, acted on by `experiments/rollout.py`.

`hold` is the answer to everything that is not proven, above all to no data. Numbers are integers, because they go into records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.document import OnHarm

Outcome = Literal["harm", "fine", "hold"]


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One metric of one arm against the control.

    Attributes:
        metric: its name.
        arm: the treatment.
        outcome: `harm`: proven worse than the control. `fine`: proven not worse by its margin. `hold`: neither.
        better: proven better than the control.
        reason: the numbers in words.
        has_data: both arms have units.
        on_harm: what harm does.
    """

    metric: str
    arm: str
    outcome: Outcome
    better: bool
    reason: str
    has_data: bool
    on_harm: OnHarm


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole experiment at one look.

    Attributes:
        outcome: `harm` if any metric is; `fine` if all are and no sample ratio is off; else `hold`.
        on_harm: what to do about harm: `rollback` if any harmed metric says so.
        may_advance: no harm, no sample ratio off, and every guardrail has data in every arm.
        units: arm -> units assigned.
        reasons: in words, worst first.
        metrics: each metric and arm.
        evidence: counts, for the record; integers only.
        losing: declared segments shown worse, in words; only looked at where they can hold a promotion.
    """

    outcome: Outcome
    on_harm: OnHarm = "hold"
    may_advance: bool = False
    units: dict[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    metrics: tuple[MetricVerdict, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    losing: tuple[str, ...] = ()

    def is_better(self, metric: str) -> bool:
        """Say whether every arm is proven better than the control in a metric."""
        found = [one for one in self.metrics if one.metric == metric]
        return bool(found) and all(one.better for one in found)


NO_DATA = Verdict("hold", reasons=("no data yet",))
"""What is known before the first call."""
