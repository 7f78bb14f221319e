"""Rules: tallies -> what a criterion's evidence amounts to. Pure; one function per rule name of the framework files.

Three states, never a guess:

- `proven`: the gateway itself observed the pattern, often enough and recently enough
- `claimed`: something points to it, but it is too rare, partial, or only declared
- `missing`: the log holds nothing about it - insufficient evidence, which is not the same as "no"

Example:
    RULES["availability"](evidence, parameters).state
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from audit.maturity.evidence import Evidence, Tally
from audit.maturity.framework import Parameters

PROVEN, CLAIMED, MISSING = "proven", "claimed", "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked for and found: state, a sentence, the record indices to look at, and the newest record's time."""

    state: str
    found: str
    indices: tuple[int, ...] = ()
    newest: str = ""
    count: int = field(default=0)


Rule = Callable[[Evidence, Parameters], Finding]

UNSEEN = Finding(MISSING, "Insufficient evidence: nothing in this log shows it.")


def artifact_identified(evidence: Evidence, parameters: Parameters) -> Finding:
    """The artifact's digest is declared on each call; which commit it came from is not in the log, so this is claimed at most."""
    finding = _share(evidence.with_digest, evidence.answered, parameters.trace_coverage_ppm, parameters.minimum_calls, "answered calls name a digest")
    return _at_most_claimed(finding, "the commit behind the digest is not in the log")


def separate_hands(evidence: Evidence, _parameters: Parameters) -> Finding:
    """Approvers are other people than those who change the configuration. Who trained the model is not in the log: claimed at most."""
    if evidence.approvals.count == 0:
        return Finding(MISSING, "Insufficient evidence: no approval in the log.")
    shared = evidence.approvers & evidence.changers
    if evidence.changes.count == 0 or shared:
        text = (
            "who changes the configuration is not in the log" if not shared else f"{_people(len(shared))} both approved and changed the configuration"
        )
        return _finding(MISSING, f"Insufficient evidence: {text}.", evidence.approvals)
    approvals = "1 approval" if evidence.approvals.count == 1 else f"{evidence.approvals.count} approvals"
    text = f"{approvals} by {_people(len(evidence.approvers))} not changing the configuration; who trained is not in the log."
    return _finding(CLAIMED, text, evidence.approvals)


def model_management(evidence: Evidence, parameters: Parameters) -> Finding:
    """Every answered call names a version digest and the approval it was served under."""
    return _share(
        evidence.traced, evidence.answered, 1_000_000, parameters.minimum_calls, "answered calls name version digest, configuration and approval"
    )


def traceable(evidence: Evidence, parameters: Parameters) -> Finding:
    """Decision -> version digest -> approval. The step to the training data is not in the log: claimed at most."""
    finding = _share(
        evidence.traced,
        evidence.answered,
        parameters.trace_coverage_ppm,
        parameters.minimum_calls,
        "answered calls lead to digest, configuration and approval",
    )
    return _at_most_claimed(finding, "the training data's digest is not in the log")


def release_automatic(evidence: Evidence, parameters: Parameters) -> Finding:
    """Promotions are made by the rollout itself."""
    return _share(
        evidence.machine_promotions,
        evidence.promotions,
        parameters.coverage_ppm,
        parameters.minimum_occurrences,
        "promotions were made by the system",
    )


def experiment_before_release(evidence: Evidence, parameters: Parameters) -> Finding:
    """Each promotion ends an experiment whose start is in the log."""
    finding = _share(
        evidence.tested_promotions,
        evidence.promotions,
        parameters.coverage_ppm,
        parameters.minimum_occurrences,
        "promotions ended a recorded experiment",
    )
    if finding.state == MISSING and evidence.starts.count:
        return _finding(CLAIMED, f"{evidence.starts.count} experiments started, none has promoted a version yet.", evidence.starts)
    return finding


def promotion_by_evidence(evidence: Evidence, parameters: Parameters) -> Finding:
    """Promotions carry the evidence they were decided on."""
    return _share(
        evidence.evidenced_promotions,
        evidence.promotions,
        parameters.coverage_ppm,
        parameters.minimum_occurrences,
        "promotions carry the evidence they were decided on",
    )


def metrics_collected(evidence: Evidence, parameters: Parameters) -> Finding:
    """Calls carry version, latency and prediction, and labels come back."""
    finding = _share(
        evidence.measured,
        evidence.answered,
        parameters.trace_coverage_ppm,
        parameters.minimum_calls,
        "answered calls carry version, latency and prediction",
    )
    if evidence.labels.count == 0:
        return _at_most_claimed(finding, "no label has come back, so quality after release is not measured")
    text = f"{finding.found.removesuffix('.')}; {evidence.labels.count} labels came back."
    return Finding(finding.state, text, finding.indices + tuple(evidence.labels.indices), finding.newest, finding.count)


def availability(evidence: Evidence, parameters: Parameters) -> Finding:
    """Share of calls that did not fail for a reason of ours or the model's."""
    total = Tally(evidence.answered.count + evidence.failed.count, evidence.failed.indices, [], max(evidence.answered.newest, evidence.failed.newest))
    good = Tally(evidence.answered.count, evidence.answered.first, evidence.answered.last, evidence.answered.newest)
    finding = _share(good, total, parameters.availability_ppm, parameters.minimum_calls, "calls were answered or refused on purpose")
    return Finding(finding.state, finding.found, finding.indices + tuple(evidence.failed.indices), finding.newest, finding.count)


def _share(part: Tally, whole: Tally, needed_ppm: int, minimum: int, what: str) -> Finding:
    """Proven at the needed share of at least `minimum` events; claimed when some show it; missing when none does."""
    if whole.count == 0:
        return Finding(MISSING, f"Insufficient evidence: none in the window ({what}).")
    text = f"{part.count} of {whole.count} {what}"
    if part.count == 0:
        return _finding(MISSING, f"Insufficient evidence: {text}.", whole)
    if part.count * 1_000_000 < needed_ppm * whole.count:
        return _finding(CLAIMED, f"{text}; {_percent(needed_ppm)} are needed.", part)
    if whole.count < minimum:
        return _finding(CLAIMED, f"{text}; at least {minimum} are needed.", part)
    return _finding(PROVEN, f"{text}.", part)


def _at_most_claimed(finding: Finding, why: str) -> Finding:
    if finding.state != PROVEN:
        return finding
    return Finding(CLAIMED, f"{finding.found.removesuffix('.')}; {why}.", finding.indices, finding.newest, finding.count)


def _finding(state: str, text: str, tally: Tally) -> Finding:
    return Finding(state, text, tuple(tally.indices), tally.newest, tally.count)


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"


def _percent(ppm: int) -> str:
    whole, rest = divmod(ppm, 10_000)
    return f"{whole} %" if rest == 0 else f"{whole}.{rest:04d}".rstrip("0") + " %"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        artifact_identified,
        separate_hands,
        model_management,
        traceable,
        release_automatic,
        experiment_before_release,
        promotion_by_evidence,
        metrics_collected,
        availability,
    )
}
