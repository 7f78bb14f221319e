"""A restored copy is not gone on with: the start refuses, a new log follows the old one, and a stranger verifies both."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import COMMAND, ENVIRONMENT, Deployment, Log, wait_until
from upstreams import Model


def assay(deployment: Deployment, *words: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, cwd=deployment.directory, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=90)


def serve_calls(deployment: Deployment, count: int = 5) -> None:
    for _ in range(count):
        assert deployment.infer("plain").status_code == 200
    deployment.wait_idle()


@pytest.fixture
def deployment(tmp_path: Path, one: Model) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "d")
    made.write_model("plain", {"1": one.url})
    made.approve("plain", "1", url=one.url)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("copied_by", ["backup", "cp"])
def test_a_restored_copy_is_refused_and_a_new_log_follows_the_old_one(deployment: Deployment, tmp_path: Path, copied_by: str):
    copy, whole = tmp_path / "copy", tmp_path / "whole"
    deployment.start()
    serve_calls(deployment)
    if copied_by == "backup":
        done = assay(deployment, "audit", "backup", "data", "--to", copy)
        assert done.returncode == 0, done.stderr
    else:  # a copy that does not say so itself, of a gateway that stands still
        assert deployment.stop() == 0
        shutil.copytree(deployment.data, copy)
        deployment.start()
    serve_calls(deployment)
    assert deployment.stop() == 0
    deployment.log.close()

    # The machine is lost; the copy is put in its place, and refused.
    shutil.move(deployment.data, whole)
    shutil.copytree(copy, deployment.data)
    told = deployment.serve_expecting_refusal()
    assert ("is a backup" if copied_by == "backup" else "older copy was restored") in told
    shutil.rmtree(deployment.data)
    deployment.data.mkdir()

    # A new log, which says what it follows: the last head that anybody kept.
    former = deployment.directory / "keys" / "former.checkpoint"
    shutil.copy(whole / "log" / "checkpoint", former)
    made = assay(deployment, "audit", "keys", "--generate", "keys/next.key", "--name", "assay.example/next", "--json")
    next_key = json.loads(made.stdout)["keys"][0]["vkey"]
    file = deployment.directory / "config" / "gateway.yaml"
    was, follows = file.read_text(), f'follows: {{checkpoint: keys/former.checkpoint, key: "{deployment.vkey}"}}'
    named = 'origin: assay.example/test, key: "file:keys/log.key"'
    assert named in was
    file.write_text(was.replace(named, f'origin: assay.example/next, key: "file:keys/next.key", {follows}'))
    deployment.start(wait=False)
    wait_until(lambda: deployment.checkpoint().startswith(b"assay.example/next\n"), "the first head of the new log", 60)
    deployment.log = Log(deployment.data)
    (opened,) = deployment.log.of_type("log.open")
    assert opened["previous"]["checkpoint"] == former.read_text()
    kinds = [record["type"] for record in deployment.log.records]
    assert kinds.index("log.open") < kinds.index("key.began")
    assert deployment.stop() == 0

    def verify(previous: Path) -> tuple[int, dict[str, Any]]:
        words = ("--vkey", next_key, "--previous", previous, "--previous-vkey", deployment.vkey, "--json")
        done = assay(deployment, "audit", "verify", "data", *words)
        return done.returncode, json.loads(done.stdout)

    code, found = verify(whole)
    assert (found["follows"]["origin"], found["previous"]["exit_code"]) == ("assay.example/test", 0), found["previous"]
    assert code == 3, "the new log's own freshness is unproven without a witness"
    code, found = verify(copy)
    assert (code, found["previous"]["exit_code"]) == (3, 3)
    assert "records are missing" in json.dumps(found["previous"])

    # What it has not followed from its beginning it never follows.
    file.write_text(file.read_text().replace(follows, follows.replace("former", "other")))
    shutil.copy(copy / "log" / "checkpoint", former.with_name("other.checkpoint"))
    assert "has begun without following" in deployment.serve_expecting_refusal()
