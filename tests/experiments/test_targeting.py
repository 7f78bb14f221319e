"""Whom an experiment is for: rules, exclusions before exposure, segments; and that what is drawn does not depend on who is asked first."""

import pytest
import yaml
from experiment_documents import document_of, live_of, pseudonyms
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import ValidationError

from experiments.assignment import Assigner, RouteMismatchError, recompute
from experiments.changes import change_kind
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.document import ExclusionDocument, RuleDocument
from experiments.targeting import excluded_by, holds, matches, segments_of, spelled

AB = {
    "experiment": "x",
    "strategy": "ab",
    "model": "m",
    "arms": {"control": {"version": "1"}, "treatment": {"version": "2"}},
    "split": {"control": "50%", "treatment": "50%"},
}


def compiled(**more: object):
    return compile_experiment(parse_experiment({**AB, **more}))


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        ({"in": ["CH", "DE"]}, ["CH", "DE"], ["FR", "ch", 1, True]),
        ({"not": "free"}, ["pro", 1, False], ["free"]),
        ({"not": ["free", 3]}, ["pro", 1], ["free", 3]),
        ({"is": True}, [True], [1, "true", False]),
        ({"is": 1}, [1], [True, "1", 2]),
        ({"at_least": 18}, [18, 90], [17, "18", True]),
        ({"below": 18}, [17, -1], [18, "17", False]),
    ],
)
def test_a_rule_holds_for_its_values_and_types_count(condition, yes, no):
    (rule,) = compiled(who={"a": condition}).who
    assert [value for value in yes if not holds(rule, {"a": value})] == []
    assert [value for value in no if holds(rule, {"a": value})] == []
    assert not holds(rule, {})


@pytest.mark.parametrize(
    "bad",
    [{}, {"in": []}, {"in": ["a"], "not": "b"}, {"is": None}, {"at_least": 1.5}, {"is": 1.5}, {"equals": 1}, {"at_least": "18"}],
)
def test_a_rule_says_one_thing_in_whole_numbers(bad):
    with pytest.raises(ValidationError):
        compiled(who={"a": bad})


def test_an_exclusion_without_a_rule_and_too_many_segments_are_refused():
    for wrong in ({"exclude": {"all": {}}}, {"segments": {"c": []}}, {"segments": {"c": ["other"]}}, {"segments": {"c": ["a", "a"]}}):
        with pytest.raises(ValidationError):
            compiled(**wrong)


values = st.one_of(st.sampled_from(["CH", "DE", "free"]), st.integers(0, 99), st.booleans())
contexts = st.dictionaries(st.sampled_from(["country", "plan", "age", "objected"]), values, max_size=4)
TARGETED = replace(
    document_of({"a": 1, "b": 1}),
    who=(RuleDocument(attribute="country", op="in", values=("s:CH", "s:DE")),),
    exclude=(ExclusionDocument(name="objection", rules=(RuleDocument(attribute="objected", op="in", values=("b:true",)),)),),
    segments={"plan": ("free",)},
)
ASSIGNER, PLAIN = Assigner(TARGETED, live_of(TARGETED)), Assigner(document_of({"a": 1, "b": 1}), live_of(TARGETED))


@given(pseudonyms, contexts)
def test_targeting_and_exclusion_decide_who_takes_part_and_never_which_arm(unit, context):
    assignment = ASSIGNER.assign(unit, context=context)
    if context.get("country") not in ("CH", "DE") or isinstance(context["country"], bool):
        assert assignment is None
        return
    route = assignment.route()
    assert recompute(route, unit, TARGETED.salt) == assignment.arm
    assert route["segments"] == {"plan": "unknown" if "plan" not in context else "free" if context["plan"] == "free" else "other"}
    if context.get("objected") is True:
        assert (assignment.exposed, assignment.arm, route["excluded"]) == (False, TARGETED.control, "objection")
        assert {version for _, version in assignment.versions} == {TARGETED.arms[TARGETED.control]}
    else:
        assert assignment.arm == PLAIN.assign(unit).arm
        assert "excluded" not in route


def test_a_route_that_says_excluded_and_serves_another_arm_does_not_verify():
    route = ASSIGNER.assign("0" * 32, context={"country": "CH", "objected": True}).route()
    with pytest.raises(RouteMismatchError):
        recompute({**route, "exposed": True})


def test_the_first_exclusion_that_holds_gives_its_name_and_all_rules_of_one_must_hold():
    rule = RuleDocument(attribute="a", op="in", values=(spelled(1),))
    both = ExclusionDocument(name="both", rules=(rule, RuleDocument(attribute="b", op="at_least", bound=2)))
    one = ExclusionDocument(name="one", rules=(rule,))
    assert excluded_by((both, one), {"a": 1, "b": 2}) == "both"
    assert excluded_by((both, one), {"a": 1, "b": 1}) == "one"
    assert excluded_by((both, one), {}) is None
    assert matches((), {})


def test_segments_hold_no_free_text():
    assert segments_of({"c": ("CH",), "n": ("1",)}, {"c": "anything at all", "n": 1}) == {"c": "other", "n": "1"}


def test_a_change_of_targeting_is_a_new_epoch_and_one_of_segments_a_new_question():
    before = compiled()
    assert change_kind(before, compiled(who={"a": {"is": 1}})) == "epoch"
    assert change_kind(before, compiled(exclude={"e": {"a": {"is": 1}}})) == "epoch"
    assert change_kind(before, compiled(segments={"a": ["x"]})) == "exploratory"


def test_targeting_cannot_be_told_apart_by_the_order_it_is_written_in():
    rules = {"b": {"is": 1}, "a": {"not": ["y", "x"]}}
    assert compiled(who=rules) == compiled(who=dict(reversed(rules.items())))
    assert yaml.safe_dump(rules)
