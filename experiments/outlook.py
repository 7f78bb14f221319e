"""What would change the verdict: how many more units it would take if the rates stay as they were seen.

No promise and no power calculation: the counts are scaled up as they stand and judged again by the same judge. It tells a person whether waiting is
worth anything, in one number an undecided metric.

Example:
    >>> [told.words for told in outlook(document, evidence)]
    ['errors: at the rates seen, about 2,400 more units an arm would prove it fine']
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from experiments import stats
from experiments.document import ExperimentDocument
from experiments.evidence import Evidence
from experiments.judge import judge
from experiments.observations import MetricEvidence
from experiments.pairs import SHADOW, Limit, PairEvidence, judge_pairs
from experiments.verdict import MetricVerdict

FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 35.0, 60.0, 100.0)
"""How many times as many units are tried; the answer is the first that decides, so it is right to within a factor of 1.7."""


class Outlook(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it would take to decide one metric of one arm."""

    metric: str
    arm: str
    words: str
    outcome: str | None = None
    """`fine` or `harm`: what it would become; None when nothing within reach decides it."""
    more_units: int | None = None
    """Further units an arm, about."""


def outlook(document: ExperimentDocument, evidence: Evidence) -> list[Outlook]:
    """Return one line for each metric and arm that the judge holds."""
    if document.external is not None and not document.steps[0].shares:
        arms = [arm for arm in sorted(document.arms) if arm != document.control]
        words = f"declare the `split` of `{document.external.system}`, for a new epoch: without it no number of units decides anything"
        return [Outlook("-", arm, words) for arm in arms[:1]]
    held = [found for found in judge(document, evidence).metrics if found.outcome == "hold"]
    open_ = [found for found in held if not _obstacle(document, evidence, found)]
    decided = _decided(document, evidence, open_)
    told = []
    for found in held:
        metric, arm = found.metric, found.arm
        counts = evidence.metrics[metric].units
        units = min(counts[arm], counts[document.control])
        if words := _obstacle(document, evidence, found):
            told.append(Outlook(metric, arm, f"{metric}: {words}"))
        elif (metric, arm) in decided:
            factor, outcome = decided[metric, arm]
            more, proof = round(units * (factor - 1)), "fine" if outcome == "fine" else "harmful"
            told.append(
                Outlook(metric, arm, f"{metric}: at the rates seen, about {more:,} more units an arm would prove `{arm}` {proof}", outcome, more)
            )
        else:
            words = f"at the rates seen, not even {FACTORS[-1]:g} times as many units would decide `{arm}`; the margin is too narrow"
            told.append(Outlook(metric, arm, f"{metric}: {words}"))
    return told


def outlook_of_pairs(document: ExperimentDocument, evidence: PairEvidence) -> list[Outlook]:
    """Return one line for each limit of a shadow that is neither proven kept nor broken: how many more calls of the same kind would prove it."""
    held = [found.metric for found in judge_pairs(document, evidence).metrics if found.outcome == "hold"]
    waiting = {name for name in held if evidence.limits[name].pairs}
    decided: dict[str, tuple[int, str]] = {}
    for factor in FACTORS:
        if not waiting:
            break
        scaled = msgspec.structs.replace(evidence, limits={name: _more_pairs(limit, factor) for name, limit in evidence.limits.items()})
        for found in judge_pairs(document, scaled).metrics:
            if found.metric in waiting and found.outcome != "hold":
                waiting.discard(found.metric)
                decided[found.metric] = round(evidence.limits[found.metric].pairs * (factor - 1)), found.outcome
    return [_line_of_pairs(name, evidence.limits[name], decided.get(name)) for name in held]


def _line_of_pairs(name: str, limit: Limit, decided: tuple[int, str] | None) -> Outlook:
    if not limit.pairs:
        return Outlook(name, SHADOW, f"{name}: nothing compared yet; nothing can be said")
    if decided is None:
        words = f"{name}: at the rate seen, not even {FACTORS[-1]:g} times as many calls would decide it; it is too near its limit"
        return Outlook(name, SHADOW, words)
    more, outcome = decided
    proof = "kept" if outcome == "fine" else "broken"
    return Outlook(name, SHADOW, f"{name}: at the rate seen, about {more:,} more calls would prove the limit {proof}", outcome, more)


def _more_pairs(limit: Limit, factor: float) -> Limit:
    means = limit.means
    if means is not None:
        excess = stats.Moments(round(means.excess.n * factor), means.excess.mean, means.excess.variance)
        means = msgspec.structs.replace(means, excess=excess, unsaid=round(means.unsaid * factor))
    return msgspec.structs.replace(limit, pairs=round(limit.pairs * factor), broken=round(limit.broken * factor), means=means)


def _obstacle(document: ExperimentDocument, evidence: Evidence, held: MetricVerdict) -> str:
    """Why more units of the same kind would decide nothing; empty where they may."""
    found = evidence.metrics[held.metric]
    if not min(found.units[held.arm], found.units[document.control]):
        return f"no observation of `{held.arm}` and `{document.control}` yet; nothing can be said"
    if not held.has_data:
        return "not before every arm answers as the other does, and everyone who must"
    if held.reason.endswith("the sample ratio is off"):
        return "nothing, in this epoch: units do not arrive as they were declared to"
    return ""


def _decided(document: ExperimentDocument, evidence: Evidence, held: Sequence[MetricVerdict]) -> dict[tuple[str, str], tuple[float, str]]:
    """(metric, arm) -> the first factor that decides it, and to what. The judge is asked once a factor, about all of them."""
    waiting = {(found.metric, found.arm) for found in held}
    decided: dict[tuple[str, str], tuple[float, str]] = {}
    for factor in FACTORS:
        if not waiting:
            break
        scaled = msgspec.structs.replace(evidence, metrics={name: _scaled(found, factor) for name, found in evidence.metrics.items()})
        for found in judge(document, scaled).metrics:
            if (found.metric, found.arm) in waiting and found.outcome != "hold":
                waiting.discard((found.metric, found.arm))
                decided[found.metric, found.arm] = factor, found.outcome
    return decided


def _scaled(found: MetricEvidence, factor: float) -> MetricEvidence:
    def times(counts: dict[str, int]) -> dict[str, int]:
        return {arm: round(count * factor) for arm, count in counts.items()}

    if found.moments is not None:
        moments = {arm: stats.Moments(round(one.n * factor), one.mean, one.variance) for arm, one in found.moments.items()}
        return msgspec.structs.replace(found, units=times(found.units), moments=moments, due=None, answered=None)
    past = None if found.events_past_margin is None else times(found.events_past_margin)
    # Scaled up, a response rate that differs would be proven to: what answers is taken as it stands.
    return msgspec.structs.replace(found, units=times(found.units), events=times(found.events), events_past_margin=past, due=None, answered=None)
