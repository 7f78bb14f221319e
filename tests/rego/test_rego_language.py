"""The language, as a table: module body, input, value of `data.p.x` (sets as sorted arrays)."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest

from policies.rego import UNDEFINED, Engine, EvaluationError, PolicyError, to_json

CASES: dict[str, tuple[str, Any, Any]] = {
    "undefined is not false": ("x if input.missing", {}, UNDEFINED),
    "not undefined is true": ("x if not input.missing", {}, True),
    "a plain not asks for what is nested in it": ("x if not input.missing > 1", {}, UNDEFINED),
    "not with a body does not": ("import future.keywords.not\nx if not input.missing > 1", {}, True),
    "default": ("default x := 7\nx := 8 if input.a", {}, 7),
    "else runs in order": ("x := 1 if input.a == 1 else := 2 if input.a < 5 else := 3", {"a": 2}, 2),
    "sets are sets": ("x contains y if some y in [1, 1.0, true, 1]", {}, [True, 1]),
    "one is not true": ("x := {1: 1, true: 2}[true]", {}, 2),
    "partial objects": ("x[k] := v if some k, v in input", {"a": 1}, {"a": 1}),
    "deep rule heads": ("x.a[k].b contains k if some k in [1, 2]", {}, {"a": {"1": {"b": [1]}, "2": {"b": [2]}}}),
    "functions with patterns": ('f([a, {"k": b}]) := a + b\nx := f([1, {"k": 2}])', {}, 3),
    "every": ("x if every k, v in input { k != v }", {"a": "b"}, True),
    "every over nothing": ("x if every v in [] { v == 1 }", {}, True),
    "unification binds both ways": ("x := [a, b] if [a, 2] = [1, b]", {}, [1, 2]),
    "comprehensions keep their variables": ("x := [[y | some y in [1]], [y | some y in [2]]]", {}, [[1], [2]]),
    "array comprehensions follow the order of sets": ("x := [y | some y in {3, 1, 2}]", {}, [1, 2, 3]),
    "with replaces input": ("y := input.a\nx := z if z := y with input.a as 5", {"a": 1}, 5),
    "with replaces a function": ("f(_) := 1\nx := z if z := f(2) with f as 9", {}, 9),
    "with replaces a built-in": ("x := z if z := count([1]) with count as 9", {}, 9),
    "walk": ('x := [p | walk(input, [p, "v"])]', {"a": ["v"], "b": "v"}, [["a", 0], ["b"]]),
    "template strings": ('x := $"{input.a} and {input.b}"', {"a": 1}, "1 and <undefined>"),
    "and, or": ("import future.keywords.and\nimport future.keywords.or\nx if input.a and input.b or input.c", {"c": 1}, True),
    "keywords after a dot": ("x := input.if", {"if": 1}, 1),
    "exact integers": ("x := 12345678901234567890 * 10", {}, 123456789012345678900),
}
REFUSED = {
    "unsafe-var": "x if not y == 1",
    "unknown-function": "x if cuont(input.a) == 1",
    "refused-builtin": 'x := http.send({"method": "get", "url": "http://localhost"})',
    "arity": "x := count(1, 2, 3)",
    "recursion": "x if y\ny if x",
    "conflict": "x := 1\nx contains 2",
    "redeclared": "x if {\n\ta := 1\n\ta := 2\n}",
    "referenced-above": "x if {\n\tb == a\n\ta := 1\n\tb := 1\n}",
    "default-value": "default x := input.a\nx := 1 if input.b",
    "parse": "x { true }",
}
FOUND = {
    "unused-import": "import data.q\nx := 1",
    "unused-local": "x if {\n\ta := input.b\n}",
    "deprecated-builtin": "x := any([true])",
    "unknown-reference": "allwo := 1\nx := data.p.allow",
    "deny-head-undefined": 'allow := true\ndeny contains sprintf("%s", [input.who]) if input.bad',
    "no-allow": "deny contains 1 if input.a",
    "negated-undefined": "x if not input.a > 1",
    "undeclared-data": "x := data.params.y",
}


def engine(body: str, **options: Any) -> Engine:
    imports = "\n".join(line for line in body.splitlines() if line.startswith("import"))
    rules = "\n".join(line for line in body.splitlines() if not line.startswith("import"))
    return Engine({"p.rego": f"package p\n\n{imports}\n\n{rules}\n"}, **options)


@pytest.mark.parametrize("name", CASES)
def test_language(name):
    body, given, wanted = CASES[name]
    value = engine(body).value("data.p.x", given)
    assert value is wanted if wanted is UNDEFINED else to_json(value) == wanted
    assert (type(to_json(value)) is bool) == (type(wanted) is bool)


@pytest.mark.parametrize("rule", REFUSED)
def test_what_is_wrong_is_refused_by_name_and_place(rule):
    with pytest.raises(PolicyError) as caught:
        engine(REFUSED[rule])
    issue = next(issue for issue in caught.value.issues if issue.rule == rule)
    assert issue.file == "p.rego"
    assert issue.line >= 4
    assert "^" in issue.render()


@pytest.mark.parametrize("rule", FOUND)
def test_what_opens_silently_is_found(rule):
    assert rule in {issue.rule for issue in engine(FOUND[rule]).check()}


def test_strict_refuses_what_check_finds():
    with pytest.raises(PolicyError):
        engine(FOUND["deny-head-undefined"], strict=True)


def test_an_input_path_that_the_schema_does_not_know_is_found_with_the_nearest_name():
    schema = {"properties": {"model": {"properties": {"digest": {}}}}}
    (issue,) = engine("x := input.model.digset").check(schema)
    assert issue.rule == "unknown-input"
    assert "`digest`" in issue.hint


def test_two_values_for_one_rule_are_an_error_not_a_choice():
    with pytest.raises(EvaluationError) as caught:
        engine("x := 1 if input.a\nx := 2 if input.b").value("data.p.x", {"a": 1, "b": 1})
    assert caught.value.code == "eval_conflict_error"


def test_a_failing_built_in_is_undefined_or_an_error_as_the_caller_asks():
    body = 'x := to_number("no")'
    assert engine(body).value("data.p.x", {}) is UNDEFINED
    with pytest.raises(EvaluationError):
        engine(body, strict_builtin_errors=True).value("data.p.x", {})


def test_now_is_the_callers():
    assert engine("x := time.now_ns()").value("data.p.x", {}, now_ns=42) == 42


def test_several_references_share_one_evaluation():
    answer = engine("a := count(input.xs)\nx := a + 1\ny if a > 5").prepare_all(["data.p.a", "data.p.x", "data.p.y"])
    assert answer({"xs": [1, 2]}, now_ns=0) == [2, 3, UNDEFINED]


def test_explanations_name_the_expression_that_failed():
    traced = engine("x if {\n\tinput.age >= 18\n\tinput.member\n}").traced()
    assert traced.value("data.p.x", {"age": 20}) is UNDEFINED
    (rule,) = traced.rules
    assert rule.first_failure is not None
    assert rule.first_failure.text == "input.member"


def test_no_code_is_made_from_text():
    """No `exec`, `eval` or `compile` anywhere in the engine's source."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "policies/rego"
    banned = re.compile(r"(?<![\w.])(?<!def )(?:exec|eval|compile)\(|import pickle|__import__")
    found = [path.name for path in folder.rglob("*.py") if banned.search(path.read_text(encoding="utf-8"))]
    assert found == []


