"""The demo as a new user runs it: real models, real traffic, no outcome scripted, and a log that verifies at the end."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from deployment import CHECKOUT, COMMAND, ENVIRONMENT, Log, wait_until
from test_experiment_tutorial import COMMANDS, FILE, SETUP, run

from audit.keys import VerifierKey
from audit.source import open_directory
from audit.verify import verify_log

LIMIT_S = 600


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 400)
def test_the_demo_promotes_rolls_back_refuses_and_leaves_a_log_that_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = tmp_path / "demo"
    told = tmp_path / "told"
    with told.open("wb") as out:
        command = [*COMMAND, "demo", str(directory), "--traffic"]
        demo = subprocess.Popen(command, stdout=out, stderr=out, cwd=CHECKOUT, env={**ENVIRONMENT, "NO_COLOR": "1", "COLUMNS": "200"})
    try:
        wait_until(lambda: "goes on serving" in told.read_text() or demo.poll() is not None, "the story to end", LIMIT_S, 0.5)
        assert demo.poll() is None, told.read_text()[-4000:]
        decide_an_experiment(directory, monkeypatch)
    finally:
        demo.terminate()
        assert demo.wait(60) == 0, told.read_text()[-4000:]
    log = Log(directory / "data")
    log.refresh()
    log.close()
    steps = [(record["experiment"], record["action"]) for record in log.of_type("rollout.step")]
    assert ("canary-4", "promote") in steps, "the better version was promoted"
    assert ("canary-back", "rollback") in steps, "the worse one was rolled back"
    assert ("canary-back", "promote") not in steps
    assert any(experiment == "ab-test" for experiment, _ in steps)
    assert ("my-first", "rollback") in steps, "and the experiment of the page was decided"
    refused = {record["outcome"]["code"] for record in log.records if record.get("outcome", {}).get("status") in (403, 422)}
    assert {"not_approved", "policy_denied"} <= refused
    assert any("from_model" in record.get("payload", {}) for record in log.records), "an answer was rounded by an obligation"
    assert log.of_type("label"), "late labels came in"
    key = VerifierKey.parse((directory / "data" / "log" / "vkey").read_text().strip())
    verdict = verify_log(open_directory(directory / "data"), [key])
    grades = {check.name: str(check.grade) for check in verdict.checks}
    assert (grades["chain"], grades["tamper"], grades["completeness"]) == ("ok", "ok", "ok"), json.dumps(verdict.document())
    assert f"{key}" in told.read_text(), "the log's public key is shown"


def decide_an_experiment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow `docs/experiments.md` on the demo that goes on, word for word."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("COLUMNS", "250")
    assert SETUP[1] == "rm config/experiments/canary-back.yaml"
    (directory / "config/experiments/canary-back.yaml").unlink()
    (secret,) = re.findall(r"assay_[A-Za-z0-9_-]{20,}", run(SETUP[2]))
    monkeypatch.setenv("ASSAY_KEY", secret)
    run(COMMANDS[0])
    (directory / "config/experiments/my-first.yaml").write_text(FILE)
    run(COMMANDS[1])
    wait_until(lambda: "my-first" in run("assay experiment list"), "the draft")
    for line in COMMANDS[2:-2]:
        run(line)
    wait_until(lambda: "Rolled back" in run(COMMANDS[-2]), "the evidence to decide", 300, 2)
    assert "Harm is proven: accuracy." in run(COMMANDS[-1])
