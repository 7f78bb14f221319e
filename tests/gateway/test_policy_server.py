"""A real OPA decides for a running gateway, alone or beside our engine; and is killed, held up, changed behind its back and forgets."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, free_port, wait_until
from opa_server import OpaServer
from test_policies_in_force import explained, record_of
from upstreams import Models

from policies.opa.query import MODULE

pytestmark = [pytest.mark.component("opa"), pytest.mark.timeout(240)]
OFFICE = """\
package policy.office

deny contains {"id": "OFF-1", "msg": "nobody from the closed hall"} if input.tenant == "closed"

deny contains {"id": "OFF-2", "msg": "at most two rows"} if input.request.rows > data.params.rows
"""
ROUNDING = """\
# METADATA
# custom: {points: [response]}
package policy.rounding

obligations contains {"type": "round", "path": "/outputs/[name=score]/data", "digits": 0} if input.response.status == 200
"""
CAREFUL = """\
# METADATA
# custom: {points: [config]}
package policy.careful

deny contains {"id": "CAR-1", "msg": "a model names another owner"} if input.model.owner != "tests"
"""
PATIENT = "5s"
"""This machine is shared: only where a test is about time may a decision end for lack of it."""


def server_keys(engine: str, port: int, timeout: str = PATIENT, **on_failure: str) -> str:
    keys = {"addresses": [f"http://127.0.0.1:{port}"], "timeout": timeout, "on_failure": on_failure}
    return f"policies: {json.dumps({'engine': engine, 'server': keys})}\n"


def rows(count: int) -> dict[str, Any]:
    """A body whose rows no test has sent before is a question that is in no memory."""
    return {"inputs": [{"name": "x", "shape": [count], "datatype": "FP64", "data": [1] * count}]}


class Governed:
    """A gateway with the engine under test, and the OPA it asks."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.port = free_port()
        self.opa = OpaServer(port=self.port)
        self.opa.__enter__()
        self.gateway = Deployment(folder / "d", settings=server_keys("opa", self.port))
        self._base = (self.gateway.layout.config / "gateway.yaml").read_text().partition("policies: ")[0]
        self.fresh = 3
        model, other = models.add("1"), models.add("2")
        for name in ("m", "split"):
            capture = {"prediction": "/outputs/0/data/0"}
            self.gateway.write_model(name, {"1": model.url, "2": other.url}, limits={"max_rows": 1000}, capture=capture)
            for version, url in (("1", model.url), ("2", other.url)):
                self.gateway.approve(name, version, url=url)
        self.gateway.write_experiment("half", "split", {"control": "1", "treatment": "2"})
        for name, text in (("office", OFFICE), ("rounding", ROUNDING), ("careful", CAREFUL)):
            self.gateway.write_config(f"policies/{name}.rego", text)
        self.gateway.write_config("policies/params.yaml", "rows: 900\n")

    def settings(self, timeout: str = PATIENT, engine: str = "opa", **on_failure: str) -> None:
        """Change who is asked and how, and wait until it is in force."""
        before = self.gateway.statuses()[0]["config_digest"]
        self.gateway.write_config("gateway.yaml", self._base + (server_keys(engine, self.port, timeout, **on_failure) if engine != "native" else ""))
        self.wait_config(before)

    def wait_config(self, before: str) -> None:
        wait_until(lambda: self.gateway.statuses()[0]["config_digest"] != before, "another configuration to be in force", 30)

    def ask(self, model: str = "m", **more: Any) -> httpx.Response:
        """Make a call that nothing remembers."""
        self.fresh += 1
        return self.gateway.infer(model, body=rows(self.fresh), **more)

    def wait_served(self) -> None:
        wait_until(lambda: self.ask().status_code == 200, "calls to be served again", 30)

    def answers(self) -> dict[tuple[str, str], float]:
        """What became of questions, as the metrics tell."""
        text = self.gateway.client.get(f"{self.gateway.admin}/metrics", headers=self.gateway.bearer("console")).text
        lines = [line for line in text.splitlines() if line.startswith("assay_policy_answers_total{")]
        return {tuple(part.split('"')[1] for part in line.split("{")[1].split(",")): float(line.rpartition(" ")[2]) for line in lines}  # type: ignore[misc]

    def issues(self) -> list[str]:
        """Why the folder is not in force."""
        found: list[str] = self.gateway.api("/api/status")["issues"]
        return found

    def restart_opa(self) -> None:
        self.opa.__exit__(None, None, None)
        self.opa = OpaServer(port=self.port)
        self.opa.__enter__()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with Models() as models:
        found = Governed(tmp_path_factory.mktemp("opa"), models)
        try:
            with found.gateway.running():
                yield found
        finally:
            found.opa.__exit__(None, None, None)


