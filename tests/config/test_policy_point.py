"""The decision point `config`: what a policy refuses is not put in force, and is told at its file."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from gateway.config.compile import Compiler, compile_folder
from gateway.config.policy_point import Asked, ConfigPoint, told
from policies.bundle import REST_NS, SLOW_IN_A_ROW, PointPolicies, PolicyBundle

REFERENCE = Path(__file__).parents[2] / "config"
CAREFUL = """\
# METADATA
# custom: {points: [config]}
package policy.careful

deny contains {"id": "CAR-1", "msg": "a model of high risk keeps its record: `audit: sync`"} if {
	input.config.kind == "model"
	input.model.risk == "high"
	input.model.audit != "sync"
}

deny contains {"id": "CAR-2", "msg": "an experiment begins with at most half"} if {
	some step in input.experiment.steps
	step.exposure > data.params.most_exposure
}

deny contains {"id": "CAR-3", "msg": "no fallback"} if input.model.on_audit_unavailable == "degrade"
"""
PARAMS = "most_exposure: 5000000000\n"


@pytest.fixture
def config(tmp_path):
    shutil.copytree(REFERENCE, tmp_path / "config")
    (tmp_path / "config" / "policies" / "careful.rego").write_text(CAREFUL)
    (tmp_path / "config" / "policies" / "params.yaml").write_text(PARAMS)
    return tmp_path / "config"


def issues(config):
    return [str(issue) for issue in compile_folder(config).issues]


def test_a_file_that_a_policy_refuses_is_told_and_nothing_is_put_in_force(config):
    compiled = compile_folder(config)
    assert compiled.manifest is None
    assert [str(issue) for issue in compiled.issues] == [
        "models/credit-risk.yaml:1:1: policy `careful` refuses this: CAR-1 a model of high risk keeps its record: `audit: sync`"
    ]


def test_parameters_decide_and_defaults_are_there_to_be_read(config):
    model = config / "models" / "credit-risk.yaml"
    model.write_text(model.read_text().replace("audit: batch", "audit: sync"))
    assert issues(config) == []
    (config / "policies" / "params.yaml").write_text("most_exposure: 1\n")
    assert any(issue.startswith("experiments/") and "CAR-2" in issue for issue in issues(config))


@pytest.mark.parametrize(("mode", "decision"), [("warn", "allow_with_warnings"), ("dryrun", "allow"), ("off", None)])
def test_a_mode_lets_it_pass_and_the_record_tells(config, mode, decision):
    (config / "policies" / "modes.yaml").write_text(f"modes: {{careful: {mode}}}\n")
    compiled = compile_folder(config)
    assert compiled.issues == ()
    said = told(compiled.verdicts)
    assert (said and said["decision"]) == decision
    if said:
        assert [(reason["id"], reason["file"], reason["mode"]) for reason in said["reasons"]] == [("CAR-1", "models/credit-risk.yaml", mode)]


def test_a_policy_that_fails_refuses(config):
    (config / "policies" / "careful.rego").write_text(
        '# METADATA\n# custom: {points: [config]}\npackage policy.careful\ndeny contains "x" if count(numbers.range(1, 10000000)) > 1\n'
    )
    assert any("ENGINE-ERR" in issue for issue in issues(config))


def test_only_what_changed_is_asked_about_again(config, monkeypatch):
    (config / "policies" / "modes.yaml").write_text("modes: {careful: warn}\n")
    asked = []
    evaluate = PointPolicies.evaluate
    monkeypatch.setattr(
        PointPolicies, "evaluate", lambda self, document, now: asked.append(document["config"]["name"]) or evaluate(self, document, now)
    )
    compiler = Compiler(config)
    compiler.compile()
    everything = sorted(asked)
    assert "credit-ab" in everything
    assert len(everything) > 2
    asked.clear()
    compiler.compile()
    assert asked == []
    experiment = config / "experiments" / "credit-ab.yaml"
    experiment.write_text(experiment.read_text().replace("50%", "25%", 1).replace("50%", "75%", 1))
    compiler.compile()
    assert asked == ["credit-ab"]


def test_a_package_about_a_model_that_does_not_exist_is_refused_with_the_nearest_name(config):
    (config / "policies" / "careful.rego").write_text(
        '# METADATA\n# custom: {models: [credit-rsik]}\npackage policy.careful\ndeny contains "x" if input.tenant == "a"\n'
    )
    (issue,) = issues(config)
    assert "credit-rsik" in issue
    assert "did you mean `credit-risk`?" in issue


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("custom: {points: [reply]}", "decision point `reply`"),
        ("custom: {points: []}", "`points` is a list"),
        ("custom: {points: [promote]}", "nothing asks at promote"),
        ("custom: {mode: enforced}", "mode `enforced`"),
        ("custom: {models: credit-risk}", "`models` is a list"),
        ("custom: {required: true}", "no rule `allow`"),
        ("custom: [", "cannot be read"),
    ],
)
def test_a_block_that_cannot_be_followed_is_refused_at_its_line(config, block, words):
    (config / "policies" / "careful.rego").write_text(f'# METADATA\n# {block}\npackage policy.careful\ndeny contains "x" if input.tenant == "a"\n')
    (issue,) = issues(config)
    assert issue.startswith("policies/careful.rego:1:1: ")
    assert words in issue


def test_parameters_that_cannot_be_read_are_told_and_a_comment_changes_no_digest(config):
    (config / "policies" / "modes.yaml").write_text("modes: {careful: off}\n")
    params = config / "policies" / "params.yaml"
    digests = []
    for text in ("a: 0.10\nb: [1, {c: x}]\n", "# why\nb: [1, {c: x}]\na: 0.10\n", "a: 0.11\nb: [1, {c: x}]\n"):
        params.write_text(text)
        digests.append(compile_folder(config).manifest.policies["policies/params.json"])
    assert digests[0] == digests[1] != digests[2]
    for text in ("a: 1\na: 2\n", "[1, 2]\n", "a: {\n"):
        params.write_text(text)
        (issue,) = issues(config)
        assert issue.startswith("policies/params.yaml:")


def test_cases_of_tests_may_lie_beside_and_are_not_in_force(config):
    (config / "policies" / "modes.yaml").write_text("modes: {careful: off}\n")
    (config / "policies" / "careful_cases.yaml").write_text("cases: []\n")
    (config / "policies" / "careful_input.json").write_text("{}\n")
    compiled = compile_folder(config)
    assert compiled.issues == ()
    assert set(compiled.manifest.policies) == {"policies/careful.rego", "policies/params.json"}


FREEZE = """\
# METADATA
# custom: {points: [config]}
package policy.freeze

