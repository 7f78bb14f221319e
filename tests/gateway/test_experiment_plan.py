"""`assay experiment plan` on a configuration and on a log."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from deployment import Deployment
from rich.console import Console
from typer.testing import CliRunner

from experiments.document import ExperimentDocument, LiveExperiment
from gateway.cli.experiment_run import register_table
from gateway.cli.main import build
from gateway.config.compile import compile_folder
from gateway.documents import encode
from gateway.live import LiveDocument
from gateway.live import encode as encode_live
from gateway.processes.control import ControlDirectory, Current
from gateway.standing import ApprovalsInForce


@pytest.fixture
def folder(tmp_path: Path) -> Deployment:
    deployment = Deployment(tmp_path / "d")
    url = "http://127.0.0.1:9"
    deployment.write_model("m", {"1": url, "2": url})
    deployment.write_experiment("x", "m", {"control": "1", "treatment": "2"}, goal={"metric": "errors", "margin": "1pp"}, guardrails={})
    deployment.approve("m", "1", url=url)
    deployment.approve("m", "2", url=url, max_exposure_ppm=500_000)
    return deployment


def plan(deployment: Deployment, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(build("experiment"), ["experiment", "plan", "x", "--dir", str(deployment.directory), *words], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_a_good_plan_says_who_moves_and_what_can_be_shown(folder: Deployment):
    status, told = plan(folder, "--units-per-day", "50000", "--rate", "errors=1%", "--json")
    assert status == 0, told
    found = json.loads(told)
    assert (found["between_arms"], found["approvals_missing"], found["too_short_for"]) == (0, [], [])
    assert {row["after"] for row in found["moved"]} == {"control", "treatment"}
    status, told = plan(folder, "--units-per-day", "50000", "--rate", "errors=1%")
    assert "margin 1 pp takes" in told


def put_in_force(deployment: Deployment, phase: str) -> None:
    """Publish the folder with its experiment in a phase, as a controller does."""
    compiled = compile_folder(deployment.layout.config)
    assert compiled.manifest is not None
    control = ControlDirectory(deployment.layout.resolve("data"))
    control.create()
    control.put_many({**compiled.objects, compiled.digest: encode(compiled.manifest)})
    step = msgspec.json.decode(compiled.objects[compiled.manifest.experiments["x"]], type=ExperimentDocument).steps[0]
    state = LiveExperiment(experiment="x", epoch=1, phase=phase, step=0, exposure=step.exposure, shares=step.shares)
    approvals = ApprovalsInForce(trust_root="", approvals=(), revocations=())
    live = control.put_live(encode_live(LiveDocument(experiments={"x": state}, approvals=approvals)), 0.0)
    control.publish(Current(compiled.digest, live, 0))


@pytest.mark.parametrize(("phase", "moves"), [("draft", True), ("running", False), ("stopped", True)])
def test_the_plan_of_what_is_in_force_and_draws_nobody_says_whom_a_start_would_move(folder: Deployment, phase: str, *, moves: bool):
    put_in_force(folder, phase)
    status, told = plan(folder, "--units-per-day", "50000", "--rate", "errors=1%", "--json")
    assert status == 0, told
    found = json.loads(told)
    assert {row["before"] for row in found["moved"]} == ({"outside"} if moves else {"control", "treatment"})
    assert list(found["to_version"]) == (["2"] if moves else [])
    _, told = plan(folder, "--units-per-day", "50000", "--rate", "errors=1%")
    assert ("served by version 2 instead of another: " in told) is moves


def test_a_deadline_too_short_and_a_missing_approval_are_refused(folder: Deployment):
    status, told = plan(folder, "--units-per-day", "50", "--rate", "errors=1%")
    assert (status, "Too short: the deadline of 1 days" in told) == (1, True)
    folder.write_experiment(
        "x", "m", {"control": "1", "treatment": "2"}, split={"control": "40%", "treatment": "60%"}, goal={"metric": "errors", "margin": "1pp"}
    )
    status, told = plan(folder, "--units-per-day", "50000")
    assert (status, "may not have 60 % of the traffic" in told) == (1, True)


def test_without_traffic_it_says_so_and_problems_are_told_at_their_line(folder: Deployment):
    status, told = plan(folder)
    assert (status, "--units-per-day N" in told) == (0, True)
    folder.write_config("experiments/x.yaml", "experiment: x\nstrategy: ab\nmodel: nothing\n")
    assert plan(folder)[0] == 1


def test_an_import_writes_drafts_that_compile_and_says_what_does_not_map(folder: Deployment, tmp_path: Path):
    (folder.layout.config / "experiments" / "x.yaml").unlink()
    rules = [{"key": "prompt", "variations": ["old", "new"], "weights": [0.5, 0.5], "hashVersion": 2}, {"force": "old"}]
    payload = tmp_path / "features.json"
    payload.write_text(json.dumps({"features": {"prompt": {"rules": rules}}}))
    words = ["experiment", "import", "growthbook", str(payload), "--model", "m", "--map", "old=1", "--map", "new=2", "--dir", str(folder.directory)]
    done = CliRunner().invoke(build("experiment"), words, env={"COLUMNS": "200"})
    assert (done.exit_code, "1 drafts written, 1 things not mapped" in done.output) == (1, True)
    assert compile_folder(folder.layout.config).issues == ()
    again = CliRunner().invoke(build("experiment"), words, env={"COLUMNS": "200"})
    assert "is there already" in again.output


def test_the_list_never_cuts_a_name_however_narrow_the_terminal():
    row = {"name": "churn-rehearsal-of-the-second-quarter", "stage": "decided", "decision": "rolled back", "epoch": 12}
    times = {"first": "2026-11-21T10:00:00.000000Z", "last": "2026-11-21T11:00:00.000000Z"}
    narrow = Console(width=80, file=StringIO())
    narrow.print(register_table([{**row, **times}]))
    assert row["name"] in narrow.file.getvalue()
