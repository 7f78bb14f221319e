"""What a trace says: expressions and their values, why a rule has no value, and what tests never reached, as OPA counts it."""

from __future__ import annotations

import bisect
import json
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opa_server import INSTALL_HINT, opa_binary

from policies.rego import UNDEFINED, Engine, EvaluationError, LimitError, Limits
from policies.rego.lexer import tokenize
from policies.rego.parser import parse_module
from policies.rego.render import rego
from policies.rego.spans import SpanIndex, module_spans
from policies.rego.trace import VALUE_CHARS, shorten
from policies.rego.values import import_value

OPA = opa_binary()
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=250),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=9), inner, max_size=9),
    max_leaves=40,
)
OFFICE = """package office

default allow := false

allow if {
	input.env == "production"
	count(approvers) >= needed
}

needed := 1 if input.risk == "low"
else := 2

approvers contains person.name if {
	some person in input.people
	person.valid
}
"""
PEOPLE = [{"name": "ada", "valid": True}, {"name": "bob", "valid": False}]


def texts(body: str) -> list[str]:
    return [span.text for span in module_spans(parse_module("p.rego", f"package p\n{body}"))]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("x := 1", ["x := 1"]),
        ("default x := 1", ["default x := 1"]),
        ("x if input.a", ["x", "input.a"]),
        ("x if { input.a; input.b }", ["x", "input.a", "input.b"]),
        ("x if {\n\tinput.a ==\n\t\t3\n\tinput.b # b\n}", ["x", "input.a ==\n\t\t3", "input.b"]),
        ("x if {\n\tinput.a\n\t\t== 3\n}", ["x", "input.a\n\t\t== 3"]),
        ("x if {\n\tf(1)\n\t\twith input as 1\n\ty\n}\nf(a) := a\ny := 1", ["x", "f(1)\n\t\twith input as 1", "y", "f(a) := a", "y := 1"]),
        ("x := 1 if input.a else := 2 if input.b else := 3", ["x := 1", "input.a", "else := 2", "input.b", "else := 3"]),
        ("x if { some y; y = 1 }", ["x", "y = 1"]),
        ("x if not input.a", ["x", "not input.a"]),
        ("x if {y | y := input.z} == set()", ["x", "{y | y := input.z} == set()", "y := input.z"]),
        ("x if every k, v in input { k != v }", ["x", "every k, v in input { k != v }", "k != v"]),
        ("x := [y | some y in input; y > 1]", ["x := [y | some y in input; y > 1]", "some y in input", "y > 1"]),
        ('x contains {"a": "if {"} if {\n\tinput["{"]\n}', ['x contains {"a": "if {"}', 'input["{"]']),
    ],
)
def test_an_expression_ends_where_the_next_begins(body, found):
    assert texts(body) == found


def test_spans_nest_and_the_innermost_is_found():
    module = parse_module("p.rego", OFFICE)
    index = SpanIndex(module)
    for span in index.spans:
        if not span.is_head:
            assert index.around(span.start) == span
            assert index.around(span.end - 1).end <= span.end
    assert index.around(0) is None
    assert index.reference(OFFICE.index("count(")) == "count(approvers)"
    assert index.reference(OFFICE.index("person.name")) == "person.name"


@given(
    st.lists(
        st.sampled_from(["input.a == 1", "not x", "some y in input.z", "[1 |\n true\n]", "f(1,\n2)", "a := {1,\n2}", "x with input as 1"]), min_size=1
    )
)
def test_spans_of_a_body_do_not_overlap_and_leave_out_only_separators(statements):
    text = "package p\nr if {\n" + "\n".join(statements) + "\n}"
    spans = [span for span in module_spans(parse_module("p.rego", text)) if not span.is_head and span.parent is None]
    assert [span.text for span in spans] == statements
    covered = {offset for span in spans for offset in range(span.start, span.end)}
    start = text.index("{") + 1
    left = [token.text for token in tokenize(parse_module("p.rego", text).source)[0] if token.start >= start and token.start not in covered]
    assert left == ["}", ""]


def test_the_explanation_follows_the_question_to_the_value_that_decided():
    traced = Engine({"office.rego": OFFICE}).traced()
    assert traced.value("data.office.allow", {"env": "production", "risk": "high", "people": PEOPLE}) is False
    assert [" ".join(line.split()) for line in traced.explain().splitlines()] == [
        "data.office.allow is false, by default",
        "allow office.rego:5",
        'yes input.env == "production" line 6',
        "NO count(approvers) >= needed line 7",
        "count(approvers) is 1",
        'approvers is {"ada"}',
        "needed is 2",
        'data.office.approvers has "ada"',
        "approvers contains person.name office.rego:13",
        "yes some person in input.people (2 of 2) line 14",
        "yes person.valid (1 of 2) line 15",
        "not where person.valid is false",
        "data.office.needed is 2",
        "needed := 1 office.rego:10",
        'NO input.risk == "low" line 10',
        'input.risk is "high"',
        "else := 2 line 11",
    ]


