"""`assay policy check`: every layer refuses, with a place and a way out, and nothing that cannot be enforced passes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app

GOOD = 'package policy.office\n\ndefault allow := false\n\nallow if input.env == "production"\n'


def check(folder, files, *more: str):
    for name, text in files.items():
        (folder / name).write_text(text)
    return CliRunner().invoke(app, ["policy", "check", str(folder), *more])


def test_good_policies_are_ok(tmp_path):
    done = check(tmp_path, {"office.rego": GOOD})
    assert done.exit_code == 0
    assert done.stdout == "ok: 1 module, no errors, no warnings\n"


@pytest.mark.parametrize(
    ("text", "rule", "place"),
    [
        ("package policy.office\nallow {", "parse", (2, 7)),
        ("package policy.office\nallow if input.x == y", "unsafe-var", (2, 10)),
        ("package policy.office\nallow if cuont(input.x) > 1", "unknown-function", (2, 10)),
        ("package policy.office\nimport data.other\nallow if true", "unused-import", (2, 1)),
        ('package policy.office\nallow if true\ndeny contains {"id": "A", "msg": input.x} if true', "deny-head-undefined", (3, 34)),
        ("package policy\nallow := true", "not-enforceable", (1, 1)),
        ("package policy.office\nallow if data.policy.approval.alow", "unknown-reference", (2, 10)),
    ],
)
def test_a_finding_has_rule_place_caret_and_exit_1(tmp_path, text, rule, place):
    done = check(tmp_path, {"office.rego": text}, "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["ok"]) == (1, False)
    found = next(issue for issue in document["issues"] if issue["rule"] == rule)
    assert (found["line"], found["column"]) == place
    said = check(tmp_path, {}).stdout
    assert f"office.rego:{place[0]}:{place[1]}: error[{rule}]" in said


def test_the_nearest_name_is_told(tmp_path):
    said = check(tmp_path, {"office.rego": "package policy.office\nallow if data.policy.approval.alow"}).stdout
    assert "did you mean `allow`?" in said


def test_the_input_schema_names_the_nearest_field(tmp_path):
    schema = {"properties": {"env": {"type": "string"}, "model": {"properties": {"risk": {}}}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    done = check(tmp_path, {"office.rego": GOOD.replace("input.env", "input.model.rsk")}, "--schema", str(tmp_path / "schema.json"))
    assert done.exit_code == 1
    assert "the input schema has no `input.model.rsk`" in done.stdout
    assert "did you mean `risk`?" in done.stdout


def test_warnings_do_not_refuse_but_are_told(tmp_path):
    done = check(tmp_path, {"office.rego": GOOD + 'deny contains {"id": "A", "msg": "m"} if closed\n\nclosed if data.lists.closed\n'})
    assert done.exit_code == 0
    assert "warning[undeclared-data]" in done.stdout
    assert done.stdout.endswith("ok: 1 module, no errors, 1 warning\n")


LIMITED = 'package policy.office\n\ndeny contains {"id": "A", "msg": "m"} if input.request.rows > data.params.most_rows\n'


@pytest.mark.parametrize("named", [".", "config", "config/policies"])
def test_from_a_deployments_root_the_parameters_of_its_policies_are_found(tmp_path, monkeypatch, named):
    policies = tmp_path / "config" / "policies"
    policies.mkdir(parents=True)
    (policies / "office.rego").write_text(LIMITED)
    (policies / "params.yaml").write_text("most_rows: 3\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["policy", "check", named])
    assert (done.exit_code, "undeclared-data" in done.stdout) == (0, False), done.stdout
    assert ("`data.params` is `config/policies/params.yaml`" in done.stdout) == (named != "config/policies")


def test_parameters_that_are_nowhere_are_said_to_be(tmp_path):
    done = check(tmp_path, {"office.rego": LIMITED})
    assert done.exit_code == 1
    assert "undeclared-data" in done.stdout
    assert "no `params.yaml` lies in what was named" in done.stdout


def test_a_folder_without_policies_is_no_pass(tmp_path):
    done = check(tmp_path, {"modes.yaml": "modes: {}"})
    assert done.exit_code == 2
    assert "no `.rego` file" in done.stderr


def test_the_shipped_policies_pass():
    done = CliRunner().invoke(app, ["policy", "check", "policies/default"])
    assert done.exit_code == 0
