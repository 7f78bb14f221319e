"""Templates: each loads, is checked, linted and tested without a gap, and says the right thing of documents the gateway really makes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.config.compile import compile_folder
from gateway.config.policy_point import Asked, config_document
from gateway.documents import RouteDocument
from gateway.facts import Facts, input_document
from policies.bundle import PARAMETERS, PolicyBundle
from policies.check import check
from policies.lint.run import lint
from policies.metadata import declared
from policies.rego.parser import parse_module
from policies.sources import parse_document, read_sources
from policies.templates import NoSuchTemplate, make, templates
from policies.testing.cases import load_cases
from policies.testing.report import run_tests
from policies.testing.run import Suite

NAMES = [template.name for template in templates()]
ROOT = Path(__file__).parents[2]
READ_OF_EXPERIMENTS = ["strategy", "arms", "control", "guardrails", "breaker", "steps"]


def invoke(*words: str):
    return CliRunner().invoke(app, ["policy", *words])


@pytest.mark.parametrize("template", NAMES)
def test_a_new_policy_is_clean_and_every_part_of_it_is_held_in_place(template, tmp_path):
    assert invoke("new", template, "night_shift", "--dir", str(tmp_path)).exit_code == 0
    sources = read_sources([tmp_path])
    assert check(sources) == []
    assert lint(sources.modules, sources.cases.values()) == []
    cases = [case for file, text in sources.cases.items() for case in load_cases(file, text)]
    report = run_tests(Suite(sources.modules, sources.data, cases), threshold=100, on_result=lambda _: None)
    assert [result.message for result in report.results if result.outcome != "pass"] == []
    assert report.ok
    assert len(cases) >= 4
    assert report.hint is not None
    assert report.hint.unnoticed == ()


@pytest.mark.parametrize("template", NAMES)
def test_the_name_is_everywhere_the_package_is_named(template):
    package = next(one.package for one in templates() if one.name == template)
    files = make(template, "night_shift")
    whole = "\n".join([*files, *files.values()])
    assert package not in whole
    assert package.upper().replace("_", "-") + "-" not in whole
    assert {"night_shift.rego", "night_shift_test.rego", "night_shift_cases.yaml", "night_shift_input.json", "params.yaml"} == set(files)
    assert "NIGHT-SHIFT-1" in files["night_shift.rego"]


def facts(**changes: object) -> Facts:
    known = {
        "tenant": "acme", "method": "POST", "path": "/v2/models/credit-risk/infer", "content_type": "application/json", "kib": 1, "rows": 10,
        "scopes": ("infer", "unit:assert"), "exhausted": False, "experiment": "", "arm": "",
    }  # fmt: skip
    return Facts(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("template", NAMES)
def test_the_example_has_the_shape_of_what_the_gateway_makes(template):
    package = next(one.package for one in templates() if one.name == template)
    example = json.loads(make(template)[f"{package}_input.json"])

    def shape(value):
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items()}
        return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__

    def within(part, whole):
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(key in whole and within(item, whole[key]) for key, item in part.items())
        return len(part) == len(whole) and all(map(within, part, whole)) if isinstance(part, list) else part == whole

    if example["point"] == "config":
        # The grammar of files grows; what the policy reads has to stay.
        for part, names in {"config": ["kind", "name"], "model": ["name", "risk"], "experiment": READ_OF_EXPERIMENTS}.items():
            assert all(within(shape(example[part][name]), shape(canary()[part][name])) for name in names), part
        return
    fixed = {key: example[key] for key in ("env", "model", "approvals", "params")}
    assert shape(example) == shape(input_document(facts(), fixed))


def canary() -> dict:
    compiled = compile_folder(ROOT / "config")
    manifest = compiled.manifest
    assert manifest is not None
    from experiments.document import ExperimentDocument

    route = msgspec.json.decode(compiled.objects[manifest.models["credit-risk"]], type=RouteDocument)
    experiment = msgspec.json.decode(compiled.objects[manifest.experiments["credit-canary"]], type=ExperimentDocument)
    return config_document("production", Asked(route, "x", experiment))


@pytest.mark.parametrize(
    ("template", "change", "decision", "ids"),
    [
        ("approval", {}, "allow", set()),
        ("approval", {"approvals": []}, "deny", {"NIGHT-1"}),
        ("fairness", {}, "allow", set()),
        ("fairness", {"model": {"name": "credit-risk", "version": "5", "digest": "sha256:00", "risk": "low"}}, "deny", {"NIGHT-2"}),
        ("protection", {}, "allow", set()),
        ("protection", {"request": {"rows": 51, "kib": 1}}, "deny", {"NIGHT-1"}),
        ("residency", {"tenant": "globex"}, "allow", set()),
        ("residency", {}, "deny", {"NIGHT-1"}),
    ],
)
def test_beside_the_shipped_policies_a_call_gets_the_verdict_the_template_is_for(template, change, decision, ids):
    files = make(template, "night")
    params = parse_document(files["params.yaml"], "params.yaml")
    bundle = PolicyBundle.load({"policies/night.rego": files["night.rego"], PARAMETERS: json.dumps(params)}, {"approval": "off", "night": "enforce"})
    verdict = bundle.evaluate({**json.loads(files["night_input.json"]), **change}, 0)
    assert {reason["id"] for reason in verdict.reasons if reason["package"] == "night"} == ids
    assert verdict.decision == decision
    if template == "protection" and decision == "allow":
        assert [one.told() for one in verdict.obligations] == [{"type": "round", "path": "/outputs/[name=score]/data", "digits": 2}]


def test_experiment_limits_are_asked_about_configurations_alone():
    files = make("experiment-limits", "night")
    params = parse_document(files["params.yaml"], "params.yaml")
    bundle = PolicyBundle.load({"policies/night.rego": files["night.rego"], PARAMETERS: json.dumps(params)}, {})
    assert [package.name for package in bundle.at("config").packages] == ["night"]
    assert "night" not in [package.name for package in bundle.at("request").packages]
    verdict = bundle.evaluate(canary(), 0)
    assert {reason["id"] for reason in verdict.reasons} == {"NIGHT-4"}


def test_templates_are_listed_with_their_titles():
    told = json.loads(invoke("new", "--json").stdout)
    assert [one["template"] for one in told] == ["approval", "fairness", "protection", "experiment-limits", "residency"]
    assert all(one["title"] and one["description"] for one in told)
    assert "Data stays where its owner allows" in invoke("new").stdout


def test_parameters_are_added_below_what_is_there_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "params.yaml").write_text("# mine\nother: 1\n")
    assert invoke("new", "residency", "night", "--dir", str(tmp_path)).exit_code == 0
    text = (tmp_path / "params.yaml").read_text()
    assert text.startswith("# mine\nother: 1\n\nnight:\n")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    done = invoke("new", "approval", "night", "--dir", str(tmp_path))
    assert done.exit_code == 2
    assert "exists already" in done.stderr
    (tmp_path / "night.rego").unlink()
    assert invoke("new", "approval", "night", "--dir", str(tmp_path)).exit_code == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: text for name, text in before.items() if name != "night.rego"}


@pytest.mark.parametrize("name", ["Night", "night-shift", "2nd", "", "approval", "limits", "a" * 41, "../up"])
def test_a_name_that_is_no_package_is_refused(name, tmp_path):
    with pytest.raises(NoSuchTemplate):
        make("residency", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", NAMES)
def test_a_new_policy_refuses_nobody_before_somebody_says_so(template):
    """Saving it is putting it in force: its parameters are not filled in yet, and there may be traffic."""
    assert declared([parse_module("new", make(template, "new_one")["new_one.rego"])]).mode == "dryrun"


def test_an_unknown_template_names_the_known_ones(tmp_path):
    done = invoke("new", "residnecy", "--dir", str(tmp_path))
    assert done.exit_code == 2
    assert "choose one of approval, fairness" in done.stderr
