"""The demo as a new user runs it: real models, real traffic, no outcome scripted, and a log that verifies at the end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from deployment import CHECKOUT, COMMAND, ENVIRONMENT, Log

from audit.keys import VerifierKey
from audit.source import open_directory
from audit.verify import verify_log

LIMIT_S = 400


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_the_demo_promotes_rolls_back_refuses_and_leaves_a_log_that_verifies(tmp_path: Path):
    directory = tmp_path / "demo"
    done = subprocess.run(
        [*COMMAND, "demo", str(directory), "--no-keep"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**ENVIRONMENT, "NO_COLOR": "1", "COLUMNS": "200"},
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    log = Log(directory / "data")
    log.refresh()
    log.close()
    steps = [(record["experiment"], record["action"]) for record in log.of_type("rollout.step")]
    assert ("canary-4", "promote") in steps, "the better version was promoted"
    assert ("canary-back", "rollback") in steps, "the worse one was rolled back"
    assert ("canary-back", "promote") not in steps
    assert any(experiment == "ab-test" for experiment, _ in steps)
    refused = {record["outcome"]["code"] for record in log.records if record.get("outcome", {}).get("status") in (403, 422)}
    assert {"not_approved", "policy_denied"} <= refused
    assert any("from_model" in record.get("payload", {}) for record in log.records), "an answer was rounded by an obligation"
    assert log.of_type("label"), "late labels came in"
    key = VerifierKey.parse((directory / "data" / "log" / "vkey").read_text().strip())
    verdict = verify_log(open_directory(directory / "data"), [key])
    grades = {check.name: str(check.grade) for check in verdict.checks}
    assert (grades["chain"], grades["tamper"], grades["completeness"]) == ("ok", "ok", "ok"), json.dumps(verdict.document())
    assert f"{key}" in done.stdout, "the log's public key is shown"
