"""Experiment files: what is refused, where, and what a file compiles to."""

import copy
from pathlib import Path

import msgspec
import pytest
import yaml
from pydantic import ValidationError

from experiments.changes import change_kind
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment, salt_of
from experiments.config import json_schema, parse_experiment
from experiments.document import ExperimentDocument
from experiments.shared_files import LayersFile, MetricsFile
from experiments.shares import WHOLE

FOLDER = Path(__file__).parents[2] / "config" / "experiments"
AB = yaml.safe_load((FOLDER / "credit-ab.yaml").read_text())
CANARY = yaml.safe_load((FOLDER / "credit-canary.yaml").read_text())
LAYERS = LayersFile.model_validate(yaml.safe_load((FOLDER / "_layers.yaml").read_text()))
METRICS = MetricsFile.model_validate(yaml.safe_load((FOLDER / "_metrics.yaml").read_text()))
MODELS = {"credit-risk": ModelFacts(frozenset({"3", "4"}), "3")}
HALF = WHOLE // 2


def changed(data, path, value):
    data = copy.deepcopy(data)
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def faults_of(data, others=(), models=None):
    found = check(
        parse_experiment(data), models=models or MODELS, others=[parse_experiment(other) for other in others], layers=LAYERS, metrics=METRICS
    )
    return {fault.path: fault.message for fault in found}


def test_the_reference_files_have_no_fault_and_their_names_are_their_files():
    assert faults_of(AB, [CANARY]) == faults_of(CANARY, [AB]) == {}
    for path in FOLDER.glob("[a-z]*.yaml"):
        assert yaml.safe_load(path.read_text())["experiment"] == path.stem


@pytest.mark.parametrize(
    ("data", "path", "value", "place", "complaint"),
    [
        (AB, ("splitt",), "50%", ("splitt",), "Extra inputs"),
        (AB, ("split", "treatment"), "40%", ("split",), "sums to 90%"),
        (AB, ("split", "treatment"), 50, ("split", "treatment"), "is not a share"),
        (AB, ("split", "other"), "0%", ("split",), "must be the same"),
        (AB, ("control",), "nobody", ("control",), "is no arm"),
        (AB, ("arms", "exposure"), {"version": "3"}, ("arms",), "reserved"),
        (AB, ("analysis", "unit"), "call", ("analysis",), "finer"),
        (AB, ("analysis", "alpha"), "0%", ("analysis", "alpha"), "above 0%"),
        (AB, ("unit",), "user", ("unit",), "'unit' or 'call'"),
        (AB, ("guardrails", "errors", "max_harm"), "1", ("guardrails", "errors", "max_harm"), "`0.5pp`"),
        (AB, ("layer", "slots"), "9-1", ("layer", "slots"), "ends before"),
        (CANARY, ("steps", 1, "share"), "1%", ("steps",), "does not rise"),
        (CANARY, ("steps", 0, "hold"), 30, ("steps", 0, "hold"), "`30` is not a duration"),
        (CANARY, ("steps", 2, "share"), "96%", ("steps", 2, "share"), "at most 95%"),
        (CANARY, ("steps",), [], ("steps",), "at least 1"),
        (CANARY, ("arms", "third"), {"version": "3"}, ("arms",), "exactly the arms"),
        (CANARY, ("deadline",), None, ("deadline",), "required"),
        (CANARY, ("guardrails",), {}, ("guardrails",), "at least 1"),
        (CANARY, ("breaker", "errors"), "5% in 2m", ("breaker", "errors"), "> 5% over 2m"),
    ],
)
def test_a_fault_within_the_file_is_refused_at_its_key(data, path, value, place, complaint):
    with pytest.raises(ValidationError) as caught:
        parse_experiment(changed(data, path, value))
    (error,) = caught.value.errors()
    assert error["loc"] == (data["strategy"], *place)
    assert complaint in error["msg"]


@pytest.mark.parametrize("strategy", ["bandit", "contextual_bandit", "canry", None, 3])
def test_a_strategy_that_is_not_built_is_refused_with_those_that_are(strategy):
    with pytest.raises(ValidationError, match="`blue_green` or `champion_challenger`; no other is built"):
        parse_experiment({**AB, "strategy": strategy})


@pytest.mark.parametrize(
    ("data", "path", "value", "place", "complaint"),
    [
        (AB, ("model",), "credit", ("model",), "allowed: `credit-risk`"),
        (AB, ("arms", "treatment", "version"), "9", ("arms", "treatment", "version"), "no version `9`; allowed: `3`, `4`"),
        (AB, ("goal", "metric"), "repayd", ("goal", "metric"), "unknown metric `repayd`"),
        (AB, ("goal", "margin"), "1%", ("goal", "margin"), "ambiguous"),
        (AB, ("guardrails", "p95_ms", "max_harm"), "1pp", ("guardrails", "p95_ms", "max_harm"), "is a latency"),
        (AB, ("guardrails", "errors", "max_harm"), "5ms", ("guardrails", "errors", "max_harm"), "is a rate"),
        (AB, ("layer", "name"), "other", ("layer", "name"), "unknown layer `other`"),
        (AB, ("layer", "slots"), "0-1000", ("layer", "slots"), "has slots 0-999"),
        (AB, ("holdout",), "winter", ("holdout",), "unknown holdout"),
        (CANARY, ("arms", "champion", "version"), "4", ("arms", "champion", "version"), "default_version"),
        (CANARY, ("arms", "challenger", "version"), "3", ("arms", "challenger", "version"), "same version"),
        (CANARY, ("deadline", "after"), "26h", ("deadline", "after"), "26.5h"),
    ],
)
def test_a_fault_against_the_rest_of_the_configuration_is_found_at_its_key(data, path, value, place, complaint):
    assert complaint in faults_of(changed(data, path, value))[place]


