"""Where a running experiment is, in words: what is proven now, and what its step waits for.

Worked out afresh from the verdict and the clock, never from the last record: a hold that was recorded and has passed is not told as if it were there.
Pure; asks the same rules that move the rollout (`experiments/rollout.py`).

Example:
    >>> in_words(document, state, verdict, now_us)
    'Proven fine: accuracy. Not proven yet: errors. This step waits for 13 more units an arm.'
"""

from __future__ import annotations

from experiments.document import ExperimentDocument
from experiments.lifecycle import Verb, may_be_asked
from experiments.rollout import WINNERS, RolloutState, called_for, units_missing
from experiments.verdict import Verdict


def in_words(document: ExperimentDocument, state: RolloutState, verdict: Verdict, now_us: int, *, is_tripped: bool = False) -> str:
    """Return what is known of a running experiment, and what keeps it where it is.

    Args:
        document: the experiment.
        state: where it is; its phase is `running`.
        verdict: of the judge, newest.
        now_us: Unix microseconds.
        is_tripped: whether the breaker's window is over its limit.
    """
    sentences = [_proven(document, verdict)]
    verb, reason = called_for(document, state, verdict, now_us, is_tripped=is_tripped)
    if verb == "hold":
        sentences.append(f"It holds: {reason}.")
    elif verb is None and document.strategy in ("canary", "champion_challenger", "shadow"):
        sentences.append(_awaited(document, state, verdict, now_us))
    return " ".join(filter(None, sentences))


def offered(document: ExperimentDocument, state: RolloutState) -> list[Verb]:
    """Return the steps people may ask for from where it is; no promotion where nothing promotes, no approval where none is waited for."""
    waits = document.steps[state.step].approve is not None and state.step not in state.approved
    pointless = {*(() if waits else ("approve",)), *(() if document.strategy in WINNERS else ("promote",))}
    return [verb for verb in may_be_asked(state.phase) if verb not in pointless]


def _proven(document: ExperimentDocument, verdict: Verdict) -> str:
    fine = sorted({one.metric for one in verdict.metrics} - {one.metric for one in verdict.metrics if one.outcome != "fine"})
    if verdict.outcome == "harm":
        return f"Harm is proven: {', '.join(sorted({one.metric for one in verdict.metrics if one.outcome == 'harm'}))}."
    if verdict.outcome == "fine":
        return "Every limit is proven kept." if document.shadow is not None else "Every metric is proven fine."
    open_ = ", ".join(sorted({one.metric for one in verdict.metrics if one.outcome == "hold"}))
    if not fine:
        return "Nothing is proven yet."
    return f"Proven fine: {', '.join(fine)}. {f'Not proven yet: {open_}.' if open_ else 'Units do not arrive in the declared ratio.'}"


def _awaited(document: ExperimentDocument, state: RolloutState, verdict: Verdict, now_us: int) -> str:
    units = units_missing(document, state, verdict)
    left_us = state.entered_us + document.steps[state.step].hold_us - now_us
    awaited = [f"{units:,} more units an arm"] if units else []
    if left_us > 0:
        awaited.append(_span(left_us))
    return f"This step waits for {' and '.join(awaited)}." if awaited else ""


def _span(time_us: int) -> str:
    seconds = -(-time_us // 1_000_000)
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{-(-seconds // unit)} {name}"
    return f"{-(-seconds // 86_400)} days"
