"""`assay policy publish` against a real OPA, and as a bundle that OPA loads."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from opa_server import OpaServer, opa_binary
from typer.testing import CliRunner

from gateway.cli.policy import app

pytestmark = pytest.mark.component("opa")
CONFIG = Path(__file__).resolve().parents[2] / "config"


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["publish", *arguments])
    return done.exit_code, done.output


def test_policies_are_put_into_a_server_and_read_back(tmp_path):
    shutil.copytree(CONFIG, tmp_path / "config")
    with OpaServer() as server:
        code, told = run("--config", str(tmp_path / "config"), "--to", server.url, "--json")
        assert code == 0, told
        revision = json.loads(told)["revision"]
        assert run("--config", str(tmp_path / "config"), "--to", server.url, "--verify")[0] == 0
        server.put("assay/default/limits.rego", "package policy.limits\n\nallow := true\n")
        code, told = run("--config", str(tmp_path / "config"), "--to", server.url, "--verify")
        assert code == 1
        assert "not what was published" in " ".join(told.split())
        code, told = run("--config", str(tmp_path / "config"), "--to", server.url)
        assert code == 0
        assert revision in " ".join(told.split())


def test_the_bundle_is_one_that_opa_loads(tmp_path):
    bundle = tmp_path / "assay.tar.gz"
    code, told = run("--config", str(CONFIG), "--archive", str(bundle), "--json")
    assert code == 0, told
    binary = opa_binary()
    assert binary is not None
    asked = subprocess.run(
        [binary, "eval", "--bundle", str(bundle), "--format", "raw", "data.assay.answers.revision"], capture_output=True, text=True, check=True
    )
    assert asked.stdout.strip() == json.loads(told)["revision"]


@pytest.mark.parametrize("arguments", [[], ["--to", "http://127.0.0.1:1", "--archive", "x"], ["--to", "nowhere"], ["--to", "http://127.0.0.1:1"]])
def test_what_cannot_be_done_is_told_with_what_to_do(arguments):
    code, told = run("--config", str(CONFIG), *arguments)
    assert code in {1, 2}
    assert "hint" in told
