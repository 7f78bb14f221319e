"""Two gateways that serve on one log in PostgreSQL: one leads, the other follows, and both answer. The tests share one pair, in their order."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from deployment import COMMAND, ENVIRONMENT, Deployment, wait_until
from gateway_load import Load
from nodes import Pair, role
from postgres_server import Server
from upstreams import Model

from audit.follow import follow
from audit.merkle import leaf_hashes, root
from audit.note import open_checkpoint
from gateway import apikeys
from gateway.config.layout import write_durably
from gateway.control.sharedkeys import NodesKey

pytestmark = [pytest.mark.component("postgresql"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server.create()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, server: Server, one: Model, two: Model) -> Iterator[Pair]:
    made = Pair.create(tmp_path_factory.mktemp("pair"), server.database("log"), one, two)
    with made.running():
        yield made


def require_whole(pair: Pair, *loads: Load, known: bytes | None = None) -> None:
    """Check that what was acknowledged stands in the log once, and that the log verifies from either node."""
    for node in (pair.a, pair.b):
        node.wait_idle(60)
    log = pair.a.log
    log.refresh()  # raises where a record stands in it twice
    for load in loads:
        for answer in load.acknowledged:
            assert answer.decision in log.by_id, answer
            if answer.model == "sync":
                assert [child["outcome"]["status"] for child in log.children.get(answer.decision, [])] == [200], answer
    size = len(log.records)
    for node in (pair.a, pair.b):
        wait_until(lambda node=node: int(node.checkpoint().splitlines()[1]) >= size, f"the head of `{node.node}` to cover {size} records", 60)
        verdict = node.verify(known)
        grades = {check.name: str(check.grade) for check in verdict.checks}
        assert (grades["chain"], grades["tamper"]) == ("ok", "ok"), verdict.document()
        assert not [fault for fault in verdict.completeness.faults if "stated" not in fault.message], verdict.document()


def step(node: Deployment, verb: str) -> Any:
    return node.client.post(f"{node.admin}/api/experiments/half/{verb}", headers=node.bearer("operator"), json={"reason": "tests"})


def phase(node: Deployment) -> str:
    return str(node.api("/api/experiments/half")["phase"])


def refused_with(node: Deployment, model: str) -> str:
    reply = node.infer(model)
    return "" if reply.status_code == 200 else str(reply.json().get("code", ""))


def test_one_leads_the_other_follows_and_both_serve(pair: Pair):
    assert (role(pair.leader), role(pair.follower)) == ("leads", "follows")
    assert pair.follower.api("/api/status")["node"] == {"name": "b", "role": "follows", "leader": "a"}
    for node in (pair.a, pair.b):
        for model in ("plain", "sync", "kept"):
            assert node.infer(model).status_code == 200
        wait_until(lambda node=node: node.infer("risky").status_code == 200, "state fresh enough for high risk")


def test_a_unit_has_the_same_pseudonym_and_arm_on_every_node(pair: Pair):
    assert (pair.a.data / "vault" / "epochs.json").read_bytes() == (pair.b.data / "vault" / "epochs.json").read_bytes()
    for number in range(12):
        told = []
        for node in (pair.a, pair.b):
            reply = node.infer("split", unit=f"customer-{number}")
            assert reply.status_code == 200, reply.text
            record = pair.a.record(reply.headers["assay-decision"])
            told.append((record["subject"], record["route"]["assigned"], record["config_digest"]))
        assert told[0] == told[1]


def test_a_tenant_that_only_the_follower_knows_gets_its_pseudonyms_there_and_everywhere(pair: Pair):
    node = pair.follower
    secret, file = apikeys.create(apikeys.load(node.layout.keys / "api-keys.json"), tenant="other", scopes=("infer",), random=os.urandom, now_us=1)
    node.keys = {**node.keys, "other": secret}
    write_durably(node.layout.keys / "api-keys.json", apikeys.encode(file), mode=0o600, replace=True)
    wait_until(lambda: node.infer("plain", key="other").status_code == 200, "a new tenant's key to be taken")
    wait_until(lambda: b'"other"' in (pair.leader.data / "vault" / "epochs.json").read_bytes(), "its pseudonym key on the other node")


def test_calls_of_both_nodes_land_in_one_log_once_and_it_verifies_from_either(pair: Pair):
    with Load(pair.a, {"batch": 2, "sync": 2}) as first, Load(pair.b, {"batch": 2, "sync": 2}) as second:
        first.wait_for(60)
        second.wait_for(60)
    require_whole(pair, first, second)
    assert not first.failed
    assert not second.failed
    verdict = pair.follower.verify()
    assert {check.name: str(check.grade) for check in verdict.checks}["completeness"] == "ok", verdict.document()


def test_a_receipt_of_the_follower_is_proven_by_either_node(pair: Pair):
    node = pair.follower
    reply = node.client.post(
        f"{node.front}/v2/models/sync/infer",
        headers={**node.bearer("product"), "content-type": "application/json", "assay-receipt": "1"},
        content=b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]}]}',
    )
    assert reply.status_code == 200
    assert "assay-receipt" in reply.headers
    decision = reply.headers["assay-decision"]
    for asked in (pair.follower, pair.leader):
        proof = wait_until(
            lambda asked=asked: (found := asked.get(f"/receipts/{decision}", key="product")).status_code == 200 and found.json(), "the proof", 30
        )
        assert proof["records"]
        assert any('"node":"b"' in one["leaf"] for one in proof["certificates"]), "the leader folds certificates of other nodes' keys"


def test_a_change_of_the_leaders_folder_reaches_the_follower_and_one_of_its_own_takes_no_force(pair: Pair, one: Model):
    pair.leader.write_model("late", {"1": one.url})
    wait_until(lambda: refused_with(pair.follower, "late") == "not_approved", "the follower to know the new model")
    assert pair.follower.config_digest() == pair.leader.config_digest()
    pair.follower.write_model("nowhere", {"1": one.url})
    wait_until(lambda: pair.follower.api("/api/status")["issues"], "the follower to tell that its folder takes no force")
    assert refused_with(pair.follower, "nowhere") == "unknown_model"
    (pair.follower.layout.config / "models" / "nowhere.yaml").unlink()


def test_an_approval_and_a_revocation_put_into_the_follower_take_force_everywhere(pair: Pair, one: Model):
    pair.follower.approve("late", "1", url=one.url)
    for node in (pair.follower, pair.leader):
        wait_until(lambda node=node: refused_with(node, "late") == "", f"the approval to hold on `{node.node}`")
    pair.follower.revoke("late", "1")
    for node in (pair.follower, pair.leader):
        wait_until(lambda node=node: refused_with(node, "late") == "not_approved", f"the revocation to hold on `{node.node}`")


def test_a_step_is_refused_by_the_follower_with_the_leaders_name_and_taken_by_the_leader_for_both(pair: Pair):
    refused = step(pair.follower, "pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "led_elsewhere")
    assert f"`{pair.leader.node}`" in refused.json()["detail"]
    assert step(pair.leader, "pause").status_code == 200
    wait_until(lambda: phase(pair.follower) == "paused", "the follower to tell of the pause")
    wait_until(
        lambda: {pair.follower.infer("split", unit=f"u{number}").headers.get("assay-arm") for number in range(8)} <= {None, "control", "default"},
        "the control to serve everyone on the follower",
    )
    assert step(pair.leader, "resume").status_code == 200
    wait_until(lambda: phase(pair.follower) == "running", "the follower to tell of the end of the pause")


def test_a_subject_erased_through_the_leader_is_gone_on_every_node_and_remembered_by_every_node(pair: Pair):
    sent = {"parameters": {"note": "a word"}, "inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}
    decisions = []
    for node in (pair.a, pair.b):
        reply = node.infer("kept", unit="ann", body=sent)
        assert reply.status_code == 200, reply.text
        decisions.append(reply.headers["assay-decision"])
        node.outcome(decisions[-1])

    def states(node: Deployment) -> set[str]:
        records = node.log.refresh()
        found = [index for index, record in enumerate(records) if record["id"] in decisions]
        answers = [node.client.get(f"{node.admin}/api/records/{index}/payload", headers=node.bearer("operator")) for index in found]
        return {answer.json()["state"] if answer.status_code == 200 else str(answer.status_code) for answer in answers}

    wait_until(lambda: states(pair.leader) == states(pair.follower) == {"kept"}, "what both nodes captured to be kept", 30)
    order = {"unit": "ann", "ground": "request"}
    refused = pair.follower.client.post(f"{pair.follower.admin}/api/erasures", headers=pair.follower.bearer("operator"), json=order)
    assert (refused.status_code, refused.json()["code"]) == (409, "led_elsewhere")
    done = pair.leader.client.post(f"{pair.leader.admin}/api/erasures", headers=pair.leader.bearer("operator"), json=order)
    assert done.status_code == 200, done.text
    assert done.json()["entries"] == 2
    for node in (pair.leader, pair.follower):
        assert states(node) == {"erased"}
        marks = node.directory / "marks" / "vault.erased"
        wait_until(lambda marks=marks: done.json()["erasure"] in marks.read_text(), f"`{node.node}` to remember the erasure")


def test_commands_on_both_nodes_record_their_reads(pair: Pair):
    for node in (pair.a, pair.b):
        asked = ("audit", "query", "--type", "log.open", "--data", str(node.data))
        done = subprocess.run([*COMMAND, *asked], cwd=node.directory, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
    wait_until(lambda: {"a.cli", "b.cli"} <= {record["writer"]["node"] for record in pair.a.log.of_type("query")}, "a read of each node")


def test_a_stalled_leader_makes_the_follower_refuse_what_is_of_high_risk_then_lead_and_then_follows_itself(pair: Pair):
    before = pair.leader.checkpoint()
    with Load(pair.follower, {"sync": 2, "batch": 1}) as load:
        load.wait_for(10)
        with pair.leader.paused("controller"):
            wait_until(lambda: refused_with(pair.follower, "risky") == "state_stale", "high risk to be refused without a leader", 30)
            wait_until(lambda: role(pair.follower) == "leads", "the follower to lead", 60)
            pair.swap()
            wait_until(lambda: refused_with(pair.leader, "risky") == "", "high risk to be served by the new leader", 30)
            pair.leader.revoke("plain", "1")  # while the former leader knows nothing of it
            wait_until(lambda: refused_with(pair.leader, "plain") == "not_approved", "the revocation to hold")
            wait_until(lambda: refused_with(pair.follower, "risky") == "state_stale", "the stalled node to refuse high risk", 30)
        pair.wait_roles()
        load.wait_for(10)
    wait_until(lambda: refused_with(pair.follower, "plain") == "not_approved", "the revocation to hold where the leader was stalled")
    assert {answer.trouble for answer in load.failed} == set(), "who survives refuses nothing within the bound"
    require_whole(pair, load, known=before)
    terms = [record["term"] for record in pair.a.log.of_type("log.led")]
    assert terms == sorted(set(terms)), "each term is said once, in order"


@pytest.mark.slow
def test_a_leader_killed_with_all_its_processes_is_followed_within_the_bound_and_nothing_acknowledged_is_lost(pair: Pair):
    heads = [pair.leader.checkpoint()]
    with Load(pair.leader, {"sync": 2, "batch": 2}) as dying, Load(pair.follower, {"sync": 2, "batch": 2}) as surviving:
        dying.wait_for(40)
        surviving.wait_for(40)
        heads.append(pair.leader.checkpoint())
        pair.leader.kill_everything()
        pair.swap()
        wait_until(lambda: role(pair.leader) == "leads", "the survivor to lead", 60)
        surviving.wait_for(40)
    assert surviving.failed == [], "who survives refuses nothing within the bound"
    pair.follower.start()
    pair.wait_roles()
    heads += [pair.follower.checkpoint(), pair.leader.checkpoint()]
    sync = [answer for answer in dying.acknowledged if answer.model == "sync"]
    log = pair.leader.log
    log.refresh()
    assert all(answer.decision in log.by_id for answer in sync), "an acknowledged `sync` call is in the log"
    require_whole(pair, surviving, known=heads[0])
    opened = [open_checkpoint(head, [pair.a.vkey]).checkpoint for head in heads]
    leaves = leaf_hashes([leaf for _, leaf in follow(pair.a.data, 0)])
    assert all(root(leaves[: head.size]) == head.root for head in opened), "every head that was shown is a prefix of the log"
    assert all(earlier.size <= later.size for earlier, later in pairwise(sorted(opened, key=lambda head: head.size)))


@pytest.mark.slow
def test_a_node_that_takes_over_keeps_what_is_in_force_where_its_folder_is_another_and_says_so(pair: Pair, one: Model):
    (pair.follower.layout.config / "models" / "risky.yaml").unlink()
    in_force = pair.leader.config_digest()
    assert pair.leader.stop() == 0
    pair.swap()
    wait_until(lambda: role(pair.leader) == "leads", "the other to lead", 60)
    issues = wait_until(lambda: pair.leader.api("/api/status")["issues"], "the folder that differs to be told")
    assert "models/risky" in issues[0]
    assert pair.leader.config_digest() == in_force
    pair.leader.write_model("newer", {"1": one.url})
    wait_until(lambda: refused_with(pair.leader, "risky") == "unknown_model", "the changed folder to be in force")
    assert pair.leader.api("/api/status")["issues"] == []
    pair.follower.start()
    pair.wait_roles()
    assert refused_with(pair.follower, "newer") == "not_approved"


@pytest.mark.slow
def test_the_database_restarted_costs_refusals_and_nothing_else(pair: Pair, server: Server):
    with Load(pair.leader, {"sync": 2}) as first, Load(pair.follower, {"sync": 2}) as second:
        first.wait_for(20)
        second.wait_for(20)
        server.stop("immediate")
        for node in (pair.leader, pair.follower):
            wait_until(lambda node=node: refused_with(node, "sync"), "calls to be refused without the database", 30)
        server.start()
        first.wait_for(20, timeout_s=90)
        second.wait_for(20, timeout_s=90)
    for node in (pair.a, pair.b):
        node.wait_ready(60)
    if role(pair.leader) != "leads":
        pair.swap()
    pair.wait_roles()
    assert {answer.trouble for answer in [*first.failed, *second.failed]} <= {"audit_unavailable", "state_stale", "not_ready", "vault_unavailable"}
    require_whole(pair, first, second)


@pytest.mark.slow
def test_a_node_with_another_key_or_none_does_not_start_and_says_why(pair: Pair):
    node = pair.follower
    assert node.stop() == 0
    path = node.layout.keys / "nodes.key"
    right = path.read_bytes()
    for wrong, words in ((NodesKey(os.urandom(32)).secret_text().encode(), "sealed under key"), (b"no key", "begins with `NODES+KEY+`")):
        write_durably(path, wrong, mode=0o600, replace=True)
        told = node.serve_expecting_refusal()
        assert "postgres.key" in told, told
        assert words in told
    write_durably(path, right, mode=0o600, replace=True)
    settings = node.layout.config / "gateway.yaml"
    text = settings.read_text()
    settings.write_text(text.replace(', key: "file:keys/nodes.key"', ""))
    assert "this node has none" in node.serve_expecting_refusal()
    settings.write_text(text)
    node.start()
    pair.wait_roles()


@pytest.mark.slow
def test_a_node_whose_tree_is_not_the_one_that_was_signed_serves_nothing_and_says_so(pair: Pair, server: Server):
    node = pair.follower
    signed = int(pair.leader.checkpoint().splitlines()[1])
    assert node.stop() == 0
    shutil.rmtree(node.data / "log")
    (kept,) = server.execute("SELECT bytes FROM leaf WHERE idx = %s", "log", (signed - 1,))[0]
    change = "UPDATE leaf SET bytes = %s WHERE idx = %s"
    server.execute(change, "log", (bytes(kept) + b" ", signed - 1))
    try:
        assert "do not give the root" in node.serve_expecting_refusal()
    finally:
        server.execute(change, "log", (bytes(kept), signed - 1))
    node.start()
    pair.wait_roles()
