"""A configuration folder: everything wrong is told at once, where it is; nothing half-right is in force."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import canonical
from gateway.config.compile import Compiler, compile_folder
from gateway.config.tree import MOST_BYTES
from gateway.documents import Manifest, RouteDocument, SettingsDocument, decode, digest_of, encode

REFERENCE = Path(__file__).parents[2] / "config"


@pytest.fixture
def config(tmp_path):
    shutil.copytree(REFERENCE, tmp_path / "config")
    return tmp_path / "config"


def edit(config, name, old, new, count=1):
    path = config / name
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in {name}"
    path.write_text(text.replace(old, new, count))


def place(config, name, text):
    """Line and column of `text` in a file."""
    for number, line in enumerate((config / name).read_text().splitlines(), start=1):
        if text in line and not line.lstrip().startswith("#"):
            return f"{name}:{number}:{line.index(text) + 1}"
    raise AssertionError(text)


def issues(config):
    compiled = compile_folder(config)
    assert (compiled.manifest is None) == bool(compiled.issues)
    assert not (compiled.issues and compiled.objects)
    return [str(issue) for issue in compiled.issues]


def test_the_reference_configuration_has_no_issue():
    compiled = compile_folder(REFERENCE)
    assert compiled.issues == ()
    assert set(compiled.manifest.models) == {"churn", "credit-risk"}


def test_every_digest_of_the_manifest_names_its_object():
    compiled = compile_folder(REFERENCE)
    named = {
        compiled.manifest.settings,
        *compiled.manifest.models.values(),
        *compiled.manifest.experiments.values(),
        *compiled.manifest.policies.values(),
    }
    assert named == set(compiled.objects)
    assert all(digest_of(data) == digest for digest, data in compiled.objects.items())


def test_objects_are_canonical_json():
    compiled = compile_folder(REFERENCE)
    for digest in [compiled.manifest.settings, *compiled.manifest.models.values(), *compiled.manifest.experiments.values()]:
        data = compiled.objects[digest]
        assert canonical.encode(msgspec.json.decode(data)) == data
    assert canonical.encode(msgspec.to_builtins(compiled.manifest)) == encode(compiled.manifest)
    assert decode(compiled.objects[compiled.manifest.settings], SettingsDocument).environment == "development"
    assert decode(encode(compiled.manifest), Manifest) == compiled.manifest


def test_a_comment_or_another_order_changes_no_digest(config):
    before = compile_folder(config).digest
    for path in config.rglob("*.yaml"):
        path.write_text("# changed\n" + path.read_text())
    edit(config, "models/credit-risk.yaml", "owner: lending-ml\n", "")
    (config / "models/credit-risk.yaml").write_text((config / "models/credit-risk.yaml").read_text() + "\nowner: lending-ml\n")
    assert compile_folder(config).digest == before


CASES = [
    ("models/credit-risk.yaml", "risk: high", "rsik: high", "rsik", "rsik: unknown key; allowed: audit, balance,", "did you mean `risk`?"),
    (
        "models/credit-risk.yaml",
        "risk: high",
        "risk: hgih",
        "hgih",
        "risk: `hgih` is not allowed; allowed: high, low, medium; did you mean `high`?",
        "",
    ),
    ("models/credit-risk.yaml", 'default_version: "3"', "default_version: 3", "3", "default_version: `3` must be text", 'quote it: "3"'),
    ("models/credit-risk.yaml", 'default_version: "3"', 'default_version: "5"', '"5"', "default_version: `5` is not a version", "allowed: 3, 4"),
    ("models/credit-risk.yaml", "deadline: 2s", "deadline: 2", "2", "deadline: `2` is not a duration", "`10s`"),
    ("models/credit-risk.yaml", "idempotent: true", "idempotent: yes", "yes", "idempotent: `yes` must be true or false", ""),
    ("models/credit-risk.yaml", "[http://127.0.0.1:9003]", "[ftp://x]", "ftp", "versions.3.upstreams[0]: `ftp://x` is not an upstream", ""),
    (
        "models/credit-risk.yaml",
        "[http://127.0.0.1:9003]",
        "[http://u:p@h:1]",
        "http",
        "versions.3.upstreams[0]: an upstream must not hold credentials",
        "",
    ),
    (
        "models/credit-risk.yaml",
        "[http://127.0.0.1:9003]",
        "[http://a:1, 'http://a:1/']",
        "'http",
        "versions.3.upstreams[1]: `http://a:1` is listed twice",
        "",
    ),
    (
        "models/credit-risk.yaml",
        "{type: integer, min: 18",
        "{type: integer, min: 130",
        "130",
        "schema.inputs.age.min: `130` is more than max `120`",
        "",
    ),
    ("models/credit-risk.yaml", "{type: integer, min: 18", "{type: string, min: 18", "18", "schema.inputs.age.min: a string has no `min`", ""),
    ("models/credit-risk.yaml", "audit: batch", "audit: async", "async", "audit: `async` may lose records", "allowed: batch, sync"),
    ("models/credit-risk.yaml", "protocol: v2", "protocol: openai", "openai", "protocol: `openai` is not allowed; allowed: http, v2", ""),
    ("models/credit-risk.yaml", "model: credit-risk", "model: credit", "credit", "model: `credit` must be the name of its file", ""),
    ("models/credit-risk.yaml", "  score: /outputs", "  score: outputs", "outputs", "capture.score: `outputs/1/data/0` is not a JSON pointer", ""),
    ("gateway.yaml", "environment: development", "environment: production", "production", "environment: `production` needs signed changes", ""),
    ("gateway.yaml", "bind: 127.0.0.1:8081", "bind: 127.0.0.1:8080 # same", "127.0.0.1:8080", "is taken by front.bind", ""),
    ("gateway.yaml", "key: file:keys/log.key", "key: PRIVATE+KEY+secret", "PRIVATE", "audit.key: a secret is given by reference", ""),
    ("gateway.yaml", "workers: 2", "workers: 0", "0", "front.workers: `0`: input should be greater than or equal to 1", ""),
    ("gateway.yaml", "store: sqlite:data/", "store: postgresql://db", "postgresql", "store: `postgresql://db` is not a store", ""),
    ("gateway.yaml", "  heartbeat: 10s", "  heartbeat: 10s\n  mirrors: []", "mirrors", "audit.mirrors: unknown key", ""),
    ("experiments/credit-ab.yaml", 'treatment: {version: "4"}', 'treatment: {version: "9"}', '"9"', "arms.treatment.version", ""),
    ("experiments/credit-ab.yaml", "{control: 50%, treatment: 50%}", "{control: 50%, treatment: 40%}", "{control: 50%, tr", "split: ", "90%"),
    (
        "experiments/credit-ab.yaml",
        "model: credit-risk",
        "model: credit-rsik",
        "credit-rsik",
        "model: there is no model `credit-rsik`",
        "did you mean `credit-risk`?",
    ),
    (
        "experiments/credit-ab.yaml",
        "strategy: ab",
        "strategy: bandit",
        "bandit",
        "strategy: `bandit` is not built in this release; allowed: ab, blue_green, canary, champion_challenger, shadow",
        "",
    ),
    ("experiments/credit-ab.yaml", "slots: 0-99", "slots: 0-100", "0-100", "layer.slots", ""),
    ("experiments/credit-ab.yaml", "experiment: credit-ab", "experiment: other", "other", "experiment: `other` must be the name of its file", ""),
    ("policies/modes.yaml", "modes: {}", "modes: {limits: enfroce}", "enfroce", "modes.limits: `enfroce` is not allowed", "did you mean `enforce`?"),
]


@pytest.mark.parametrize(("name", "old", "new", "at", "message", "also"), CASES, ids=lambda value: str(value)[:30])
def test_a_mistake_is_told_at_its_line_and_column_with_what_is_allowed(config, name, old, new, at, message, also):
    edit(config, name, old, new)
    found = issues(config)
    assert any(message in issue and also in issue for issue in found), found
    if name.startswith("experiments") and "slots" in new:
        return  # the clash may be told at either of the two experiments
    expected = place(config, name, new.rsplit("\n", maxsplit=1)[-1].strip())
    line = expected.split(":")[1]
    assert any(issue.startswith(f"{name}:{line}:") and message in issue for issue in found), (found, expected)
    text = (config / name).read_text().splitlines()[int(line) - 1]
    column = next(int(issue.split(":")[2]) for issue in found if message in issue)
    assert text[column - 1 :].startswith(at.strip()) or text[column - 1 :].lstrip("{ ").startswith(at.strip()), (column, text)


def test_all_mistakes_of_all_files_are_told_at_once(config):
    edit(config, "gateway.yaml", "workers: 2", "wrokers: 2")
    edit(config, "models/credit-risk.yaml", "risk: high", "risk: hgih")
    edit(config, "models/credit-risk.yaml", "retries: 1", "retries: 99")
    edit(config, "experiments/credit-ab.yaml", 'seed: "1"', 'sede: "1"')
    found = issues(config)
    assert len(found) == 4, found
    assert [issue.split(":")[0] for issue in found] == [
        "experiments/credit-ab.yaml",
        "gateway.yaml",
        "models/credit-risk.yaml",
        "models/credit-risk.yaml",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", "is not read"),
        ("models/readme.md", "is not read"),
        ("models/other.yml", "name it `.yaml`"),
        ("model/x.yaml", "folder `model` is not read; allowed: experiments, models, policies; did you mean `models`?"),
        ("policies/rules.json", "allowed in `policies/`: *.rego, modes.yaml"),
        ("models/deep/x.yaml", "is not read"),
    ],
)
def test_a_file_that_is_not_read_is_refused(config, name, message):
    (config / name).parent.mkdir(exist_ok=True)
    (config / name).write_text("x: 1\n")
    found = issues(config)
    assert len(found) == 1, found
    assert found[0].startswith(f"{name}:1:1: ")
    assert message in found[0]


def test_editors_leftovers_are_passed_over(config):
    (config / "models" / ".credit-risk.yaml.swp").write_bytes(b"\xff")
    (config / "models" / "credit-risk.yaml~").write_text("x")
    assert issues(config) == []


def test_what_is_not_a_regular_file_is_refused_without_waiting(config):
    os.mkfifo(config / "models" / "pipe.yaml")
    (config / "models" / "gone.yaml").symlink_to("nowhere.yaml")
    (config / "policies" / "loop").symlink_to("..")
    found = issues(config)
    assert "models/pipe.yaml:1:1: cannot be read: it is not a regular file" in found
    assert "models/gone.yaml:1:1: cannot be read: No such file or directory" in found
    assert any("nested deeper" in issue for issue in found)


def test_a_file_that_is_too_long_is_refused(config):
    with (config / "models" / "long.yaml").open("wb") as file:
        file.truncate(MOST_BYTES + 100)
    assert any(issue.startswith("models/long.yaml:1:1: file is longer than") for issue in issues(config))


def test_files_may_be_linked_as_kubernetes_does_it(config):
    (config / "models").rename(config / "..data")
    (config / "models").mkdir()
    for name in ("churn.yaml", "credit-risk.yaml"):
        (config / "models" / name).symlink_to(f"../..data/{name}")
    assert issues(config) == []


def test_a_folder_without_gateway_yaml_is_refused(config):
    (config / "gateway.yaml").unlink()
    assert issues(config) == ["gateway.yaml:1:1: is missing; hint: `assay init DIR` writes a reference configuration"]


def test_an_unreadable_policy_is_refused(config):
    (config / "policies" / "x.rego").write_bytes(b"package x\n\xff\n")
    assert any(issue.startswith("policies/x.rego:2:1: not UTF-8") for issue in issues(config))


def test_an_experiment_of_a_broken_model_is_not_told_twice(config):
    edit(config, "models/credit-risk.yaml", "risk: high", "risk: hgih")
    assert len(issues(config)) == 1


def test_without_slots_two_experiments_of_one_model_clash(config):
    edit(config, "experiments/credit-ab.yaml", "layer: {name: credit, slots: 0-99}", "")
    assert any("credit-risk" in issue or "layer" in issue for issue in issues(config))


def test_only_what_changed_is_compiled_again(config):
    compiler = Compiler(config)
    first = compiler.compile()
    shutil.copy(config / "models/credit-risk.yaml", config / "models/second.yaml")
    edit(config, "models/second.yaml", "model: credit-risk", "model: second")
    second = compiler.compile()
    assert second.manifest.models["credit-risk"] == first.manifest.models["credit-risk"]
    assert second.objects[first.manifest.models["credit-risk"]] is first.objects[first.manifest.models["credit-risk"]]
    edit(config, "models/second.yaml", "deadline: 2s", "deadline: 3s")
    third = compiler.compile()
    assert third.manifest.models["second"] != second.manifest.models["second"]
    assert decode(third.objects[third.manifest.models["second"]], RouteDocument).deadline_us == 3_000_000


def test_a_changed_model_has_its_experiments_checked_again(config):
    compiler = Compiler(config)
    assert compiler.compile().issues == ()
    edit(config, "models/credit-risk.yaml", '  "4":', '  "5":')
    assert {issue.file for issue in compiler.compile().issues} == {f"experiments/credit-{name}.yaml" for name in ("ab", "canary", "duel", "shadow")}
    edit(config, "models/credit-risk.yaml", '  "5":', '  "4":')
    assert compiler.compile().issues == ()


STEPS = st.lists(
    st.sampled_from(
        [
            ("models/credit-risk.yaml", "risk: high", "risk: hgih"),
            ("models/credit-risk.yaml", '  "4":', '  "5":'),
            ("models/credit-risk.yaml", "deadline: 2s", "deadline: 9s"),
            ("experiments/credit-ab.yaml", "slots: 0-99", "slots: 0-600"),
            ("experiments/_layers.yaml", "slots: 1000", "slots: 900"),
            ("gateway.yaml", "high_risk: 1s", "high_risk: 2s"),
        ]
    ),
    max_size=6,
)


@given(STEPS)
def test_compiling_step_by_step_gives_what_compiling_from_nothing_gives(tmp_path_factory, steps):
    config = tmp_path_factory.mktemp("steps") / "config"
    shutil.copytree(REFERENCE, config)
    compiler = Compiler(config)
    for name, one, other in steps:
        text = (config / name).read_text()
        (config / name).write_text(text.replace(one, other) if one in text else text.replace(other, one))
        again, fresh = compiler.compile(), compile_folder(config)
        assert (again.manifest, again.issues, dict(again.objects)) == (fresh.manifest, fresh.issues, dict(fresh.objects))
