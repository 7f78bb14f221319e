"""`docs/experiments.md`, "From nothing to a decided experiment": its own commands and file, against a real gateway with real model servers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from deployment import CHECKOUT, Deployment, wait_until
from typer.testing import CliRunner
from upstreams import Model

from gateway.cli.main import app

PAGE = (CHECKOUT / "docs" / "experiments.md").read_text().split("## From nothing to a decided experiment")[1].split("\n## ")[0]
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
(FILE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_a_product_manager_gets_from_nothing_to_a_decided_experiment_by_the_page_alone(
    tmp_path: Path, one: Model, two: Model, monkeypatch: pytest.MonkeyPatch
):
    deployment = Deployment(tmp_path / "tutorial")
    deployment.write_model("credit-risk", {"3": one.url, "4": two.url}, expose_arm=True)
    for version, model in (("3", one), ("4", two)):
        deployment.approve("credit-risk", version, url=model.url)
    deployment.add_key("manager", "admin:read", "experiment:start", "experiment:operate", "experiment:promote")
    monkeypatch.setenv("ASSAY_KEY", deployment.keys["manager"])
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(deployment.directory)
    told = []

    def run(line: str) -> str:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        told.append(line)
        return done.output

    def phase() -> str:
        return str(deployment.api("/api/experiments/my-first")["phase"])

    with deployment.running():
        assert COMMANDS[0].startswith("assay experiment new")
        run(COMMANDS[0])
        deployment.write_config("experiments/my-first.yaml", FILE)
        wait_until(lambda: [row for row in deployment.api("/api/experiments")["register"] if row["name"] == "my-first"], "the draft")
        for line in COMMANDS[1:-2]:
            run(line)
        assert phase() == "running"
        for number in range(1500):
            deployment.infer("credit-risk", unit=f"customer-{number}")
            if number % 100 == 99 and phase() != "running":
                break
        wait_until(lambda: phase() == "promoted", "the canary to be promoted by its evidence")
        assert "Promoted: the challenger serves everyone." in run(COMMANDS[-2])
        report = run(COMMANDS[-1])
        assert "Promoted on step 2 of 2" in report
        assert "version 4 fails no more often than version 3" in report
    assert told == COMMANDS
