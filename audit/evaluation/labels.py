"""Late labels: from feedback records to one label, or one reward, per (decision, row, metric).

Rules (`docs/records.md`, Feedback):
- A record whose event id was seen at a smaller index, from the same tenant and source, is a repeat and changes nothing.
- The first label wins; of corrections (`corrects: true`) the last one does. "First" and "last" are log indices, so the order in which records are
  handed over, and handing one over twice, change nothing.
- A correction counts from the source (key) whose label it corrects, or from one that may correct others' (`may_correct`); anyone else's stays in
  the log and changes nothing.
- A label is joined only to a decision of its own tenant, and one from a key that names models only to decisions of those.

Memory: about 0.5 kB per feedback record, nothing per call. `LABEL_LIMIT` bounds it; past it the fold refuses rather than forgets.

Example:
    book = LabelBook()
    book.add(17, entry)
    book.label(decision_id, row=0, tenant="acme")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from audit.entry import FEEDBACK_TYPES, Entry, time_us

LABEL_LIMIT = 4_000_000
"""Most feedback records one fold holds: about 2 GB."""

LABEL_METRIC = ""
"""Labels and rewards share one book; a label is kept under this metric, whatever its record calls it."""


class TooManyLabels(Exception):  # noqa: N818 - reads as the statement it is
    """The log holds more feedback than one fold may keep; narrow the report by model or tenant."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One feedback record, as far as evaluation uses it. `known_us`: when the truth was known, else when it was recorded."""

    idx: int
    row: int
    metric: str
    label: str
    value_ppm: int
    corrects: bool
    event: tuple[str, str, str] | None
    tenant: str
    known_us: int | None
    source: str = ""
    may_correct: bool = False
    models: tuple[str, ...] = ()
    """Models its key was limited to; empty = all of the tenant's."""


@dataclass(slots=True)
class LabelBook:
    """Feedback by decision. Owner: the fold that fills it in its first pass."""

    by_decision: dict[str, dict[int, Feedback]] = field(default_factory=dict)
    first_of_event: dict[tuple[str, str, str], int] = field(default_factory=dict)
    count: int = 0

    def add(self, idx: int, entry: Entry) -> None:
        """Take one `label` or `reward` record; anything else, and feedback naming no decision, is ignored.

        Raises:
            TooManyLabels: past `LABEL_LIMIT`.
        """
        if entry.type not in FEEDBACK_TYPES or entry.decision is None:
            return
        feedback = _feedback(idx, entry)
        if feedback is None or idx in self.by_decision.setdefault(entry.decision, {}):
            return
        self.by_decision[entry.decision][idx] = feedback
        self.count += 1
        if self.count > LABEL_LIMIT:
            raise TooManyLabels(f"more than `{LABEL_LIMIT}` feedback records")
        if feedback.event is not None:
            self.first_of_event[feedback.event] = min(idx, self.first_of_event.get(feedback.event, idx))

    def label(self, decision: str, row: int, tenant: str, model: str = "") -> Feedback | None:
        """The label in force for one row of a decision of `model`, or None."""
        return self.of(decision, tenant, model).get((row, LABEL_METRIC))

    def of(self, decision: str, tenant: str, model: str = "") -> dict[tuple[int, str], Feedback]:
        """What is in force for a decision of `model`: (row, metric) -> feedback."""
        settled: dict[tuple[int, str], Feedback] = {}
        given_by: dict[tuple[int, str], str] = {}
        for feedback in self._effective(decision, tenant):
            key = (feedback.row, feedback.metric)
            if feedback.models and model not in feedback.models:
                continue
            # In index order: the first is kept, and only a correction by who gave it, or who may correct others, replaces it.
            if key not in settled:
                settled[key], given_by[key] = feedback, feedback.source
            elif feedback.corrects and (feedback.source == given_by[key] or feedback.may_correct):
                settled[key] = feedback
        return settled

    def _effective(self, decision: str, tenant: str) -> Iterator[Feedback]:
        records = self.by_decision.get(decision, {})
        for idx in sorted(records):
            feedback = records[idx]
            is_repeat = feedback.event is not None and self.first_of_event[feedback.event] < idx
            if feedback.tenant == tenant and not is_repeat:
                yield feedback


def _feedback(idx: int, entry: Entry) -> Feedback | None:
    is_label = entry.label is not None
    if not is_label and (entry.value_ppm is None or entry.metric is None):
        return None
    return Feedback(
        idx=idx,
        row=entry.row,
        metric=LABEL_METRIC if is_label else str(entry.metric),
        label=str(entry.label) if is_label else "",
        value_ppm=entry.value_ppm or 0,
        corrects=entry.corrects,
        event=None if entry.event_id is None else (entry.tenant, entry.source or "", entry.event_id),
        tenant=entry.tenant,
        source=entry.source or "",
        may_correct=entry.may_correct,
        models=entry.models,
        known_us=time_us(entry.event_time or entry.time),
    )