def reasons(reply: httpx.Response) -> list[str]:
    return [reason["id"] for reason in reply.json()["reasons"]] if reply.status_code == 403 else []


def test_opa_decides_the_request_and_the_reply_and_each_record_says_so(served: Governed):
    reply = served.ask()
    assert reply.status_code == 200
    assert next(output["data"] for output in reply.json()["outputs"] if output["name"] == "score") == [1.0], "0.75 was rounded"
    record = record_of(served.gateway, reply)
    assert (record["policy"]["engine"], record["policy"]["cached"]) == ("opa", 0)
    assert record["outcome"]["policy"]["obligations"] == [{"type": "round", "path": "/outputs/[name=score]/data", "digits": 0}]
    again = record_of(served.gateway, served.gateway.infer("m", body=rows(served.fresh)))
    assert (again["policy"]["engine"], again["policy"]["cached"]) == ("opa", 1), "what was decided is remembered, whoever decided it"
    refused = served.gateway.infer("m", body=rows(901))
    assert (refused.status_code, record_of(served.gateway, refused)["policy"]["reasons"][0]["id"]) == (403, "OFF-2")
    wait_until(lambda: {("request", "answered"), ("response", "answered"), ("config", "answered")} <= served.answers().keys(), "metrics", 15)


def test_every_candidate_of_an_experiment_is_asked_for(served: Governed):
    replies = [served.ask("split", unit=f"u{number}") for number in range(12)]
    assert [reply.status_code for reply in replies] == [200] * 12
    found = [record_of(served.gateway, reply) for reply in replies]
    assert {record["route"]["assigned"] for record in found} == {"control", "treatment"}
    assert all(len(record["route"]["eligible"]) == 2 for record in found)
    assert {record["policy"]["engine"] for record in found} == {"opa"}


def test_a_changed_policy_is_on_the_server_before_it_is_asked_for_and_one_that_opa_refuses_is_not_in_force(served: Governed):
    before = served.gateway.statuses()[0]["config_digest"]
    served.gateway.write_config("policies/params.yaml", "rows: 899\n")
    served.wait_config(before)
    served.wait_served()
    refused = served.gateway.infer("m", body=rows(900))
    assert record_of(served.gateway, refused)["policy"]["reasons"][0]["id"] == "OFF-2"
    assert refused.status_code == 403
    before = served.gateway.statuses()[0]["config_digest"]
    # Right for us, an error of types for OPA: it takes none of it, and what was in force comes back.
    served.gateway.write_config("policies/typed.rego", 'package policy.typed\n\ndeny contains {"id": "T-1", "msg": "m"} if 1 == "a"\n')
    wait_until(lambda: any("policies.server" in one for one in served.issues()), "the issue", 30)
    served.wait_served()
    assert served.gateway.statuses()[0]["config_digest"] == before
    (served.gateway.layout.config / "policies/typed.rego").unlink()
    wait_until(lambda: not served.issues(), "no issue", 30)


def test_what_opa_says_of_a_configuration_counts(served: Governed):
    """Our engine and the published policies allow; somebody has changed the rule on the server."""
    text = (served.gateway.layout.config / "models/m.yaml").read_text()
    for most in range(999, 990, -1):
        before = served.gateway.statuses()[0]["config_digest"]
        served.opa.put("assay/policies/careful.rego", CAREFUL.replace('!= "tests"', '== "tests"'))
        served.gateway.write_config("models/m.yaml", text.replace("1000", str(most)))
        if wait_until(lambda before=before: served.issues() or served.gateway.statuses()[0]["config_digest"] != before, "an answer", 30) is not True:
            break  # else the server was read back, and put right, just in between
    (issue,) = served.issues()
    assert issue.startswith("models/m.yaml:1:1: policy `careful` refuses this: CAR-1"), "what has not changed is not asked about again"
    served.opa.put("assay/policies/careful.rego", CAREFUL)
    served.gateway.write_config("models/m.yaml", text)
    wait_until(lambda: not served.issues(), "no issue", 30)


