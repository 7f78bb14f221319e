"""An experiment's life over real HTTP: drafted, started, paused, approved, promoted and rolled back by people with keys, each step a record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from deployment import Deployment, wait_until
from typer.testing import CliRunner
from upstreams import Model

from experiments import preregistration
from gateway.cli.main import build
from policies.consent import load_consent
from policies.trust import TrustRoot

STEPS = [{"share": "20%", "hold": "1ms", "min_units": 1}, {"share": "50%", "hold": "1ms", "min_units": 1, "approve": "bob"}]


def write_canary(deployment: Deployment, name: str, model: str, **keys: object) -> None:
    document = {
        "experiment": name,
        "strategy": "canary",
        "model": model,
        "start": "manual",
        "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
        "steps": STEPS,
        "guardrails": {"errors": {"max_harm": "0.5pp"}},
        "deadline": {"after": "1d"},
        **keys,
    }
    deployment.write_config(f"experiments/{name}.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model) -> Iterator[Deployment]:
    """A gateway with a draft canary for each test, and a key for each role."""
    deployment = Deployment(tmp_path_factory.mktemp("life"))
    for name in ("life", "steps", "forced", "buttons"):
        deployment.write_model(name, {"1": one.url, "2": two.url}, expose_arm=True)
        deployment.approve(name, "1", url=one.url)
        deployment.approve(name, "2", url=two.url)
        write_canary(deployment, f"{name}-canary", name)
    deployment.add_key("starter", "experiment:start")
    deployment.add_key("oncall", "experiment:operate")
    deployment.add_key("promoter", "experiment:promote")
    deployment.add_key("elsewhere", "experiment:operate", models=("other",))
    with deployment.running():
        yield deployment


def ask(lab: Deployment, key: str, name: str, verb: str, **body: object) -> httpx.Response:
    sent = {"reason": "because", **body}
    return lab.client.post(f"{lab.admin}/api/experiments/{name}/{verb}", json=sent, headers=lab.bearer(key))


def state(lab: Deployment, name: str) -> dict:
    return lab.api(f"/api/experiments/{name}")


def arms(lab: Deployment, model: str, calls: int = 60) -> set[str | None]:
    return {lab.infer(model, unit=f"u{number}").headers.get("assay-arm") for number in range(calls)}


def test_a_draft_draws_nobody_and_its_plan_is_in_the_log_before_the_first_draw(lab: Deployment):
    name = "life-canary"
    assert state(lab, name)["stage"] == "draft"
    assert arms(lab, "life") == {None}
    assert ask(lab, "oncall", name, "start").status_code == 403
    assert ask(lab, "starter", name, "start").json()["to"] == "running"
    wait_until(lambda: arms(lab, "life") == {"champion", "challenger"}, "the split to be in force")
    started = next(record for record in lab.log.of_type("experiment.start") if record["experiment"] == name)
    planned = next(record for record in lab.log.of_type("experiment.registered") if record["experiment"] == name)
    assert started["preregistration_digest"] == planned["preregistration_digest"] == preregistration.digest(planned["preregistration"])
    assert started["actor"]["kind"] == "key"
    drawn = [record for record in lab.log.records if record.get("route", {}).get("experiment") == name]
    assert lab.log.records.index(drawn[0]) > lab.log.records.index(started)


def test_a_step_needs_its_role_its_model_a_reason_and_the_state_it_was_decided_on(lab: Deployment):
    name = "steps-canary"
    assert ask(lab, "starter", name, "start").status_code == 200
    refused = {
        "console": ("missing_scope", {}),
        "elsewhere": ("model_not_allowed", {}),
        "oncall": ("schema_mismatch", {"reason": ""}),
    }
    for key, (code, body) in refused.items():
        assert ask(lab, key, name, "rollback", **body).json()["code"] == code
    assert ask(lab, "oncall", name, "rollback", epoch=9).json()["code"] == "illegal_step"
    assert ask(lab, "oncall", name, "rollback", phase="paused").json()["code"] == "illegal_step"
    assert ask(lab, "oncall", "nobody", "rollback").status_code == 404
    assert ask(lab, "oncall", name, "advance").status_code == 404
    assert state(lab, name)["phase"] == "running"


def test_pause_sends_everyone_to_the_control_resume_goes_on_and_rollback_is_for_good(lab: Deployment):
    name = "steps-canary"
    ask(lab, "starter", name, "start")
    wait_until(lambda: "challenger" in arms(lab, "steps"), "the challenger to serve")
    assert ask(lab, "oncall", name, "pause", reason="complaints").json()["to"] == "paused"
    wait_until(lambda: arms(lab, "steps") == {"champion"}, "the control to serve everyone")
    assert ask(lab, "starter", name, "resume").json()["to"] == "running"
    wait_until(lambda: "challenger" in arms(lab, "steps"), "the challenger to serve again")
    assert ask(lab, "oncall", name, "rollback").json()["to"] == "rolled_back"
    wait_until(lambda: arms(lab, "steps") == {"champion"}, "the control to serve everyone")
    again = ask(lab, "starter", name, "start")
    assert (again.status_code, again.json()["code"]) == (409, "illegal_step")
    actions = [(r["action"], r["reason"], r["actor"]["kind"]) for r in lab.log.of_type("rollout.step") if r["experiment"] == name]
    assert ("pause", "complaints", "key") in actions
    rows = {row["name"]: row for row in lab.api("/api/experiments")["register"]}
    assert (rows[name]["stage"], rows[name]["decision"]) == ("decided", "rolled back")


def run(lab: Deployment, *words: str, key: str = "promoter") -> tuple[int, str]:
    done = CliRunner().invoke(
        build("experiment"), ["experiment", *words, "--admin", lab.admin], env={"ASSAY_KEY": lab.keys[key], "COLUMNS": "250", "NO_COLOR": "1"}
    )
    return done.exit_code, done.output


def person_key(lab: Deployment, name: str) -> str:
    path = lab.directory / "keys" / f"{name}.key"
    path.write_text(lab.people[name].encode())
    path.chmod(0o600)
    return str(path)


def test_a_step_that_asks_for_approval_is_left_with_the_signature_of_the_person_it_names(lab: Deployment):
    name = "forced-canary"
    assert run(lab, "start", name, "--reason", "plan agreed", key="starter") == (0, f"{name}: draft -> running\n")

    def is_waiting() -> bool:
        arms(lab, "forced", 40)
        return any("waits for approval by `bob`" in row["reason"] for row in state(lab, name)["history"])

    wait_until(is_waiting, "the ramp to wait for approval", 30.0)
    status, told = run(lab, "approve", name, "--as", "alice", "--key", person_key(lab, "alice"))
    assert status == 1
    assert "signed consent of `bob`" in told
    status, told = run(lab, "approve", name, "--as", "bob", "--key", person_key(lab, "bob"))
    assert status == 0, told
    step = next(r for r in lab.log.of_type("rollout.step") if r["action"] == "approve")
    root = TrustRoot.parse(lab.layout.trust_root.read_bytes())
    assert [load_consent(one["envelope"].encode(), root).person for one in step["signed"]] == ["bob"]
    assert "can be done from here" in run(lab, "status", name, key="console")[1]


def test_what_is_not_proven_is_promoted_by_two_people_alone_and_marked_so_for_good(lab: Deployment):
    name, alice, bob = "forced-canary", person_key(lab, "alice"), person_key(lab, "bob")
    refused, told = run(lab, "promote", name, "--reason", "we like it")
    assert (refused, "not proven fine" in told) == (1, True)
    consent = lab.directory / "alice.consent"
    assert run(lab, "promote", name, "--reason", "we like it", "--as", "alice", "--key", alice, "--write", str(consent))[0] == 0
    twice = ("--as", "alice", "--key", alice, "--consent", str(consent))
    assert run(lab, "promote", name, "--reason", "we like it", *twice)[0] == 1, "one person with two signatures is one voice"
    status, told = run(lab, "promote", name, "--reason", "we like it", "--as", "bob", "--key", bob, "--consent", str(consent))
    assert status == 0, told
    wait_until(lambda: arms(lab, "forced") == {"challenger"}, "the challenger to serve everyone")
    step = next(r for r in lab.log.of_type("rollout.step") if r["action"] == "promote")
    assert (step["against_evidence"], [one["person"] for one in step["signed"]]) == (True, ["alice", "bob"])
    assert ask(lab, "promoter", "steps-canary", "promote", consents=[consent.read_text()]).json()["code"] == "bad_consent"


def test_a_restarted_gateway_goes_on_where_people_left_it(lab: Deployment):
    name = "buttons-canary"
    ask(lab, "starter", name, "start")
    ask(lab, "oncall", name, "pause")
    lab.stop()
    lab.start()
    assert state(lab, name)["phase"] == "paused"
    assert arms(lab, "buttons") == {"champion"}
    time.sleep(1.2)
    assert state(lab, name)["phase"] == "paused"


def test_new_writes_a_draft_that_compiles_and_refuses_to_overwrite(lab: Deployment):
    words = ("new", "canary", "fresh", "--model", "life", "--champion", "1", "--challenger", "2", "--dir", str(lab.directory))
    app = build("experiment")
    (lab.layout.config / "experiments/life-canary.yaml").unlink()
    done = CliRunner().invoke(app, ["experiment", *words])
    assert done.exit_code == 0, done.output
    wait_until(lambda: "fresh" in {row["name"] for row in lab.api("/api/experiments")["register"]}, "the draft to be on record")
    assert state(lab, "fresh")["stage"] == "draft"
    assert {row["name"]: row["stage"] for row in lab.api("/api/experiments")["register"]}["life-canary"] == "archived"
    assert CliRunner().invoke(app, ["experiment", *words]).exit_code == 2


def test_the_report_of_an_experiment_is_made_from_the_log_and_is_the_same_twice(lab: Deployment):
    size = len(lab.log.refresh())
    words = ("report", "experiment", "forced-canary", "--data", str(lab.data), "--size", str(size), "--format", "json")
    runs = [CliRunner().invoke(build("report"), list(words)) for _ in range(2)]
    assert [done.exit_code for done in runs] == [0, 0], runs[0].output
    assert runs[0].stdout == runs[1].stdout
    body = json.loads(runs[0].stdout)["body"]
    assert body["summary"].startswith("Promoted on step 2 of 2 by alice, bob against the evidence")
    assert body["epochs"][0]["plan"]["holds"]
    unknown = CliRunner().invoke(build("report"), ["report", "experiment", "nothing", "--data", str(lab.data)])
    assert unknown.exit_code == 1


def test_the_page_shows_effect_and_buttons_with_their_consequences_to_those_who_may_press_them(lab: Deployment):
    name = "fresh"
    sessions = []
    for key in ("console", "oncall"):
        reply = lab.client.post(f"{lab.admin}/login", data={"key": lab.keys[key]})
        sessions.append({"cookie": f"assay-session={reply.cookies['assay-session']}"})
        lab.client.cookies.clear()
    looker, operator = sessions
    assert ask(lab, "starter", name, "start").status_code == 200
    wait_until(lambda: "challenger" in arms(lab, "life", 80) or arms(lab, "life", 400), "the split to serve")

    def page(cookies: dict[str, str]) -> str:
        return lab.client.get(f"{lab.admin}/experiments/{name}", headers=cookies).text

    assert "What you can do" not in page(looker)
    shown = page(operator)
    assert "Within a second version 1 (champion) serves everyone, for good" in shown
    assert f'action="/experiments/{name}/rollback"' in shown
    sent = {"reason": "page", "epoch": "1", "phase": "paused"}
    stale = lab.client.post(f"{lab.admin}/experiments/{name}/rollback", data=sent, headers=operator)
    assert stale.headers["location"] == f"/experiments/{name}?refused=illegal_step"
    assert "That step was refused" in lab.client.get(f"{lab.admin}{stale.headers['location']}", headers=operator).text
    done = lab.client.post(f"{lab.admin}/experiments/{name}/rollback", data=sent | {"phase": "running"}, headers=operator)
    assert done.headers["location"] == f"/experiments/{name}"
    assert state(lab, name)["phase"] == "rolled_back"
    refused = lab.client.post(f"{lab.admin}/experiments/{name}/start", data=sent, headers=looker, follow_redirects=False)
    assert refused.headers["location"].endswith("refused=missing_scope")
    assert lab.client.post(f"{lab.admin}/experiments/{name}/stop", data=sent).status_code == 401
