"""Two gateways that serve on one log in PostgreSQL: one leads, the other follows, and both answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from deployment import wait_until
from gateway_load import Load
from nodes import Pair, role
from postgres_server import Server
from upstreams import Model

pytestmark = [pytest.mark.component("postgresql"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model) -> Iterator[Pair]:
    server = Server.create()
    try:
        server.start()
        made = Pair.create(tmp_path_factory.mktemp("pair"), server.database("log"), one, two)
        with made.running():
            yield made
    finally:
        server.close()


def test_one_leads_the_other_follows_and_both_serve(pair: Pair):
    assert (role(pair.leader), role(pair.follower)) == ("leads", "follows")
    assert pair.follower.api("/api/status")["node"] == {"name": "b", "role": "follows", "leader": "a"}
    for node in (pair.a, pair.b):
        assert node.infer("plain").status_code == 200
        assert node.infer("sync").status_code == 200


def test_a_unit_has_the_same_pseudonym_and_arm_on_every_node(pair: Pair):
    for number in range(12):
        told = []
        for node in (pair.a, pair.b):
            reply = node.infer("split", unit=f"customer-{number}")
            assert reply.status_code == 200, reply.text
            record = pair.a.record(reply.headers["assay-decision"])
            told.append((record["subject"], record["route"]["assigned"], record["config_digest"]))
        assert told[0] == told[1]


def test_calls_of_both_nodes_land_in_one_log_once_and_it_verifies_from_either(pair: Pair):
    with Load(pair.a, {"batch": 2, "sync": 2}) as first, Load(pair.b, {"batch": 2, "sync": 2}) as second:
        first.wait_for(60)
        second.wait_for(60)
    pair.a.wait_idle(20)
    pair.b.wait_idle(20)
    log = pair.a.log
    log.refresh()
    for answer in [*first.acknowledged, *second.acknowledged]:
        assert answer.decision in log.by_id, answer
    assert not first.failed
    assert not second.failed
    for node in (pair.a, pair.b):
        size = len(log.refresh())
        wait_until(lambda node=node, size=size: int(node.checkpoint().splitlines()[1]) >= size, "the head to cover it")
        verdict = node.verify()
        grades = {check.name: str(check.grade) for check in verdict.checks}
        assert (grades["chain"], grades["tamper"], grades["completeness"]) == ("ok", "ok", "ok"), verdict.document()
