"""An experiment whose arms another system hands out: what is taken from the call, what is claimed of it, and what is never concluded."""

from itertools import permutations

import pytest
from pydantic import ValidationError

from experiments.assignment import RouteMismatchError, recompute
from experiments.changes import change_kind
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.document import LiveExperiment
from experiments.evidence import Fold
from experiments.external import ExternalAssigner
from experiments.judge import judge
from experiments.outlook import outlook
from experiments.ranges import assigner_of
from experiments.rollout import IllegalStepError, RolloutState, apply, live, step
from experiments.slices import slice_findings

FLAG = {
    "experiment": "flag",
    "strategy": "ab",
    "model": "m",
    "external": {"system": "launchdarkly", "variants": {"on": "treatment", "off": "control"}},
    "arms": {"control": {"version": "1"}, "treatment": {"version": "2"}},
    "split": {"control": "50%", "treatment": "50%"},
    "guardrails": {"errors": {"max_harm": "2pp"}},
    "exclude": {"objection": {"objected": {"is": True}}},
}
MODEL = {"m": ModelFacts(frozenset({"1", "2"}), "1")}
RUNNING = RolloutState("running", 1)
SUBJECT = "0" * 32


def compiled(**more: object):
    data = {**FLAG, **more}
    return compile_experiment(parse_experiment({key: value for key, value in data.items() if value is not None}))


def assigned(said, document=None, phase="running", context=None):
    document = document or compiled()
    assigner = assigner_of(document, live(document, RolloutState(phase, 1)))
    assert isinstance(assigner, ExternalAssigner)
    return assigner.assign(SUBJECT, context=context or {}, unit="u", variants={} if said is None else {"flag": said})


@pytest.mark.parametrize(("said", "arm"), [("on", "treatment"), ("off", "control"), ("treatment", "treatment"), ("control", "control")])
def test_the_arm_is_the_one_that_the_caller_says_by_its_own_name_or_by_ours(said, arm):
    found = assigned(said)
    assert (found.arm, found.exposed, found.problem) == (arm, True, "")
    route = found.route()
    assert (route["mode"], route["system"], route["hashes"]) == ("external", "launchdarkly", {})
    assert recompute(route, SUBJECT, "any salt") == arm


def test_a_call_that_says_nothing_of_the_experiment_takes_no_part():
    assert assigned(None) is None


def test_a_word_that_is_no_arm_is_a_problem_or_goes_to_the_control_uncompared_as_declared():
    refused = assigned("blue")
    assert "`blue` is no arm of experiment `flag`; allowed: `control`, `off`, `on`, `treatment`" in refused.problem
    lenient = assigned("blue", compiled(external={"system": "x", "unknown": "control"}))
    assert (lenient.arm, lenient.exposed, lenient.problem) == ("control", False, "")
    assert lenient.route()["unknown_variant"] == 1


def test_an_objection_comes_before_whatever_the_flag_says():
    found = assigned("on", context={"objected": True})
    assert (found.arm, found.exposed, found.route()["excluded"]) == ("control", False, "objection")


@pytest.mark.parametrize("phase", ["paused", "rolled_back"])
def test_once_it_is_paused_or_rolled_back_the_control_serves_whatever_the_flag_says(phase):
    found = assigned("on", phase=phase)
    assert (found.arm, found.exposed, found.versions) == ("control", False, (("control", "1"),))
    assert recompute(found.route()) == "control"
    assert (assigned("blue", phase=phase).problem, assigned("blue").problem != "") == ("", True), "no call fails for an experiment that is over"


def test_no_probability_is_claimed_where_no_split_is_declared():
    assert assigned("on", compiled(split=None)).route()["shares"] == {}
    assert sum(assigned("on").route()["shares"].values()) == 2**32


def test_a_route_that_claims_hashes_for_anothers_choice_or_exposes_someone_to_nothing_does_not_verify():
    route = assigned("on").route()
    for wrong in ({"hashes": {"control": "0" * 16}}, {"exposed": False}):
        with pytest.raises(RouteMismatchError):
            recompute({**route, **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"external": {"system": "x", "variants": {"on": "nothing"}}}, "`variants` leads to `nothing`"),
        ({"external": {"system": "x", "variants": {"control": "treatment"}}}, "`control` is an arm and cannot mean another one"),
        ({"external": {"system": "x", "variants": {"a,b": "treatment"}}}, "match pattern"),
        ({"external": {"system": ""}}, "at least 1 character"),
        ({"unit": "call"}, "leave `unit: call` out"),
        ({"exposure": "50%"}, "leave `exposure` out"),
        ({"layer": {"name": "l", "slots": "0-9"}}, "leave `layer` out"),
        ({"holdout": "h"}, "leave `holdout` out"),
        ({"bucketing": {"mode": "flagd-v2", "seed": "s", "order": ["control", "treatment"]}}, "leave one out"),
        ({"external": None, "split": None}, "is missing: the share of each arm"),
        ({"strategy": "canary"}, "Extra inputs"),
    ],
)
def test_what_does_not_go_with_another_systems_choice_is_refused_by_name(wrong, said):
    with pytest.raises(ValidationError, match=said):
        compiled(**wrong)


