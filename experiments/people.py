"""Evidence of a shadow whose champion is a person: what the version answered, beside what somebody decided on the same call later.

Each mirrored call is one pair, as in `experiments/pairs.py`, and judged by the same sequential verdict; only where the champion's answer comes from
differs. Rules:

- A person's decision comes by `POST /feedback` as `{decision_id, human_decision}`, from a key of the call's tenant; the first counts, corrections as
  for labels (`experiments/labels.py`).
- *Delay must not favour agreement*: easy cases are decided sooner than hard ones. So a call counts once `decided_within` has passed since it, and
  not before, however soon it was decided; what nobody decided by then is left out and told. Time is that of the newest record read.
- A version that failed, or answered nothing that can be compared, agrees in nothing. `errors` counts all mirrored calls, decided or not.
- Order and repetition of records play no part. Memory: about 400 bytes a call, at most `max_pairs`; decisions on calls that were not mirrored wait
  among at most `max_orphans`, the oldest goes first.

Example:
    >>> fold = PersonFold(document, epoch=1)
    >>> for record in records: fold.add(record)
    >>> judge_pairs(document, fold.evidence()).outcome
    'fine'
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from experiments.document import ExperimentDocument
from experiments.evidence import FOREVER_US
from experiments.labels import Label, label_of, standing, with_label
from experiments.pairs import SHADOW, Limit, PairEvidence, PairFold

HUMAN_DECISION: Final = "human_decision"
Record = Mapping[str, Any]


class _Said(msgspec.Struct):
    """What people said of one call. Owned by its `PersonFold`."""

    labels: dict[str, tuple[Label, ...]]
    """Tenant -> what its keys said: nobody decides for another tenant's call."""
    first_us: dict[str, int]
    """Tenant -> when it first said something."""


class _Mirrored(msgspec.Struct, frozen=True):
    """One answer of the version."""

    tenant: str
    at_us: int
    answers: Mapping[str, str]
    failed: bool


class PersonFold(PairFold):
    """Folds mirrored calls and people's decisions on them. Owned by one task of the controller; not shared."""

    def __init__(self, document: ExperimentDocument, epoch: int, *, max_pairs: int = 200_000, max_orphans: int = 20_000) -> None:
        """Start empty. Raises ValueError for a shadow whose champion is a version."""
        super().__init__(document, epoch, max_pairs=max_pairs)
        if document.shadow is None or not document.shadow.person:
            raise ValueError(f"the champion of `{document.experiment}` is no person")
        self._within_us = document.shadow.decided_within_us
        self._max_orphans = max_orphans
        # Mutable state, changed by `add` alone.
        self._mirrored: dict[str, _Mirrored] = {}
        self._said: dict[str, _Said] = {}
        self._orphans: OrderedDict[str, _Said] = OrderedDict()
        self._clock_us = 0

    def add(self, record: Record) -> None:
        """Take in one record of the log; those that do not concern this shadow are passed over."""
        kind = record.get("type")
        if kind == HUMAN_DECISION:
            self._add_decision(record)
        elif kind == SHADOW and record.get("experiment") == self._document.experiment and record.get("epoch") == self._epoch:
            self._add_answer(record)

    def evidence(self, until_us: int = FOREVER_US) -> PairEvidence:
        """Counts at this moment, of the calls whose time to be decided is over; `until_us` as of `Fold.evidence`. Cost: one pass over them."""
        now_us = min(self._clock_us, until_us)
        compared = undecided = 0
        broken = dict.fromkeys(self._parts, 0)
        for decision, mirrored in self._mirrored.items():
            if mirrored.at_us + self._within_us > now_us:
                continue
            said = self._of(decision, mirrored)
            if said is None:
                undecided += 1
                continue
            compared += 1
            for name in self._parts:
                broken[name] += mirrored.answers.get(name) != said
        limits = {name: Limit(compared, broken[name], most) for name, most in self._parts.items()}
        failed = sum(mirrored.failed for mirrored in self._mirrored.values())
        limits |= {guardrail.metric: Limit(len(self._mirrored), failed, guardrail.margin) for guardrail in self._document.guardrails}
        return PairEvidence(compared, limits, self._overflow, undecided)

    def _add_answer(self, record: Record) -> None:
        decision = record["parents"][0]
        self._clock_us = max(self._clock_us, at_us := _time_us(record["time"]))
        if decision in self._mirrored:
            return
        if len(self._mirrored) >= self._max_pairs:
            self._overflow += 1
            return
        outcome = record["outcome"]
        failed = outcome["status"] != record["champion"]["status"] or "code" in outcome
        answers = {} if failed else record.get("answers", {})
        self._mirrored[decision] = _Mirrored(record.get("tenant", ""), at_us, answers, failed)
        waiting = self._orphans.pop(decision, None)
        if waiting is not None:
            self._said[decision] = waiting

    def _add_decision(self, record: Record) -> None:
        models = record.get("models")
        if record.get("row", 0) != 0 or (models is not None and self._document.model not in models):
            return
        at_us = _time_us(record["time"])
        self._clock_us = max(self._clock_us, at_us)
        decision, tenant = record["decision"], record.get("tenant", "")
        known = self._said if decision in self._mirrored else self._orphans
        said = known.setdefault(decision, _Said({}, {}))
        said.labels[tenant] = with_label(said.labels.get(tenant, ()), label_of(record, HUMAN_DECISION))
        said.first_us[tenant] = min(at_us, said.first_us.get(tenant, at_us))
        while len(self._orphans) > self._max_orphans:
            self._orphans.popitem(last=False)

    def _of(self, decision: str, mirrored: _Mirrored) -> str | None:
        """Return what was decided on a call in time, or None."""
        said = self._said.get(decision)
        labels = () if said is None else said.labels.get(mirrored.tenant, ())
        if said is None or not labels or said.first_us[mirrored.tenant] > mirrored.at_us + self._within_us:
            return None
        return standing(labels)


def fold_of(document: ExperimentDocument, epoch: int) -> PairFold:
    """Return the empty fold of a shadow. Raises ValueError for any other experiment."""
    is_person = document.shadow is not None and document.shadow.person
    return PersonFold(document, epoch) if is_person else PairFold(document, epoch)


def _time_us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000)