@pytest.mark.parametrize("how", ["killed", "held up", "another revision"])
def test_without_a_right_answer_in_time_nothing_new_is_allowed_and_it_is_said(served: Governed, how: str):
    served.settings(timeout="300ms")
    served.wait_served()
    known = served.gateway.infer("m", body=rows(served.fresh))
    assert known.status_code == 200
    if how == "killed":
        served.opa.signal(signal.SIGKILL)
    elif how == "held up":
        served.opa.signal(signal.SIGSTOP)
    else:
        served.gateway.signal("controller", signal.SIGSTOP)  # who would put it right within a second
        served.opa.put(MODULE, 'package assay.answers\n\nrevision := "sha256:other"\n')
    try:
        refused, of_rows = served.ask(), served.fresh
        assert refused.status_code == 403
        assert set(reasons(refused)) <= {"ENGINE-ERR"}, refused.text
        found = record_of(served.gateway, refused)
        assert {reason["id"] for reason in found["policy"]["reasons"]} == {"ENGINE-ERR"}
        assert (found["policy"]["engine"], found["policy"]["cached"]) == ("opa", 0)
        assert served.gateway.infer("m", body=rows(1000)).status_code == 403, "nor where the rule would have refused"
        assert served.gateway.infer("m", body=rows(served.fresh - 1)).status_code == 200, "what was decided stays decided"
    finally:
        if how == "killed":
            served.restart_opa()
        elif how == "held up":
            served.opa.signal(signal.SIGCONT)
        else:
            served.gateway.signal("controller", signal.SIGCONT)
        served.settings()
    served.wait_served()  # a server that forgot everything has it again, with nobody's help
    assert served.gateway.infer("m", body=rows(of_rows)).status_code == 200, "what was refused for want of an answer is asked again"


def test_in_the_fail_mode_native_our_engine_decides_and_the_record_says_which_did(served: Governed):
    served.settings(timeout="300ms", request="native", response="native")
    served.wait_served()
    served.opa.signal(signal.SIGKILL)
    try:
        reply = served.ask()
        assert reply.status_code == 200
        assert reply.headers["assay-policy-warning"] == "ENGINE-ERR, ENGINE-ERR"
        found = record_of(served.gateway, reply)
        assert (found["policy"]["engine"], found["policy"]["decision"]) == ("native", "allow_with_warnings")
        assert found["outcome"]["policy"]["engine"] == "native"
        refused = served.gateway.infer("m", body=rows(901))
        assert reasons(refused)[0] == "OFF-2", "our engine reads the same rule"
    finally:
        served.restart_opa()
        served.settings()
    served.wait_served()


def test_both_are_asked_and_where_they_differ_the_call_is_denied_counted_recorded_and_explained(served: Governed):
    served.settings(engine="both")
    reply = served.ask()
    assert (reply.status_code, record_of(served.gateway, reply)["policy"]["engine"]) == (200, "both")
    served.opa.put("assay/policies/office.rego", OFFICE.replace("> data.params.rows", "> 1"))
    refused = served.ask()
    assert (refused.status_code, reasons(refused)[0]) == (403, "ENGINE-DIFF")
    record = record_of(served.gateway, refused)
    assert record["policy"]["reasons"][0]["msg"] == "our engine says allow; opa says deny, OFF-2 (enforce)"
    wait_until(lambda: served.answers().get(("request", "differed"), 0) >= 1, "the metric", 15)
    code, found = explained(served.gateway, refused.headers["assay-decision"])
    assert (code, found["points"][0]["state"]) == (3, "undecidable")
    assert "disagreed" in found["points"][0]["why"]
    # Read back whole twice a minute, or with any change of the policies: what is not ours does not stay.
    before = served.gateway.statuses()[0]["config_digest"]
    served.gateway.write_config("policies/params.yaml", "rows: 800\n")
    served.wait_config(before)
    served.wait_served()
    assert served.answers()["request", "agreed"] >= 1
    served.settings(engine="native")
    served.opa.signal(signal.SIGSTOP)
    assert record_of(served.gateway, served.ask())["policy"]["engine"] == "native", "nobody else is asked"
    served.opa.signal(signal.SIGCONT)


def test_a_gateway_that_finds_no_server_with_its_policies_does_not_start(tmp_path: Path):
    found = Deployment(tmp_path / "d")
    try:
        text = (found.layout.config / "gateway.yaml").read_text()
        found.write_config("gateway.yaml", text + server_keys("opa", free_port()))
        told = found.serve_expecting_refusal()
        assert "policies.server" in told
        assert "no connection" in told
    finally:
        found.close()
