"""Cases in YAML: judged as the gateway judges, and strict about what they mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.main import app
from policies.sources import SourceError
from policies.testing.cases import load_cases
from policies.testing.run import Suite

OFFICE = """# METADATA
# title: Office hours
package policy.office

default allow := false

allow if count(deny) == 0

closing := data.params.office.closing

deny contains {"id": "OFFICE-1", "msg": "the office is closed"} if not open

open if input.hour < closing

warn contains {"id": "OFFICE-2", "msg": "it closes soon"} if {
	open
	input.hour >= closing - 1
}
"""
CASES = """input: {hour: 9, model: {risk: low}, list: [1, 2]}
params: {office.closing: 18}
cases:
  - case: by day it is open
    expect: {decision: allow, deny: [], warn: []}
  - case: in the last hour it warns
    change: {hour: 17}
    expect: {decision: allow_with_warnings, warn: [OFFICE-2]}
  - case: at night it is closed
    change: {hour: 20}
    expect: {decision: deny, deny: [OFFICE-1]}
  - case: without an hour it is closed
    remove: [hour]
    expect: {decision: deny, deny: [OFFICE-1]}
  - case: on long days it is open
    change: {hour: 20}
    params: {office.closing: 22}
    expect: {decision: allow, values: {data.policy.office.closing: 22, data.policy.office.missing: undefined}}
