"""A blue-green switch over real HTTP, from a green nobody approved to everyone back on blue in one command, without one failed call."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from deployment import Deployment, free_port, wait_until
from typer.testing import CliRunner
from upstreams import Model

from gateway.cli.main import app

ARMS = {"blue": {"version": "1"}, "green": {"version": "2"}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model) -> Iterator[Deployment]:
    """Two workers; `shop` has a shadow that verifies its switch, `risky` a breaker, the servers of `dead` do not answer."""
    deployment = Deployment(tmp_path_factory.mktemp("switch"), workers=2)
    for name, green in (("shop", two.url), ("risky", two.url), ("dead", f"http://127.0.0.1:{free_port()}")):
        deployment.write_model(name, {"1": one.url, "2": green}, expose_arm=True)
        deployment.approve(name, "1", url=one.url)
        if name != "shop":
            deployment.approve(name, "2", url=green)
    deployment.approve("shop", "2", url=two.url, max_exposure_ppm=100_000)
    write(deployment, "cutover", "shop", strategy="blue_green", arms=ARMS, verify={"shadow": "rehearsal"})
    write(deployment, "leap", "risky", strategy="blue_green", arms=ARMS, breaker={"errors": "> 20% over 1m", "min_calls": 10})
    write(deployment, "nowhere", "dead", strategy="blue_green", arms=ARMS, start="auto")
    rehearsal = {
        "arms": {"champion": ARMS["blue"], "shadow": ARMS["green"]},
        "share": "100%",
        "budget": {"per_second": 1000},
        "compare": {"label": {"kind": "label", "at": "/outputs/0/data/0", "max_disagreement": "5%"}},
        "min_pairs": 20,
        "deadline": {"after": "1d"},
    }
    write(deployment, "rehearsal", "shop", strategy="shadow", **rehearsal)
    deployment.add_key("manager", "admin:read", "experiment:promote", "experiment:start", "experiment:operate")
    deployment.add_key("reader", "audit:read")
    with deployment.running():
        yield deployment


def write(deployment: Deployment, name: str, model: str, **keys: object) -> None:
    document = {"experiment": name, "model": model, "start": "manual", **keys}
    deployment.write_config(f"experiments/{name}.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))


def ask(lab: Deployment, name: str, verb: str, key: str = "manager") -> httpx.Response:
    return lab.client.post(f"{lab.admin}/api/experiments/{name}/{verb}", json={"reason": "because"}, headers=lab.bearer(key))


def assay(lab: Deployment, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, words, env={"ASSAY_KEY": lab.keys["manager"], "COLUMNS": "250", "NO_COLOR": "1"})
    return done.exit_code, done.output


def phase(lab: Deployment, name: str) -> str:
    return str(lab.api(f"/api/experiments/{name}")["phase"])


def test_a_green_that_is_approved_for_a_part_alone_is_told_by_check_and_plan_and_cannot_be_started(lab: Deployment, two: Model):
    directory = str(lab.directory)
    status, told = assay(lab, "check", directory)
    assert (status, "experiments/cutover.yaml: cannot be started yet: version 2 (arm green) may not have 100 % of the traffic" in told) == (0, True)
    assert "experiments/leap.yaml" not in told
    status, told = assay(lab, "experiment", "plan", "cutover", "--dir", directory)
    assert (status, "Approval missing: version 2 (arm green) may not have 100 %" in told) == (1, True)
    refused = ask(lab, "cutover", "start", key="reader")
    assert refused.json()["code"] == "missing_scope", "who may not start it learns nothing of approvals"
    refused = ask(lab, "cutover", "start")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_approved"), refused.text
    assert "version `2` of `shop` may not serve everyone" in refused.text
    assert phase(lab, "cutover") == "draft"
    lab.approve("shop", "2", url=two.url)
    wait_until(lambda: ask(lab, "cutover", "start").status_code == 200, "the approval to be in force")
    assert "cutover" not in assay(lab, "check", directory)[1]


def test_verified_by_its_shadow_it_switches_everyone_and_back_in_one_command_without_one_failed_call(lab: Deployment, one: Model):
    refused = ask(lab, "cutover", "promote")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_proven"), "the shadow has proven nothing yet"
    statuses: list[int] = []
    served: list[str | None] = []
    ending, passes = threading.Event(), threading.Event()

    def keep_calling() -> None:
        with httpx.Client(timeout=20) as client:
            for number in range(20_000):
                if ending.is_set():
                    return
                reply = lab.infer("shop", unit=f"u{number % 50}", client=client)
                statuses.append(reply.status_code)
                served.append(reply.headers.get("assay-arm"))

    def wait_for(arm: str) -> None:
        wait_until(lambda: len(served) > 20 and set(served[-20:]) == {arm}, f"everyone to be served by {arm}", 30)

    assert ask(lab, "rehearsal", "start").status_code == 200
    with ThreadPoolExecutor(3) as pool:
        try:
            callers = [pool.submit(keep_calling) for _ in range(2)]
            wait_for("blue")
            wait_until(lambda: phase(lab, "rehearsal") == "stopped", "the shadow to prove that green answers as blue does", 60)
            one.before = lambda asked: passes.set() if "x-behave" in asked.headers else None
            slow = pool.submit(lab.infer, "shop", behave="slow:3", unit="slow")
            assert passes.wait(20), "a slow call is under way on blue"
            one.before = None
            assert assay(lab, "experiment", "promote", "cutover", "--reason", "go", "--admin", lab.admin)[0] == 0
            wait_for("green")
            assert slow.result().headers["assay-arm"] == "blue", "a call under way ends where it began: blue drains"
            pinned = lab.infer("shop", version="1", key="tester")
            assert (pinned.status_code, pinned.json()["model_version"]) == (200, "1"), "blue is warm: configured, approved, answering"
            assert assay(lab, "experiment", "rollback", "cutover", "--reason", "back", "--admin", lab.admin)[0] == 0
            wait_for("blue")
        finally:
            one.before = None
            ending.set()
    for caller in callers:
        caller.result()
    assert set(statuses) == {200}
    step = next(record for record in lab.log.of_type("rollout.step") if (record["experiment"], record["action"]) == ("cutover", "promote"))
    assert "against_evidence" not in step


def test_while_blue_is_kept_warm_a_green_that_fails_is_left_by_itself(lab: Deployment):
    assert ask(lab, "leap", "start").status_code == 200
    assert ask(lab, "leap", "promote").json()["to"] == "promoted"
    wait_until(lambda: lab.infer("risky", unit="u").headers.get("assay-arm") == "green", "everyone to be served by green")

    def is_back() -> bool:
        for number in range(15):
            lab.infer("risky", unit=f"u{number}", behave="status:500")
        return phase(lab, "leap") == "rolled_back"

    wait_until(is_back, "the breaker to send everyone back", 30)
    wait_until(lambda: lab.infer("risky", unit="u").headers.get("assay-arm") == "blue", "everyone to be served by blue")
    step = next(record for record in lab.log.of_type("rollout.step") if (record["experiment"], record["action"]) == ("leap", "rollback"))
    assert step["reason"] == "breaker: more than 20 % of calls failed within 60 s"


def test_a_switch_to_servers_that_do_not_answer_is_refused(lab: Deployment):
    refused = ask(lab, "nowhere", "promote", key="reader")
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope"), "who may not promote learns no address"
    refused = ask(lab, "nowhere", "promote")
    assert (refused.status_code, refused.json()["code"]) == (502, "upstream_unreachable")
    assert phase(lab, "nowhere") == "running"
