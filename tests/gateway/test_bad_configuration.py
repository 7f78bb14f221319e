"""Mistakes in a configuration: while running they change nothing and are told everywhere; at the start they are refused: what, where, what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from deployment import Deployment, digest_of, wait_until
from prometheus_client.parser import text_string_to_metric_families
from upstreams import Model

MODEL = """\
model: plain
protocol: v2
owner: tests
intended_use: tests
risk: low
versions: {{"1": {{upstreams: ["{url}"], digest: "{digest}"}}}}
default_version: "1"
"""
EXPERIMENT = """\
experiment: bad
strategy: ab
model: split
owner: tests
hypothesis: one is better
arms: {control: {version: "1"}, treatment: {version: "2"}}
control: control
split: {control: 50%, treatment: 50%}
goal: {metric: accuracy, margin: 2pp}
guardrails: {errors: {max_harm: 2pp, on_harm: rollback}}
deadline: {after: 1d, then: stop}
"""
MISTAKES = {
    "a typo in a key": ("models/plain.yaml", lambda text: text.replace("owner:", "owmer:"), "models/plain.yaml:3:1: ", "owner"),
    "an unknown version": (
        "models/plain.yaml",
        lambda text: text.replace('default_version: "1"', 'default_version: "7"'),
        "models/plain.yaml:7:18: ",
        "`7`",
    ),
    "a duplicate name": ("models/plain.yaml", lambda text: text + "owner: others\n", "models/plain.yaml:8:1: ", "owner"),
    "no YAML": ("models/plain.yaml", lambda text: text + "versions: [\n", "models/plain.yaml:", ""),
    "a split that does not sum": (
        "experiments/bad.yaml",
        lambda _: EXPERIMENT.replace("split: {control: 50%, treatment: 50%}", "split: {control: 50%, treatment: 49%}"),
        "experiments/bad.yaml:8:8: ",
        "99%",
    ),
    "an arm of an unknown version": (
        "experiments/bad.yaml",
        lambda _: EXPERIMENT.replace('treatment: {version: "2"}', 'treatment: {version: "9"}'),
        "experiments/bad.yaml:6:",
        "`9`",
    ),
    "an experiment of an unknown model": (
        "experiments/bad.yaml",
        lambda _: EXPERIMENT.replace("model: split", "model: spilt"),
        "experiments/bad.yaml:3:8: ",
        "split",
    ),
    "a second model of the same name": ("models/another.yaml", lambda text: text, "models/another.yaml:1:8: ", "another"),
    "a share over the whole": (
        "experiments/bad.yaml",
        lambda _: EXPERIMENT.replace("control: 50%", "control: 150%"),
        "experiments/bad.yaml:8:",
        "",
    ),
    "an experiment under another name": (
        "experiments/bad.yaml",
        lambda _: EXPERIMENT.replace("experiment: bad", "experiment: half"),
        "experiments/bad.yaml:1:13: ",
        "half",
    ),
}


def issues_metric(gateway: Deployment) -> float:
    text = gateway.client.get(f"{gateway.admin}/metrics", headers=gateway.bearer("console")).text
    return next(family.samples[0].value for family in text_string_to_metric_families(text) if family.name == "assay_config_issues")


@pytest.mark.parametrize(("path", "spoil", "where", "names"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_made_while_running_leaves_the_old_configuration_in_force_and_is_told(
    gateway: Deployment, path: str, spoil, where: str, names: str
):
    file = gateway.layout.config / path
    before = file.read_bytes() if file.exists() else None
    digest = gateway.config_digest()
    text = MODEL.format(url="http://127.0.0.1:1", digest=digest_of("plain", "1"))
    gateway.write_config(path, spoil(text))
    try:
        issues = wait_until(lambda: gateway.api("/api/status")["issues"], "the mistake to be told")
        assert any(issue.startswith(where) and names in issue for issue in issues), issues
        assert issues_metric(gateway) == len(issues)
        assert issues[0] in gateway.output()
        assert gateway.config_digest() == digest
        reply = gateway.infer("plain")
        assert (reply.status_code, gateway.record(reply.headers["assay-decision"])["config_digest"]) == (200, digest)
        page = gateway.client.get(f"{gateway.admin}/", headers=gateway.bearer("console"))
        assert path in page.text
    finally:
        if before is None:
            file.unlink()
        else:
            gateway.write_config(path, before.decode())
        wait_until(lambda: not gateway.api("/api/status")["issues"], "the mistake to be gone")
    assert (gateway.config_digest(), issues_metric(gateway)) == (digest, 0)


def test_a_changed_body_limit_is_in_force_without_a_restart(gateway: Deployment):
    file = gateway.layout.config / "gateway.yaml"
    before = file.read_text()
    try:
        gateway.write_config("gateway.yaml", before.replace("body_limit: 64KiB", "body_limit: 1KiB"))
        wait_until(lambda: gateway.infer("plain", content=b" " * 2000).status_code == 413, "the new limit to be in force", 3)
    finally:
        gateway.write_config("gateway.yaml", before)
    wait_until(lambda: gateway.infer("plain", content=b" " * 2000).status_code == 400, "the old limit to be in force", 3)


def test_a_keys_file_that_others_can_read_leaves_the_old_keys_in_force(gateway: Deployment):
    path = gateway.layout.keys / "api-keys.json"
    path.chmod(0o644)
    try:
        gateway.write_config("../keys/touch", "")
        path.touch()
        wait_until(lambda: "the old keys stay in force" in gateway.output(), "the careless file to be told")
        assert gateway.infer("plain").status_code == 200
    finally:
        path.chmod(0o600)
        (gateway.layout.keys / "touch").unlink()
        path.touch()


# --- at the start -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, one: Model) -> Iterator[Deployment]:
    """A deployment that would start."""
    deployment = Deployment(tmp_path_factory.mktemp("stopped"))
    deployment.write_model("plain", {"1": one.url})
    yield deployment
    deployment.close()


def test_a_start_with_a_mistake_is_refused_and_names_file_line_and_column(stopped: Deployment):
    path = stopped.layout.config / "models" / "plain.yaml"
    before = path.read_text()
    path.write_text(before.replace("owner:", "owmer:"))
    try:
        told = stopped.serve_expecting_refusal()
    finally:
        path.write_text(before)
    assert "models/plain.yaml:3:1: " in told
    assert "owner" in told
    assert "hint: " in told


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("keys/api-keys.json", Path.unlink, ("keys/api-keys.json", "missing", "assay key create")),
        ("keys/api-keys.json", lambda path: path.chmod(0o644), ("keys/api-keys.json", "chmod 600")),
        pytest.param("keys/log.key", Path.unlink, ("audit.key", "log.key"), marks=pytest.mark.slow),
        ("keys/log.key", lambda path: path.chmod(0o640), ("audit.key", "log.key", "chmod 600")),
        ("trust/root.json", Path.unlink, ("trust/root.json", "missing", "assay trust init")),
        pytest.param(
            "trust/root.json",
            lambda path: path.write_text(path.read_text().replace("alice", "malory")),
            ("trust/root.json",),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no keys", "keys others can read", "no log key", "a log key others can read", "no trust root", "a changed trust root"],
)
def test_a_start_without_its_secrets_in_order_is_refused_and_says_what_to_do(stopped: Deployment, name: str, spoil, words: tuple[str, ...]):
    path = stopped.directory / name
    data, mode = path.read_bytes(), path.stat().st_mode
    (stopped.data / "run").mkdir(exist_ok=True)
    (stopped.data / "run" / "ready").touch()  # as a gateway that was killed leaves it
    spoil(path)
    try:
        told = stopped.serve_expecting_refusal()
    finally:
        path.write_bytes(data)
        path.chmod(mode)
    assert all(word in told for word in words), told
    assert "front door" not in told, "nothing listens for callers"


def test_a_port_in_use_is_refused_by_name(stopped: Deployment):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", stopped.front_port))
        taken.listen()
        told = stopped.serve_expecting_refusal()
    assert f"127.0.0.1:{stopped.front_port}" in told
    assert "front.bind" in told


def test_after_all_those_refusals_it_starts(stopped: Deployment):
    stopped.start()
    assert stopped.infer("plain").status_code == 403
    assert stopped.stop() == 0
