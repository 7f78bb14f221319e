"""Two passes over the leaves: what this log can show about how models are run, as tallies of record indices.

Rules:
- Only records inside the window before the report's time count; approvals count whenever they were given, because they stay in force.
- A tally keeps the count and at most eight indices, the first four and the last four: enough to look, small enough to print.
- Memory: a tally per kind, one entry per labelled decision (0.3 kB), one per open decision, one per experiment.

Example:
    evidence = gather(lambda: follow(data, 0), size=4096, as_of_us=as_of, window_days=90, model=None)
    evidence.answered.count, evidence.answered.indices
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from audit.entry import CALL_TYPES, Entry, read_entry, time_us

Leaves = Callable[[], Iterable[tuple[int, bytes]]]
KEPT = 4
"""Indices kept at each end of a tally."""
DAY_US = 86_400_000_000


@dataclass(slots=True)
class Tally:
    """How many records, which ones to look at, and the newest time. Owner: the pass."""

    count: int = 0
    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    newest: str = ""

    def add(self, idx: int, time: str) -> None:
        """Count one record."""
        self.count += 1
        self.newest = max(self.newest, time)
        if len(self.first) < KEPT:
            self.first.append(idx)
        else:
            self.last = [*self.last[-(KEPT - 1) :], idx]

    @property
    def indices(self) -> list[int]:
        """Indices to look at, in order."""
        return sorted([*self.first, *self.last])


@dataclass(slots=True)
class Evidence:
    """All tallies. Owner: the pass; rules only read."""

    answered: Tally = field(default_factory=Tally)
    with_digest: Tally = field(default_factory=Tally)
    with_approval: Tally = field(default_factory=Tally)
    traced: Tally = field(default_factory=Tally)  # version digest, configuration digest and approval together
    measured: Tally = field(default_factory=Tally)  # version, latency and prediction together
    failed: Tally = field(default_factory=Tally)
    labels: Tally = field(default_factory=Tally)
    approvals: Tally = field(default_factory=Tally)
    approvers: set[str] = field(default_factory=set)
    changes: Tally = field(default_factory=Tally)
    changers: set[str] = field(default_factory=set)
    signed_changes: Tally = field(default_factory=Tally)
    starts: Tally = field(default_factory=Tally)
    started: set[tuple[str, int]] = field(default_factory=set)
    promotions: Tally = field(default_factory=Tally)
    machine_promotions: Tally = field(default_factory=Tally)
    evidenced_promotions: Tally = field(default_factory=Tally)
    tested_promotions: Tally = field(default_factory=Tally)  # the experiment's start is in the log, before the promotion
    heartbeats: Tally = field(default_factory=Tally)
    losses: Tally = field(default_factory=Tally)
    unreadable: int = 0


def gather(leaves: Leaves, *, size: int, as_of_us: int, window_days: int, model: str | None) -> Evidence:
    """Read the first `size` leaves, twice.

    Args:
        leaves: called twice; yields (index, leaf bytes) in index order from 0.
        size: number of leaves that count.
        as_of_us: the report's time, µs since 1970.
        window_days: how far back records count.
        model: only what concerns this model; None means all.
    """
    evidence = Evidence()
    survey = _survey(takewhile(lambda pair: pair[0] < size, leaves()), model)
    since_us = as_of_us - window_days * DAY_US
    open_decisions: dict[str, Entry] = {}
    for idx, leaf in takewhile(lambda pair: pair[0] < size, leaves()):
        entry = read_entry(leaf)
        if entry is None:
            evidence.unreadable += 1
            continue
        if entry.type == "approval.granted" and model in (None, entry.model_name):
            evidence.approvals.add(idx, entry.time)
            evidence.approvers.add(entry.person or entry.actor.id)
        if (time_us(entry.time) or 0) < since_us:
            continue
        if entry.type == "decision":
            open_decisions[entry.id] = entry
        elif entry.type in {"call", "outcome"}:
            decision = entry if entry.type in CALL_TYPES else open_decisions.pop(entry.decision_id or "", None)
            if decision is not None and model in (None, decision.model_name):
                _take_call(evidence, idx, decision, entry, survey.labels)
        elif entry.type in _TAKERS and (entry.experiment is None or model is None or entry.experiment in survey.experiments):
            _TAKERS[entry.type](evidence, idx, entry)
    return evidence


@dataclass(slots=True)
class _Survey:
    """First pass: where each decision's first label is, and which experiments the model took part in. Owner: `_survey`."""

    labels: dict[str, tuple[int, str]] = field(default_factory=dict)
    experiments: set[str] = field(default_factory=set)


