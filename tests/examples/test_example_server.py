"""The example model server as a process: announce, answer, refuse, stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from examples.models.train import FEATURES, MODEL, train
from examples.traffic import cases, infer_body

ROOT = Path(__file__).parents[2]


def start(*arguments: str, pass_fds: tuple[int, ...] = ()) -> tuple[subprocess.Popen[str], dict]:
    command = [sys.executable, "-m", "examples.models.serve", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(10)
    process.stdout.close()
    return code


@pytest.fixture(scope="module")
def announced():
    process, announcement = start("--version", "4")
    yield announcement
    assert stop(process) == 0


@pytest.fixture(scope="module")
def server(announced):
    with httpx.Client(base_url=announced["url"]) as client:
        yield client


INFER = f"/v2/models/{MODEL}/infer"


def test_announcement_names_the_digest_that_training_gives(announced):
    version = train("4")
    assert announced["digest"] == version.digest
    assert announced["accuracy"] == pytest.approx(version.accuracy, abs=1e-6)


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready", f"/v2/models/{MODEL}/versions/4/ready"])
def test_metadata_and_health_answer_200(server, path):
    assert server.get(path).status_code == 200


def test_model_metadata_declares_the_tensors(server, announced):
    metadata = server.get(f"/v2/models/{MODEL}/versions/4").json()
    assert [tensor["name"] for tensor in metadata["inputs"]] == list(FEATURES)
    assert metadata["outputs"] == [
        {"name": "prediction", "datatype": "INT64", "shape": [-1]},
        {"name": "score", "datatype": "FP64", "shape": [-1]},
    ]
    assert metadata["parameters"]["digest"] == announced["digest"]


@pytest.mark.parametrize("path", [INFER, f"/v2/models/{MODEL}/versions/4/infer"])
def test_infer_answers_what_the_version_predicts(server, path):
    case = next(cases(seed=1))
    reply = server.post(path, json=infer_body(case))
    assert reply.status_code == 200
    document = reply.json()
    classes, scores = train("4").predict(np.array([case.features]))
    assert document["model_version"] == "4"
    assert document["outputs"][0]["data"] == classes.tolist()
    assert document["outputs"][1]["data"] == scores.tolist()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", f"/v2/models/{MODEL}/versions/3", 404),
        ("POST", f"/v2/models/{MODEL}/versions/3/infer", 404),
        ("GET", INFER, 405),
        ("POST", INFER, 400),
    ],
)
def test_errors_have_the_v2_shape(server, method, path, status):
    reply = server.request(method, path)
    assert reply.status_code == status
    assert isinstance(reply.json()["error"], str)


def test_too_large_wrong_type_and_binary_bodies_are_refused(server):
    assert server.post(INFER, content=b" " * (1 << 20) + b"{}").status_code == 413
    assert server.post(INFER, content=b"a=1", headers={"content-type": "text/plain"}).status_code == 415
    assert server.post(INFER, content=b"{}", headers={"inference-header-content-length": "2"}).status_code == 400


def test_serves_on_an_inherited_socket():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process, announcement = start("--version", "3", "--fd", str(listener.fileno()), pass_fds=(listener.fileno(),))
        port = listener.getsockname()[1]
    assert announcement["url"] == f"http://127.0.0.1:{port}"
    assert httpx.get(f"{announcement['url']}/v2/health/ready").json() == {"ready": True}
    assert stop(process) == 0
