"""One experiment's story out of the log: registrations, starts, steps, who was exposed, and the evidence of each epoch.

Two passes over the same records, because an answer says which decision it is about and not which experiment: `Story.note` takes what names the
experiment, then `Story.feed` the calls and the answers to them. Nothing is read but records, so that the same log gives the same story.

Example:
    story = Story("credit-v4")
    for index, record in records: story.note(index, record)
    for index, record in records: story.feed(record)
    story.epochs[1].fold.evidence()
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from experiments.document import ExperimentDocument
from experiments.effects import Effect, effects
from experiments.evidence import Fold
from experiments.pairs import SHADOW, PairFold
from experiments.people import HUMAN_DECISION, fold_of

Record = Mapping[str, Any]
FIRST_LOOK_UNITS = 20
LOOK_GROWTH = 1.3
"""The effect is noted whenever the units have grown by this much: about 30 points up to 100,000 units, at the cost of a few passes."""


class NoPlanError(ValueError):
    """A start holds no plan: it was written by a release that did not record one."""


@dataclass(frozen=True, slots=True)
class Look:
    """The effects as they stood at one time."""

    time: str
    units: int
    effects: tuple[Effect, ...]


@dataclass(slots=True)
class EpochStory:
    """One epoch. Owned by its `Story`."""

    epoch: int
    start_index: int
    start_time: str
    reason: str
    plan: dict[str, Any]
    plan_digest: str
    document: ExperimentDocument
    document_digest: str
    fold: Fold | PairFold
    steps: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    """Assigned arm -> calls that were exposed; `""` -> calls that were not."""
    excluded: Counter[str] = field(default_factory=Counter)
    """Exclusion -> calls."""
    diverted: dict[str, Counter[str]] = field(default_factory=dict)
    """Assigned arm -> reason why another version served -> calls."""
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    """Assigned arm -> reason why nothing served -> calls."""
    first_call: str = ""
    last_call: str = ""
    next_look: int = FIRST_LOOK_UNITS


class Story:
    """Folds one experiment. Changed by `note` and `feed` alone."""

    def __init__(self, name: str) -> None:
        """Begin with nothing known."""
        self.name = name
        self.registrations: list[tuple[int, dict[str, Any]]] = []
        self.steps: list[tuple[int, dict[str, Any]]] = []
        self.epochs: dict[int, EpochStory] = {}
        self._epoch_of: dict[str, int] = {}  # decision -> epoch, from `note`

    def note(self, index: int, record: Record) -> None:
        """Take in what a record says of this experiment, in the order of the log."""
        kind = record["type"]
        if kind in ("call", "decision"):
            route = record.get("route", {})
            if route.get("experiment") == self.name:
                self._epoch_of[record["id"]] = route.get("epoch", 0)
        elif record.get("experiment") != self.name:
            return
        elif kind == "experiment.registered":
            self.registrations.append((index, dict(record)))
        elif kind == "experiment.start":
            self._begin(index, record)
        elif kind == "rollout.step":
            self.steps.append((index, dict(record)))
            if record["epoch"] in self.epochs:
                self.epochs[record["epoch"]].steps.append((index, dict(record)))

    def _begin(self, index: int, record: Record) -> None:
        plan = record.get("preregistration")
        if plan is None:
            raise NoPlanError(f"the start of `{self.name}` at record {index} holds no plan; it was recorded by an earlier release")
        document = read_plan(plan)
        epoch = record["epoch"]
        self.epochs[epoch] = EpochStory(
            epoch,
            index,
            record["time"],
            record["reason"],
            plan,
            record["preregistration_digest"],
            document,
            record["document_digest"],
            Fold(document, epoch) if document.shadow is None else fold_of(document, epoch),
        )

    def feed(self, record: Record) -> None:
        """Take in a call of this experiment or an answer to one; anything else is passed over."""
        kind = record["type"]
        if kind in ("call", "decision"):
            decision = record["id"]
        elif kind == "outcome":
            decision = record["parents"][0]
        elif kind in ("label", "reward"):
            decision = record.get("decision", "")
        elif kind in (SHADOW, HUMAN_DECISION):
            self._feed_pairs(record)
            return
        else:
            return
        epoch = self.epochs.get(self._epoch_of.get(decision, 0))
        if epoch is None or not isinstance(epoch.fold, Fold):
            return
        if kind in ("call", "decision"):
            _count(epoch, record)
        epoch.fold.add(record)
        if epoch.fold.unit_count >= epoch.next_look:
            self._look(epoch, epoch.fold, record["time"])

    def _feed_pairs(self, record: Record) -> None:
        """Take in an answer of a shadow, or what a person decided; a decision may be of any epoch, whose fold knows its calls."""
        if record["type"] == SHADOW and record.get("experiment") != self.name:
            return
        for epoch in self.epochs.values():
            if isinstance(epoch.fold, PairFold):
                epoch.fold.add(record)
                if record["type"] == SHADOW and record["epoch"] == epoch.epoch:
                    epoch.first_call = epoch.first_call or record["time"]
                    epoch.last_call = max(epoch.last_call, record["time"])

    def _look(self, epoch: EpochStory, fold: Fold, time: str) -> None:
        found = effects(epoch.document, fold.evidence())
        epoch.looks.append(Look(time, fold.unit_count, tuple(found)))
        epoch.next_look = max(fold.unit_count + 1, math.ceil(fold.unit_count * LOOK_GROWTH))


def read_plan(plan: Mapping[str, Any]) -> ExperimentDocument:
    """Return the document a plan was made from: keys without a value were left out of it."""
    empty = dict.fromkeys(ExperimentDocument.__struct_fields__)
    required = {key: value for key, value in empty.items() if key not in _DEFAULTED}
    return msgspec.convert({**required, **plan}, ExperimentDocument)


_DEFAULTED = frozenset(one.name for one in msgspec.structs.fields(ExperimentDocument) if not one.required)


def _count(epoch: EpochStory, record: Record) -> None:
    route = record["route"]
    time = record["time"]
    epoch.first_call = epoch.first_call or time
    epoch.last_call = max(epoch.last_call, time)
    if not route.get("exposed"):
        epoch.calls[""] += 1
        if "excluded" in route:
            epoch.excluded[route["excluded"]] += 1
        return
    arm = route["assigned"]
    epoch.calls[arm] += 1
    served = route.get("served")
    if served != arm:
        why = next((one.get("reason", "") for one in route.get("eligible", ()) if one.get("arm") == arm), "") or "refused"
        told = epoch.refused if served is None else epoch.diverted
        told.setdefault(arm, Counter())[why] += 1
