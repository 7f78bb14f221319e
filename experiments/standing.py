"""How an experiment stands beside its verdict: who arrived at which stage, who was asked and answered. For reports, status and the console alike.

Integers and text alone, from the same counts as the verdict.

Example:
    >>> responses(document, evidence)[0]["arms"]
    [{'arm': 'challenger', 'due': 410, 'answered': 398}, {'arm': 'champion', 'due': 402, 'answered': 391}]
"""

from __future__ import annotations

from typing import Any

from experiments import stats
from experiments.arrivals import SRM_ALPHA, sample_ratio_mismatches, unanswered
from experiments.document import ExperimentDocument
from experiments.effects import PPM
from experiments.evidence import Evidence

STAGES = ("assigned", "served", "outcome", "labelled")


def sample_ratio(document: ExperimentDocument, evidence: Evidence) -> list[dict[str, Any]]:
    """Return both tests of each stage: the e-value that is valid at all times and blocks, and the chi-square a reader may know."""
    shares = declared_shares(document)
    if not shares:
        return []  # no ratio was declared
    off = sample_ratio_mismatches(evidence, shares)
    told = []
    for stage in STAGES:
        arms = [arm for arm in sorted(document.arms) if shares.get(arm, 0) > 0]
        counts = [evidence.stages[stage][arm] for arm in arms]
        weights = [float(shares[arm]) for arm in arms]
        log_e = stats.log_srm_e_value(counts, stats.sum_log_shares(counts, weights)) if sum(counts) else 0.0
        told.append(
            {
                "stage": stage,
                "units": dict(zip(arms, counts, strict=True)),
                "off": stage in off,
                "ln_e_milli": round(1000 * log_e),
                "p_ppm": _chi_square_ppm(counts, weights),
                "alarm_at_e": round(1 / SRM_ALPHA),
            }
        )
    return told


def responses(document: ExperimentDocument, evidence: Evidence) -> list[dict[str, Any]]:
    """Return of each metric of feedback how many units of each arm were due and how many of them answered; empty where there is none."""
    shares = declared_shares(document)
    told = []
    for metric in dict.fromkeys((*(() if document.goal is None else (document.goal,)), *document.guardrails)):
        found = evidence.metrics.get(metric.metric)
        if found is None or found.due is None or found.answered is None:
            continue
        told.append(
            {
                "metric": metric.metric,
                "arms": [{"arm": arm, "due": found.due[arm], "answered": found.answered[arm]} for arm in sorted(found.due)],
                "pending": found.pending,
                "missing": metric.missing,
                "obstacle": unanswered(metric, found, shares) if shares else "",
            }
        )
    return told


def declared_shares(document: ExperimentDocument) -> dict[str, int]:
    """Return the shares that units are compared by: those of the first tested step."""
    return next(step.shares for step in document.steps if step.tested or step is document.steps[-1])


def _chi_square_ppm(counts: list[int], weights: list[float]) -> int | None:
    """Return the p-value in ppm; None where the approximation does not hold yet."""
    try:
        return round(PPM * stats.srm_chi_square(counts, weights))
    except ValueError:
        return None
