"""The schema of `input/v1` knows exactly the documents the gateway makes, and `check` finds misspelt fields by it."""

from __future__ import annotations

import pytest
from test_policy_templates import canary, facts
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.facts import ReplyFacts, input_document, reply_document
from policies.input_v1 import schema_of
from policies.metadata import POINTS

APPROVAL = {
    "person": "ada", "roles": [], "in_force": True, "model": "m", "version": "1", "digest": "", "environments": [], "max_exposure_ppm": 1,
}  # fmt: skip
FIXED = {
    "env": "production",
    "model": {"name": "m", "version": "1", "digest": "", "risk": "low", "stage": "candidate", "owner": "o"},
    "approvals": [APPROVAL],
    "params": {"max_rows": 1},
}
CALL = facts(experiment="e", arm="a")
DOCUMENTS = {
    "request": input_document(CALL, FIXED),
    "response": {**reply_document(CALL, FIXED, ReplyFacts(200, "application/json", 1))},
    "config": canary(),
}
DOCUMENTS["response"]["response"]["body"] = {"any": "thing"}


def known(schema, path=()):
    if "items" in schema:
        return known(schema["items"], (*path, "_"))
    if not schema.get("properties"):
        return {path}
    return {found for name, place in schema["properties"].items() for found in known(place, (*path, name))}


def made(document, schema, path=()):
    if isinstance(document, dict) and schema.get("properties"):
        return {found for name, item in document.items() for found in made(item, schema["properties"].get(name, {}), (*path, name))}
    if isinstance(document, list) and document:
        return made(document[0], schema.get("items", {}), (*path, "_"))
    return {(*path, "_")} if isinstance(document, list) else {path}


@pytest.mark.parametrize("point", POINTS)
def test_the_schema_knows_what_the_gateway_makes_and_nothing_else(point):
    schema = schema_of({point})
    assert made(DOCUMENTS[point], schema) == known(schema) - {("params", "max_kib")}


def check(folder, body, points="request"):
    text = f"# METADATA\n# title: x\n# custom: {{points: [{points}]}}\npackage policy.office\n\ndefault allow := false\n\nallow if {body}\n"
    (folder / "office.rego").write_text(text)
    return CliRunner().invoke(app, ["policy", "check", str(folder)])


@pytest.mark.parametrize(
    ("body", "field", "near"),
    [
        ('input.model.rsk == "low"', "input.model.rsk", "risk"),
        ('input.tennant == "a"', "input.tennant", "tenant"),
        ("some a in input.approvals; a.persn", "persn", "person"),
    ],
)
def test_a_misspelt_field_is_an_error_with_the_nearest_name(tmp_path, body, field, near):
    done = check(tmp_path, f"{{ {body} }}")
    assert done.exit_code == 1
    assert "error[unknown-input]" in done.stdout
    assert field in done.stdout
    assert f"did you mean `{near}`?" in done.stdout


def test_a_field_of_another_point_is_an_error_with_what_is_known(tmp_path):
    done = check(tmp_path, "input.response.status == 200")
    assert "the input schema has no `input.response`" in done.stdout
    assert "known: approvals, env, model," in done.stdout


def test_each_point_has_its_own_fields(tmp_path):
    assert check(tmp_path, "input.response.status == 200", "response").exit_code == 0
    assert check(tmp_path, "input.experiment.breaker.above_ppm < 5", "config").exit_code == 0
    assert check(tmp_path, "input.experiment.breaker.above_ppm < 5").exit_code == 1
    assert check(tmp_path, "input.tenant == input.config.kind", "request, config").exit_code == 0


def test_libraries_and_tests_are_not_held_to_it(tmp_path):
    (tmp_path / "lib.rego").write_text("package lib\n\nx if input.anything == 1\n")
    assert CliRunner().invoke(app, ["policy", "check", str(tmp_path)]).exit_code == 0