def _survey(leaves: Iterable[tuple[int, bytes]], model: str | None) -> _Survey:
    survey = _Survey()
    for idx, leaf in leaves:
        # A canonical leaf spells its type exactly so; the entry is checked again. Saves decoding what is not needed.
        if b'"type":"label"' not in leaf and model is None:
            continue
        entry = read_entry(leaf)
        if entry is None:
            continue
        if entry.type == "label" and entry.decision is not None:
            survey.labels.setdefault(entry.decision, (idx, entry.time))
        elif entry.route is not None and entry.route.experiment is not None and entry.model_name == model:
            survey.experiments.add(entry.route.experiment)
    return survey


def _take_call(evidence: Evidence, idx: int, decision: Entry, end: Entry, labels: dict[str, tuple[int, str]]) -> None:
    outcome = end.outcome
    if outcome is None or 400 <= outcome.status < 500:
        return
    if outcome.status >= 500 or outcome.status < 100:
        evidence.failed.add(idx, end.time)
        return
    evidence.answered.add(idx, end.time)
    has_digest = not isinstance(decision.model, str) and decision.model is not None and decision.model.digest.startswith("sha256:")
    has_approval = decision.approval is not None and bool(decision.approval.ids)
    if has_digest:
        evidence.with_digest.add(idx, end.time)
    if has_approval:
        evidence.with_approval.add(idx, end.time)
    if has_digest and has_approval and decision.config_digest:
        evidence.traced.add(idx, end.time)
    if decision.model_version and outcome.latency_us is not None and end.prediction is not None:
        evidence.measured.add(idx, end.time)
        if decision.id in labels:
            evidence.labels.add(*labels[decision.id])


def _take_change(evidence: Evidence, idx: int, entry: Entry) -> None:
    evidence.changes.add(idx, entry.time)
    evidence.changers.add(entry.actor.id)
    if entry.signed is True:
        evidence.signed_changes.add(idx, entry.time)


def _take_start(evidence: Evidence, idx: int, entry: Entry) -> None:
    evidence.starts.add(idx, entry.time)
    evidence.started.add((entry.experiment or "", entry.epoch or 0))


def _take_step(evidence: Evidence, idx: int, entry: Entry) -> None:
    if entry.action != "promote":
        return
    evidence.promotions.add(idx, entry.time)
    if entry.actor.kind == "system":
        evidence.machine_promotions.add(idx, entry.time)
    if entry.evidence:
        evidence.evidenced_promotions.add(idx, entry.time)
    if (entry.experiment or "", entry.epoch or 0) in evidence.started:
        evidence.tested_promotions.add(idx, entry.time)


def _take_heartbeat(evidence: Evidence, idx: int, entry: Entry) -> None:
    evidence.heartbeats.add(idx, entry.time)


def _take_loss(evidence: Evidence, idx: int, entry: Entry) -> None:
    evidence.losses.add(idx, entry.time)


_TAKERS: dict[str, Callable[[Evidence, int, Entry], None]] = {
    "config.change": _take_change,
    "policy.change": _take_change,
    "experiment.start": _take_start,
    "rollout.step": _take_step,
    "log.heartbeat": _take_heartbeat,
    "log.lost": _take_loss,
}