def test_a_step_above_half_needs_a_breaker():
    steep = changed(CANARY, ("steps", 2, "share"), "75%")
    assert faults_of(steep) == {}
    assert "needs a `breaker`" in faults_of(changed(steep, ("breaker",), None))[("steps", 2, "share")]


def test_a_canary_starts_where_arms_can_be_compared():
    steep = changed(CANARY, ("steps",), [{"share": "60%", "hold": "1h"}])
    assert "nothing would ever be proven" in faults_of(steep)[("steps", 0, "share")]


def test_label_metrics_need_a_captured_prediction():
    models = {"credit-risk": ModelFacts(frozenset({"3", "4"}), "3", has_labels=False)}
    assert "captures none" in faults_of(AB, models=models)[("goal", "metric")]


@pytest.mark.parametrize(
    ("path", "value", "place", "complaint"),
    [
        (("layer", "slots"), "99-600", ("layer", "slots"), "overlap"),
        (("layer",), None, ("model",), "also splits"),
        (("experiment",), "credit-ab", ("experiment",), "another file"),
    ],
)
def test_two_experiments_of_one_model_may_not_meet(path, value, place, complaint):
    assert complaint in faults_of(changed(CANARY, path, value), [AB])[place]


def test_a_canary_exposes_twice_the_share_and_splits_it_evenly():
    document = compile_experiment(parse_experiment(CANARY), LAYERS, METRICS)
    assert [step.exposure for step in document.steps] == [85899346, 429496730, HALF]
    assert all(step.shares == {"challenger": HALF, "champion": HALF} for step in document.steps)


def test_a_step_above_half_exposes_everyone_and_is_not_tested():
    steep = changed(CANARY, ("steps", 2, "share"), "75%")
    step = compile_experiment(parse_experiment(steep), LAYERS, METRICS).steps[2]
    assert (step.exposure, step.shares, step.tested) == (WHOLE, {"challenger": WHOLE * 3 // 4, "champion": WHOLE // 4}, False)


@pytest.mark.parametrize("data", [AB, CANARY])
def test_a_document_holds_no_floats_and_survives_json(data):
    document = compile_experiment(parse_experiment(data), LAYERS, METRICS)

    def leaves(value):
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, list):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    encoded = msgspec.json.encode(document)
    assert msgspec.json.decode(encoded, type=ExperimentDocument) == document
    assert all(leaf is None or type(leaf) in (str, int, bool) for leaf in leaves(msgspec.json.decode(encoded)))


def test_order_of_keys_changes_no_byte_of_the_document():
    backwards = dict(reversed(AB.items()))
    backwards["arms"] = dict(reversed(AB["arms"].items()))
    assert msgspec.json.encode(compile_experiment(parse_experiment(backwards), LAYERS, METRICS)) == msgspec.json.encode(
        compile_experiment(parse_experiment(AB), LAYERS, METRICS)
    )


def test_the_salt_depends_on_name_and_seed_alone():
    document = compile_experiment(parse_experiment(changed(AB, ("owner",), "someone")), LAYERS, METRICS)
    assert document.salt == salt_of("credit-ab", "1") != salt_of("credit-ab", "2")


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        (("owner",), "someone", "continue"),
        (("seed",), "2", "epoch"),
        (("split",), {"control": "60%", "treatment": "40%"}, "epoch"),
        (("arms", "treatment", "version"), "3", "epoch"),
        (("layer", "slots"), "0-400", "epoch"),
        (("analysis", "alpha"), "1%", "exploratory"),
        (("guardrails", "errors", "max_harm"), "1pp", "exploratory"),
        (("deadline", "after"), "30d", "exploratory"),
        (("owner",), "lending-pm", "none"),
    ],
)
def test_what_a_change_of_a_running_experiment_means(path, value, kind):
    old, new = (compile_experiment(parse_experiment(data), LAYERS, METRICS) for data in (AB, changed(AB, path, value)))
    assert change_kind(old, new) == kind


def test_the_published_schema_forbids_unknown_keys_and_describes_every_key():
    schema = json_schema()
    for definition in schema["$defs"].values():
        assert definition["additionalProperties"] is False
    for strategy in ("AbFile", "CanaryFile", "ShadowFile"):
        assert "experiment" in schema["$defs"][strategy]["properties"]
    assert schema["$defs"]["Step"]["properties"]["share"]["pattern"] == r"^\d{1,3}(\.\d{1,6})?%$"
