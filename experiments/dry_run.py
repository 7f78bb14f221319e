"""An experiment on yesterday's traffic, without calling anything: recorded units are drawn again, and what became of their calls is counted.

What is read and what cannot be:

- Every recorded call of the model is drawn under the planned document, on every step of its ramp, which gives units and calls by arm.
- Attributes of `Assay-Context` are not recorded, so rules on anything but `tenant` are left out and named: counts are then upper bounds.
- Other systems' draws need the raw unit, or the caller's word; neither is in a record. Then traffic and rates are told, and arms are not.
- Rates of bad events come from the same fold and the same rules as in a running experiment, over all units: nobody was treated, so arms are pooled.
- The same units split evenly are an A/A test: its verdict says whether yesterday's traffic would have raised a false alarm.

Example:
    >>> rehearsal = Rehearsal(document)
    >>> for record in records: rehearsal.add(record)
    >>> rehearsal.result().rates
    {'errors': 0.012}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from hashlib import sha256
from typing import Any

import msgspec

from experiments.assignment import Assigner
from experiments.bucketing import encode_parts
from experiments.document import ExclusionDocument, ExperimentDocument, LiveExperiment, RuleDocument, StepDocument, everyone_to
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.movement import NOT_EXPOSED, OUTSIDE
from experiments.observations import MetricEvidence
from experiments.rollout import WINNERS
from experiments.shares import WHOLE, format_share, integer_shares

Record = Mapping[str, Any]
_NOT_MIRRORED = "not mirrored"


class Stage(msgspec.Struct, frozen=True):
    """Who would have been where on one step."""

    name: str
    units: dict[str, int]
    calls: dict[str, int]


class DryRun(msgspec.Struct, frozen=True):
    """What yesterday would have been."""

    calls: int
    units: int
    first: str
    last: str
    units_per_day: float | None
    """None where less than ten minutes are known."""
    calls_per_day: float | None
    stages: tuple[Stage, ...]
    moved: dict[str, int]
    """`before -> after` on the first step -> units, those that stay included."""
    refused: dict[str, int]
    """Why calls were refused, or an arm not served -> calls, as recorded."""
    rates: dict[str, float]
    """Metric -> rate of bad events."""
    placebo: str
    """Verdict of an A/A test of all units: `hold`, `fine`, or `harm`, which would be a false alarm. Empty where nothing is compared."""
    left_out: tuple[str, ...]
    """What could not be taken from records, in words."""


SHORTEST_SPAN_S = 600.0


class Rehearsal:
    """Draws recorded calls again. Owned by whoever reads the log; changed by `add` alone."""

    def __init__(self, document: ExperimentDocument) -> None:
        """Prepare; nothing is counted yet."""
        self._document = document
        self._left_out: tuple[str, ...]
        drawn, self._left_out = _drawable(document)
        self._stages = [] if drawn is None else [(name, Assigner(drawn, live)) for name, live in _stages(drawn)]
        self._mirrors = encode_parts((document.salt, "shadow")) if document.shadow is not None else None
        self._stand_in = _stand_in(document)
        self._even = Assigner(self._stand_in, _live(self._stand_in, self._stand_in.steps[0]))
        self._fold = Fold(self._stand_in, 1)
        # Mutable from here on.
        self._units: list[dict[str, str]] = [{} for _ in self._stages]
        self._calls: list[Counter[str]] = [Counter() for _ in self._stages]
        self._before: dict[str, str] = {}
        self._mirrored: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._times = ["", ""]
        self._number = 0

    def add(self, record: Record) -> None:
        """Take in one record; those of other models are passed over."""
        kind = record["type"]
        if kind in ("outcome", "label", "reward"):
            self._fold.add(record)
        elif kind in ("call", "decision") and record.get("model", {}).get("name") == self._document.model and "subject" in record:
            self._add_call(record)

    def result(self) -> DryRun:
        """Return what was counted."""
        first, last = self._times
        span_s = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds() if first else 0.0
        per_day = 86_400 / span_s if span_s >= SHORTEST_SPAN_S else None
        evidence = self._fold.evidence()
        judged = judge(self._stand_in, evidence)
        stages = [Stage(name, _counted(Counter(self._units[n].values())), _counted(self._calls[n])) for n, (name, _) in enumerate(self._stages)]
        if self._mirrors is not None:
            stages = [Stage(f"{format_share(self._document.steps[0].exposure)} of the calls", {}, _counted(self._mirrored))]
        return DryRun(
            calls=self._number,
            units=len(self._seen),
            first=first,
            last=last,
            units_per_day=None if per_day is None else len(self._seen) * per_day,
            calls_per_day=None if per_day is None else self._number * per_day,
            stages=tuple(stages),
            moved=self._moved(),
            refused=_counted(self._refused),
            rates={name: rate for name, found in evidence.metrics.items() if 0 < (rate := _rate(found)) < 1},
            placebo=judged.outcome if judged.metrics and self._mirrors is None else "",
            left_out=self._left_out,
        )

    def _add_call(self, record: Record) -> None:
        self._number += 1
        unit, route = record["subject"], record.get("route", {})
        self._seen.add(unit)
        time = record["time"]
        self._times = [min(self._times[0] or time, time), max(self._times[1], time)]
        self._note_refusals(record, route)
        self._before.setdefault(unit, self._place_before(route))
        if self._mirrors is not None:
            hashed = sha256(self._mirrors + encode_parts((record["id"],))).digest()[:4]
            self._mirrored["mirrored" if int.from_bytes(hashed, "big") < self._document.steps[0].exposure else _NOT_MIRRORED] += 1
        draw, context = ("plan", 0, self._number), {"tenant": record.get("tenant", "")}
        for number, (_, assigner) in enumerate(self._stages):
            assignment = assigner.assign(unit, draw, context)
            exposed = assignment is not None and (assignment.exposed or assignment.arm == "holdout")
            place = OUTSIDE if assignment is None else assignment.arm if exposed else NOT_EXPOSED
            self._units[number].setdefault(unit, place)
            self._calls[number][place] += 1
        even = self._even.assign(unit, draw)
        if even is not None:
            self._fold.add({**record, "route": {**even.route(), "served": even.arm}})

    def _note_refusals(self, record: Record, route: Record) -> None:
        outcome = record.get("outcome", {})
        if "code" in outcome and 400 <= outcome["status"] < 500:
            policy = record.get("policy", {})
            reasons = [reason["id"] for reason in policy.get("reasons", ()) if policy.get("decision") == "deny" and reason.get("mode") == "enforce"]
            self._refused[" ".join([outcome["code"], *reasons[:1]])] += 1
        elif route.get("experiment") == self._document.experiment:
            for one in route.get("eligible", ()):
                if "reason" in one:
                    self._refused[f"arm {one['arm']}: {one['reason']}"] += 1

    def _place_before(self, route: Record) -> str:
        name = route.get("experiment")
        if name is None:
            return OUTSIDE
        if name != self._document.experiment:
            return f"in {name}"
        return str(route["assigned"]) if route.get("exposed") else NOT_EXPOSED

    def _moved(self) -> dict[str, int]:
        if not self._stages:
            return {}
        pairs = Counter(f"{before} -> {self._units[0][unit]}" for unit, before in self._before.items())
        return _counted(pairs)


def _rate(found: MetricEvidence) -> float:
    """Return the rate of bad events in all arms together; 0 where there is none to tell."""
    units, events = sum(found.units.values()), sum(found.events.values())
    return events / units if units and found.moments is None else 0.0


def _counted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _drawable(document: ExperimentDocument) -> tuple[ExperimentDocument | None, tuple[str, ...]]:
    """Return the document as records can be drawn under it, None where they cannot, and what is left out, in words."""
    if document.shadow is not None:
        return None, ()
    if document.mode != "native":
        return None, (f"arms: `{document.mode}` needs what records do not hold, the raw unit or the caller's word",)
    unknown = sorted({rule.attribute for rule in _rules(document) if rule.attribute != "tenant"})
    told = tuple(f"rules on `{attribute}`: attributes of a call are not recorded, so counts are upper bounds" for attribute in unknown)
    who = tuple(rule for rule in document.who if rule.attribute == "tenant")
    exclude = tuple(one for one in document.exclude if _is_known(one))
    return msgspec.structs.replace(document, who=who, exclude=exclude, segments={}), told


def _rules(document: ExperimentDocument) -> list[RuleDocument]:
    return [*document.who, *(rule for exclusion in document.exclude for rule in exclusion.rules)]


def _is_known(exclusion: ExclusionDocument) -> bool:
    return all(rule.attribute == "tenant" for rule in exclusion.rules)


def _stages(document: ExperimentDocument) -> list[tuple[str, LiveExperiment]]:
    """Return each step of the ramp, or of a switch what follows it, as workers would draw with it."""
    if document.strategy == "blue_green":
        everyone = everyone_to(WINNERS["blue_green"], document.arms)
        live = _live(document, document.steps[0])
        return [("after the switch", msgspec.structs.replace(live, phase="promoted", exposure=WHOLE, shares=everyone))]
    return [(f"step {number}: {format_share(step.exposure)} compared", _live(document, step)) for number, step in enumerate(document.steps, start=1)]


def _live(document: ExperimentDocument, step: StepDocument) -> LiveExperiment:
    return LiveExperiment(experiment=document.experiment, epoch=1, phase="running", step=0, exposure=step.exposure, shares=step.shares)


def _stand_in(document: ExperimentDocument) -> ExperimentDocument:
    """Return the document with everyone in it and split evenly: for rates, and for the A/A test."""
    arms = {arm: version or "-" for arm, version in document.arms.items()}
    shares = integer_shares({arm: Fraction(1, len(arms)) for arm in arms})
    step = StepDocument(exposure=WHOLE, shares=shares, hold_us=0, min_units=0)
    return msgspec.structs.replace(
        document,
        strategy="ab",
        arms=arms,
        mode="native",
        steps=(step,),
        layer=None,
        holdout=None,
        who=(),
        exclude=(),
        segments={},
        bucketing=None,
        external=None,
        shadow=None,
    )