"""


def run(cases: str, modules: dict[str, str] | None = None):
    suite = Suite(modules or {"office.rego": OFFICE}, {}, load_cases("cases.yaml", cases))
    return {test.name: suite.run(test) for test in suite.tests}


def test_what_packages_say_is_compared_with_what_is_expected():
    assert {name: result.outcome for name, result in run(CASES).items()} == dict.fromkeys(run(CASES), "pass")
    assert len(run(CASES)) == 5


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("{decision: deny}", "the decision is `allow`, not `deny`: without a reason"),
        ("{deny: [OFFICE-1]}", "`deny` is empty, expected `OFFICE-1`"),
        ("{warn: [OFFICE-2]}", "`warn` is empty, expected `OFFICE-2`"),
        ("{obligations: [round]}", "`obligations` is empty, expected `round`"),
        ("{values: {data.policy.office.closing: 17}}", "`data.policy.office.closing` is `18`, expected `17`"),
        ("{values: {data.policy.office.allow: 1}}", "`data.policy.office.allow` is `true`, expected `1`"),
        ("{values: {data.policy.office.none: 1}}", "`data.policy.office.none` is `undefined`, expected `1`"),
    ],
)
def test_each_expectation_can_fail_and_says_how(expect, said):
    cases = f"input: {{hour: 9}}\nparams: {{office.closing: 18}}\ncases:\n  - case: x\n    expect: {expect}\n"
    (result,) = run(cases).values()
    assert (result.outcome, result.message, result.line) == ("fail", said, 4)


def test_a_failed_case_explains_the_rule_that_decided():
    (result,) = run("input: {hour: 20}\nparams: {office.closing: 18}\ncases: [{case: x, expect: {decision: allow}}]").values()
    assert "the decision is `deny`, not `allow`: OFFICE-1 (the office is closed)" in result.message
    assert "input.hour is 20" in result.explanation


def test_a_package_that_fails_denies_as_in_the_gateway():
    broken = OFFICE.replace("input.hour < closing", 'input.hour < to_number("x")')
    (result,) = run("input: {hour: 9}\ncases: [{case: x, expect: {decision: deny, deny: [ENGINE-ERR]}}]", {"office.rego": broken}).values()
    assert result.outcome == "pass"


def test_a_case_may_take_many_steps():
    text = OFFICE.replace("if count(deny) == 0", "if {\n\tcount(deny) == 0\n\tevery hour in numbers.range(1, 3000) { hour > 0 }\n}")
    assert text != OFFICE
    (result,) = run("input: {hour: 9}\nparams: {office.closing: 18}\ncases: [{case: x, expect: {decision: allow}}]", {"office.rego": text}).values()
    assert (result.outcome, result.message) == ("pass", "")


def test_packages_that_only_deny_are_judged_by_what_they_say():
    text = '# METADATA\n# title: x\npackage policy.night\ndeny contains {"id": "N-1", "msg": "m"} if input.hour > 20\n'
    (result,) = run("input: {hour: 9}\ncases: [{case: x, expect: {decision: allow, deny: []}}]", {"night.rego": text}).values()
    assert result.outcome == "pass"


def test_an_unknown_package_or_none_is_no_pass():
    (result,) = run("input: {}\npackages: [ofice]\ncases: [{case: x, expect: {decision: deny}}]").values()
    assert (result.outcome, result.message) == ("error", "there is no package `policy.ofice`")
    (result,) = run("input: {}\ncases: [{case: x, expect: {decision: allow}}]", {"lib.rego": "package lib\nx := 1\n"}).values()
    assert result.outcome == "error"


def test_the_clock_is_set_by_the_case():
    text = "# METADATA\n# title: x\npackage policy.day\nyear := time.date(time.now_ns())[0]\nallow if year == 2031\n"
    cases = "input: {}\ncases:\n"
    cases += "".join(
        f"  - {{case: {number}, now: {now}, expect: {{decision: allow}}}}\n" for number, now in [("a", "2031-05-01T00:00:00Z"), ("b", 0)]
    )
    assert [result.outcome for result in run(cases, {"day.rego": text}).values()] == ["pass", "fail"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: []", "cases.yaml:1: cases start from `input` or from `input_file`"),
        ("input: {}\ncases: []", "cases.yaml:1: `cases` is a list with at least one case"),
        ("input: {}\ncase: []", "cases.yaml:1: unknown key `case`"),
        ("input: {}\ncases:\n  - case: x", "cases.yaml:3: a case has a name and an expectation"),
        ("input: {}\ncases:\n  - case: x\n    expect: {}", "cases.yaml:3: nothing is expected"),
        ("input: {}\ncases:\n  - case: x\n    expect: {decision: refuse}", "cases.yaml:3: decision `refuse`"),
        ("input: {}\ncases:\n  - case: x\n    expect: {deny: OFFICE-1}", "cases.yaml:3: `deny` is a list of texts"),
        ("input: {hour: 1}\ncases:\n  - case: x\n    change: {hours: 2}\n    expect: {deny: []}", "cases.yaml:3: there is no `hours` in the input"),
        ("input: {a: [1]}\ncases:\n  - case: x\n    change: {a.1: 2}\n    expect: {deny: []}", "cases.yaml:3: there is no `a.1` in the input"),
        ("input: {a: 1}\ncases:\n  - case: x\n    add: {a.b: 2}\n    expect: {deny: []}", "cases.yaml:3: `a.b`: there is nothing below which `b`"),
        ("input: {}\ncases:\n  - case: x\n    remove: [b]\n    expect: {deny: []}", "cases.yaml:3: there is no `b` in the input"),
        ("input: {}\ncases:\n  - case: x\n    now: 2026-01-01\n    expect: {deny: []}", "cases.yaml:3: `now: 2026-01-01` is no time"),
        ("input: {}\ncases:\n  - {case: x, expect: {deny: []}}\n  - {case: x, expect: {deny: []}}", "cases.yaml:4: there are two cases `x`"),
        ("input: {}\ncases:\n  - {case: x, expect: {values: {deny: 1}}}", "cases.yaml:3: `deny` is no reference"),
        ("input_file: absent.json\ncases:\n  - {case: x, expect: {deny: []}}", "`absent.json` cannot be read"),
    ],
)
def test_a_case_that_could_test_nothing_is_refused_with_its_line(text, said):
    with pytest.raises(SourceError) as caught:
        load_cases("cases.yaml", text)
    assert str(caught.value).startswith(said)


def test_the_nearest_name_of_a_place_is_told():
    with pytest.raises(SourceError) as caught:
        load_cases("cases.yaml", "input: {model: {risk: low}}\ncases:\n  - {case: x, change: {model.rsk: high}, expect: {deny: []}}")
    assert "did you mean `risk`?" in caught.value.hint


def test_changes_of_one_case_do_not_reach_the_next():
    first, second = load_cases(
        "c.yaml", "input: {a: {b: [1]}}\ncases: [{case: x, change: {a.b.0: 2}, expect: {deny: []}}, {case: y, expect: {deny: []}}]"
    )
    assert (first.document, second.document) == ({"a": {"b": [2]}}, {"a": {"b": [1]}})


@given(st.lists(st.text(alphabet="ab.~/", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
def test_a_json_pointer_reaches_names_that_a_dotted_path_cannot(names):
    document: dict = {"leaf": 0}
    for name in reversed(names):
        document = {name: document}
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names) + "/leaf"
    entry = {"input": document, "cases": [{"case": "x", "change": {pointer: 7}, "expect": {"deny": []}}]}
    (case,) = load_cases("cases.yaml", json.dumps(entry))
    node = case.document
    for name in names:
        node = node[name]
    assert node == {"leaf": 7}


def test_cases_run_beside_tests_and_count_for_coverage_and_removal(tmp_path):
    (tmp_path / "office.rego").write_text(OFFICE)
    (tmp_path / "cases.yaml").write_text(CASES)
    done = CliRunner().invoke(app, ["policy", "test", str(tmp_path), "--threshold", "100", "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["counts"]["pass"] == 5
    assert told["coverage"]["lines"]["covered"] == told["coverage"]["lines"]["total"] > 0
    assert [part["text"] for part in told["unnoticed"]["parts"]] == ["default allow := false", "count(deny) == 0", "open"]


def test_a_broken_file_of_cases_is_usage(tmp_path):
    (tmp_path / "office.rego").write_text(OFFICE)
    (tmp_path / "office_cases.yaml").write_text("input: {}\ncases: [{case: x, expct: {}}]")
    done = CliRunner().invoke(app, ["policy", "test", str(tmp_path)])
    assert done.exit_code == 2
    assert "unknown key `expct`" in done.stderr
    assert "did you mean `expect`?" in done.stderr


def test_a_reason_nobody_expected_is_a_failure():
    (result,) = run("input: {hour: 20}\nparams: {office.closing: 18}\ncases: [{case: x, expect: {deny: []}}]").values()
    assert (result.outcome, result.message) == ("fail", "`deny` is `OFFICE-1`, expected empty")
