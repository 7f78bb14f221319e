"""`Assay-Context` and `Assay-Variant` over real HTTP: targeting, exclusions, segments, arms chosen elsewhere; strict, scoped, never forwarded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from deployment import BODY, Deployment, wait_until
from typer.testing import CliRunner
from upstreams import Model

from experiments.bucketing import bucket
from gateway.cli.main import build


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
    deployment.write_model("flagged", {"1": one.url, "2": two.url, "3": two.url, "4": two.url}, expose_arm=True)
    deployment.approve("flagged", "4", url=two.url, max_exposure_ppm=900_000)
    for version, model in (("1", one), ("2", two)):
        deployment.approve("flagged", version, url=model.url)
    deployment.write_experiment(
        "launch",
        "flagged",
        {"control": "1", "treatment": "2", "unapproved": "3", "capped": "4"},
        split=None,
        external={"system": "flagsmith", "variants": {"on": "treatment"}},
        goal={"metric": "errors", "margin": "1pp"},
    )
    deployment.write_model("ported", {"1": one.url, "2": two.url}, expose_arm=True)
    for version, model in (("1", one), ("2", two)):
        deployment.approve("ported", version, url=model.url)
    deployment.write_experiment(
        "from-growthbook",
        "ported",
        {"control": "1", "treatment": "2"},
        bucketing={"mode": "growthbook-v2", "seed": "new-prompt", "order": ["control", "treatment"]},
        goal={"metric": "errors", "margin": "1pp"},
    )
    deployment.add_key("flags", "infer", "unit:assert", "variant:assert", "context:assert")
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


def test_a_unit_keeps_the_arm_of_the_system_it_comes_from_and_one_without_a_unit_takes_no_part(lab: Deployment):
    for number in range(20):
        reply = lab.infer("ported", unit=f"customer-{number}")
        expected = "control" if bucket(f"customer-{number}", "new-prompt", "growthbook-v2") < 0.5 else "treatment"
        assert reply.headers["assay-arm"] == expected
    assert lab.record(reply.headers["assay-decision"])["route"]["mode"] == "growthbook-v2"
    assert "experiment" not in lab.record(lab.infer("ported").headers["assay-decision"])["route"]


# --- `Assay-Variant`: another system chooses the arm


def flag(lab: Deployment, said: str | None, *, unit: str | None = "u", key: str = "flags", **headers: str):
    headers |= {"content-type": "application/json", **lab.bearer(key)}
    if unit is not None:
        headers["assay-unit"] = unit
    if said is not None:
        headers["assay-variant"] = said
    return lab.client.post(f"{lab.front}/v2/models/flagged/infer", content=json.dumps(BODY), headers=headers)


def test_the_arm_another_system_chose_serves_and_the_record_claims_no_draw(lab: Deployment, one: Model, two: Model):
    for said, arm, version in (("launch=on", "treatment", "2"), ("other=x, launch=control", "control", "1")):
        reply = flag(lab, said)
        assert (reply.headers["assay-arm"], reply.json()["model_version"]) == (arm, version)
    route = lab.record(flag(lab, "launch=on").headers["assay-decision"])["route"]
    assert (route["mode"], route["system"], route["assigned"], route["hashes"], route["shares"]) == ("external", "flagsmith", "treatment", {}, {})
    assert all("assay-variant" not in asked.headers for model in (one, two) for asked in model.asked)
    for said in (None, "other=on"):
        assert "experiment" not in lab.record(flag(lab, said).headers["assay-decision"])["route"]


def test_an_arm_that_may_not_serve_is_not_served_whoever_asks_for_it(lab: Deployment):
    reply = flag(lab, "launch=unapproved")
    assert (reply.status_code, reply.json()["model_version"]) == (200, "1")
    route = lab.record(reply.headers["assay-decision"])["route"]
    assert (route["assigned"], route["served"]) == ("unapproved", "control")
    assert {"arm": "unapproved", "reason": "approval.missing"} in route["eligible"]
    capped = flag(lab, "launch=capped")
    assert capped.json()["model_version"] == "1", "how many get it is not ours to bound, so it has to be approved for everyone"


@pytest.mark.parametrize(
    ("said", "unit", "key", "status", "code"),
    [
        ("launch=blue", "u", "flags", 422, "unknown_variant"),
        ("launch=on", "u", "product", 403, "missing_scope"),
        ("launch=on", None, "flags", 422, "schema_mismatch"),
        ("launch", "u", "flags", 422, "schema_mismatch"),
        ("launch=on,launch=off", "u", "flags", 422, "schema_mismatch"),
        ("launch=on,", "u", "flags", 422, "schema_mismatch"),
        ("launch=" + "x" * 65, "u", "flags", 422, "schema_mismatch"),
        (", ".join(f"e{n}=arm" for n in range(400)), "u", "flags", 422, "schema_mismatch"),
    ],
)
def test_a_choice_that_is_not_clear_or_not_the_callers_to_say_is_refused(lab: Deployment, said, unit, key, status, code):
    reply = flag(lab, said, unit=unit, key=key)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_choice_does_not_move_a_unit_of_an_experiment_that_is_drawn_here(lab: Deployment):
    arms = {}
    for said in (None, "swiss=treatment", "swiss=control"):
        headers = {"assay-variant": said} if said else {}
        reply = lab.client.post(
            f"{lab.front}/v2/models/aimed/infer",
            content=json.dumps(BODY),
            headers={"content-type": "application/json", "assay-unit": "u1", "assay-context": '{"country": "CH"}', **lab.bearer("flags"), **headers},
        )
        arms[said] = reply.headers["assay-arm"]
    assert len(set(arms.values())) == 1


def test_what_came_from_elsewhere_is_told_with_its_limits_in_status_and_report(lab: Deployment):
    for number in range(12):
        flag(lab, f"launch={'on' if number % 2 else 'control'}", unit=f"v{number}")
        flag(lab, f"launch={'on' if number % 3 else 'control'}", unit=f"v{number}")
    lab.wait_idle()

    def reasons() -> str:
        return " ".join(lab.api("/api/experiments/launch")["reasons"])

    wait_until(lambda: "units came with more than one arm" in reasons() and "calls named no arm" in reasons(), "the counts to be told")
    assert "assigned by `flagsmith`, not here: it declares no split: effects are described, nothing is tested" in reasons()
    lab.wait_signed(len(lab.log.refresh()) - 1)
    done = CliRunner().invoke(build("report"), ["report", "experiment", "launch", "--data", str(lab.data), "--format", "json"])
    (epoch,) = json.loads(done.stdout)["body"]["epochs"]
    assert epoch["assigned_elsewhere"]["flipped_units"] > 0
    assert epoch["sample_ratio"] == []
    for form in ("md", "html"):
        told = CliRunner().invoke(build("report"), ["report", "experiment", "launch", "--data", str(lab.data), "--format", form])
        assert "not here: it declares no split" in told.stdout
    page = lab.client.post(f"{lab.admin}/login", data={"key": lab.keys["console"]})
    cookie = {"cookie": f"assay-session={page.cookies['assay-session']}"}
    lab.client.cookies.clear()
    assert "not declared" in lab.client.get(f"{lab.admin}/experiments/launch", headers=cookie).text


def test_a_plan_is_tried_on_the_calls_of_the_log_without_calling_anything(lab: Deployment, one: Model, two: Model):
    for number in range(12):
        infer(lab, {"country": "CH"}, unit=f"w{number}")
    lab.wait_idle()
    asked = len(one.asked) + len(two.asked)

    def plan(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(
            build("experiment"), ["experiment", "plan", "swiss", "--dir", str(lab.directory), *words], env={"COLUMNS": "200", "NO_COLOR": "1"}
        )
        return done.exit_code, done.output

    status, told = plan("--json")
    assert status == 0, told
    found = json.loads(told)["dry_run"]
    assert found["calls"] >= 12
    (stage,) = found["stages"]
    assert sum(stage["calls"].values()) == found["calls"]
    drawn = [record["route"] for record in lab.log.refresh() if record.get("route", {}).get("experiment") == "swiss" and record["route"]["exposed"]]
    assert stage["calls"]["treatment"] >= sum(route["assigned"] == "treatment" for route in drawn) > 0, "the very draws of the records, and others"
    assert found["units_per_day"] is None
    told = plan()[1]
    assert "nothing is called" in told
    assert "█" in told
    assert "Left out: rules on `country`" in told
    assert json.loads(plan("--json", "--records", "0:5")[1])["dry_run"] is None
    status, told = plan("--records", "9:5")
    assert (status, "is not a range of this log's" in told) == (2, True)
    assert len(one.asked) + len(two.asked) == asked
