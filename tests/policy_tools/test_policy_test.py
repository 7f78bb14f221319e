"""`assay policy test`: outcomes are OPA's, a failure says why, and what no test holds in place is named."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opa_server import INSTALL_HINT, opa_binary
from typer.testing import CliRunner

from gateway.cli.main import app
from policies.rego import Engine, PolicyError
from policies.rego.parser import parse_module
from policies.testing.mutation import removals
from policies.testing.report import run_tests
from policies.testing.run import Suite

OPA = opa_binary()
OFFICE = """package office

default allow := false

allow if {
	input.env == "production"
	input.hour < 18
}

allow if input.admin
"""
TESTS = """package office_test

import data.office

test_by_day if office.allow with input as {"env": "production", "hour": 9}

test_by_night if office.allow with input as {"env": "production", "hour": 20}

test_false := false

test_number := 1

test_conflict := x if some x in [true, false]

todo_test_later if office.allow == false

test_hours[name] if {
	some name, hour in {"day": 9, "night": 20}
	office.allow with input as {"env": "production", "hour": hour}
}

test_all_hours[name] if {
	some name, hour in {"day": 9, "noon": 12}
	office.allow with input as {"env": "production", "hour": hour}
}

test_two_levels[env][hour] if {
	some env in ["production", "staging"]
	some hour in [9, 20]
	office.allow with input as {"env": env, "hour": hour}
}

helper := 3
"""


def results(modules: dict[str, str], **options: bool):
    suite = Suite(modules, **options)
    return {test.name: suite.run(test) for test in suite.tests}


def invoke(folder, files: dict[str, str], *more: str):
    for name, text in files.items():
        (folder / name).write_text(text)
    return CliRunner().invoke(app, ["policy", "test", str(folder), *more])


@pytest.mark.component("opa")
@pytest.mark.skipif(OPA is None, reason=INSTALL_HINT)
def test_outcomes_and_cases_are_those_of_opa(tmp_path):
    (tmp_path / "office.rego").write_text(OFFICE)
    (tmp_path / "office_test.rego").write_text(TESTS)
    done = subprocess.run([OPA, "test", ".", "--format", "json"], capture_output=True, text=True, cwd=tmp_path, check=False)

    def outcome(told):
        return "todo" if told.get("skip") else "error" if told.get("error") else "fail" if told.get("fail") else "pass"

    def leaves(told, path=()):
        for name, below in told.items():
            if below.get("sub_results"):
                yield from leaves(below["sub_results"], (*path, name))
            else:
                yield " / ".join((*path, name)), not below.get("fail", False)

    theirs = {told["name"].partition("[")[0]: (outcome(told), dict(leaves(told.get("sub_results") or {}))) for told in json.loads(done.stdout)}
    ours = results({"office.rego": OFFICE, "office_test.rego": TESTS}, lenient=True)
    assert {name: (result.outcome, dict(result.cases)) for name, result in ours.items()} == theirs
    assert {result.outcome for result in ours.values()} == {"pass", "fail", "error", "todo"}


def test_a_test_without_a_case_fails_where_opa_lets_it_pass():
    (found,) = results({"a_test.rego": "package a\ntest_rows[name] if some name, _ in data.rows\n"}).values()
    assert (found.outcome, found.message) == ("fail", "the test has no case: its table is empty or undefined")


def test_a_failure_says_which_expression_and_what_it_saw(tmp_path):
    done = invoke(tmp_path, {"office.rego": OFFICE, "office_test.rego": TESTS}, "--run", "by_night")
    assert done.exit_code == 1
    assert "FAIL  by night" in done.stdout
    assert "NO   input.hour < 18" in done.stdout
    assert "input.hour is 20" in done.stdout


def test_a_test_that_errs_is_no_pass_and_says_why():
    found = results({"a_test.rego": 'package a\ntest_x if not to_number("x") == 3\n'})["test_x"]
    assert (found.outcome, found.message[:19]) == ("error", "eval_builtin_error:")


def test_lenient_makes_the_error_of_a_builtin_undefined_as_opa_does():
    text = 'package a\nx if to_number("x") == 3\ntest_x if not x\n'
    assert results({"a_test.rego": text})["test_x"].outcome == "error"
    assert results({"a_test.rego": text}, lenient=True)["test_x"].outcome == "pass"


def test_no_test_is_no_pass(tmp_path):
    done = invoke(tmp_path, {"office.rego": OFFICE})
    assert done.exit_code == 1
    assert "There is no test here" in done.stdout


def test_only_todo_is_no_pass(tmp_path):
    assert invoke(tmp_path, {"a_test.rego": "package a\ntodo_test_x if false\n"}).exit_code == 1


def test_a_pattern_that_finds_nothing_is_no_pass(tmp_path):
    assert invoke(tmp_path, {"a_test.rego": "package a\ntest_x := true\n"}, "--run", "tset").exit_code == 1
    assert invoke(tmp_path, {}, "--run", "[").exit_code == 2


def test_policies_that_do_not_load_are_usage_and_not_a_failed_test(tmp_path):
    done = invoke(tmp_path, {"a_test.rego": "package a\ntest_x if y\n"})
    assert done.exit_code == 2
    assert "error[unsafe-var]" in done.stderr


PASSING = """package office_test

import data.office

test_by_day if office.allow with input as {"env": "production", "hour": 9}

