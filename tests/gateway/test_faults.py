"""Processes that stop, die and come back under load. What was promised holds: nothing acknowledged is lost, nobody is served unrecorded."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from deployment import BODY, Deployment, free_port, is_alive, wait_until
from gateway_load import Load
from upstreams import Model

from audit.promise import Promise, PromiseVerdict, judge_in_log
from audit.receipt import read_note
from audit.source import open_directory


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model) -> Iterator[Deployment]:
    """A gateway with two workers, and an experiment that runs."""
    deployment = Deployment(tmp_path_factory.mktemp("troubled"), workers=2)
    capture = {"prediction": "/outputs/0/data/0"}
    pair = {"1": one.url, "2": two.url}
    deployment.write_model("batch", {"1": one.url}, capture=capture, deadline="3s")
    deployment.write_model("sync", {"1": one.url}, audit="sync", deadline="3s")
    deployment.write_model("careful", {"1": one.url}, risk="high", capture=capture)
    deployment.write_model("switched", pair, capture=capture)
    deployment.write_model("tested", pair, capture=capture, expose_arm=True)
    deployment.write_experiment("half", "tested", {"control": "1", "treatment": "2"})
    for model in ("batch", "sync", "careful", "switched", "tested"):
        deployment.approve(model, "1", url=one.url)
    deployment.approve("careful", "1", url=one.url, person="bob")
    deployment.approve("switched", "2", url=two.url)
    deployment.approve("tested", "2", url=two.url)
    with deployment.running():
        yield deployment


@pytest.fixture
def gateway(shared: Deployment) -> Iterator[Deployment]:
    """The troubled gateway; after each test it has to be whole again, idle, and its log has to verify."""
    kept = shared.checkpoint()
    yield shared
    shared.wait_ready()
    wait_until(lambda: {"worker 0", "worker 1", "recorder", "controller"} <= shared.pids().keys(), "all processes to be back")
    assert shared.infer("sync").status_code == 200
    shared.wait_idle()
    assert "defect" not in shared.output()
    verdict = shared.verify(kept)
    assert (str(verdict.chain.grade), str(verdict.tamper.grade), str(verdict.independence.grade)) == ("ok", "ok", "ok"), verdict.document()


def missing(gateway: Deployment, load: Load) -> list[str]:
    """Acknowledged calls that are not in the log."""
    gateway.wait_idle()
    gateway.log.refresh()
    return [answer.decision for answer in load.acknowledged if answer.decision not in gateway.log.by_id]


def keep_mark(gateway: Deployment, node: str, folder: Path) -> Path:
    """Link the high-water mark of a living writer, so that it can be read after the recorder has judged and removed it."""

    def link() -> Path | None:
        for mark in (gateway.data / "run").glob(f"hwm-{node}-*"):
            kept = folder / mark.name
            if not kept.exists():
                os.link(mark, kept)
                return kept
        return None

    found: Path = wait_until(link, f"the mark of `{node}`")
    return found


def numbered(mark: Path) -> int:
    """Return the last number a writer has given out, from its kept high-water mark."""
    assigned: int = struct.unpack_from("=8sq", mark.read_bytes())[1]
    return assigned


def number_more(gateway: Deployment, mark: Path) -> None:
    """Make calls on connections of their own until the worker of `mark` has numbered one that nobody reads."""
    before = numbered(mark)

    def called() -> bool:
        with httpx.Client() as alone, contextlib.suppress(httpx.TimeoutException):
            gateway.infer("batch", client=alone, timeout_s=0.2)
        return numbered(mark) > before

    wait_until(called, "the worker to number a record that nobody reads")


# --- the controller -----------------------------------------------------------------------------------------------------------------------


def test_when_the_controller_is_silent_high_risk_is_refused_within_its_bound_and_the_rest_goes_on(gateway: Deployment):
    wait_until(lambda: gateway.infer("careful").status_code == 200, "high risk to be served")
    with gateway.paused("controller"):
        paused_s, served_s = time.monotonic(), []

        def refused() -> httpx.Response | None:
            sent_s, found = time.monotonic(), gateway.infer("careful")
            if found.status_code != 200:
                return found
            served_s.append(sent_s - paused_s)
            return None

        reply = wait_until(refused, "high risk to be refused")
        assert max(served_s, default=0.0) <= 1.0 + 0.1, "none that was sent later than its bound was served"
        assert reply.json()["code"] == "state_stale"
        assert int(reply.headers["retry-after"]) > 0
        assert gateway.infer("batch").status_code == 200
    wait_until(lambda: gateway.infer("careful").status_code == 200, "high risk to be served again", 3)
    assert gateway.record(reply.headers["assay-decision"])["outcome"]["code"] == "state_stale"


def test_a_worker_that_starts_is_not_ready_before_a_model_of_high_risk_can_be_served(gateway: Deployment):
    before = gateway.pids()
    with gateway.paused("controller"):
        wait_until(lambda: gateway.infer("careful").status_code == 503, "high risk to be refused")
        for name in ("worker 0", "worker 1"):
            gateway.signal(name, signal.SIGKILL)
        wait_until(lambda: {gateway.pids().get(name, before[name]) for name in ("worker 0", "worker 1")}.isdisjoint(before.values()), "new workers")
        told = wait_until(lambda: gateway.get("/readyz"), "a worker to answer", 30)
        assert (told.status_code, told.json()["code"]) == (503, "not_ready")
    gateway.wait_ready()
    wait_until(lambda: gateway.infer("careful").status_code == 200, "high risk to be served")


def test_a_killed_controller_is_not_noticed_by_callers_and_comes_back_knowing_what_was_in_force(gateway: Deployment):
    def in_force() -> tuple[object, ...]:
        found = gateway.api("/api/experiments")["experiments"]
        return [(e["name"], e["phase"], e["epoch"], e["share"]) for e in found], gateway.config_digest()

    def live_digest() -> str:
        return gateway.record(gateway.infer("tested").headers["assay-decision"])["route"]["live_digest"]

    before, live = in_force(), live_digest()
    with Load(gateway, {"batch": 2, "tested": 2}) as load:
        killed = gateway.signal("controller", signal.SIGKILL)
        wait_until(lambda: gateway.pids().get("controller", killed) != killed, "a new controller")
        wait_until(lambda: gateway.client.get(f"{gateway.admin}/healthz").status_code == 200, "its admin port")
        load.wait_for(50)
    assert load.failed == []
    assert in_force() == before
    wait_until(lambda: live_digest() == live, "the same live state to be published")
    # High risk: its bound of a second may have passed while the new controller took over. That is the only refusal there may be: one for want of
    # approval would mean that the log was not folded before the new state was published.
    refused: set[str] = set()

    def served() -> bool:
        reply = gateway.infer("careful")
        if reply.status_code != 200:
            refused.add(reply.json()["code"])
        return reply.status_code == 200

    wait_until(served, "a fresh state for the high-risk model", 5)
    assert refused <= {"state_stale"}, refused
    assert missing(gateway, load) == []
    lost = [record for record in gateway.log.of_type("log.lost") if record["node"] == "t.controller"]
    assert lost == [], "the controller's records are committed before they take force"


def test_a_config_change_made_while_the_controller_is_dead_is_in_force_once_it_is_back(gateway: Deployment, one: Model, two: Model):
    pair = {"1": one.url, "2": two.url}
    killed = gateway.signal("controller", signal.SIGKILL)
    gateway.write_model("switched", pair, default="2", capture={"prediction": "/outputs/0/data/0"})
    wait_until(lambda: gateway.pids().get("controller", killed) != killed, "a new controller")
    wait_until(lambda: gateway.infer("switched").json()["model_version"] == "2", "the change to be in force")


# --- the recorder -------------------------------------------------------------------------------------------------------------------------


def test_while_nothing_can_be_recorded_calls_are_refused_and_none_that_was_acknowledged_is_lost(gateway: Deployment):
    with Load(gateway, {"batch": 2, "sync": 2}) as load:
        load.wait_for(50)
        with gateway.paused("recorder"):
            time.sleep(1.1)
            reply = wait_until(lambda: (found := gateway.infer("batch", timeout_s=5)).status_code == 503 and found, "new calls to be refused")
            assert reply.json()["error"].startswith("audit_unavailable: ")
            assert int(reply.headers["retry-after"]) > 0
            refused_s = time.monotonic()
            served = [answer for answer in load.answers if answer.status == 200 and answer.sent_s > refused_s]
            assert served == []
        load.wait_for(50)
    assert {answer.trouble for answer in load.failed} <= {"audit_unavailable"}
    assert missing(gateway, load) == []


@pytest.mark.parametrize("model", ["batch", "sync"])
def test_a_call_that_waits_for_the_log_is_answered_at_its_deadline(gateway: Deployment, model: str):
    with gateway.paused("recorder"):
        gateway.infer("batch")  # from now on the oldest unconfirmed record grows older
        time.sleep(0.1)
        started_s = time.monotonic()
        reply = gateway.infer(model, timeout_s=10)
        assert time.monotonic() - started_s < 3 + 5, "not when the recorder answers again, which it does not"
        assert (reply.status_code, reply.json()["code"]) == (503, "audit_unavailable")
    assert gateway.outcome(reply.headers["assay-decision"])


def test_a_killed_recorder_loses_nothing_and_callers_wait_or_are_told_to_come_back(gateway: Deployment):
    with Load(gateway, {"batch": 2, "sync": 2}) as load:
        load.wait_for(50)
        for _ in range(3):
            killed = gateway.signal("recorder", signal.SIGKILL)
            wait_until(lambda killed=killed: gateway.pids().get("recorder", killed) != killed, "a new recorder")
            load.wait_for(50)
    assert {answer.trouble for answer in load.failed} <= {"audit_unavailable"}
    assert missing(gateway, load) == []
    assert not [record for record in gateway.log.of_type("log.lost") if record["node"] != "t.controller" and ".w" not in record["node"]]


# --- the workers --------------------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_refuses_no_new_connection_and_the_log_says_exactly_what_it_lost(gateway: Deployment, tmp_path: Path):
    marks: list[Path] = []
    with Load(gateway, {"batch": 4, "sync": 2}) as load:
        for life in range(3):
            kept = keep_mark(gateway, "t.w0", tmp_path)
            load.wait_for(50)
            if life == 1:
                # One loss without luck: the recorder stands, and dies with what the worker has handed over and it has not read.
                recorder = gateway.signal("recorder", signal.SIGSTOP)
                number_more(gateway, kept)
            killed = gateway.signal("worker 0", signal.SIGKILL)
            if life == 1:
                os.kill(recorder, signal.SIGKILL)
            marks.append(kept)
            wait_until(lambda killed=killed: gateway.pids().get("worker 0", killed) != killed, "a new worker")
    assert {answer.trouble for answer in load.failed} <= {"broken", "audit_unavailable"}, "what the dead worker served breaks off; nobody is refused"
    assert len([answer for answer in load.failed if answer.trouble == "broken"]) <= 3 * 6
    lost = set(missing(gateway, load))
    assert not [answer for answer in load.acknowledged if answer.model == "sync" and answer.decision in lost]
    stated = 0
    for kept in marks:
        _, assigned, _, epoch = struct.unpack_from("=8sqqq", kept.read_bytes())
        committed = [r["writer"]["seq"] for r in gateway.log.records if (r["writer"]["node"], r["writer"]["epoch"]) == ("t.w0", epoch)]
        (end,) = wait_until(
            lambda epoch=epoch: [
                r for r in gateway.log.refresh() if r["type"] in ("log.lost", "log.recover") and (r["node"], r["epoch"]) == ("t.w0", epoch)
            ],
            "the end of the dead worker to be stated",
        )
        assert committed == list(range(len(committed)))
        if end["type"] == "log.lost":
            assert (end["from"], end["to"]) == (len(committed), assigned)
            stated += assigned - len(committed) + 1
        else:
            assert end["last"] == assigned == len(committed) - 1
    assert len(lost) <= stated
    assert stated > 0, "one of the deaths took records with it, and the log says how many"


def test_a_promise_that_died_with_its_processes_is_evidence_against_its_owner(gateway: Deployment):
    def promised() -> bytes | None:
        """Return a receipt for a record that the recorder has not read."""
        with httpx.Client(timeout=5) as alone, contextlib.suppress(httpx.TimeoutException):
            reply = alone.post(f"{gateway.front}/v2/models/batch/infer", json=BODY, headers={**gateway.bearer("product"), "assay-receipt": "1"})
            if reply.status_code == 200 and "assay-receipt" in reply.headers:
                return read_note(reply.headers["assay-receipt"].encode())
        return None

    wait_until(promised, "the workers to give receipts")
    gateway.wait_idle()
    recorder = gateway.signal("recorder", signal.SIGSTOP)
    note = wait_until(promised, "a receipt")
    killed = [gateway.signal(f"worker {number}", signal.SIGKILL) for number in range(2)]
    os.kill(recorder, signal.SIGKILL)
    gateway.wait_ready()
    wait_until(lambda: not {*killed, recorder} & {*gateway.pids().values()}, "new processes")

    def verdict() -> PromiseVerdict | None:
        found = judge_in_log(note, open_directory(gateway.data), [gateway.vkey])
        return None if found.promise is Promise.OPEN else found

    found = wait_until(verdict, "the log to go on past the promise", 30)
    assert (found.promise, "states that this number is lost" in found.said) == (Promise.BROKEN, True), found.said
    assert "EVIDENCE OF A BROKEN PROMISE" in found.evidence
    assert not [record for record in gateway.log.refresh() if record["id"] == found.receipt.decision]


def test_a_reload_under_load_fails_no_call_and_every_call_saw_one_configuration(gateway: Deployment, one: Model, two: Model):
    pair = {"1": one.url, "2": two.url}
    default_of: dict[str, str] = {}
    with Load(gateway, {"switched": 4}, behave="slow:0.005", pause_s=0) as load:
        for cycle in range(6):
            version = str(cycle % 2 + 1)
            gateway.write_model("switched", pair, default=version, capture={"prediction": "/outputs/0/data/0"})
            wait_until(lambda version=version: gateway.infer("switched").json()["model_version"] == version, "the reload", 3)
            default_of[gateway.config_digest()] = version
            load.wait_for(20)
    assert load.failed == []
    assert missing(gateway, load) == []
    seen = set()
    for answer in load.acknowledged:
        record = gateway.log.by_id[answer.decision]
        seen.add(record["config_digest"])
        if record["config_digest"] in default_of:
            assert default_of[record["config_digest"]] == record["model"]["version"] == answer.version
    assert set(default_of) <= seen
    assert len(seen) <= 3


# --- all of them --------------------------------------------------------------------------------------------------------------------------


def test_ended_under_load_what_runs_is_finished_and_every_writer_closes_its_book(gateway: Deployment):
    with Load(gateway, {"batch": 4, "sync": 2}, behave="slow:0.05") as load:
        load.wait_for(50)
        records, started_s = len(gateway.log.refresh()), time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - started_s < 12
        gateway.start()
        load.wait_for(50)
    assert missing(gateway, load) == []
    gone = [record for record in gateway.log.records[records:] if record.get("outcome", {}).get("code") == "caller_gone"]
    assert gone == [], "nothing that was being served broke off"
    closed = {(r["writer"]["node"]) for r in gateway.log.of_type("writer.close")}
    assert {"t.w0", "t.w1", "t.controller", "t.recorder"} <= closed


def test_a_killed_parent_leaves_nothing_running_and_a_new_one_takes_over(gateway: Deployment):
    pids = gateway.pids()
    with Load(gateway, {"batch": 2, "sync": 2}) as load:
        load.wait_for(50)
        os.kill(pids["parent"], signal.SIGKILL)
        assert gateway.process is not None
        gateway.process.wait(5)
        wait_until(lambda: not any(is_alive(pid) for pid in pids.values()), "the children to end with their parent", 20)
        gateway.start()
        load.wait_for(50)
    lost = set(missing(gateway, load))
    assert not [answer for answer in load.acknowledged if answer.model == "sync" and answer.decision in lost]


def test_a_second_gateway_on_the_same_data_is_refused_and_disturbs_nothing(gateway: Deployment, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("trust", "keys", "approvals", "data"):
        (other / name).symlink_to(gateway.directory / name)
    shutil.copytree(gateway.layout.config, other / "config")
    settings = (other / "config" / "gateway.yaml").read_text()
    for port in (gateway.front_port, gateway.admin_port):
        settings = settings.replace(f":{port}", f":{free_port()}")
    (other / "config" / "gateway.yaml").write_text(settings)
    with Load(gateway, {"batch": 1, "sync": 1}) as load:
        load.wait_for(10)
        text = gateway.serve_expecting_refusal(other)
        load.wait_for(20)
    assert "in use by another gateway" in text
    assert load.failed == []
