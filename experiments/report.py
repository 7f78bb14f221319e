"""The report of one experiment: what was planned, what happened, what is proven, and what would change that.

A function of records alone (`experiments/history.py`); integers and text, so that the same records give the same bytes. Sentences are made here,
once, for every rendering. Each number a person reads beside a verdict is from the same counts as the verdict.

Example:
    body = describe(story)
    body["summary"]    # "Rolled back on step 2 of 3 after 3 h: errors was proven worse."
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from experiments import preregistration
from experiments.document import ExperimentDocument, Phase, StepDocument
from experiments.effects import PPM, effects
from experiments.evidence import Evidence, Fold
from experiments.history import EpochStory, Story
from experiments.judge import external_limits, judge
from experiments.lifecycle import STAGE
from experiments.outlook import outlook
from experiments.pairs import Limit, PairFold, judge_pairs
from experiments.shares import WHOLE, format_share
from experiments.slices import slice_findings
from experiments.standing import STAGES, responses, sample_ratio
from experiments.verdict import Verdict

_WORDS = {"promote": "promoted", "rollback": "rolled back", "stop": "stopped", "supersede": "superseded", "archive": "archived"}
_ENDS = ("promote", "rollback", "stop", "supersede")


def describe(story: Story) -> dict[str, Any]:
    """Return the report's body.

    Args:
        story: all records of the log up to the report's size, noted and fed.
    """
    epochs = [_epoch(story.epochs[epoch]) for epoch in sorted(story.epochs)]
    newest = story.epochs[max(story.epochs)] if story.epochs else None
    document = newest.document if newest else None
    phase: Phase = story.steps[-1][1]["state"]["phase"] if story.steps else "draft"
    body: dict[str, Any] = {
        "experiment": story.name,
        "stage": STAGE[phase],
        "phase": phase,
        "summary": _summary(newest),
        "registered": [{"index": index, "time": record["time"], "digest": record["preregistration_digest"]} for index, record in story.registrations],
        "epochs": epochs,
    }
    if document is not None:
        body |= {"model": document.model, "strategy": document.strategy, "owner": document.owner, "hypothesis": document.hypothesis}
    elif story.registrations:
        plan = story.registrations[-1][1]["preregistration"]
        body |= {key: plan[key] for key in ("model", "strategy", "owner", "hypothesis")}
    return body


def _epoch(epoch: EpochStory) -> dict[str, Any]:
    told = {
        "epoch": epoch.epoch,
        "started": {"index": epoch.start_index, "time": epoch.start_time, "reason": epoch.reason},
        "exploratory": epoch.reason == "changed: exploratory",
        "plan": {
            "digest": epoch.plan_digest,
            "holds": preregistration.digest(epoch.plan) == epoch.plan_digest,
            "committed_before_first_call": not epoch.first_call or epoch.start_time <= epoch.first_call,
            "quoted": _quoted(epoch.document),
        },
        "steps": [_told(index, record) for index, record in epoch.steps],
        "decision": _decision(epoch),
    }
    return told | (_of_pairs(epoch, epoch.fold) if isinstance(epoch.fold, PairFold) else _of_units(epoch, epoch.fold))


def _of_pairs(epoch: EpochStory, fold: PairFold) -> dict[str, Any]:
    """Return what a shadow's epoch has to tell: each limit with its counts and what of it is proven."""
    evidence = fold.evidence()
    verdict = judge_pairs(epoch.document, evidence)
    found = {one.metric: one for one in verdict.metrics}
    return {
        "planned_actual": _planned_actual(epoch, {"compared": evidence.pairs}),
        "verdict": _verdict_told(epoch.document, verdict),
        "pairs": {
            "compared": evidence.pairs,
            "undecided": evidence.undecided,
            "not_kept": evidence.overflow,
            "champion": epoch.document.who_serves("champion"),
            "shadow": epoch.document.who_serves("shadow"),
            "limits": [
                {
                    "limit": name,
                    "calls": limit.pairs,
                    "broken": limit.broken if limit.means is None else None,
                    "broken_ppm": round(PPM * limit.broken / limit.pairs) if limit.pairs and limit.means is None else None,
                    "limit_ppm": limit.limit_ppm,
                    **_means(limit),
                    "outcome": found[name].outcome,
                    "reason": found[name].reason,
                }
                for name, limit in evidence.limits.items()
            ],
        },
    }


def _means(limit: Limit) -> dict[str, Any]:
    """Return what pairs cost in the mean, in millionths of the metric's unit; nothing of a limit that counts calls."""
    if limit.means is None:
        return {}
    means = limit.means
    return {"shadow_ppm": round(means.shadow * PPM), "champion_ppm": round(means.champion * PPM), "unsaid": means.unsaid}


def _reasons(counts: Mapping[str, Mapping[str, int]], arm: str) -> list[dict[str, Any]]:
    return [{"reason": reason, "calls": calls} for reason, calls in sorted(counts.get(arm, {}).items())]


