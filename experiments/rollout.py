"""Where an experiment is in its life (`experiments/lifecycle.py` has the table), and which step comes next.

- `apply` takes one step that someone (a person, the controller) named; an illegal one raises and changes nothing.
- `step` decides from verdict and time which step to take, if any, and applies it. It is called every few seconds and at any time gives the same
  answer for the same arguments: no clock, no randomness. What it did not decide stays: no data is a hold, never a pass.
- `live` is what workers are told.

While paused nothing is proven forward: only 1 and 3 apply, so that a forgotten pause still ends and late harm still counts.

Order in which `step` decides while running:

1. breaker tripped, or harm proven on a metric that says so    -> rollback
2. every guardrail and the goal proven fine on the last step   -> promote (canary only, after hold, units and approval); a shadow stops, proven
3. deadline passed                                             -> its declared default
4. harm that says hold, no data, a sample ratio off            -> hold
5. hold time not over, too few units, approval missing         -> wait, or hold for the approval
6. otherwise, on a step that is not the last                   -> advance

Advancing needs no proof of harmlessness, only data without proven harm: exposure is the price of evidence. Promotion needs the proof.
A finished experiment starts again only as a new document (new seed) in a new epoch.

Example:
    >>> state = initial(document, epoch=1)
    >>> state, start = apply(document, state, "start", now_us, "loaded")
    >>> state, actions = step(document, state, verdict, now_us + 1_800_000_000)
    >>> actions[0].record(document)
    {'experiment': 'credit-v4', 'epoch': 1, 'from': 'running/0', 'to': 'running/1', 'action': 'advance', ...}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from experiments import lifecycle
from experiments.document import ExperimentDocument, LiveExperiment, Phase, everyone_to
from experiments.lifecycle import IllegalStepError, Verb
from experiments.shares import WHOLE, format_share
from experiments.verdict import NO_DATA, Verdict

WINNERS = {"canary": "challenger", "champion_challenger": "challenger", "blue_green": "green"}
"""Strategies that can be promoted -> the arm that serves everyone then."""


@dataclass(frozen=True, slots=True)
class RolloutState:
    """Where an experiment is. Times are Unix microseconds; 0 before the start.

    Attributes:
        phase: see `lifecycle.TABLE`.
        epoch: from 1; evidence of one epoch is never mixed with another's.
        step: index into the document's steps.
        started_us: when this epoch started.
        entered_us: when this step was entered.
        held: why it last held, so that the same hold is recorded once; empty if it does not.
        approved: steps whose approval has been given, in the order it was.
    """

    phase: Phase
    epoch: int
    step: int = 0
    started_us: int = 0
    entered_us: int = 0
    held: str = ""
    approved: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """One step that was taken, for the log and the workers."""

    verb: Verb
    before: RolloutState
    after: RolloutState
    reason: str
    evidence: dict[str, Any]

    def record(self, document: ExperimentDocument) -> dict[str, Any]:
        """The body of a `rollout.step` record (`docs/records.md`)."""
        return {
            "experiment": document.experiment,
            "epoch": self.after.epoch,
            "from": f"{self.before.phase}/{self.before.step}",
            "to": f"{self.after.phase}/{self.after.step}",
            "action": self.verb,
            "exposure": live(document, self.after).exposure,
            "evidence": self.evidence,
            "reason": self.reason,
        }


def initial(document: ExperimentDocument, epoch: int) -> RolloutState:
    """State of a document that has not started.

    Args:
        document: the experiment.
        epoch: one more than that of any earlier document of this name.
    """
    if epoch < 1:
        raise ValueError(f"`{document.experiment}`: epochs count from 1, got `{epoch}`")
    return RolloutState("draft", epoch)


def apply(
    document: ExperimentDocument,
    state: RolloutState,
    verb: Verb,
    now_us: int,
    reason: str,
    evidence: dict[str, Any] | None = None,
) -> tuple[RolloutState, Action]:
    """Take one named step.

    Returns:
        The new state and the action to record.

    Raises:
        IllegalStepError: the table has no such step, there is no further step to advance to, or the strategy does not promote by itself.
    """
    phase = lifecycle.after(document.experiment, state.phase, verb)
    if verb == "promote" and document.strategy not in WINNERS:
        raise IllegalStepError(f"`{document.experiment}` is an `{document.strategy}`: promote by changing the model's `default_version`")
    if verb == "advance" and state.step + 1 >= len(document.steps):
        raise IllegalStepError(f"`{document.experiment}` is on its last step; hint: promote, or add a step")
    if verb == "approve" and document.steps[state.step].approve is None:
        raise IllegalStepError(f"step {state.step} of `{document.experiment}` asks for no approval")
    if verb == "approve" and state.step in state.approved:
        raise IllegalStepError(f"step {state.step} of `{document.experiment}` has been approved already")
    after = replace(state, phase=phase, held=reason if verb == "hold" else "")
    if verb == "start":
        after = replace(after, started_us=now_us, entered_us=now_us)
    elif verb == "advance":
        after = replace(after, step=state.step + 1, entered_us=now_us)
    elif verb == "promote":
        after = replace(after, entered_us=now_us)
    elif verb == "resume":
        # The hold begins anew: what was measured before the pause may no longer be so.
        after = replace(after, entered_us=now_us)
    elif verb == "approve":
        after = replace(after, approved=(*state.approved, state.step))
    return after, Action(verb, state, after, reason, evidence or {})


def step(
    document: ExperimentDocument,
    state: RolloutState,
    verdict: Verdict,
    now_us: int,
    *,
    is_tripped: bool = False,
) -> tuple[RolloutState, tuple[Action, ...]]:
    """Take the step that verdict and time call for, if any.

    Args:
        document: the experiment.
        state: where it is.
        verdict: of the judge, for this epoch; `NO_DATA` if there is none.
        now_us: Unix microseconds.
        is_tripped: whether the breaker's window is over its limit.

    Returns:
        The new state and what was done: nothing or one action.
    """
    if state.phase == "promoted" and document.strategy == "blue_green" and is_tripped and now_us < state.entered_us + document.keep_warm_us:
        after, action = apply(document, state, "rollback", now_us, _breaker_text(document), verdict.evidence)
        return after, (action,)
    if state.phase not in ("running", "paused"):
        return state, ()
    verb, reason = called_for(document, state, verdict, now_us, is_tripped=is_tripped)
    if verb is None or (verb == "hold" and reason == state.held):
        return state, ()
    after, action = apply(document, state, verb, now_us, reason, verdict.evidence)
    return after, (action,)


def is_proven(document: ExperimentDocument, state: RolloutState, verdict: Verdict) -> bool:
    """Say whether the evidence alone would promote it, but for time: then one person is enough to do it sooner."""
    here = document.steps[state.step]
    if here.approve is not None and state.step not in state.approved:
        return False
    return _takes_over(document, verdict) if document.strategy == "champion_challenger" else verdict.outcome == "fine"


def has_enough(document: ExperimentDocument, state: RolloutState, verdict: Verdict) -> bool:
    """Say whether the step has seen the units that were declared before anything counts as proven on it."""
    return units_missing(document, state, verdict) == 0


def units_missing(document: ExperimentDocument, state: RolloutState, verdict: Verdict) -> int:
    """Return how many more units the smallest arm needs before anything counts as proven on this step."""
    return max(0, document.steps[state.step].min_units - min(verdict.units.values(), default=0))


def ends_proven(document: ExperimentDocument, state: RolloutState, verdict: Verdict, now_us: int) -> bool:
    """Say whether a shadow in this state ends because it is proven, and not by its deadline."""
    has_held = now_us - state.entered_us >= document.steps[state.step].hold_us
    return state.phase == "running" and has_held and has_enough(document, state, verdict) and verdict.outcome == "fine"


def live(document: ExperimentDocument, state: RolloutState, *, holdout_released: bool = False) -> LiveExperiment:
    """What workers draw with in this state."""
    here = document.steps[state.step]
    exposure, shares = here.exposure, here.shares
    if state.phase == "promoted":
        exposure, shares = WHOLE, everyone_to(WINNERS[document.strategy], document.arms)
    elif state.phase != "running":
        exposure = 0
    return LiveExperiment(
        experiment=document.experiment,
        epoch=state.epoch,
        phase=state.phase,
        step=state.step,
        exposure=exposure,
        shares=shares,
        holdout_released=holdout_released,
    )


def called_for(
    document: ExperimentDocument,
    state: RolloutState,
    verdict: Verdict,
    now_us: int,
    *,
    is_tripped: bool,
) -> tuple[Verb | None, str]:
    """Return the step that verdict and time call for, None where it waits, and why; a hold also where it has been recorded already."""
    here = document.steps[state.step]
    waits = now_us - state.entered_us < here.hold_us or not has_enough(document, state, verdict)
    needs_approval = here.approve is not None and state.step not in state.approved
    is_ready = state.phase == "running" and not waits and not needs_approval and not is_tripped
    ending = _ending(document, state, verdict, now_us, is_tripped=is_tripped, is_ready=is_ready)
    if ending is not None or state.phase == "paused":
        return ending or (None, "")
    return _moving(document, state, verdict, is_tripped=is_tripped, waits=waits, needs_approval=needs_approval)


def _ending(
    document: ExperimentDocument,
    state: RolloutState,
    verdict: Verdict,
    now_us: int,
    *,
    is_tripped: bool,
    is_ready: bool,
) -> tuple[Verb, str] | None:
    """Rules 1 to 3: what ends it, if anything."""
    worst = (verdict.reasons or NO_DATA.reasons)[0]
    breaker = document.breaker
    if is_tripped and breaker is not None and breaker.action == "rollback":
        return "rollback", _breaker_text(document)
    if verdict.outcome == "harm" and verdict.on_harm == "rollback":
        return "rollback", worst
    proven = _proven_end(document, state, verdict) if is_ready else None
    if proven is not None:
        return proven
    if document.deadline_us is not None and now_us - state.started_us >= document.deadline_us:
        # A hold is recorded once for each reason, so its reason must not change with every new call.
        return document.deadline_then, "deadline passed undecided" + ("" if document.deadline_then == "hold" else f": {worst}")
    return None


def _proven_end(document: ExperimentDocument, state: RolloutState, verdict: Verdict) -> tuple[Verb, str] | None:
    """Rule 2: what proof ends, by strategy."""
    if document.strategy == "champion_challenger" and _takes_over(document, verdict):
        return "promote", "proven better in the goal, not worse in every guardrail, and no declared segment is shown worse"
    if verdict.outcome != "fine":
        return None
    if document.strategy == "canary" and state.step + 1 == len(document.steps):
        what = "every guardrail and the goal are" if document.goal is not None else "every guardrail is"
        return "promote", f"{what} proven not worse than {'their margins' if document.goal is not None else 'its margin'}"
    return ("stop", "every limit is proven kept") if document.strategy == "shadow" else None


def _takes_over(document: ExperimentDocument, verdict: Verdict) -> bool:
    """Superiority of the goal, non-inferiority of every guardrail, no declared segment shown worse."""
    goal = document.goal
    return verdict.outcome == "fine" and goal is not None and verdict.is_better(goal.metric) and not verdict.losing


def _moving(
    document: ExperimentDocument,
    state: RolloutState,
    verdict: Verdict,
    *,
    is_tripped: bool,
    waits: bool,
    needs_approval: bool,
) -> tuple[Verb | None, str]:
    """Rules 4 to 6: hold, wait or advance."""
    here = document.steps[state.step]
    obstacle = _obstacle(document, verdict, is_tripped=is_tripped)
    if obstacle:
        return "hold", obstacle
    if waits or document.strategy in ("ab", "shadow", "blue_green"):
        return None, ""
    if needs_approval:
        return "hold", f"waits for approval by `{here.approve}`"
    if verdict.losing:
        return "hold", f"a declared segment is shown worse: {verdict.losing[0]}"
    if state.step + 1 == len(document.steps):
        return "hold", "not yet proven better" if document.strategy == "champion_challenger" else "not yet proven fine"
    following = document.steps[state.step + 1]
    return "advance", f"no harm proven; exposure {format_share(here.exposure)} -> {format_share(following.exposure)}"


def _obstacle(document: ExperimentDocument, verdict: Verdict, *, is_tripped: bool) -> str:
    """What forbids any movement; empty if nothing does."""
    if is_tripped:
        return _breaker_text(document)
    harmed = sorted({found.metric for found in verdict.metrics if found.outcome == "harm"})
    if harmed:
        return f"harm proven: {', '.join(harmed)}"
    # An A/B test does not move, so missing data is no obstacle to it.
    if verdict.may_advance or document.strategy not in ("canary", "champion_challenger"):
        return ""
    # Names alone: a hold is recorded once for each reason, so its numbers must not change with every call.
    absent = sorted({found.metric for found in verdict.metrics if not found.has_data})
    return f"evidence is missing: {', '.join(absent)}" if absent else "evidence is missing or blocked"


def _breaker_text(document: ExperimentDocument) -> str:
    breaker = document.breaker
    if breaker is None:
        return "breaker tripped"
    return f"breaker: more than {breaker.above_ppm / 10_000:g} % of calls failed within {breaker.window_us / 1e6:g} s"
