"""Whether what is compared has arrived as it should: units in the declared ratio, answers from every arm alike, values that can be used.

Rules (semantics.md 4.8 and 4.11):

- Sample ratios are tested at each stage, and of each metric that not every unit has a value of (feedback, labels, numbers of calls that succeeded)
  the units that have one: alarm at e >= 1,000, valid however often it is asked. An alarm says that arms differ in *who is seen*, so that what is seen
  cannot be compared. No alarm is no proof that they do not: what is missing may hide an effect of the size that is missing.
- Values that are not used because they lie outside their range must not come from one arm more than from another.
- What is missing is told as exactly as the counts allow.

Example:
    >>> unanswered(metric, evidence.metrics["thumb"], shares)
    'the response rate differs by arm: `challenger` 210 of 400, `champion` 391 of 402; e = 3e+07 against 1000'
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from experiments import stats
from experiments.document import MetricDocument
from experiments.evidence import MOST_EVENTS, Evidence
from experiments.observations import MetricEvidence, burn_in_units

SRM_ALPHA = 0.001
"""Fabijan et al. (2019): an alarm means a fault in the plumbing, so it should be rare."""


def sample_ratio_mismatches(evidence: Evidence, shares: dict[str, int]) -> dict[str, str]:
    """Stages whose units do not arrive in the declared ratio, with the reason in words; none where no ratio was declared."""
    found: dict[str, str] = {}
    if not shares:
        return found
    for stage, units in evidence.stages.items():
        log_e = _ratio_log_e(units, shares)
        if log_e >= math.log(1 / SRM_ALPHA):
            seen = ", ".join(f"`{arm}` {units[arm]}" for arm in sorted(units) if shares[arm] > 0)
            found[stage] = f"sample ratio off at stage `{stage}`: {seen}; {e_text(log_e)} against {1 / SRM_ALPHA:g}"
    return found


def not_identified(metric: MetricDocument, found: MetricEvidence, arm: str, control: str) -> str:
    """Return why labels that come for some calls only prove nothing, with the worst-case bounds of Manski (1990) on each arm's rate of bad events."""
    said = f"not identified: labels come only where `{metric.seen_when}`, and each version decides for itself where that is"
    if found.due is None:
        return said
    bounds = []
    for name in (arm, control):
        due, events = max(1, found.due[name]), found.events[name]
        most = min(due, events + max(0, due - found.units[name]))
        low, high = (events, most) if metric.better == "lower" else (due - most, due - events)
        bounds.append(f"`{name}` between {low / due:.1%} and {high / due:.1%}".replace("%", " %"))
    return f"{said}; of all, {bounds[0]}, {bounds[1]}. A metric with `missing: zero` asks what can be known"


def unanswered(metric: MetricDocument, found: MetricEvidence, shares: Mapping[str, int]) -> str:
    """Return why what is missing keeps a metric from being judged; empty where it does not."""
    if found.due is None or found.answered is None:
        return ""
    due, answered = sum(found.due.values()), sum(found.answered.values())
    if found.crowded:
        return f"{found.crowded} units have more than {MOST_EVENTS} events, which are not all kept; report sums of them, in fewer events"
    if found.unusable is not None and _is_off(found.unusable, shares):
        return f"values outside its range come from one arm more than from another: {_of_due(found.unusable, found.due)}"
    if metric.missing == "refuse" and answered < due:
        return f"{due - answered} of {due} units whose window has closed have no answer, and `missing: refuse` judges nothing then"
    log_e = _response_log_e(found.answered, found.due, shares)
    if metric.missing == "zero" or log_e < math.log(1 / SRM_ALPHA):
        return ""
    what = "the share of calls that succeeded" if metric.kind == "measured" else "the response rate"
    what = "how many replies say it" if metric.reads_usage else what
    return f"{what} differs by arm: {_of_due(found.answered, found.due)}; {e_text(log_e)} against {1 / SRM_ALPHA:g}"


def _response_log_e(answered: Mapping[str, int], due: Mapping[str, int], shares: Mapping[str, int]) -> float:
    """Natural log of the e-value against "who answers does not depend on the arm": the mean of those of the units that answer and of the rest.

    Either alone would do. Of few answers the first is the sharper, where nearly everyone answers the second: 15 silent units of one arm and none of
    another are plain among any number of answers.
    """
    silent = {arm: due[arm] - answered[arm] for arm in due}
    return float(np.logaddexp(_ratio_log_e(answered, shares), _ratio_log_e(silent, shares))) - math.log(2)


def _of_due(counts: Mapping[str, int], due: Mapping[str, int]) -> str:
    return ", ".join(f"`{arm}` {counts[arm]} of {due[arm]}" for arm in sorted(due))


def _is_off(counts: Mapping[str, int], shares: Mapping[str, int]) -> bool:
    return _ratio_log_e(counts, shares) >= math.log(1 / SRM_ALPHA)


def _ratio_log_e(units: Mapping[str, int], shares: Mapping[str, int]) -> float:
    arms = [arm for arm in sorted(units) if shares[arm] > 0]
    counts = [units[arm] for arm in arms]
    return stats.log_srm_e_value(counts, stats.sum_log_shares(counts, [float(shares[arm]) for arm in arms]))


def absence(metric: MetricDocument, found: MetricEvidence, arm: str, control: str) -> str:
    """Return why there is nothing to compare, as exactly as the counts tell."""
    if found.due is None or found.answered is None:
        if metric.quantile_ppm is not None and not (found.units[arm] or found.units[control]):
            return f"its threshold waits for the first {burn_in_units(metric)} units of `{control}`"
        return "no data in every arm yet"
    due = found.due[arm] + found.due[control]
    if due == 0:
        return f"the window of {found.pending} units is still open" if found.pending else "no data in every arm yet"
    if sum(found.answered.values()) == 0:
        return _nothing_arrived(metric, due)
    if metric.type == "quantile" and not (found.units[arm] or found.units[control]):
        return f"its threshold waits for the first {burn_in_units(metric)} units of `{control}` that answer"
    silent = [name for name in (arm, control) if not found.answered[name]]
    return f"nothing has arrived for {', '.join(f'`{name}`' for name in silent)} yet" if silent else "no data in every arm yet"


def _nothing_arrived(metric: MetricDocument, due: int) -> str:
    if metric.reads_usage:
        return f"no reply of {due} calls says it; do `capture.usage` and `cost` in the model's file fit what it answers?"
    if metric.kind == "measured":
        return f"none of {due} calls succeeded"
    closed = " whose window has closed" if metric.window_us is not None else ""
    return f"nothing has arrived for any of {due} units{closed}; is it reported under this name?"


def tells_only_what_is_bad(metric: MetricDocument, found: MetricEvidence) -> bool:
    """Say whether labels seem to come for wrong predictions alone: arms that are wrong in all that is known look alike, however often they are."""
    units = sum(found.units.values())
    some_are_missing = found.due is not None and units < sum(found.due.values())
    return metric.kind == "label" and some_are_missing and units == sum(found.events.values())


def e_text(log_e: float) -> str:
    """Return an e-value in words."""
    return f"e = {math.exp(log_e):.2g}" if log_e < 300 else "e > 1e+130"
