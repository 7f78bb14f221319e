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
from gateway.demo.stage import MODEL

PAGE = (CHECKOUT / "docs" / "experiments.md").read_text().split("## From nothing to a decided experiment")[1].split("\n## ")[0]
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
DEMO, SETUP, COMMANDS = BLOCKS[0], BLOCKS[1], [line for block in BLOCKS[2:] for line in block]
(FILE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SCOPES = ("admin:read", "experiment:start", "experiment:operate", "experiment:promote")


def run(line: str) -> str:
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def test_the_page_asks_for_the_key_and_the_model_that_its_commands_need():
    assert DEMO == ["assay demo first --traffic"]
    assert SETUP[2] == f"assay key create --tenant default {' '.join(f'--scope {scope}' for scope in SCOPES)}"
    assert COMMANDS[0] == f"assay experiment new canary my-first --model {MODEL} --champion 4 --challenger 3 --owner me"


def test_a_product_manager_gets_from_nothing_to_a_decided_experiment_by_the_page_alone(
    tmp_path: Path, one: Model, two: Model, monkeypatch: pytest.MonkeyPatch
):
    """On a gateway of one's own: the page's commands and file, but that two minutes of patience are two seconds."""
    deployment = Deployment(tmp_path / "tutorial")
    deployment.write_model(MODEL, {"4": one.url, "3": two.url}, expose_arm=True, capture={"prediction": "/outputs/0/data/0"})
    for version, model in (("4", one), ("3", two)):
        deployment.approve(MODEL, version, url=model.url)
    deployment.add_key("manager", *SCOPES)
    monkeypatch.setenv("ASSAY_KEY", deployment.keys["manager"])
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(deployment.directory)

    def phase() -> str:
        return str(deployment.api("/api/experiments/my-first")["phase"])

    def call_and_answer(number: int) -> None:
        reply = deployment.infer(MODEL, unit=f"customer-{number}")
        is_right = reply.headers.get("assay-arm") != "challenger" or number % 3 > 0
        answer = {"decision_id": reply.headers["assay-decision"], "label": "1" if is_right else "0"}
        assert deployment.client.post(f"{deployment.front}/feedback", json=answer, headers=deployment.bearer("product")).status_code == 202

    with deployment.running():
        run(COMMANDS[0])
        assert "hold: 2m" in FILE
        deployment.write_config("experiments/my-first.yaml", FILE.replace("hold: 2m", "hold: 2s"))
        wait_until(lambda: [row for row in deployment.api("/api/experiments")["register"] if row["name"] == "my-first"], "the draft")
        for line in COMMANDS[1:-2]:
            run(line)
        assert phase() == "running"
        for number in range(4000):
            call_and_answer(number)
            if number % 100 == 99 and phase() != "running":
                break
        wait_until(lambda: phase() == "rolled_back", "the canary to be rolled back by its evidence")
        assert "Rolled back: the control serves everyone." in run(COMMANDS[-2])
        report = run(COMMANDS[-1])
        assert "Rolled back on step" in report
        assert "version 3 fails no more often than version 4, and is right as often" in report