def test_it_has_its_model_for_itself():
    other = parse_experiment({**FLAG, "experiment": "second", "external": None})
    for one, two in ((parse_experiment(FLAG), other), (other, parse_experiment(FLAG))):
        (fault,) = check(one, models=MODEL, others=[two])
        assert "has the model for itself" in fault.message


def test_another_mapping_of_variants_is_another_assignment():
    assert change_kind(compiled(), compiled(external={"system": "launchdarkly", "variants": {"on": "control"}})) == "epoch"
    assert change_kind(compiled(), compiled()) == "none"


# --- evidence


def record(number, arm, *, unit=None, failed=False, document=None, **route: object):
    document = document or compiled()
    said = {"experiment": "flag", "epoch": 1, "mode": "external", "assigned": arm, "served": arm, "exposed": True, "shares": document.steps[0].shares}
    outcome = {"status": 502 if failed else 200, "latency_us": 1}
    return {"type": "call", "id": f"{number:08d}", "subject": unit or f"u{number}", "route": {**said, **route}, "outcome": outcome}


def folded(records, document=None):
    fold = Fold(document or compiled(), 1)
    for one in records:
        fold.add(one)
    return fold.evidence()


def test_units_that_come_with_two_arms_are_counted_once_each_and_count_by_their_first_in_any_order():
    records = [record(1, "control", unit="a"), record(2, "treatment", unit="a"), record(3, "control", unit="a"), record(4, "treatment", unit="b")]
    for shuffled in permutations(records):
        for repeated in ((), records[:2]):
            found = folded([*shuffled, *repeated])
            assert (found.flipped, found.stages["assigned"]) == (1, {"control": 1, "treatment": 1})
    assert "1 of 2 units came with more than one arm" in " ".join(judge(compiled(), found).reasons)


@pytest.mark.parametrize(("flips", "outcome"), [(20, "fine"), (60, "hold")])
def test_arms_that_share_units_are_not_shown_alike(flips, outcome):
    """Who changes arms from call to call hides what an arm does: the same units would else prove it harmless."""
    arms = ("control", "treatment")
    records = [record(n, arms[n % 2], unit=f"u{n}") for n in range(4000)]
    records += [record(5000 + n, arms[1 - n % 2], unit=f"u{n}") for n in range(flips)]
    verdict = judge(compiled(), folded(records))
    assert verdict.outcome == outcome
    assert ("came with more than one arm, and" in " ".join(verdict.reasons)) is (outcome == "hold")


def test_units_that_flip_hide_no_harm():
    document = compiled()
    flipped = [
        record(5000 + n, ("treatment", "control")[n % 2], document=document) | {"subject": harmful(document)[n]["subject"]} for n in range(200)
    ]
    assert judge(document, folded([*harmful(document), *flipped])).outcome == "harm"


def test_calls_that_named_no_arm_are_told_and_compared_with_nothing():
    found = folded([record(1, "control"), record(2, "control", exposed=False, unknown_variant=1)])
    assert (found.unknown_variants, found.stages["assigned"]["control"]) == (1, 1)
    assert "1 calls named no arm" in " ".join(judge(compiled(), found).reasons)


def harmful(document):
    return [record(n, ("control", "treatment")[n % 2], failed=n % 4 == 1, document=document) for n in range(2000)]


def test_against_a_declared_split_harm_is_proven_and_the_ratio_tested():
    document = compiled()
    verdict = judge(document, folded(harmful(document)))
    assert verdict.outcome == "harm"
    assert step(document, RUNNING, verdict, 5)[0].phase == "rolled_back"
    skewed = judge(document, folded([record(n, "treatment" if n % 5 else "control") for n in range(2000)]))
    assert skewed.outcome == "hold"
    assert skewed.reasons[0].startswith("sample ratio off at stage `assigned`")


def test_without_a_declared_split_everything_is_described_and_nothing_judged():
    document = compiled(split=None, segments={"country": ["CH"]})
    evidence = folded(harmful(document), document)
    verdict = judge(document, evidence)
    assert (verdict.outcome, step(document, RUNNING, verdict, 5)[1]) == ("hold", ())
    assert any("not judged, the split is not declared" in reason for reason in verdict.reasons)
    assert {one.finding for one in slice_findings(document, {"country=CH": evidence})} == {"insufficient"}
    assert "declare the `split`" in outlook(document, evidence)[0].words


def test_it_never_promotes_and_says_what_may_not_be_concluded():
    document = compiled()
    verdict = judge(document, folded([record(n, ("control", "treatment")[n % 2]) for n in range(4000)]))
    assert verdict.outcome == "fine"
    assert step(document, RUNNING, verdict, 10**15)[0].phase == "running"
    with pytest.raises(IllegalStepError):
        apply(document, RUNNING, "promote", 1, "we like it")
    said = " ".join(verdict.reasons)
    assert "assigned by `launchdarkly`, not here" in said
    assert "no off-policy evaluation and no bandit" in said


def test_a_live_state_without_shares_is_for_anothers_choice_alone():
    document = compiled(external=None)
    with pytest.raises(ValueError, match=r"2\*\*32"):
        assigner_of(document, LiveExperiment(experiment="flag", epoch=1, phase="running", step=0, exposure=2**32, shares={}))
