"""The judge: counts in, a three-way verdict out. Pure; valid however often it is asked.

For each treatment and metric (events are the bad ones, `experiments/evidence.py`):

- *harm*: given an event, its arm is Bernoulli(allocation) under no effect; the one-sided beta-binomial e-process against "not worse" reached
  1/alpha (Lindon & Malek 2022). Exact for rare events and untouched by a drifting base rate. alpha_harm is split evenly over all metrics and arms,
  once for the whole rollout, so the probability of ever rolling back without effect is at most alpha_harm. Where not every unit can be told of
  (feedback, labels), more answers are not more events: the rates among those that can must differ too, by the product of two one-sample e-processes.
- *fine*: proven not worse by the margin, at the full alpha for each metric, because promotion needs all of them (an intersection-union test); it is
  split over arms. A margin in pp multiplies two one-sample e-processes, one an arm, at the least favourable base rate; a margin in % is the
  conditional test against the ratio 1 + margin; latency compares the treatment's exceedances of threshold plus margin with the control's of the
  threshold.
- Of a quantile the rarer side of a threshold is counted. Where that is the good side, everything is turned round: harm is fewer of them.
- *hold*: everything else, above all no data: a metric that never arrives, one that refuses what is missing, one whose window is still open. What is
  proven worse, but by less than the margin, is fine.

Where labels are only ever seen for some calls (`labels.observed_when`), each version decides for which, and nothing that is compared by them is
identified: hold, with the bounds that the missing ones leave.

Where another system assigns (`experiments/external.py`) all this rests on the split its owner declared; with none declared nothing is judged.

Sample ratios are tested at four stages (alarm at e >= 1,000): `assigned` off blocks every verdict, `served` off blocks `fine`, and `outcome` and
`labelled` off block the metrics that rest on them. The response rate of each metric of feedback is a guardrail likewise: units that answer must come
in the declared ratio too (not with `missing: zero`, where who answers is the effect itself).

Example:
    >>> verdict = judge(document, fold.evidence())
    >>> verdict.outcome, verdict.reasons[0]
    ('harm', 'errors: `challenger` 48 of 400 units (12.0 %), `champion` 16 of 402 (4.0 %): worse, e = 2e+03 against 80')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from experiments import stats
from experiments.arrivals import absence, e_text, not_identified, sample_ratio_mismatches, tells_only_what_is_bad, unanswered
from experiments.document import ExperimentDocument, MetricDocument
from experiments.effects import tuned_for
from experiments.evidence import Evidence
from experiments.observations import MetricEvidence, threshold_in_words
from experiments.stats import Side
from experiments.values import judge_values
from experiments.verdict import MetricVerdict, Outcome, Verdict

MOST_FLIPPED_PERCENT = 1
"""More units than that came with more than one arm: arms that share units look alike, so that nothing is shown not to be worse. Two percent of an
effect is hidden by one percent of units in both arms."""

_WIDEST_MARGIN = 1 - 1e-6
_STAGE_OF = {"errors": "outcome", "latency": "outcome", "measured": "outcome", "label": "labelled", "reward": "labelled", "diverted": "assigned"}


def judge(document: ExperimentDocument, evidence: Evidence) -> Verdict:
    """Judge an experiment.

    Args:
        document: the experiment; shares are those of its first tested step.
        evidence: of the epoch.

    Returns:
        The verdict. Never raises for lack of data: that is `hold`.
    """
    shares = next(step.shares for step in document.steps if step.tested or step is document.steps[-1])
    mismatches = sample_ratio_mismatches(evidence, shares)
    metrics = (*document.guardrails, *((document.goal,) if document.goal is not None else ()))
    treatments = [arm for arm in sorted(document.arms) if arm != document.control]
    if not shares:
        return _undeclared(document, evidence, treatments)
    alpha_harm = document.alpha_harm_ppm / 1e6 / max(1, len(metrics) * len(treatments))
    alpha = document.alpha_ppm / 1e6 / len(treatments)
    verdicts = tuple(
        _judge_metric(
            metric,
            evidence.metrics[metric.metric],
            arm,
            document.control,
            shares,
            (alpha, alpha_harm),
            tuned_for(document),
            blocked=bool({"assigned", _stage_of(metric)} & set(mismatches)),
        )
        for metric in metrics
        for arm in treatments
    )
    if _is_mixed(evidence):
        verdicts = tuple(map(_held_for_mixing, verdicts))
    return _combined(document, evidence, verdicts, mismatches)


def _is_mixed(evidence: Evidence) -> bool:
    return evidence.flipped * 100 > MOST_FLIPPED_PERCENT * sum(evidence.stages["assigned"].values())


def _held_for_mixing(found: MetricVerdict) -> MetricVerdict:
    """Hold what rests on arms being alike. What is worse or better although units had both arms, is so all the more."""
    if found.outcome != "fine" or found.better:
        return found
    said = f"{found.reason}; held: over {MOST_FLIPPED_PERCENT} % of units came with more than one arm, and what shares units looks alike"
    return replace(found, outcome="hold", reason=said)


def _undeclared(document: ExperimentDocument, evidence: Evidence, treatments: list[str]) -> Verdict:
    """Hold in everything: how units were split is not known, so neither is what their numbers prove."""
    metrics = (*document.guardrails, *((document.goal,) if document.goal is not None else ()))
    verdicts = tuple(_not_judged(metric, evidence, arm, document.control) for metric in metrics for arm in treatments)
    return _combined(document, evidence, verdicts, {})


def _not_judged(metric: MetricDocument, evidence: Evidence, arm: str, control: str) -> MetricVerdict:
    found = evidence.metrics[metric.metric]
    said = f"{_counted(metric, found, arm, control)}: not judged, the split is not declared"
    return MetricVerdict(metric.metric, arm, "hold", False, said, min(found.units.values()) > 0, metric.on_harm)


def _stage_of(metric: MetricDocument) -> str:
    return "assigned" if metric.missing == "zero" else _STAGE_OF[metric.kind]


def harm_log_e(treatment_events: int, control_events: int, share: float, *, counts_good: bool = False) -> float:
    """Natural log of the e-value against "the treatment has no more bad events (no fewer good ones) than its share of the allocation"."""
    return _ln_e(treatment_events, control_events, share, "less" if counts_good else "greater")


def _judge_metric(
    metric: MetricDocument,
    found: MetricEvidence,
    arm: str,
    control: str,
    shares: Mapping[str, int],
    alphas: tuple[float, float],
    planned: int,
    *,
    blocked: bool,
) -> MetricVerdict:
    alpha, alpha_harm = alphas
    counted = _counted(metric, found, arm, control)
    missing = unanswered(metric, found, shares)
    if found.units[arm] == 0 or found.units[control] == 0:
        said = missing or absence(metric, found, arm, control)
        return MetricVerdict(metric.metric, arm, "hold", False, f"{metric.metric}: {said}", False, metric.on_harm)
    if blocked or missing:
        said = missing or "the sample ratio is off"
        return MetricVerdict(metric.metric, arm, "hold", False, f"{counted}: not judged, {said}", not missing, metric.on_harm)
    if found.moments is not None:
        return _judge_moments(metric, found.moments, arm, control, alphas, planned)
    if not metric.is_identified:
        return MetricVerdict(metric.metric, arm, "hold", False, f"{counted}: {not_identified(metric, found, arm, control)}", True, metric.on_harm)
    share = shares[arm] / (shares[arm] + shares[control])
    events, control_events = found.events[arm], found.events[control]
    log_e = harm_log_e(events, control_events, share, counts_good=metric.counts_good_events)
    fine, bound = _not_worse(metric, found, arm, control, share, alpha, planned)
    log_e_better = _ln_e(events, control_events, share, "greater" if metric.counts_good_events else "less")
    if found.due is not None and sum(found.units.values()) < sum(found.due.values()):
        good_is_worse = (arm, control) if metric.counts_good_events else (control, arm)
        log_e = min(log_e, _less_often_log_e(found, *good_is_worse, planned, alpha_harm))
        log_e_better = min(log_e_better, _less_often_log_e(found, *good_is_worse[::-1], planned, alpha))
    better = log_e_better >= math.log(1 / alpha)
    outcome: Outcome = "hold"
    said = f"not proven fine, {bound}"
    if fine and tells_only_what_is_bad(metric, found):
        said = "every label says that the prediction was wrong; where the right ones get none, declare a metric with `missing: zero`"
    elif fine:
        outcome, said = "fine", f"{'better' if better else 'not worse by the margin'}, {bound}"
    elif log_e >= math.log(1 / alpha_harm):
        outcome, said = "harm", f"worse, {e_text(log_e)} against {1 / alpha_harm:g}"
    return MetricVerdict(metric.metric, arm, outcome, better, f"{counted}: {said}", True, metric.on_harm)


def _judge_moments(
    metric: MetricDocument, moments: dict[str, stats.Moments], arm: str, control: str, alphas: tuple[float, float], planned: int
) -> MetricVerdict:
    """Values: refused below the burn-in, which is a hold."""
    treated, base = moments[arm], moments[control]
    counted = f"{metric.metric}: `{arm}` {treated.mean:.4g} in {treated.n} units, `{control}` {base.mean:.4g} in {base.n}"
    counted += f" ({metric.unit})" if metric.unit else ""
    try:
        found = judge_values(treated, base, better=metric.better, margin_ppm=metric.margin, n_star=planned, alphas=alphas)
    except stats.BurnInError as few:
        return MetricVerdict(metric.metric, arm, "hold", False, f"{counted}: {few}", True, metric.on_harm)
    return MetricVerdict(metric.metric, arm, found.outcome, found.better, f"{counted}: {found.said}", True, metric.on_harm)


def _not_worse(metric: MetricDocument, found: MetricEvidence, arm: str, control: str, share: float, alpha: float, n_star: int) -> tuple[bool, str]:
    """Non-inferiority at level alpha, and the bound in words."""
    if metric.margin_unit == "pp":
        counts = found.events[arm], found.units[arm], found.events[control], found.units[control]
        log_e = stats.log_non_inferiority_e_value(*counts, min(metric.margin / 1e6, _WIDEST_MARGIN), n_star=n_star, alpha=alpha)
    elif found.events_past_margin is not None:
        side: Side = "greater" if metric.counts_good_events else "less"
        log_e = _ln_e(found.events_past_margin[arm], found.events[control], share, side)
    else:
        ratio = 1 + metric.margin / 1e6
        log_e = _ln_e(found.events[arm], found.events[control], share * ratio / (share * ratio + 1 - share), "less")
    return log_e >= math.log(1 / alpha), f"{e_text(log_e)} against {1 / alpha:g}"


def _less_often_log_e(found: MetricEvidence, one: str, other: str, n_star: int, alpha: float) -> float:
    """Natural log of the e-value against "events are at least as frequent in one arm as in the other", among the units that can be told of.

    Where some cannot, counts of events alone would take more answers for more events.
    """
    counts = found.events[one], found.units[one], found.events[other], found.units[other]
    return stats.log_non_inferiority_e_value(*counts, 0.0, n_star=n_star, alpha=min(0.5, 2 * alpha))


def _ln_e(events: int, control_events: int, null: float, side: Side) -> float:
    return float(stats.log_binomial_e_value(events, events + control_events, null, side=side))


def _combined(document: ExperimentDocument, evidence: Evidence, verdicts: tuple[MetricVerdict, ...], mismatches: dict[str, str]) -> Verdict:
    harmed = [found for found in verdicts if found.outcome == "harm"]
    guardrails = {metric.metric for metric in document.guardrails}
    outcome: Outcome = "hold"
    if harmed:
        outcome = "harm"
    elif verdicts and not mismatches and all(found.outcome == "fine" for found in verdicts):
        outcome = "fine"
    worst_first = sorted(verdicts, key=lambda found: ("harm", "hold", "fine").index(found.outcome))
    has_data = all(found.has_data or found.metric not in guardrails for found in verdicts)
    return Verdict(
        outcome=outcome,
        on_harm="rollback" if any(found.on_harm == "rollback" for found in harmed) else "hold",
        may_advance=not harmed and not mismatches and has_data and min(evidence.stages["assigned"].values()) > 0,
        units=evidence.stages["assigned"],
        reasons=(*mismatches.values(), *_unused(evidence), *(found.reason for found in worst_first), *external_limits(document)),
        metrics=verdicts,
        evidence=_for_record(evidence),
    )


def _unused(evidence: Evidence) -> list[str]:
    told = []
    if evidence.out_of_range:
        told.append(f"{evidence.out_of_range} rewards lay outside their declared range and were not used")
    if evidence.late:
        told.append(f"{evidence.late} rewards came after their window had closed and were not used")
    if evidence.flipped:
        units = sum(evidence.stages["assigned"].values())
        told.append(f"{evidence.flipped} of {units} units came with more than one arm; each counts by its first")
    if evidence.unknown_variants:
        told.append(f"{evidence.unknown_variants} calls named no arm of this experiment; they are not compared")
    return told


def external_limits(document: ExperimentDocument) -> tuple[str, ...]:
    """Return what may and may not be concluded where another system assigns (semantics.md 3.8); nothing where we do."""
    if document.external is None:
        return ()
    if any(step.shares for step in document.steps):
        split = "its split is the one its owner declared: the ratio is tested, that it is random cannot be"
    else:
        split = "it declares no split: effects are described, nothing is tested"
    return (
        f"assigned by `{document.external.system}`, not here: {split}",
        "no probability of a single assignment is known: it never promotes by itself, and no off-policy evaluation and no bandit may learn from it",
    )


def _for_record(evidence: Evidence) -> dict[str, object]:
    """Counts as a record carries them: nested integers."""
    record: dict[str, object] = {"units": dict(evidence.stages["assigned"])}
    for name, found in evidence.metrics.items():
        counts: dict[str, object] = {"units": found.units, "events": found.events}
        if found.moments is not None:
            counts = {"units": found.units, "mean_ppm": {arm: round(one.mean * 1e6) for arm, one in found.moments.items()}}
        for place, threshold in (("threshold_us", found.threshold_us), ("threshold_ppm", found.threshold_ppm)):
            if threshold is not None:
                counts |= {"events_past_margin": found.events_past_margin, place: threshold}
        if found.due is not None:
            counts |= {"answered": found.answered, "due": found.due}
        record[name] = counts
    return record


def _counted(metric: MetricDocument, found: MetricEvidence, arm: str, control: str) -> str:
    said = []
    for name in (arm, control):
        n, events = found.units[name], found.events[name]
        if metric.better == "higher" and found.events_past_margin is None:
            events = n - events  # told as its name is: accuracy by those that were right
        said.append(f"`{name}` {events} of {n}" + (f" ({events / n:.1%})".replace("%", " %") if n else ""))
    return f"{metric.metric}: {said[0]}, {said[1]}{threshold_in_words(metric, found)}"
