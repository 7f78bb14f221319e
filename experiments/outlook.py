"""What would change the verdict: how many more units it would take if the rates stay as they were seen.

No promise and no power calculation: the counts are scaled up as they stand and judged again by the same judge. It tells a person whether waiting is
worth anything, in one number an undecided metric.

Example:
    >>> [told.words for told in outlook(document, evidence)]
    ['errors: at the rates seen, about 2,400 more units an arm would prove it fine']
"""

from __future__ import annotations

import msgspec

from experiments import stats
from experiments.document import ExperimentDocument
from experiments.evidence import Evidence
from experiments.judge import judge
from experiments.observations import MetricEvidence

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
    told = []
    for held in judge(document, evidence).metrics:
        if held.outcome != "hold":
            continue
        found = evidence.metrics[held.metric]
        units = min(found.units[held.arm], found.units[document.control])
        if not units:
            told.append(
                Outlook(held.metric, held.arm, f"{held.metric}: no observation of `{held.arm}` and `{document.control}` yet; nothing can be said")
            )
            continue
        told.append(_first_that_decides(document, evidence, held.metric, held.arm, units))
    return told


def _first_that_decides(document: ExperimentDocument, evidence: Evidence, metric: str, arm: str, units: int) -> Outlook:
    for factor in FACTORS:
        scaled = msgspec.structs.replace(evidence, metrics={name: _scaled(found, factor) for name, found in evidence.metrics.items()})
        outcome = next(found.outcome for found in judge(document, scaled).metrics if (found.metric, found.arm) == (metric, arm))
        if outcome != "hold":
            more = round(units * (factor - 1))
            proof = "fine" if outcome == "fine" else "harmful"
            words = f"{metric}: at the rates seen, about {more:,} more units an arm would prove `{arm}` {proof}"
            return Outlook(metric, arm, words, outcome, more)
    return Outlook(
        metric, arm, f"{metric}: at the rates seen, not even {FACTORS[-1]:g} times as many units would decide `{arm}`; the margin is too narrow"
    )


def _scaled(found: MetricEvidence, factor: float) -> MetricEvidence:
    def times(counts: dict[str, int]) -> dict[str, int]:
        return {arm: round(count * factor) for arm, count in counts.items()}

    if found.moments is not None:
        moments = {arm: stats.Moments(round(one.n * factor), one.mean, one.variance) for arm, one in found.moments.items()}
        return msgspec.structs.replace(found, units=times(found.units), moments=moments, due=None, answered=None)
    past = None if found.events_past_margin is None else times(found.events_past_margin)
    # Scaled up, a response rate that differs would be proven to: what answers is taken as it stands.
    return msgspec.structs.replace(found, units=times(found.units), events=times(found.events), events_past_margin=past, due=None, answered=None)
