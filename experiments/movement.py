"""Who moves when an experiment changes: the same units assigned under both documents, counted by arm before and after.

Measured, not derived: every unit of a sample is drawn both ways. Between two arms whose shares both stay nobody moves, which is what weighted
rendezvous is for (semantics.md 3.3). Targeting is left out: nobody knows the attributes of units that have not called.

Example:
    >>> found = moved(old, new, sample=10_000)
    >>> found.between_arms()
    0
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from experiments.document import ExperimentDocument, LiveExperiment
from experiments.ranges import assigner_of
from experiments.targeting import EMPTY

OUTSIDE = "outside"
"""Not in the experiment: other slots, other units, or no experiment."""
NOT_EXPOSED = "not exposed"


class Moved(msgspec.Struct, frozen=True):
    """Units by where they are before and after."""

    sample: int
    pairs: Mapping[tuple[str, str], int]
    """(before, after) -> units, those that stay included."""

    @property
    def moved(self) -> int:
        """Return how many units are somewhere else afterwards."""
        return sum(count for (before, after), count in self.pairs.items() if before != after)

    def between_arms(self) -> int:
        """Return how many units change from one arm to another: what breaks a comparison that runs."""
        return sum(count for (before, after), count in self.pairs.items() if before != after and not {before, after} & {OUTSIDE, NOT_EXPOSED})

    def to_version(self, before: ExperimentDocument | None, after: ExperimentDocument | None, default: str) -> dict[str, int]:
        """Return how many units another version serves afterwards, by that version.

        Args:
            before: the document this was measured from.
            after: the document it was measured to.
            default: the model's default version, which serves whoever is in no arm.
        """
        counts: Counter[str] = Counter()
        for (old, new), count in self.pairs.items():
            version = _version(after, new, default)
            if version != _version(before, old, default):
                counts[version] += count
        return dict(sorted(counts.items()))


def _version(document: ExperimentDocument | None, place: str, default: str) -> str:
    """Return the version that serves a place: an arm's own, the control's in a holdout or outside the exposure."""
    if document is None or place == OUTSIDE:
        return default
    if document.shadow is not None:
        return document.arms[document.control]
    return document.arms.get(place) or document.arms[document.control]


def moved(before: ExperimentDocument | None, after: ExperimentDocument | None, *, sample: int, step: int = 0) -> Moved:
    """Assign a sample of units under both documents.

    Args:
        before: the document in force; None where there is none.
        after: the document planned; None where it is removed.
        sample: units.
        step: the step it is on before and after, as far as there is one.
    """
    old, new = _place(before, step), _place(after, step)
    pairs: Counter[tuple[str, str]] = Counter()
    for number in range(sample):
        unit = hashlib.sha256(b"assay plan %d" % number).hexdigest()[:32]
        pairs[old(unit), new(unit)] += 1
    return Moved(sample, dict(sorted(pairs.items())))


def _place(document: ExperimentDocument | None, step: int) -> Callable[[str], str]:
    """Return the function that says where a unit is under one document."""
    if document is None:
        return lambda _unit: OUTSIDE
    here = document.steps[min(step, len(document.steps) - 1)]
    state = LiveExperiment(experiment=document.experiment, epoch=1, phase="running", step=0, exposure=here.exposure, shares=here.shares)
    assigner = assigner_of(msgspec.structs.replace(document, who=(), exclude=(), segments={}), state)

    def place(unit: str) -> str:
        assignment = assigner.assign(unit, ("plan", 0, 0), EMPTY, unit)
        if assignment is None:
            return OUTSIDE
        return assignment.arm if assignment.exposed or assignment.arm == "holdout" else NOT_EXPOSED

    return place
