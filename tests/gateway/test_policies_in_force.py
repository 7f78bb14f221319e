"""Policies on a running gateway: asked at every point, changed while calls go on, recorded before they judge, explained afterwards."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from deployment import CHECKOUT, COMMAND, ENVIRONMENT, Deployment, wait_until
from upstreams import Models

from gateway.processes.control import ControlDirectory
from gateway.retrace import retrace

OFFICE = """\
package policy.office

deny contains {"id": "OFF-1", "msg": "only the product key calls this model"} if {
	input.model.name == "kept"
	not "unit:assert" in input.subject.scopes
}
"""
ROUNDING = """\
# METADATA
# custom: {points: [response], models: [rounded]}
package policy.rounding

obligations contains {"type": "round", "path": "/outputs/[name=score]/data", "digits": data.params.digits} if input.response.status == 200
"""
WATCH = """\
# METADATA
# custom: {mode: warn}
package policy.watch

deny contains {"id": "WATCH-1", "msg": "by POST only"} if input.request.method != "GET"
"""
CAREFUL = """\
# METADATA
# custom: {points: [config]}
package policy.careful

deny contains {"id": "CAR-1", "msg": "a model names another owner"} if input.model.owner != "tests"
"""


@pytest.fixture(scope="module")
def governed(tmp_path_factory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("policies") / "d")
    with Models() as models:
        model = models.add("1")
        for name in ("kept", "rounded", "free"):
            deployment.write_model(name, {"1": model.url})
            deployment.approve(name, "1", url=model.url)
        deployment.write_model("unapproved", {"1": model.url})
        deployment.write_model("files", {"1": model.url}, protocol="http", serves={"/*": ["POST"]})
        deployment.approve("files", "1", url=model.url)
        for name, text in (("office", OFFICE), ("rounding", ROUNDING), ("watch", WATCH), ("careful", CAREFUL)):
            deployment.write_config(f"policies/{name}.rego", text)
        deployment.write_config("policies/params.yaml", "digits: 0\n")
        with deployment.running():
            yield deployment


def explained(deployment: Deployment, decision: str, *more: str) -> tuple[int, dict]:
    done = subprocess.run(
        [*COMMAND, "policy", "explain", decision, "--log", str(deployment.data), "--json", *more],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def record_of(deployment: Deployment, reply) -> dict:
    """The record of a call with its end, whether or not that is a record of its own."""
    found = deployment.record(reply.headers["assay-decision"])
    ending = deployment.outcome(reply.headers["assay-decision"])
    payload = {**found.get("payload", {}), **ending.get("payload", {})}
    return {**found, "outcome": ending["outcome"], "usage": ending["usage"], **({"payload": payload} if payload else {})}


def test_policies_act_at_the_request_and_at_the_reply_and_the_record_tells(governed: Deployment):
    reply = governed.infer("rounded")
    assert reply.status_code == 200
    scores = [output["data"] for output in reply.json()["outputs"] if output["name"] == "score"]
    assert scores == [[1.0]], "0.75 was rounded"
    assert reply.headers["assay-policy-warning"] == "WATCH-1"
    record = record_of(governed, reply)
    assert record["policy"]["decision"] == "allow_with_warnings"
    assert record["policy"]["facts"] == {"method": "POST", "scopes": ["feedback:write", "infer", "unit:assert"]}
    assert record["outcome"]["policy"]["obligations"] == [{"type": "round", "path": "/outputs/[name=score]/data", "digits": 0}]
    assert sorted(record["payload"]) == ["from_model", "in", "out"]
    assert {"digest", "modes_digest", "data_digest", "input_digest", "cached"} <= set(record["policy"])
    assert governed.infer("kept").status_code == 200
    assert governed.infer("free").json()["outputs"][1]["data"] == [0.75]


def test_the_second_call_like_the_first_is_answered_from_memory(governed: Deployment):
    cached = [record_of(governed, governed.infer("rounded"))["policy"]["cached"] for _ in range(3)]
    assert cached[1:] == [1, 1]


@pytest.mark.parametrize(
    ("model", "status", "states"), [("rounded", 200, ["reproduced"] * 2), ("unapproved", 403, ["reproduced"]), ("free", 200, ["reproduced"])]
)
def test_a_decision_is_explained_from_its_record(governed: Deployment, model: str, status: int, states: list[str]):
    reply = governed.infer(model)
    assert reply.status_code == status
    record_of(governed, reply)
    code, found = explained(governed, reply.headers["assay-decision"])
    assert ([one["state"] for one in found["points"]], code) == (states, 0), found
    texts = {(trace["package"], trace["rule"]): trace["text"] for trace in found["points"][0]["traces"]}
    assert "approvers" in texts["approval", "allow"]
    if model == "rounded":
        assert "input.response.status == 200" in found["points"][1]["traces"][0]["text"]


def test_a_refusal_says_which_rule_and_with_which_values(governed: Deployment):
    governed.add_key("plain", "infer")
    wait_until(lambda: governed.infer("free", key="plain").status_code == 200, "the key to be taken")
    reply = governed.infer("kept", key="plain")
    assert (reply.status_code, reply.json()["reasons"][0]["id"]) == (403, "OFF-1")
    record_of(governed, reply)
    code, found = explained(governed, reply.headers["assay-decision"])
    assert code == 0
    (text,) = [trace["text"] for trace in found["points"][0]["traces"] if trace["package"] == "office"]
    assert "input.subject.scopes" in text


def test_a_record_that_was_changed_contradicts_itself(governed: Deployment):
    record = record_of(governed, governed.infer("rounded"))
    control = ControlDirectory(governed.data)
    assert {one.state for one in retrace(record, None, control)} == {"reproduced"}
    forged = copy.deepcopy(record)
    forged["policy"]["decision"] = "allow"
    assert retrace(forged, None, control)[0].state == "contradicted"
    forged = copy.deepcopy(record)
    forged["outcome"]["policy"]["obligations"] = []
    assert [one.state for one in retrace(forged, None, control)] == ["reproduced", "contradicted"]
    for change in ({"facts": {"method": "GET"}}, {"digest": "0" * 64}, {"modes_digest": "0" * 64}):
        forged = copy.deepcopy(record)
        forged["policy"].update(change)
        assert retrace(forged, None, control)[0].state == "undecidable", change


def put(deployment: Deployment, path: str, text: str) -> None:
    """Write a file and wait until a call is judged by other policies than before."""
    before = record_of(deployment, deployment.infer("free"))["policy"]
    deployment.write_config(path, text)
    digests = ("digest", "modes_digest", "data_digest")
    wait_until(
        lambda: [record_of(deployment, deployment.infer("free"))["policy"][name] for name in digests] != [before[name] for name in digests],
        f"{path} to be in force",
        10,
    )


def test_a_changed_policy_is_recorded_then_in_force_and_old_decisions_keep_their_bundle(governed: Deployment):
    old = governed.infer("rounded")
    old_record = record_of(governed, old)
    put(governed, "policies/params.yaml", "digits: 1\n")
    assert [output["data"] for output in governed.infer("rounded").json()["outputs"] if output["name"] == "score"] == [[0.8]]
    put(governed, "policies/office.rego", OFFICE.replace("OFF-1", "OFF-2"))
    new_record = record_of(governed, governed.infer("rounded"))
    changes = governed.log.of_type("policy.change")
    assert [change["changed"] for change in changes[-2:]] == [["params"], ["policies/office.rego"]]
    assert changes[-1]["new"]["digest"] == new_record["policy"]["digest"] != old_record["policy"]["digest"]
    order = [record["id"] for record in governed.log.records]
    assert order.index(changes[-1]["id"]) < order.index(new_record["id"])
    assert explained(governed, old.headers["assay-decision"])[0] == 0
    put(governed, "policies/office.rego", OFFICE)
    put(governed, "policies/params.yaml", "digits: 0\n")


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("policies/office.rego", OFFICE.replace("not ", "nto "), "policies/office.rego:5:"),
        ("policies/office.rego", OFFICE.replace("input.model.name ==", "http.send({}) =="), "http.send"),
        ("policies/taker.rego", "package policy.approval\n\nallow := true\n", "shipped"),
        ("policies/modes.yaml", "modes: {ofice: off}\n", "did you mean `office`?"),
        ("policies/params.yaml", "digits: 0\ndigits: 1\n", "policies/params.yaml:2:1"),
        ("models/free.yaml", None, "CAR-1"),
    ],
)
def test_a_broken_policy_keeps_the_old_ones_in_force_and_is_told_loudly(governed: Deployment, path: str, text: str | None, words: str):
    file = governed.layout.config / path
    before = file.read_text() if file.exists() else None
    digest = record_of(governed, governed.infer("rounded"))["policy"]["digest"]
    governed.write_config(path, text if text is not None else (before or "").replace('owner: "tests"', 'owner: "others"'))
    try:
        issues = wait_until(lambda: governed.api("/api/status")["issues"], "the mistake to be told")
        assert any(words in issue for issue in issues), issues
        assert words.partition(":")[0] in governed.output()
        reply = governed.infer("rounded")
        assert (reply.status_code, record_of(governed, reply)["policy"]["digest"]) == (200, digest)
    finally:
        if before is None:
            file.unlink()
        else:
            governed.write_config(path, before)
        wait_until(lambda: not governed.api("/api/status")["issues"], "the mistake to be gone")


def test_a_path_is_not_recorded_and_has_to_be_named_to_explain_a_rule_that_reads_it(governed: Deployment):
    text = 'package policy.paths\n\ndeny contains {"id": "PATH-1", "msg": "not this one"} if endswith(input.request.path, "/customer-77")\n'
    put(governed, "policies/paths.rego", text)
    reply = governed.client.post(f"{governed.front}/http/files/customer-77", headers=governed.bearer("product"), content=b"{}")
    assert reply.status_code == 403
    record = record_of(governed, reply)
    assert "customer-77" not in json.dumps(record)
    code, found = explained(governed, reply.headers["assay-decision"])
    assert (code, "--path" in found["points"][0]["why"]) == (3, True)
    code, found = explained(governed, reply.headers["assay-decision"], "--path", "/http/files/customer-77")
    assert (code, found["points"][0]["state"]) == (0, "reproduced")
    (governed.layout.config / "policies" / "paths.rego").unlink()


def test_a_gateway_with_a_broken_policy_does_not_start(tmp_path):
    deployment = Deployment(tmp_path / "d")
    try:
        deployment.write_config("policies/office.rego", OFFICE.replace("deny contains", "deny contians"))
        said = deployment.serve_expecting_refusal()
        assert re.search(r"policies/office\.rego:\d+:\d+", said), said
    finally:
        deployment.close()
