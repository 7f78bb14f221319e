"""`assay policy explain` names the expression that decided and the value it saw."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app

POLICY = 'package policy.office\n\ndefault allow := false\n\nallow if {\n\tinput.env == "production"\n\tinput.hour < 18\n}\n'


@pytest.fixture
def explain(tmp_path):
    (tmp_path / "office.rego").write_text(POLICY)

    def run(query: str, document: str, *more: str):
        (tmp_path / "input.json").write_text(document)
        return CliRunner().invoke(app, ["policy", "explain", query, str(tmp_path / "office.rego"), "--input", str(tmp_path / "input.json"), *more])

    return run


def test_the_deciding_expression_comes_with_its_values(explain):
    done = explain("data.policy.office.allow", '{"env": "production", "hour": 20}')
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert lines[2:] == [
        'yes input.env == "production" line 6',
        "NO input.hour < 18 line 7",
        "input.hour is 20",
        "",
        "data.policy.office.allow = false",
    ]


def test_full_shows_the_values_of_what_held(explain):
    assert 'input.env is "production"' in explain("data.policy.office.allow", '{"env": "production", "hour": 9}', "--full").stdout
    assert 'input.env is "production"' not in explain("data.policy.office.allow", '{"env": "production", "hour": 9}').stdout


def test_a_query_of_several_statements_is_traced_too(explain):
    done = explain("input.hour > 30; data.policy.office.allow", '{"hour": 20}')
    assert "input.hour is 20" in done.stdout
    assert "is undefined: no rule gives it a value" in done.stdout


def test_json_has_rules_and_expressions_in_the_order_they_ran(explain):
    document = json.loads(explain("data.policy.office.allow", '{"env": "staging"}', "--json").stdout)
    assert document["result"] is False
    (first, second) = document["rules"]
    assert first["expressions"] == [
        {"line": 6, "text": 'input.env == "production"', "held": 0, "failed": 1, "samples": [{"held": False, "values": {"input.env": '"staging"'}}]}
    ]
    assert (second["name"], second["result"]) == ("data.policy.office.allow", "false")


def test_the_shipped_policies_can_be_asked_as_they_run_beside_ones_own(explain):
    done = explain("data.policy.approval.allow", "{}")
    assert "count(approvers) is 0" in done.stdout


def test_an_unknown_name_is_told_apart_from_a_rule_that_said_nothing(explain):
    done = explain("data.policy.ofice.allow", "{}")
    assert "No rule was asked." in done.stdout
    assert "is the name right?" in done.stderr


def test_a_query_that_is_no_rego_is_usage(explain):
    done = explain("data.policy.", "{}")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error[parse]" in done.stderr
