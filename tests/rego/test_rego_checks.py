"""Findings at load: what OPA's strict check refuses is refused here, and so is what opens a policy silently; each with its place."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from opa_server import opa_binary

from policies.rego import Engine, Issue, PolicyError

SCHEMA = {
    "required": ["model", "env"],
    "properties": {
        "env": {"type": "string"},
        "model": {"required": ["name"], "properties": {"name": {}, "digest": {}}},
        "approvals": {"type": "array", "items": {"properties": {"person": {}, "roles": {"items": {"type": "string"}}}}},
        "groups": {"additionalProperties": {"properties": {"size": {}}}},
        "free": {"properties": {"known": {}}, "additionalProperties": True},
    },
}
ALLOW = "default allow := false\n\nallow if input.env\n\n"
OPENS: dict[str, tuple[str, str, tuple[int, int]]] = {
    "a message from an optional field": ('deny contains sprintf("%s", [input.who]) if input.bad', "deny-head-undefined", (7, 30)),
    "an object with an optional field": ('deny contains {"id": "A", "who": input.who} if input.bad', "deny-head-undefined", (7, 34)),
    "an obligation from an optional field": (
        'obligations contains {"type": "round", "digits": input.digits} if input.bad',
        "deny-head-undefined",
        (7, 50),
    ),
    "a local for the message alone": (
        'deny contains msg if {\n\tinput.bad\n\tmsg := concat(" ", ["no", input.who])\n}',
        "deny-head-undefined",
        (9, 28),
    ),
    "a rule that reads an optional field": ('who := input.who\n\ndeny contains sprintf("%s", [who]) if input.bad', "deny-head-undefined", (9, 30)),
    "a rule that looks up by an optional field": (
        "p := data.params[input.model.name]\n\nobligations contains p.digits if input.bad",
        "deny-head-undefined",
        (9, 22),
    ),
    "a rule whose body may fail": ("limit := 3 if input.a\n\ndeny contains limit if input.bad", "deny-head-undefined", (9, 15)),
    "data that was not given": ("deny contains 1 if input.rows > data.absent.rows", "undeclared-data", (7, 33)),
    "a loop over data that was not given": ("deny contains a if some a in data.absent.names", "undeclared-data", (7, 30)),
    "an alias of data that was not given": ("cfg := data.absent\n\ndeny contains 1 if input.rows > cfg.rows", "undeclared-data", (9, 33)),
    "a misspelt rule": ("deny contains 1 if data.p.alow", "unknown-reference", (7, 20)),
}
QUIET: dict[str, str] = {
    "the body asks for it": 'deny contains sprintf("%s", [input.who]) if input.who == "x"',
    "the body asks for what is below it": 'deny contains sprintf("%v", [input.who]) if input.who.name == "x"',
    "object.get": 'deny contains object.get(input, "who", "someone") if input.bad',
    "a comprehension is never undefined": "deny contains count([1 | input.who]) if input.bad",
    "a template says so": 'deny contains $"{input.who} is bad" if input.bad',
    "a rule with a default": 'default who := "someone"\n\nwho := input.who\n\ndeny contains who if input.bad',
    "an else without a body": 'who := input.who if input.who\nelse := "someone"\n\ndeny contains who if input.bad',
    "the body asks for the rule": "who := input.who\n\ndeny contains who if {\n\tinput.bad\n\twho\n}",
    "absence of data is an answer": "deny contains 1 if not data.absent.open",
    "data that was given": "deny contains 1 if input.rows > data.params.rows",
    "data with a default": "default rows := 3\n\nrows := data.absent.rows\n\ndeny contains 1 if input.rows > rows",
}


def findings(body: str, schema: Any = None) -> list[Issue]:
    engine = Engine({"p.rego": f"package p\n\n{ALLOW}{body}\n"}, {"params": {"rows": 3}}, input_schema=schema)
    return [found for found in engine.check() if found.severity == "error"]


@pytest.mark.parametrize("name", OPENS)
def test_what_opens_silently_is_an_error_with_its_place(name):
    body, rule, place = OPENS[name]
    (found,) = findings(body)
    assert (found.rule, found.line, found.column) == (rule, *place)
    assert found.render().splitlines()[2].index("^") == found.column + len("  | ") - 1
    with pytest.raises(PolicyError, match=rule):
        Engine({"p.rego": f"package p\n\n{ALLOW}{body}\n"}, {"params": {"rows": 3}}, strict=True)


@pytest.mark.parametrize("name", QUIET)
def test_what_cannot_open_is_no_finding(name):
    assert findings(QUIET[name]) == []


def test_a_package_that_never_allows_is_told():
    (found,) = Engine({"p.rego": "package p\n\ndeny contains 1 if input.a\n"}).check()
    assert (found.rule, found.severity, found.line) == ("no-allow", "warning", 3)
    assert "default allow := false" in found.hint


@pytest.mark.parametrize(
    ("body", "path", "near"),
    [
        ("x := input.modl.name", "input.modl", "model"),
        ("x := input.model.nmae", "input.model.nmae", "name"),
        ('x if {\n\tsome a in input.approvals\n\ta.persn == "ada"\n}', "persn", "person"),
        ("x if input.approvals[_].rolls", "input.approvals._.rolls", "roles"),
        ("y if {\n\tsome g in input.groups\n\tg.sise > 3\n}", "sise", "size"),
        ("x if input.groups[input.env].sise > 3", "input.groups._.sise", "size"),
        ("x if every a in input.approvals { a.person }\n\ny := input.modle", "input.modle", "model"),
    ],
)
def test_a_path_the_schema_does_not_know_is_an_error_with_the_nearest_name(body, path, near):
    (found,) = findings(body, SCHEMA)
    assert found.rule == "unknown-input"
    assert f"`{path}`" in found.message
    assert found.hint == f"did you mean `{near}`?"


@pytest.mark.parametrize(
    "body", ["x := input.free.anything", "x := input.groups.g.size", "x if input.approvals[0].roles[1]", "x := input[input.env]"]
)
def test_a_path_the_schema_leaves_open_is_no_finding(body):
    assert findings(body, SCHEMA) == []


def test_a_field_the_schema_requires_is_not_optional():
    body = 'deny contains sprintf("%s", [input.model.name]) if input.approvals'
    assert [found.rule for found in findings(body)] == ["deny-head-undefined"]
    assert findings(body, SCHEMA) == []
    assert [found.rule for found in findings(body.replace("name", "digest"), SCHEMA)] == ["deny-head-undefined"]


REFUSED_BY_OPA = {
    "unsafe variable": "x if y == 1",
    "unsafe variable in a head": "x := y",
    "unsafe variable under not": "x if {\n\tnot f(y)\n}\n\nf(_) := true",
    "unknown function": "x if nothing.known(1)",
    "unknown rule of the package": "x if data.p.nothing.known(1)",
    "wrong number of arguments": "x := count(1, 2)",
    "wrong number of arguments of a rule": "f(a) := a\n\nx := f(1, 2)",
    "recursion": "x if y\n\ny if x",
    "recursion over data": "x if data.p[input.name]",
    "rule and set": "x := 1\n\nx contains 1",
    "two defaults": "default x := 1\n\ndefault x := 2",
    "default that reads": "default x := input.y",
    "unused import": "import data.q\n\nx := 1",
    "duplicate import": "import data.q\nimport data.r as q\n\nx := q",
    "unused local": "x if y := 1",
    "unused argument": "f(a) := 1\n\nx := f(2)",
    "input shadowed": "x if input := 1",
    "data as an argument": "f(data) := data",
    "declared twice": "x if {\n\ta := 1\n\ta := 2\n\ta == 2\n}",
    "used before declared": "x if {\n\ta == 1\n\ta := 1\n}",
    "deprecated": "x := any([true])",
    "rule and package": "q.r := 1\n\nq := 2",
    "no if": "x { true }",
    "with on a local": "x if {\n\ty := 1\n\ttrue with y as 2\n}",
    "else on a set": "x contains 1 if false else := 2 if true",
    "every without a body that can hold": "x if every a in b { a }",
    "some never used": "x if some a",
    "comprehension with an unsafe variable": "x := [y | true]",
    "comprehension in a message with an unsafe variable": "deny contains count({y | z := 1}) if true",
    "template with an unsafe variable": 'x := $"{y}"',
}


@pytest.mark.component("opa")
@pytest.mark.parametrize("name", REFUSED_BY_OPA)
def test_what_opas_strict_check_refuses_is_refused_here(name, tmp_path):
    text = f"package p\n\n{REFUSED_BY_OPA[name]}\n"
    (tmp_path / "p.rego").write_text(text)
    binary = opa_binary()
    assert binary is not None
    told = subprocess.run([binary, "check", "--strict", str(tmp_path)], capture_output=True, text=True, check=False)
    assert told.returncode != 0, "OPA takes it: no case for this table"
    with pytest.raises(PolicyError) as refused:
        Engine({"p.rego": text}, strict=True)
    assert all(issue.line >= 1 and issue.column >= 1 for issue in refused.value.issues)
