"""`Assay-Context` over real HTTP: targeting, exclusions recorded and counted, segments; strict, scoped, never forwarded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from deployment import BODY, Deployment
from upstreams import Model


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("context"))
    deployment.write_model("aimed", {"1": one.url, "2": two.url}, expose_arm=True)
    deployment.approve("aimed", "1", url=one.url)
    deployment.approve("aimed", "2", url=two.url)
    deployment.write_experiment(
        "swiss",
        "aimed",
        {"control": "1", "treatment": "2"},
        goal={"metric": "errors", "margin": "1pp"},
        guardrails={},
        who={"country": {"in": ["CH"]}, "tenant": {"is": "acme"}},
        exclude={"objection": {"objected": {"is": True}}},
        segments={"plan": ["free", "pro"]},
    )
    deployment.add_key("teller", "infer", "unit:assert", "context:assert")
    deployment.add_key("other-teller", "infer", "unit:assert", "context:assert", tenant="globex")
    with deployment.running():
        yield deployment


def infer(lab: Deployment, context: object | None, *, unit: str = "u", key: str = "teller"):
    headers = {"content-type": "application/json", "assay-unit": unit, **lab.bearer(key)}
    if context is not None:
        headers["assay-context"] = context if isinstance(context, str) else json.dumps(context)
    return lab.client.post(f"{lab.front}/v2/models/aimed/infer", content=json.dumps(BODY), headers=headers)


def test_only_those_the_rules_hold_for_are_drawn_and_the_others_get_the_default(lab: Deployment):
    arms = {infer(lab, {"country": "CH"}, unit=f"u{number}").headers.get("assay-arm") for number in range(40)}
    assert arms == {"control", "treatment"}
    for context, key in ((None, "teller"), ({"country": "DE"}, "teller"), ({"country": "CH"}, "other-teller")):
        reply = infer(lab, context, key=key)
        assert reply.status_code == 200
        assert "experiment" not in lab.record(reply.headers["assay-decision"])["route"]


def test_an_objection_is_applied_before_exposure_and_recorded_by_its_name(lab: Deployment):
    for number in range(12):
        reply = infer(lab, {"country": "CH", "objected": True, "plan": "secret words"}, unit=f"u{number}")
        assert reply.headers["assay-arm"] == "control"
    route = lab.record(reply.headers["assay-decision"])["route"]
    assert (route["excluded"], route["exposed"], route["hashes"]) == ("objection", False, {})
    assert route["segments"] == {"plan": "other"}
    assert "secret words" not in json.dumps(lab.log.records)


def test_the_context_is_taken_off_before_the_call_is_forwarded(lab: Deployment, one: Model, two: Model):
    infer(lab, {"country": "CH"})
    for model in (one, two):
        assert all("assay-context" not in asked.headers for asked in model.asked)


@pytest.mark.parametrize(
    ("context", "code"),
    [
        ("not json", "schema_mismatch"),
        ("[]", "schema_mismatch"),
        ('{"a": 1.5}', "schema_mismatch"),
        ('{"a": null}', "schema_mismatch"),
        ('{"a": {"b": 1}}', "schema_mismatch"),
        ('{"a": 1, "a": 2}', "schema_mismatch"),
        ('{"tenant": "globex"}', "schema_mismatch"),
        ('{"A": 1}', "schema_mismatch"),
        (json.dumps({f"a{n}": n for n in range(33)}), "schema_mismatch"),
        (json.dumps({"a": "x" * 300}), "schema_mismatch"),
    ],
)
def test_a_context_that_is_not_flat_and_plain_is_refused_by_name(lab: Deployment, context, code):
    reply = infer(lab, context)
    assert (reply.status_code, reply.json()["code"]) == (422, code)


def test_a_context_needs_its_scope(lab: Deployment):
    reply = infer(lab, {"country": "CH"}, key="product")
    assert (reply.status_code, reply.json()["code"]) == (403, "missing_scope")