def _verdict_told(document: ExperimentDocument, verdict: Verdict) -> dict[str, Any]:
    return {"outcome": verdict.outcome, "words": verdict_in_words(verdict, document), "reasons": list(verdict.reasons)}


def _of_units(epoch: EpochStory, fold: Fold) -> dict[str, Any]:
    document, evidence = epoch.document, fold.evidence()
    verdict = judge(document, evidence)
    return {
        "planned_actual": _planned_actual(epoch, evidence.stages["assigned"]),
        "exposure": _exposure(epoch, evidence),
        "overrides": [
            {
                "arm": arm,
                "calls": epoch.calls[arm],
                "diverted": sum(epoch.diverted.get(arm, {}).values()),
                "reasons": _reasons(epoch.diverted, arm),
                "refused": sum(epoch.refused.get(arm, {}).values()),
                "refused_for": _reasons(epoch.refused, arm),
            }
            for arm in sorted(document.arms)
        ],
        "sample_ratio": sample_ratio(document, evidence),
        "responses": responses(document, evidence),
        **_assigned_elsewhere(document, evidence),
        "verdict": _verdict_told(document, verdict),
        "effects": _effects(epoch, evidence, verdict),
        "trail": [
            {"time": look.time, "units": look.units, "effects": [msgspec.to_builtins(effect) for effect in look.effects]} for look in epoch.looks
        ],
        **_segments(epoch, fold),
        "outlook": [] if _decision(epoch) else [told.words for told in outlook(document, evidence)],
    }


def verdict_in_words(verdict: Verdict, document: ExperimentDocument) -> str:
    """Return a verdict as one sentence."""
    if document.shadow is not None and verdict.outcome == "fine":
        return "Every limit is proven kept."
    if not verdict.metrics:
        return "No metric was declared: nothing can be proven."
    if verdict.outcome == "harm":
        harmed = sorted({found.metric for found in verdict.metrics if found.outcome == "harm"})
        return f"Harm is proven: {', '.join(harmed)}."
    if verdict.outcome == "fine":
        better = sorted({found.metric for found in verdict.metrics if found.better})
        return "Every metric is proven not worse than its margin" + (f"; {', '.join(better)} proven better." if better else ".")
    open_ = sorted({found.metric for found in verdict.metrics if found.outcome == "hold"})
    return f"Nothing is proven yet: {', '.join(open_) or 'a sample ratio is off'} undecided."


def _summary(epoch: EpochStory | None) -> str:
    if epoch is None:
        return "A draft: it has not been started, and nothing was drawn."
    decision = _decision(epoch)
    fold, document = epoch.fold, epoch.document
    verdict = judge_pairs(document, fold.evidence()) if isinstance(fold, PairFold) else judge(document, fold.evidence())
    words = verdict_in_words(verdict, document)
    if decision is None:
        return f"Running. {words}"
    where = f" on step {decision['step'] + 1} of {len(epoch.document.steps)}" if len(epoch.document.steps) > 1 else ""
    by = f" by {decision['by']}" if decision["by"] else ""
    against = " against the evidence" if decision["against_evidence"] else ""
    said = f"{_WORDS[decision['action']].capitalize()}{where}{by}{against} after {_span(epoch.start_time, decision['time'])}: {decision['reason']}."
    # What it was promoted for is what the verdict says.
    return said if decision["action"] == "promote" and not against and verdict.outcome == "fine" and "better" not in words else f"{said} {words}"


def _decision(epoch: EpochStory) -> dict[str, Any] | None:
    for index, record in reversed(epoch.steps):
        if record["action"] in _ENDS:
            return _told(index, record)
    return None


def _told(index: int, record: dict[str, Any]) -> dict[str, Any]:
    people = [one["person"] for one in record.get("signed", ())]
    actor = record.get("actor", {})
    return {
        "index": index,
        "time": record["time"],
        "action": record["action"],
        "step": int(record["from"].rpartition("/")[2]),
        "reason": record["reason"],
        "by": ", ".join(people) or (f"key {actor['id']}" if actor.get("kind") == "key" else ""),
        "against_evidence": record.get("against_evidence") is True,
    }


def _quoted(document: ExperimentDocument) -> list[dict[str, str]]:
    """Return the plan as lines a person reads; the whole of it is in the record that the digest is of."""
    goal = "none" if document.goal is None else f"{document.goal.metric}, better when {document.goal.better}, margin {_margin(document.goal)}"
    alphas = f"{document.alpha_ppm / 10_000:g} % for promotion, {document.alpha_harm_ppm / 10_000:g} % for rollback, at all looks together"
    shares = "; ".join(map(step_in_words, document.steps))
    if document.external is not None:
        shares = f"assigned by {document.external.system}; it declares {shares or 'no split'}"
    compared = {}
    if document.shadow is not None:
        shares = f"{format_share(document.steps[0].exposure)} of the calls are mirrored"
        limits = (
            f"{part.name}: {part.kind} at `{part.at or '/'}`, at most {part.max_disagreement_ppm / 10_000:g} % differ"
            for part in document.shadow.compare
        )
        compared = {"compared": "; ".join(limits)}
    lines = {
        "hypothesis": document.hypothesis or "not stated",
        "arms": ", ".join(f"{arm} = {document.who_serves(arm)}" for arm in sorted(document.arms)) + f"; control {document.control}",
        "unit": "each unit keeps its arm" if document.sticky == "unit" else "every call is drawn anew",
        "shares": shares,
        **compared,
        "goal": goal,
        "guardrails": "; ".join(f"{metric.metric}: at most {_margin(metric)} worse, harm means {metric.on_harm}" for metric in document.guardrails)
        or "none",
        "error probabilities": alphas,
        "deadline": "none" if document.deadline_us is None else f"{document.deadline_us / 3.6e9:g} h after the start, then {document.deadline_then}",
    }
    return [{"what": what, "said": said} for what, said in lines.items()]


