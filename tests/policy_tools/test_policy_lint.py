"""Each lint rule finds its trap, leaves the better text alone, and can be silenced in one place with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from policies.lint.run import known_rules, lint

HEAD = "# METADATA\n# title: Office\npackage policy.office\n\n"
LONG = "x" * 150
BAD_AND_GOOD: dict[str, tuple[str, str]] = {
    "truthy-input": ("default allow := false\nallow if input.subject.verified", "default allow := false\nallow if input.subject.verified == true"),
    "different-from-some": (
        'default allow := false\nallow if input.subject.scopes[_] != "pin"',
        'default allow := false\nallow if not "pin" in input.subject.scopes',
    ),
    "negated-nested": ("x if not is_object(data.reports.a)", "x if not known\nknown if is_object(data.reports.a)"),
    "constant-condition": (
        'default allow := false\nallow if {\n\t1 == 1\n\tinput.env == "a"\n}',
        'default allow := false\nallow if input.env == "a"',
    ),
    "default-allow": ("default allow := true", "default allow := false"),
    "missing-default": ('allow if input.env == "a"', 'default allow := false\nallow if input.env == "a"'),
    "unanchored-pattern": (
        'default allow := false\nallow if regex.match("admin", input.env)',
        'default allow := false\nallow if regex.match("^admin$", input.env)',
    ),
    "format-arguments": ('x := sprintf("%d of %5.2f%%", [1])', 'x := sprintf("%d of %5.2f%%", [1, 2])'),
    "clock": ("default allow := false\nallow if time.now_ns() > 0", "default allow := false\nallow if count(input.approvals) > 0"),
    "print": ('default allow := false\nallow if {\n\tprint("x")\n\tinput.env == "a"\n}', 'default allow := false\nallow if input.env == "a"'),
    "unused-rule": ("helper := 3", "default allow := false\nhelper := 3\nallow if input.x == helper"),
    "reason-shape": ('deny contains {"msg": "no"} if input.x == 1', 'deny contains {"id": "OFFICE-1", "msg": "no"} if input.x == 1'),
    "reason-id": ('deny contains {"id": "no good", "msg": "no"} if input.x == 1', 'deny contains {"id": "OFFICE-1", "msg": "no"} if input.x == 1'),
    "value-in-reason": (
        'deny contains {"id": "OFFICE-1", "msg": msg} if {\n\tinput.x == 1\n\tmsg := sprintf("%s", [input.tenant])\n}',
        'deny contains {"id": "OFFICE-1", "msg": msg} if {\n\tinput.x == 1\n\tmsg := sprintf("%d", [data.most])\n}',
    ),
    "message-length": (
        f'deny contains {{"id": "OFFICE-1", "msg": "{LONG}{LONG}"}} if input.x == 1',
        'deny contains {"id": "OFFICE-1", "msg": "no"} if input.x == 1',
    ),
    "status-range": (
        'deny contains {"id": "OFFICE-1", "msg": "no", "status": 200} if input.x == 1',
        'deny contains {"id": "OFFICE-1", "msg": "no", "status": 422} if input.x == 1',
    ),
    "obligation-type": ('obligations contains {"type": "rond"} if input.x == 1', "obligations contains duty if some duty in data.duties"),
    "unify": ("x = 1 if input.y = 1", "x := 1 if input.y == 1"),
    "name": ("isAllowed := 1", "is_allowed := 1"),
    "line-length": (f'x := "{LONG}"', 'x := "short"'),
    "long-rule": ("x if {\n" + "\n".join(f"\tinput.a == {number}" for number in range(16)) + "\n}", "x if input.a == 1"),
    "default-first": ("allow if input.a == 1\ndefault allow := false", "default allow := false\nallow if input.a == 1"),
    "untested-reason": (
        'deny contains {"id": "OFFICE-9", "msg": "no"} if input.x == 1',
        'deny contains {"id": "OFFICE-1", "msg": "no"} if input.x == 1',
    ),
    "test-file": ("test_x if input.a == 1", "x if input.a == 1"),
}
TESTED = 'package policy.office_test\n\ntest_x if data.policy.office.deny == {{"id": "OFFICE-1"}}\n'


def found(text: str, rule: str, **more: str):
    return [issue for issue in lint({"office.rego": text, "office_test.rego": TESTED, **more}, only=[rule]) if issue.rule == rule]


@pytest.mark.parametrize("rule", BAD_AND_GOOD)
def test_a_rule_finds_its_trap_and_leaves_the_better_text_alone(rule):
    bad, good = BAD_AND_GOOD[rule]
    assert len(found(HEAD + bad, rule)) >= 1
    assert found(HEAD + good, rule) == []


def test_a_package_that_decides_has_a_title():
    assert found("package policy.office\nx := 1", "title")
    assert found("# METADATA\n# description: x\npackage policy.office\nx := 1", "title")
    assert not found(HEAD + "x := 1", "title")
    assert not found("package lib.office\nx := 1", "title")


def test_an_id_means_one_package():
    other = '# METADATA\n# title: B\npackage policy.b\ndeny contains {"id": "OFFICE-1", "msg": "m"} if input.x == 1\n'
    text = HEAD + 'deny contains {"id": "OFFICE-1", "msg": "m"} if input.x == 1\ndeny contains {"id": "OFFICE-1", "msg": "m"} if input.x == 2\n'
    assert not found(text, "duplicate-id")
    (issue,) = lint({"a.rego": text, "b.rego": other}, only=["duplicate-id"])
    assert (issue.file, issue.message) == ("b.rego", "`OFFICE-1` is also of `policy.office`")


def test_tests_live_in_a_package_of_their_own():
    assert lint({"a_test.rego": "package a\ntest_x := true"}, only=["test-package"])
    assert not lint({"a_test.rego": "package a_test\ntest_x := true"}, only=["test-package"])


def test_a_reason_named_in_cases_is_tested():
    text = HEAD + 'deny contains {"id": "OFFICE-9", "msg": "m"} if input.x == 1'
    assert lint({"a.rego": text}, only=["untested-reason"])
    assert not lint({"a.rego": text}, ["expect: {deny: [OFFICE-9]}"], only=["untested-reason"])


def test_every_rule_has_a_case_here_and_a_reason():
    assert set(known_rules()) == {*BAD_AND_GOOD, "title", "duplicate-id", "test-package", "ignore"}
    for rule in known_rules().values():
        assert rule.title
        assert rule.reason.endswith(".")


@pytest.mark.parametrize(
    "place", ["allow if input.a # lint: ignore truthy-input set by us", "# lint: ignore truthy-input: set by us\nallow if input.a"]
)
def test_a_comment_with_a_reason_silences_one_place(place):
    text = HEAD + f"default allow := false\n{place}\nallow if input.b\n"
    issues = lint({"a.rego": text}, only=["truthy-input", "ignore"])
    assert [(issue.rule, issue.snippet) for issue in issues] == [("truthy-input", "allow if input.b")]


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("# lint: ignore truthy-input", "it gives no reason"),
        ("# lint: ignore", "it names no rule"),
        ("# lint: ignore truthy set by us", "there is no rule `truthy`"),
        ("# lint: ignore print left on purpose", "there is nothing to silence"),
    ],
)
def test_a_comment_that_silences_nothing_is_a_finding(comment, message):
    issues = lint({"a.rego": HEAD + f"default allow := false\nallow if input.a {comment}\n"}, only=["truthy-input", "print", "ignore"])
    assert [issue.message for issue in issues if issue.rule == "ignore"] == [message]
    assert any(issue.rule == "truthy-input" for issue in issues)


def test_a_rule_that_did_not_run_leaves_its_ignores_alone():
    text = HEAD + "default allow := false\nallow if input.a # lint: ignore truthy-input set by us\n"
    assert not lint({"a.rego": text}, without=["truthy-input", "untested-reason"])


def test_findings_come_with_their_reason_and_exit_1(tmp_path):
    (tmp_path / "office.rego").write_text(HEAD + "default allow := true\n")
    done = CliRunner().invoke(app, ["policy", "lint", str(tmp_path)])
    assert done.exit_code == 1
    assert "office.rego:5:1: warning[default-allow]: what no rule foresaw is allowed" in done.stdout
    assert "why: What no rule foresaw is then allowed." in done.stdout
    document = json.loads(CliRunner().invoke(app, ["policy", "lint", str(tmp_path), "--json"]).stdout)
    assert [issue["rule"] for issue in document["issues"]] == ["default-allow"]
    assert CliRunner().invoke(app, ["policy", "lint", str(tmp_path), "--without", "default-allow"]).exit_code == 0


def test_an_unknown_rule_is_usage_with_the_nearest_name(tmp_path):
    done = CliRunner().invoke(app, ["policy", "lint", str(tmp_path), "--without", "defalt-allow"])
    assert done.exit_code == 2
    assert "did you mean `default-allow`?" in done.stderr


def test_rules_are_listed_with_their_reasons():
    told = json.loads(CliRunner().invoke(app, ["policy", "lint", "--rules", "--json"]).stdout)
    assert [rule["id"] for rule in told] == list(known_rules())
    assert "truthy-input" in CliRunner().invoke(app, ["policy", "lint", "--rules"]).stdout


def test_the_shipped_policies_have_no_finding():
    assert CliRunner().invoke(app, ["policy", "lint", "policies/default"]).exit_code == 0


def test_the_page_lists_every_rule_and_no_other():
    page = (Path(__file__).parents[2] / "docs/policies.md").read_text()
    table = page.split("\n## Lint\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == set(known_rules())
