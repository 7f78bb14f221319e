"""Blue-green and champion-challenger: who takes over, on what proof, and who never does."""

from dataclasses import replace
from fractions import Fraction

import pytest
from experiment_log import log_of
from msgspec.structs import replace as changed
from pydantic import ValidationError

from experiments.assignment import Assigner
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.rollout import IllegalStepError, RolloutState, apply, initial, is_proven, live, step
from experiments.shares import WHOLE, share_of
from experiments.slices import slice_findings
from experiments.verdict import NO_DATA, MetricVerdict, Verdict

DAY = 86_400_000_000
SWITCH = {
    "experiment": "cutover",
    "strategy": "blue_green",
    "model": "m",
    "arms": {"blue": {"version": "1"}, "green": {"version": "2"}},
    "breaker": {"errors": "> 5% over 2m"},
}
DUEL = {
    "experiment": "duel",
    "strategy": "champion_challenger",
    "model": "m",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "share": "50%",
    "min_units": 200,
    "goal": {"metric": "errors", "margin": "2pp"},
    "guardrails": {"accuracy": {"max_harm": "4pp"}},
    "segments": {"country": ["CH", "DE"]},
    "deadline": {"after": "1d", "then": "rollback"},
}
MODEL = {"m": ModelFacts(frozenset({"1", "2"}), "1")}


def compiled(data, **more: object):
    return compile_experiment(parse_experiment({**data, **more}))


def arms_drawn(document, state):
    assigner = Assigner(document, live(document, state))
    return {assigner.assign(f"{number:032x}").arm for number in range(200)}


# --- blue-green


def test_blue_serves_everyone_until_the_switch_green_at_once_after_it_and_blue_again_after_one_step_back():
    document = compiled(SWITCH)
    state, _ = apply(document, initial(document, 1), "start", 0, "configured")
    assert arms_drawn(document, state) == {"blue"}
    assert step(document, state, NO_DATA, 9 * DAY) == (state, ())
    state, _ = apply(document, state, "promote", 5, "go")
    assert arms_drawn(document, state) == {"green"}
    state, _ = apply(document, state, "rollback", 6, "back")
    assert arms_drawn(document, state) == {"blue"}


def test_within_its_time_the_breaker_sends_everyone_back_by_itself_and_after_it_no_more():
    document = compiled(SWITCH, keep_blue_warm="1h")
    state, _ = apply(document, replace(initial(document, 1), phase="running"), "promote", DAY, "go")
    assert step(document, state, NO_DATA, DAY + 1, is_tripped=False) == (state, ())
    assert step(document, state, NO_DATA, DAY + 1, is_tripped=True)[0].phase == "rolled_back"
    assert step(document, state, NO_DATA, DAY + 3_600_000_000, is_tripped=True) == (state, ())


def test_a_switch_compares_nothing_and_blue_is_the_default():
    for wrong in ({"goal": {"metric": "errors", "margin": "1pp"}}, {"guardrails": {"errors": {"max_harm": "1pp"}}}, {"arms": DUEL["arms"]}):
        with pytest.raises(ValidationError):
            compiled(SWITCH, **wrong)
    faults = check(parse_experiment({**SWITCH, "arms": {"blue": {"version": "2"}, "green": {"version": "2"}}}), models=MODEL)
    assert {fault.path for fault in faults} == {("arms", "blue", "version"), ("arms", "green", "version")}
    (fault,) = check(parse_experiment({**SWITCH, "verify": {"shadow": "nothing"}}), models=MODEL)
    assert "no shadow `nothing`" in fault.message


# --- champion and challenger


def verdict(outcome="fine", *, better=True, losing=()):
    units = {"champion": 5000, "challenger": 5000}
    found = (MetricVerdict("errors", "challenger", "fine", better, "r", True, "hold"),)
    return Verdict(outcome, "hold", True, units, ("r",), found, {}, tuple(losing))


@pytest.mark.parametrize(
    ("known", "phase"),
    [
        (verdict(), "promoted"),
        (verdict(better=False), "running"),
        (verdict("hold"), "running"),
        (verdict(losing=["country=CH errors: `challenger` shown worse"]), "running"),
        (verdict("harm"), "running"),
    ],
)
def test_the_challenger_takes_over_only_when_better_not_worse_anywhere_and_no_segment_loses(known, phase):
    document = compiled(DUEL)
    state, _ = apply(document, initial(document, 1), "start", 0, "configured")
    assert step(document, state, known, 3_600_000_000)[0].phase == phase
    assert is_proven(document, state, known) == (phase == "promoted")