DOCUMENT = (pathlib.Path(__file__).resolve().parents[2] / "docs/rego.md").read_text(encoding="utf-8")


def test_the_examples_of_the_documentation_run():
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(block, {})  # noqa: S102 - the documentation's own example, run as its reader would


def test_the_module_of_the_documentation_passes_every_check_and_decides():
    (block,) = re.findall(r"```rego\n(.*?)```", DOCUMENT, re.DOTALL)
    office = Engine({"office.rego": block}, strict=True)
    assert office.check() == []
    caller = {"verified": True, "id": "svc", "scopes": []}
    assert to_json(office.value("data.office", {"hour": 9, "subject": caller, "request": {"rows": 3}, "batches": [{"owner": "a", "rows": 2}]})) == {
        "all_small": True, "allow": True, "deny": [], "is_open": True, "most_rows": 100, "owners": ["a"], "rows_of": {"a": 2},
    }  # fmt: skip
    reasons = to_json(office.value("data.office.deny", {"hour": 3, "request": {"rows": 101}}))
    assert [(reason["id"], reason["msg"]) for reason in reasons] == [
        ("OFF-001", "101 rows, at most 100"), ("OFF-002", "closed for <undefined>"), ("OFF-003", "the caller is not known"),
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "rule"), re.findall(r"^\| `(.+)` \| `([a-z-]+)` \|$", DOCUMENT, re.MULTILINE))
def test_each_refused_text_of_the_documentation_is_refused_by_that_name(text, rule):
    lines = text.replace(" x contains", "\nx contains")
    with pytest.raises(PolicyError) as refused:
        Engine(
            {"p.rego": f"package p\n\n{lines}\n"},
            strict=True,
            input_schema={"properties": {"model": {}, "a": {}, "b": {}, "bad": {}, "who": {}, "rows": {}}},
        )
    assert rule in {issue.rule for issue in refused.value.issues}