def step_in_words(step: StepDocument) -> str:
    """Return a step as people say it."""
    arms = " / ".join(f"{format_share(share)} {arm}" for arm, share in sorted(step.shares.items()))
    held = f", at least {step.hold_us / 6e7:g} min and {step.min_units} units an arm" if step.hold_us else ""
    exposed = "" if step.exposure == WHOLE else f" of {format_share(step.exposure)} of the units"
    return f"{arms}{exposed}{held}" + (f", left with approval by {step.approve}" if step.approve else "")


def _margin(metric: Any) -> str:
    if metric.margin_unit == "ms":
        return f"{metric.margin / 1000:g} ms"
    return f"{metric.margin / 10_000:g} {'pp' if metric.margin_unit == 'pp' else '%'}"


def _planned_actual(epoch: EpochStory, units: Mapping[str, int]) -> list[dict[str, str]]:
    document, decision = epoch.document, _decision(epoch)
    reached = max((int(record["to"].rpartition("/")[2]) for _, record in epoch.steps), default=0) + 1
    ended = decision["time"] if decision else epoch.last_call or epoch.start_time
    planned_units = sum(step.min_units for step in document.steps)
    return [
        {
            "what": "duration",
            "planned": "open" if document.deadline_us is None else f"at most {document.deadline_us / 3.6e9:g} h",
            "actual": f"{_span(epoch.start_time, ended)}{'' if decision else ' so far'}",
        },
        {"what": "steps", "planned": str(len(document.steps)), "actual": f"{reached} reached"},
        {
            "what": "units an arm" if document.shadow is None else "calls compared",
            "planned": f"at least {planned_units:,}",
            "actual": ", ".join(f"{arm} {count:,}" for arm, count in sorted(units.items())),
        },
        {
            "what": "who decided",
            "planned": "the evidence" if document.strategy in ("canary", "champion_challenger", "shadow") else "people",
            "actual": "nobody yet" if decision is None else decision["by"] or "the evidence and the clock",
        },
    ]


def _exposure(epoch: EpochStory, evidence: Evidence) -> dict[str, Any]:
    document = epoch.document
    return {
        "calls": sum(epoch.calls.values()),
        "calls_not_exposed": epoch.calls[""],
        "arms": [
            {
                "arm": arm,
                "version": version or document.who_serves(arm),
                "calls": epoch.calls[arm],
                **{stage: evidence.stages[stage][arm] for stage in STAGES},
            }
            for arm, version in sorted(document.arms.items())
        ],
        "excluded": [{"name": name, "calls": calls} for name, calls in sorted(epoch.excluded.items())],
        "units_not_kept": evidence.overflow,
    }


def _assigned_elsewhere(document: ExperimentDocument, evidence: Evidence) -> dict[str, Any]:
    """Return what can be said of another system's assignment; nothing where it was ours."""
    if document.external is None:
        return {}
    found = {"system": document.external.system, "flipped_units": evidence.flipped, "unknown_variant_calls": evidence.unknown_variants}
    return {"assigned_elsewhere": {**found, "limits": list(external_limits(document))}}


def _segments(epoch: EpochStory, fold: Fold) -> dict[str, Any]:
    """Return the effects by declared segment, each with what Holm's procedure says of it; nothing where none is declared."""
    document = epoch.document
    if not document.segments:
        return {}
    by_segment = fold.segment_evidence()
    finding_of = {(found.segment, found.metric, found.arm): found.finding for found in slice_findings(document, by_segment)}
    return {
        "segments": [
            {"segment": segment, **msgspec.to_builtins(effect), "finding": finding_of[segment, effect.metric, effect.arm]}
            for segment, evidence in sorted(by_segment.items())
            for effect in effects(document, evidence)
        ]
    }


def _effects(epoch: EpochStory, evidence: Evidence, verdict: Verdict) -> list[dict[str, Any]]:
    outcome_of = {(found.metric, found.arm): found for found in verdict.metrics}
    told = []
    for effect in effects(epoch.document, evidence):
        found = outcome_of[effect.metric, effect.arm]
        told.append({**msgspec.to_builtins(effect), "outcome": found.outcome, "better_proven": found.better, "reason": found.reason})
    return told


def _span(start: str, end: str) -> str:
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.1f} d"
