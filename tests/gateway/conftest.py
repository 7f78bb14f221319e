"""Deployments shared by the tests of this folder: one that is treated well, and that must outlive every bad call."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment, free_port, orphans, wait_until
from upstreams import Model, Models

sys.path.append(str(Path(__file__).parents[1] / "rego"))  # `opa_server`


@pytest.fixture(scope="session")
def models() -> Iterator[Models]:
    with Models() as running:
        yield running


@pytest.fixture(scope="session")
def one(models: Models) -> Model:
    """The model server that says it is version 1."""
    return models.add("1")


@pytest.fixture(scope="session")
def two(models: Models) -> Model:
    """The model server that says it is version 2."""
    return models.add("2")


@pytest.fixture(scope="session")
def spine(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model) -> Iterator[Deployment]:
    """A gateway with one worker and every kind of route."""
    deployment = Deployment(tmp_path_factory.mktemp("spine"))
    pair = {"1": one.url, "2": two.url, "3": two.url}
    capture = {"prediction": "/outputs/0/data/0", "score": "/outputs/1/data/0"}
    nowhere = f"http://127.0.0.1:{free_port()}"
    deployment.write_model("plain", pair, expose_arm=True)
    deployment.write_model("captured", {"1": one.url}, capture=capture, unit={"json": "/parameters/customer"})
    deployment.write_model("hurried", {"1": one.url}, deadline="400ms", retries=0)
    deployment.write_model("typed", {"1": one.url}, schema={"inputs": {"x": {"type": "number", "min": 0, "max": 10}}})
    deployment.write_model("narrow", {"1": one.url}, limits={"max_rows": 3})
    deployment.write_model("rated", {"1": one.url}, limits={"rate": "2/s"})
    deployment.write_model("durable", {"1": one.url}, audit="sync")
    deployment.write_model("files", {"1": one.url}, protocol="http", serves={"/any/*": ["POST"], "/x": ["POST"], "/some/path": ["GET"]})
    deployment.write_model("down", {"1": nowhere}, retries=0)
    deployment.write_model("unapproved", {"1": one.url})
    deployment.write_model("split", pair, expose_arm=True, capture=capture)
    deployment.write_experiment("half", "split", {"control": "1", "treatment": "3"})
    for model in ("plain", "captured", "hurried", "typed", "narrow", "rated", "durable", "files", "split"):
        deployment.approve(model, "1", url=one.url)
    deployment.approve("plain", "2", url=two.url)
    deployment.approve("down", "1", url=nowhere)
    with deployment.running():
        yield deployment


@pytest.fixture
def gateway(spine: Deployment) -> Iterator[Deployment]:
    """The shared gateway; after the test the same processes must still be there and serve, without a defect told."""
    before = spine.pids()
    defects = spine.output().count("defect")
    yield spine
    reply = spine.infer("plain")
    assert (reply.status_code, reply.json()["model_version"]) == (200, "1"), reply.text
    assert spine.pids() == before, "no process died"
    assert spine.output().count("defect") == defects, spine.output()[-3000:]


@pytest.fixture(scope="module")
def nothing_leaks(spine: Deployment) -> Iterator[None]:
    """After the tests of a module no call is in flight, no record waits, and the worker holds no connection of a caller who is gone."""
    yield
    spine.wait_idle()
    wait_until(lambda: not orphans(spine), f"connections of callers who are gone to be closed: {orphans(spine)}")