test_by_night if not office.allow with input as {"env": "production", "hour": 20}
"""


def test_a_threshold_asks_for_lines_and_for_rules(tmp_path):
    files = {"office.rego": OFFICE, "office_test.rego": PASSING}
    assert invoke(tmp_path, files).exit_code == 0
    done = invoke(tmp_path, {}, "--threshold", "90")
    assert done.exit_code == 1
    assert "Coverage 66.7 %: 4 of 5 lines reached, 2 of 3 rules gave a value; NOT ENOUGH, 90 % asked for" in done.stdout
    assert "office.rego:10  never gave a value: allow" in done.stdout
    assert invoke(tmp_path, {}, "--threshold", "60").exit_code == 0


def test_what_no_test_notices_is_named(tmp_path):
    done = invoke(tmp_path, {"office.rego": OFFICE, "office_test.rego": PASSING}, "--json")
    parts = {(part["line"], part["kind"], part["text"]) for part in json.loads(done.stdout)["unnoticed"]["parts"]}
    assert parts == {
        (3, "rule", "default allow := false"),
        (6, "expression", 'input.env == "production"'),
        (10, "rule", "allow"),
    }


def test_the_hint_is_empty_when_every_part_is_held_in_place(tmp_path):
    more = """
test_elsewhere if office.allow == false with input as {"env": "staging", "hour": 9}

test_admin if office.allow with input as {"admin": true}
"""
    done = invoke(tmp_path, {"office.rego": OFFICE, "office_test.rego": PASSING + more}, "--threshold", "100")
    assert done.exit_code == 0
    assert "Every one of the 6 parts tried is held in place by a test." in done.stdout


def test_an_unnoticed_part_really_can_go():
    modules = {"office.rego": OFFICE, "office_test.rego": PASSING}
    report = run_tests(Suite(modules), on_result=lambda _: None)
    assert report.hint is not None
    lines = OFFICE.splitlines()
    for part in report.hint.unnoticed:
        if part.kind == "expression":
            changed = [line.replace(part.text, "true") if number == part.line else line for number, line in enumerate(lines, start=1)]
            suite = Suite({**modules, "office.rego": "\n".join(changed)})
            assert all(suite.holds(test) for test in suite.tests), part


RULES = [
    "allow if input.a",
    "allow if {\n\tinput.a\n\tinput.b == 1\n}",
    "x := 1 if input.a else := 2 if input.b else := 3",
    "d contains x if { x := input.z }",
    "default y := 1",
    "f(a) := a if a > 1",
]


@given(st.lists(st.sampled_from(RULES), min_size=1, max_size=5, unique=True))
def test_a_removal_takes_away_one_part_and_changes_nothing_else(rules):
    module = parse_module("p.rego", "package p\n" + "\n".join(rules))
    for removal in removals(module):
        assert removal.module != module
        before, after = len(module.rules), len(removal.module.rules)
        assert before - after == (removal.kind == "rule")
        same = [new == old for new, old in zip(removal.module.rules, module.rules, strict=False)]
        if removal.kind != "rule":
            assert same.count(False) == 1
        try:
            Engine({"p.rego": removal.module})
        except PolicyError as error:
            assert all(issue.rule in {"unsafe-var", "unknown-function"} for issue in error.issues)  # noqa: PT017 - what a removal may break


def test_test_files_are_neither_covered_nor_mutated(tmp_path):
    document = json.loads(invoke(tmp_path, {"office.rego": OFFICE, "office_test.rego": PASSING}, "--json").stdout)
    assert [name.rpartition("/")[2] for name in document["coverage"]["files"]] == ["office.rego"]
    assert {part["file"].rpartition("/")[2] for part in document["unnoticed"]["parts"]} == {"office.rego"}


def test_the_junit_report_is_xml_with_one_suite_a_file(tmp_path):
    tests = TESTS.replace("test_false := false", 'test_false if {"\\u0000"} == {"\\ufffe"}')
    done = invoke(tmp_path, {"office.rego": OFFICE, "office_test.rego": tests}, "--junit", str(tmp_path / "report.xml"))
    assert done.exit_code == 1
    root = ET.parse(tmp_path / "report.xml").getroot()  # noqa: S314 - written a moment ago
    (suite,) = root.findall("testsuite")
    told = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
    assert told["test_by_day"] == []
    assert told["test_by_night"] == told["test_hours"] == ["failure"]
    assert told["test_conflict"] == ["error"]
    assert told["todo_test_later"] == ["skipped"]
    assert (root.get("tests"), root.get("skipped"), root.get("errors")) == (str(len(told)), "1", "1")
    assert int(root.get("failures")) == sum(tags == ["failure"] for tags in told.values())


def test_json_has_every_test_with_its_outcome(tmp_path):
    document = json.loads(invoke(tmp_path, {"office.rego": OFFICE, "office_test.rego": TESTS}, "--json").stdout)
    assert document["ok"] is False
    assert sum(document["counts"].values()) == len(document["tests"]) == 9
    assert document["unnoticed"] is None
    hours = next(told for told in document["tests"] if told["name"] == "test_hours")
    assert hours["cases"] == [{"name": "day", "held": True}, {"name": "night", "held": False}]


def test_every_part_of_the_shipped_policies_is_held_in_place_by_their_tests():
    done = CliRunner().invoke(app, ["policy", "test", "policies/default", "--threshold", "100", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["unnoticed"]["parts"] == []
