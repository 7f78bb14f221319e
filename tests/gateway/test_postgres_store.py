"""The whole gateway on a log in PostgreSQL: calls, verification, a restart of the server, a second node."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment, wait_until
from gateway_load import Load
from postgres_server import Server
from upstreams import Model

pytestmark = [pytest.mark.component("postgresql"), pytest.mark.timeout(240)]
_serial = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server.create()
    try:
        made.start()
        yield made
    finally:
        made.close()


def deploy(directory: Path, url: str, one: Model, node: str = "t") -> Deployment:
    made = Deployment(directory, workers=1, postgres=url, node=node)
    capture = {"prediction": "/outputs/0/data/0"}
    for model, keys in (("batch", {}), ("sync", {"audit": "sync"})):
        made.write_model(model, {"1": one.url}, capture=capture, **keys)
        made.approve(model, "1", url=one.url)
    return made


@pytest.fixture
def url(server: Server) -> str:
    return server.database(f"gateway_{next(_serial)}")


def judge(deployment: Deployment, load: Load) -> None:
    """Check that every acknowledged call stands in the log once, and that nothing is missing or unsigned."""
    log = deployment.log
    log.refresh()
    for answer in load.acknowledged:
        assert answer.decision in log.by_id, answer
        if answer.model == "sync":
            assert [child["outcome"]["status"] for child in log.children.get(answer.decision, [])] == [200]
    verdict = deployment.verify()
    grades = {check.name: str(check.grade) for check in verdict.checks}
    assert (grades["chain"], grades["tamper"], grades["completeness"]) == ("ok", "ok", "ok"), verdict.document()


def test_calls_are_recorded_signed_and_verified_while_the_server_restarts(tmp_path: Path, server: Server, url: str, one: Model):
    deployment = deploy(tmp_path / "d", url, one)
    with deployment.running():
        with Load(deployment, {"batch": 3, "sync": 2}) as load:
            load.wait_for(60)
            server.stop("fast")
            server.start()
            load.wait_for(60)
            server.stop("immediate")
            server.start()
            load.wait_for(60)
        deployment.wait_ready()
        deployment.wait_idle(20)
        judge(deployment, load)
        assert {answer.trouble for answer in load.failed} <= {"audit_unavailable", "state_stale", "not_ready"}, "refused, never broken"
        assert not list((deployment.data / "ranges").glob("*.sqlite")), "no leaf lies beside the database"
    assert "postgresql://" not in deployment.output(), "the connection string is told to nobody"
    for path in deployment.data.rglob("*"):
        assert not path.is_file() or b"postgresql://" not in path.read_bytes()


def test_a_second_node_stands_by_and_goes_on_with_the_log_when_the_first_dies(tmp_path: Path, url: str, one: Model):
    first = deploy(tmp_path / "a", url, one, "a")
    second = deploy(tmp_path / "b", url, one, "b")
    for shared in ("keys/log.key", "keys/api-keys.json", "trust/root.json"):
        shutil.copy(first.directory / shared, second.directory / shared)
    shutil.rmtree(second.layout.approvals)
    second.keys, second.vkey = first.keys, first.vkey
    shutil.copytree(first.layout.approvals, second.layout.approvals)
    try:
        first.start()
        with Load(first, {"batch": 2, "sync": 2}) as load:
            load.wait_for(50)
            second.start(wait=False)
            wait_until(lambda: "standing by" in second.output(), "the second node to stand by")
            load.wait_for(50)
            assert not (second.data / "run" / "ready").exists(), "it serves nothing while another node leads"
        first.wait_idle(20)
        signed = first.checkpoint()
        first.kill_everything()
        second.wait_ready(60)
        with Load(second, {"batch": 2, "sync": 2}) as later:
            later.wait_for(50)
        second.wait_idle(20)
        log = second.log
        log.refresh()
        for answer in [*load.acknowledged, *later.acknowledged]:
            assert answer.decision in log.by_id, answer
        verdict = second.verify(signed)
        grades = {check.name: str(check.grade) for check in verdict.checks}
        assert (grades["chain"], grades["tamper"], grades["independence"]) == ("ok", "ok", "ok"), verdict.document()
        assert second.stop() == 0
    finally:
        first.close()
        second.close()
