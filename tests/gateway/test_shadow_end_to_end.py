"""A shadow over real HTTP: compared, proven, and followed by the canary that it starts; a slow, dead or broken one changes nothing for callers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Deployment, free_port, wait_until
from typer.testing import CliRunner
from upstreams import Asked, Model, Models, whole

from audit.verdict import Grade
from gateway.cli.main import build

COMPARE = {
    "label": {"kind": "label", "at": "/outputs/0/data/0", "max_disagreement": "5%"},
    "score": {"kind": "number", "at": "/outputs/1/data/0", "tolerance": 0.01, "max_disagreement": "5%"},
}


class Rival(Model):
    """A second version: answers label 1 as the champion does, unless told otherwise."""

    label_said = 1
    pause_s = 0.0
    garbage = False

    def reply(self, asked: Asked) -> bytes:
        document = json.loads(Model.reply(self, asked))
        document["outputs"][0]["data"] = [self.label_said]
        return json.dumps(document).encode()

    async def _answer(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        await asyncio.sleep(self.pause_s)
        writer.write(whole(200, b"\x00garbage" if self.garbage else self.reply(asked)))
        return True


def write_shadow(lab: Deployment, name: str, model: str, **keys: Any) -> None:
    document = {
        "experiment": name,
        "strategy": "shadow",
        "model": model,
        "arms": {"champion": {"version": "1"}, "shadow": {"version": "2"}},
        "share": "100%",
        "timeout": "500ms",
        "budget": {"per_second": 1000},
        "compare": COMPARE,
        "min_pairs": 20,
        "deadline": {"after": "1d"},
        **keys,
    }
    lab.write_config(f"experiments/{name}.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))


@pytest.fixture(scope="module")
def rivals(models: Models) -> dict[str, Rival]:
    found = {}
    for name in ("alike", "other", "slow", "garbage", "judged"):
        rival = Rival("2")
        asyncio.run_coroutine_threadsafe(models._start(rival), models._loop).result(5)
        found[name] = rival
    found["other"].label_said = 0
    found["slow"].pause_s = 5.0
    found["garbage"].garbage = True
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, one: Model, rivals: dict[str, Rival]) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("shadow"))
    urls = {**{name: rival.url for name, rival in rivals.items()}, "dead": f"http://127.0.0.1:{free_port()}"}
    person = {"decided_within": "1s", "compare": {"decision": {"kind": "label", "at": "/outputs/0/data/0", "max_disagreement": "20%"}}}
    deployment.write_model("single", {"1": one.url})
    deployment.approve("single", "1", url=one.url)
    write_shadow(deployment, "single-shadow", "single", arms={"champion": {"person": "officers"}, "shadow": {"version": "1"}}, **person)
    for name, url in urls.items():
        deployment.write_model(name, {"1": one.url, "2": url}, expose_arm=True)
        deployment.approve(name, "1", url=one.url)
        deployment.approve(name, "2", url=url)
        arms = {"arms": {"champion": {"person": "officers"}, "shadow": {"version": "2"}}}
        more = {"alike": {"then": {"start": "alike-canary"}}, "judged": arms | person}.get(name, {})
        write_shadow(deployment, f"{name}-shadow", name, **more)
    canary = {
        "experiment": "alike-canary",
        "strategy": "canary",
        "model": "alike",
        "start": "manual",
        "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
        "steps": [{"share": "50%", "hold": "1h"}],
        "guardrails": {"errors": {"max_harm": "1pp"}},
        "deadline": {"after": "1d"},
    }
    deployment.write_config("experiments/alike-canary.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in canary.items()))
    deployment.write_model("lonely", {"1": one.url})
    deployment.approve("lonely", "1", url=one.url)
    with deployment.running():
        yield deployment


def pairs(lab: Deployment, name: str) -> list[dict[str, Any]]:
    return [record for record in lab.log.of_type("shadow") if record["experiment"] == name]


def state(lab: Deployment, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.api(f"/api/experiments/{name}")
    return found


def test_a_shadow_that_agrees_is_proven_alike_and_starts_the_canary(lab: Deployment, rivals: dict[str, Rival]):
    assert state(lab, "alike-canary")["stage"] == "draft"

    def proven() -> bool:
        for number in range(20):
            assert lab.infer("alike", unit=f"u{number}").json()["model_version"] in ("1", "2")
        return state(lab, "alike-shadow")["phase"] == "stopped"

    wait_until(proven, "the shadow to be proven", 40)
    assert state(lab, "alike-canary")["phase"] == "running"
    started = next(record for record in lab.log.of_type("experiment.start") if record["experiment"] == "alike-canary")
    assert started["reason"] == "shadow `alike-shadow` proved every limit kept"
    stop = next(record for record in lab.log.of_type("rollout.step") if record["experiment"] == "alike-shadow" and record["action"] == "stop")
    assert stop["evidence"]["label"]["broken"] == 0
    assert lab.log.records.index(started) < lab.log.records.index(stop)
    copied = rivals["alike"].asked[0]
    assert copied.headers["assay-shadow"] == "alike-shadow"
    assert "authorization" not in copied.headers
    first = pairs(lab, "alike-shadow")[0]
    decision = lab.log.by_id[first["parents"][0]]
    assert decision["model"]["version"] == "1"
    assert "experiment" not in decision["route"]


def test_a_shadow_that_disagrees_is_rolled_back(lab: Deployment):
    def told() -> bool:
        for number in range(10):
            reply = lab.infer("other", unit=f"u{number}")
            assert reply.json()["outputs"][0]["data"] == [1], "callers get the champion's answer"
        return state(lab, "other-shadow")["phase"] == "rolled_back"

    wait_until(told, "the disagreement to be proven", 30)
    assert {record["compared"]["label"]["agrees"] for record in pairs(lab, "other-shadow")} == {0}


@pytest.mark.parametrize("name", ["slow", "dead", "garbage"])
def test_a_slow_dead_or_garbage_shadow_changes_nothing_for_the_caller(lab: Deployment, name: str):
    """Answers are the champion's, and no slower than those of a model without a shadow by more than the noise of this machine."""

    def median_s(model: str) -> float:
        took = []
        for number in range(30):
            began_s = time.perf_counter()
            reply = lab.infer(model, unit=f"u{number}")
            took.append(time.perf_counter() - began_s)
            assert (reply.status_code, reply.json()["model_version"]) == (200, "1")
        return sorted(took)[len(took) // 2]

    assert median_s(name) < median_s("lonely") + 0.25, "half of the shadow's timeout, to say nothing of its five seconds"
    found = wait_until(lambda: pairs(lab, f"{name}-shadow"), "a failed pair")
    expected = {"slow": "upstream_timeout", "dead": "upstream_connect", "garbage": None}[name]
    assert {record["outcome"].get("code") for record in found} == {expected}
    counted = wait_until(lambda: metric(lab, f"{name}-shadow"), "the counts to be told")
    assert set(counted) <= {"failed", "compared", "over_budget", "queue_full"}


def metric(lab: Deployment, name: str) -> dict[str, float]:
    text = lab.client.get(f"{lab.admin}/metrics", headers=lab.bearer("console")).text
    lines = [line for line in text.splitlines() if line.startswith("assay_shadow_calls_total{") and f'"{name}"' in line]
    return {line.split('result="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_log_of_mirrored_calls_verifies(lab: Deployment):
    wait_until(lambda: pairs(lab, "alike-shadow"), "a pair")
    lab.wait_idle()
    lab.wait_signed(lab.log.records.index(pairs(lab, "alike-shadow")[0]))
    verdict = lab.verify()
    assert (verdict.tamper.grade, verdict.completeness.grade) == (Grade.OK, Grade.OK), verdict


@pytest.mark.parametrize("name", ["judged", "single"])
def test_a_person_is_the_champion_and_late_decisions_prove_the_version_alike(lab: Deployment, one: Model, rivals: dict[str, Rival], name: str):
    """`judged` compares a second version, `single` the very version that answers callers: of that no copy is sent."""
    sent_before = len([asked for asked in (*one.asked, *rivals["judged"].asked) if asked.headers.get("assay-shadow") == f"{name}-shadow"])
    waiting: list[str] = []

    def proven() -> bool:
        waiting.extend(lab.infer(name, unit=f"u{number}").headers["assay-decision"] for number in range(20))
        events = [{"decision_id": decision, "human_decision": 1} for decision in waiting]
        reply = lab.client.post(f"{lab.front}/feedback", json=events, headers=lab.bearer("product"))
        assert reply.status_code == 202, reply.text
        waiting.clear()
        return state(lab, f"{name}-shadow")["phase"] == "stopped"

    wait_until(proven, "the version to be proven alike", 60)
    stop = next(record for record in lab.log.of_type("rollout.step") if record["experiment"] == f"{name}-shadow" and record["action"] == "stop")
    assert stop["reason"] == "every limit is proven kept"
    assert stop["evidence"]["decision"]["broken"] == 0
    found = pairs(lab, f"{name}-shadow")[0]
    assert (found["answers"], found["compared"]) == ({"decision": "1"}, {})
    copies = len([asked for asked in (*one.asked, *rivals["judged"].asked) if asked.headers.get("assay-shadow") == f"{name}-shadow"]) - sent_before
    assert (copies > 0) == (name == "judged")
    lab.wait_signed(lab.log.records.index(stop))
    told = CliRunner().invoke(build("report"), ["report", "experiment", f"{name}-shadow", "--data", str(lab.data), "--format", "md"])
    assert "a person (officers) against version" in told.stdout
    assert "Every limit is proven kept." in told.stdout


def test_the_report_of_a_shadow_tells_what_was_compared(lab: Deployment):
    lab.wait_signed(len(lab.log.refresh()) - 1)
    for form, said in (("md", "label: label at"), ("json", '"broken":0'), ("html", "Compared: version 1 against version 2"), ("md", "| label |")):
        done = CliRunner().invoke(build("report"), ["report", "experiment", "alike-shadow", "--data", str(lab.data), "--format", form])
        assert done.exit_code == 0, done.output
        assert said in done.stdout.replace(" ", "") or said in done.stdout


@pytest.mark.parametrize("event", [{"human_decision": ""}, {"human_decision": 1.5}, {"human_decision": "1", "label": "1"}, {"human_decision": None}])
def test_a_human_decision_is_one_word(lab: Deployment, event: dict[str, Any]):
    decision = lab.infer("lonely", unit="u").headers["assay-decision"]
    reply = lab.client.post(f"{lab.front}/feedback", json={"decision_id": decision, **event}, headers=lab.bearer("product"))
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_feedback")