def test_an_absent_field_is_said_to_be_undefined():
    traced = Engine({"office.rego": OFFICE}).traced()
    traced.value("data.office.allow", {})
    said = [" ".join(line.split()) for line in traced.explain().splitlines()]
    assert said[2:] == ['NO input.env == "production" line 6', "input.env is undefined", "- 1 more, not looked at"]


def test_a_negation_that_holds_says_why():
    traced = Engine({"p.rego": "package p\ndeny contains 1 if not ok\nok if input.hour < 18"}).traced()
    traced.value("data.p.deny", {"hour": 20})
    assert "input.hour is 20" in traced.explain()


def test_an_every_that_fails_names_the_member():
    traced = Engine({"p.rego": "package p\nok if every x in input.xs { x < 3 }"}).traced()
    assert traced.value("data.p.ok", {"xs": [1, 2, 7, 9]}) is UNDEFINED
    assert "x is 7" in traced.explain()
    assert "x is 9" not in traced.explain()


def test_a_failing_evaluation_leaves_its_trace():
    traced = Engine({"p.rego": "package p\nx := 1 if input.a\nx := 2 if input.b"}).traced()
    with pytest.raises(EvaluationError):
        traced.value("data.p.x", {"a": 1, "b": 1})
    assert "line 2" in traced.explain() or "p.rego:2" in traced.explain()


def test_looking_at_values_is_not_charged_to_the_evaluation():
    module = {"p.rego": "package p\nx := count([y | some y in numbers.range(1, 4000); f(y) > 0])\nf(y) := y * 2"}

    def passes(steps: int, *, traced: bool) -> bool:
        engine = Engine(module, limits=Limits(steps=steps))
        try:
            return (engine.traced() if traced else engine).value("data.p.x") == 4000
        except LimitError:
            return False

    needed = bisect.bisect_left(range(20_000), True, key=lambda steps: passes(steps, traced=False))
    assert 2_000 < needed < 20_000
    assert passes(needed, traced=True)
    assert not passes(needed - 1, traced=True)


def test_a_trace_is_bounded_and_its_counts_are_exact():
    text = "package p\nx := count([y | some y in numbers.range(1, 5000); f(y)])\nf(y) if y > 4000"
    traced = Engine({"p.rego": text}, limits=Limits(wall_s=60)).traced()
    assert traced.value("data.p.x") == 1000
    assert len(traced.rules) == 2_000
    (rule,) = [rule for rule in traced.rules if rule.name == "data.p.x"]
    (called,) = [attempt for attempt in rule.attempts.values() if attempt.text == "f(y)"]
    assert (called.held, called.failed, len(called.samples)) == (1000, 4000, 3)


COVERED = """package office_test

import data.office

test_low if office.allow with input as {"env": "production", "risk": "low", "people": [{"name": "ada", "valid": true}]}

test_staging if not office.allow with input as {"env": "staging"}
"""


@pytest.mark.component("opa")
@pytest.mark.skipif(OPA is None, reason=INSTALL_HINT)
@pytest.mark.parametrize("only", ["test_low", "test_staging", "test_"])
def test_the_lines_never_reached_are_opas(tmp_path, only):
    (tmp_path / "office.rego").write_text(OFFICE)
    (tmp_path / "office_test.rego").write_text(COVERED)
    done = subprocess.run([OPA, "test", ".", "--coverage", "-r", only], capture_output=True, text=True, cwd=tmp_path, check=False)
    theirs = json.loads(done.stdout)["files"]["office.rego"].get("not_covered", [])
    traced = Engine({"office.rego": OFFICE, "office_test.rego": COVERED}).traced()
    for name in ("test_low", "test_staging"):
        if name.startswith(only):
            assert traced.value(f"data.office_test.{name}") is True
    # OPA does not count `some ... in`, and says apart what only its index left out.
    rows = {part["start"]["row"] for part in theirs if "index_excluded" not in part.get("kinds", [])}
    ours = {span.line for span in traced.coverage()["office.rego"].missed_spans if not span.text.startswith("some ")}
    assert ours == rows


def test_coverage_counts_definitions_that_gave_a_value():
    traced = Engine({"office.rego": OFFICE}).traced()
    traced.value("data.office.allow", {"env": "production", "risk": "low", "people": PEOPLE})
    coverage = traced.coverage()["office.rego"]
    assert coverage.heads == 5
    assert [span.text for span in coverage.missed_heads] == ["default allow := false", "else := 2"]


@given(json_like)
def test_a_short_value_is_its_rego_text_and_a_long_one_its_beginning(value):
    whole, short = rego(import_value(value)), shorten(import_value(value))
    assert short == whole if len(whole) <= VALUE_CHARS else short == whole[: VALUE_CHARS - 1] + "…"


def test_of_a_large_value_only_the_beginning_is_made():
    large = import_value([{"n": number} for number in range(200_000)])
    begun = time.process_time()
    assert len(shorten(large)) == VALUE_CHARS
    assert time.process_time() - begun < 0.05