deny contains {"id": "FRZ-1", "msg": "nothing changes from 2020 on"} if time.now_ns() > time.parse_rfc3339_ns("2020-01-01T00:00:00Z")
"""


def test_a_policy_that_asks_the_time_is_told_the_time(config):
    (config / "policies" / "careful.rego").write_text(FREEZE)
    assert any("FRZ-1" in issue for issue in issues(config))


def test_a_failure_of_a_policy_is_not_remembered_and_a_rest_ends():
    bundle = PolicyBundle.load({"policies/careful.rego": CAREFUL.replace("data.params.most_exposure", "5")}, {})
    (package,) = bundle.at("config").packages
    asked = {"models/m.yaml": Asked(msgspec.defstruct("Model", [("model", str, "m"), ("risk", str, "low"), ("audit", str, "sync")])(), "digest")}
    now_ns = 10**18
    point = ConfigPoint(lambda: now_ns)
    for _ in range(SLOW_IN_A_ROW):
        package.pace.note(was_slow=True, now_ns=now_ns)
    assert not point.judge(bundle, "staging", asked)["models/m.yaml"].allowed
    now_ns += REST_NS + 1
    assert point.judge(bundle, "staging", asked)["models/m.yaml"].allowed


def test_what_policies_are_told_is_json_to_the_last_field(config, monkeypatch):
    """An OPA server is sent it as JSON: a field that is left out of a document must not be there as anything else."""
    (config / "policies" / "modes.yaml").write_text("modes: {careful: warn}\n")
    told_of = []
    evaluate = PointPolicies.evaluate
    monkeypatch.setattr(PointPolicies, "evaluate", lambda self, document, now: told_of.append(json.dumps(document)) or evaluate(self, document, now))
    assert compile_folder(config).issues == ()
    assert any('"guardrails": [{' in one for one in told_of)