def test_an_approval_that_is_asked_for_holds_the_takeover():
    document = compiled(DUEL, approve="bob")
    state, _ = apply(document, initial(document, 1), "start", 0, "configured")
    held, (action,) = step(document, state, verdict(), 5)
    assert (held.phase, action.reason) == ("running", "waits for approval by `bob`")
    state, _ = apply(document, state, "approve", 6, "yes")
    assert step(document, state, verdict(), 7)[0].phase == "promoted"


def test_an_undecided_challenger_is_rolled_back_at_its_deadline():
    document = compiled(DUEL)
    assert step(document, RolloutState("running", 1), verdict(better=False), DAY)[0].phase == "rolled_back"


def test_more_than_half_a_goal_missing_or_no_guardrail_is_refused():
    for wrong in ({"share": "51%"}, {"goal": None}, {"guardrails": {}}, {"deadline": None}):
        with pytest.raises(ValidationError):
            compiled(DUEL, **wrong)


@pytest.mark.parametrize(("failing", "ended"), [((0.08, 0.02), "promote"), ((0.02, 0.10), "rollback"), ((0.05, 0.05), None)])
def test_from_draws_to_the_end_only_a_better_challenger_takes_over(failing, ended):
    document = compiled({**DUEL, "segments": {}})
    records = log_of(document, failing=dict(zip(("champion", "challenger"), failing, strict=True)), calls=6000)
    actions = [record["action"] for record in records if record["type"] == "rollout.step"]
    assert (actions[-1] if actions[-1] in ("promote", "rollback") else None) == ended


# --- segments


def fold_of(document, rates, units=2000):
    """A fold in which each country's arms fail at given rates: country -> (champion, challenger)."""
    fold, number = Fold(document, 1), 0
    for country, (champion, challenger) in rates.items():
        for arm, rate in (("champion", champion), ("challenger", challenger)):
            for unit in range(units):
                number += 1
                fold.add(
                    {
                        "type": "call",
                        "id": f"{number:08d}",
                        "subject": f"{number:032x}",
                        "route": {
                            "experiment": "duel",
                            "epoch": 1,
                            "exposed": True,
                            "assigned": arm,
                            "served": arm,
                            "shares": dict(document.steps[0].shares),
                            "segments": {"country": country},
                        },
                        "outcome": {"status": 502 if unit < rate * units else 200, "latency_us": 1},
                    }
                )
    return fold


def test_a_segment_that_loses_is_found_though_the_whole_gains():
    document = compiled({**DUEL, "guardrails": {"diverted": {"max_harm": "1pp"}}})
    fold = fold_of(document, {"CH": (0.10, 0.01), "DE": (0.01, 0.05)})
    assert judge(document, fold.evidence()).is_better("errors")
    found = {(one.segment, one.metric): one.finding for one in slice_findings(document, fold.segment_evidence())}
    assert found[("country=DE", "errors")] == "shown worse"
    assert found[("country=CH", "errors")] == "not shown worse"


def test_a_segment_with_few_units_is_listed_as_insufficient_and_decides_nothing():
    document = compiled({**DUEL, "guardrails": {"diverted": {"max_harm": "1pp"}}})
    fold = fold_of(document, {"CH": (0.0, 1.0)}, units=20)
    assert {one.finding for one in slice_findings(document, fold.segment_evidence())} == {"insufficient"}


def test_equal_segments_are_not_shown_worse():
    document = compiled({**DUEL, "guardrails": {"diverted": {"max_harm": "1pp"}}})
    fold = fold_of(document, {"CH": (0.05, 0.05), "DE": (0.03, 0.03)})
    assert "shown worse" not in {one.finding for one in slice_findings(document, fold.segment_evidence())}


def test_exposure_of_half_and_half_compares_everyone():
    assert compiled(DUEL).steps[0].exposure == WHOLE
    assert compiled(DUEL, share="10%").steps[0].exposure == 2 * share_of(Fraction(1, 10))
    with pytest.raises(IllegalStepError):
        apply(changed(compiled(DUEL), strategy="ab"), RolloutState("running", 1), "promote", 1, "x")
