"""kill -9 of whole nodes of one log, at random, under load on both, judged by the callers' own journal.

After the last cycle: every call on the `sync` route that was answered 200 by either node has its decision and its outcome in the log, once; no number
of any writer is missing; every head that either node ever showed is a prefix of the log; the log verifies from both.

`ASSAY_NODE_KILL_CYCLES` sets the cycles (40).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment, wait_until
from gateway_load import Load
from nodes import Pair, role
from postgres_server import Server
from upstreams import Model

from audit.follow import follow
from audit.merkle import leaf_hashes, root
from audit.note import open_checkpoint

pytestmark = [pytest.mark.component("postgresql"), pytest.mark.slow, pytest.mark.timeout(7200)]
CYCLES = int(os.environ.get("ASSAY_NODE_KILL_CYCLES", "40"))
PATIENCE_S = 180.0
KINDS = ("leader", "follower", "stalled leader", "both")


@pytest.fixture
def pair(tmp_path: Path, one: Model, two: Model) -> Iterator[Pair]:
    server = Server.create()
    try:
        server.start()
        made = Pair.create(tmp_path, server.database("log"), one, two)
        with made.running():
            yield made
    finally:
        server.close()


def leading(pair: Pair) -> Deployment:
    """Return the node that leads, once one says so."""
    found: Deployment = wait_until(lambda: next((node for node in (pair.a, pair.b) if is_leading(node)), None), "a node to lead", PATIENCE_S)
    return found


def is_leading(node: Deployment) -> bool:
    try:
        return role(node) == "leads"
    except AssertionError:
        return False


def kill(pair: Pair, kind: str, draw: random.Random) -> None:
    """Take one node, or both, away, and bring back what died."""
    leader = leading(pair)
    follower = pair.b if leader is pair.a else pair.a
    if kind == "stalled leader":
        with leader.paused("controller"):
            wait_until(lambda: is_leading(follower), "the other to lead", PATIENCE_S)
        return
    dying = {"leader": [leader], "follower": [follower], "both": [leader, follower]}[kind]
    for node in dying:
        node.kill_everything()
    if kind == "leader" and draw.random() < 0.5:  # else it is back before its lease has run out
        wait_until(lambda: is_leading(follower), "the other to lead", PATIENCE_S)
    for node in dying:
        node.start(wait=False)
    for node in dying:
        node.wait_ready(PATIENCE_S)


def test_many_kills_of_whole_nodes_lose_nothing_that_was_promised_and_fork_nothing(pair: Pair):
    draw = random.Random(3)  # noqa: S311 - times of death, to be repeatable
    heads: set[bytes] = set()
    with Load(pair.a, {"sync": 3, "batch": 2}) as first, Load(pair.b, {"sync": 3, "batch": 2}) as second:
        for cycle in range(CYCLES):
            for load in (first, second):
                load.wait_for(30, timeout_s=PATIENCE_S)
            time.sleep(draw.uniform(0, 0.3))
            heads |= {pair.a.checkpoint(), pair.b.checkpoint()}
            kill(pair, KINDS[cycle % len(KINDS)], draw)
        for load in (first, second):
            load.wait_for(30, timeout_s=PATIENCE_S)
    for node in (pair.a, pair.b):
        node.wait_ready(PATIENCE_S)
        node.wait_idle(PATIENCE_S)
    pair.leader = leading(pair)
    pair.follower = pair.b if pair.leader is pair.a else pair.a
    judge(pair, heads, first, second)


def judge(pair: Pair, heads: set[bytes], *loads: Load) -> None:
    log = pair.a.log
    log.refresh()  # raises where a record stands in it twice
    acknowledged = [answer for load in loads for answer in load.acknowledged]
    for answer in acknowledged:
        if answer.model == "sync":
            assert answer.decision in log.by_id, f"an acknowledged `sync` call is not in the log: {answer}"
            outcomes = log.children.get(answer.decision, [])
            assert [outcome["outcome"]["status"] for outcome in outcomes] == [200], f"an acknowledged `sync` call has no outcome: {answer}"
    numbers: dict[tuple[str, int], list[int]] = {}
    for record in log.records:
        numbers.setdefault((record["writer"]["node"], record["writer"]["epoch"]), []).append(record["writer"]["seq"])
    assert all(found == list(range(len(found))) for found in numbers.values()), "no writer's numbers have a gap or a double"
    troubles = {answer.trouble for load in loads for answer in load.failed}
    assert troubles <= {"broken", "refused", "audit_unavailable", "state_stale", "not_ready", "vault_unavailable"}
    leaves = leaf_hashes([leaf for _, leaf in follow(pair.a.data, 0)])
    for note in heads | {pair.a.checkpoint(), pair.b.checkpoint()}:
        head = open_checkpoint(note, [pair.a.vkey]).checkpoint
        assert root(leaves[: head.size]) == head.root, f"the head of size {head.size} that was shown is no prefix of the log"
    for node in (pair.a, pair.b):
        wait_until(lambda node=node: int(node.checkpoint().splitlines()[1]) >= len(log.records), "the head to cover all", PATIENCE_S)
        verdict = node.verify()
        grades = {check.name: str(check.grade) for check in verdict.checks}
        assert (grades["chain"], grades["tamper"]) == ("ok", "ok"), verdict.document()
    terms = [record["term"] for record in log.of_type("log.led")]
    assert terms == sorted(set(terms)), "each term is said once, in order"
    print(  # noqa: T201 - shown by `pytest -s`: how hard the run was
        f"\n{CYCLES} cycles: {sum(len(load.answers) for load in loads)} calls, {len(acknowledged)} acknowledged, {len(log.records)} records, "
        f"{len(terms)} terms, {len(heads)} heads compared"
    )
