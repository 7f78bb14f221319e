"""Metrics of every kind over real HTTP: calls by real model servers, feedback in batches, and what status, page and report then say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from zlib import crc32

import httpx
import pytest
from deployment import Deployment, wait_until
from typer.testing import CliRunner
from upstreams import Model, Models, Wordy

from gateway.cli.main import app

METRICS = """
metrics:
  bought: {type: proportion, better: higher, window: 3s, missing: zero}
  thumb: {type: proportion, better: higher}
  spent: {type: mean, better: higher, range: [0, 100]}
  clicks: {type: count, better: higher}
  ctr: {type: ratio, per: clicks, better: higher}
  basket: {type: quantile, quantile: 50%, better: higher, window: 3s}
  never: {type: proportion, better: higher}
  strict: {type: proportion, better: higher, window: 3s, missing: refuse}
  wrong: {type: proportion, from: labels, better: lower}
  failed: {type: proportion, from: errors, better: lower}
  tail_ms: {type: quantile, from: latency, quantile: 80%, better: lower}
  mean_ms: {type: mean, from: latency, better: lower}
  sent: {type: mean, from: bytes_in, better: lower}
  row_count: {type: mean, from: rows, better: lower}
  got_per_row: {type: ratio, from: bytes_out, per: row_count, better: lower}
  call_cost: {type: mean, from: cost, better: lower}
  dear: {type: quantile, quantile: 80%, from: cost, better: lower}
  words: {type: mean, from: tokens, better: lower}
  token_cost: {type: ratio, from: cost, per: words, better: lower}
"""
PRICES = {"currency": "EUR", "per_call": "0.0001", "per_1000_input_tokens": 0.0005, "per_1000_output_tokens": 0.0015}
USAGE = {"input_tokens": "/usage/prompt_tokens", "output_tokens": "/usage/completion_tokens"}
RATES = ("bought", "thumb", "never", "strict", "wrong", "failed")
NUMBERS = ("spent", "clicks", "ctr", "basket", "tail_ms", "mean_ms", "sent", "row_count", "got_per_row")
CALLS = 160


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, one: Model, two: Model, models: Models) -> Iterator[Deployment]:
    """A gateway on which every unit of 160 was called once, and answered for; beside it a language model whose second version talks much more."""
    deployment = Deployment(tmp_path_factory.mktemp("metrics"))
    deployment.write_model("shop", {"1": one.url, "2": two.url}, expose_arm=True, capture={"prediction": "/outputs/0/data/0"})
    for version, model in (("1", one), ("2", two)):
        deployment.approve("shop", version, url=model.url)
    deployment.write_config("experiments/_metrics.yaml", METRICS)
    margins = {**dict.fromkeys(RATES, "30pp"), **dict.fromkeys(NUMBERS, "50%")}
    guardrails = {name: {"max_harm": margin, "on_harm": "hold"} for name, margin in margins.items()}
    deployment.write_experiment("all", "shop", {"control": "1", "treatment": "2"}, guardrails=guardrails)
    wordy = {version: models.add(version, Wordy).url for version in ("1", "2")}
    deployment.write_model("assistant", wordy, protocol="http", serves={"/chat": ["POST"]}, capture={"usage": USAGE}, cost=PRICES)
    for version, url in wordy.items():
        deployment.approve("assistant", version, url=url)
    dear = {
        "goal": {"metric": "call_cost", "margin": "10%"},
        "guardrails": {"dear": {"max_harm": "10%", "on_harm": "rollback"}, **{name: {"max_harm": "10%"} for name in ("words", "token_cost")}},
    }
    deployment.write_experiment("cheaper", "assistant", {"control": "1", "treatment": "2"}, **dear)
    deployment.add_key("manager", "admin:read")
    with deployment.running():
        arms = call_and_answer(deployment, CALLS)
        assert set(arms.values()) == {"control", "treatment"}
        wait_until(lambda: due(deployment, "bought") == CALLS, "every window to have closed", 60, 1.0)
        yield deployment


def call_and_answer(lab: Deployment, calls: int) -> dict[str, str]:
    """Call, and answer batch by batch; returns decision -> arm. The treatment's customers always buy, the control's every fourth."""
    arms: dict[str, str] = {}
    for number in range(calls):
        reply = lab.infer("shop", unit=f"u{number}")
        arms[reply.headers["assay-decision"]] = reply.headers["assay-arm"]
        answer(lab, number, reply.headers["assay-decision"], reply.headers["assay-arm"])
    return arms


def answer(lab: Deployment, number: int, decision: str, arm: str) -> None:
    buys = arm == "treatment" or number % 4 == 0
    values = {"thumb": int(number % 8 > 0), "spent": 10 + number % 5, "clicks": 1 + number % 3, "ctr": 1, "basket": number % 9}
    values |= {"bought": 1} if buys else {}
    events: list[dict[str, object]] = [{"decision_id": decision, "metric": name, "value": value} for name, value in values.items()]
    events += [{"decision_id": decision, "label": "1" if number % 8 else "0"}]
    if number == 0:
        events += [{"decision_id": decision, "metric": "spent", "value": 5000, "event_id": "too-much"}]
    taken = lab.client.post(f"{lab.front}/feedback", json=events, headers=lab.bearer("product"))
    assert taken.status_code == 202, taken.text


def due(lab: Deployment, metric: str) -> int:
    """Units whose window has closed; windows close by what is recorded, so a call nobody counts moves the clock."""
    lab.infer("shop", unit="u0")
    told = {one["metric"]: one for one in lab.api("/api/experiments/all")["responses"]}
    return sum(arm["due"] for arm in told[metric]["arms"]) if metric in told else 0


def verdicts(lab: Deployment) -> dict[str, dict]:
    return {one["metric"]: one for one in lab.api("/api/experiments/all")["metrics"]}


def test_every_kind_from_every_source_is_counted_and_its_effect_told(lab: Deployment):
    found = lab.api("/api/experiments/all")
    told = {one["metric"]: one for one in found["effects"]}
    assert set(told) == {*RATES, *NUMBERS, "accuracy"}
    counted = {name: one["n"] + one["control_n"] for name, one in told.items() if name not in ("bought", "strict", "basket", "never", "tail_ms")}
    assert counted == dict.fromkeys(counted, CALLS)
    assert 10_000_000 <= told["spent"]["control_ppm"] <= 14_000_000, "what lay outside the range was not used"
    assert told["row_count"]["value_ppm"] == told["row_count"]["control_ppm"] == 1_000_000
    assert told["sent"]["value_ppm"] == pytest.approx(told["sent"]["control_ppm"], rel=0.2)
    assert told["got_per_row"]["unit"] == "value"
    assert told["tail_ms"]["past"].startswith("above ")
    assert told["bought"]["difference_ppm"] > 500_000


def test_what_nobody_reports_and_what_may_not_be_missing_are_holds_that_say_so(lab: Deployment):
    found = verdicts(lab)
    assert found["never"]["reason"] == f"never: nothing has arrived for any of {CALLS} units; is it reported under this name?"
    assert "`missing: refuse` judges nothing" in found["strict"]["reason"]
    assert {found["never"]["outcome"], found["strict"]["outcome"]} == {"hold"}
    assert (found["bought"]["outcome"], found["thumb"]["outcome"]) == ("fine", "fine")
    assert "needs 500" in found["spent"]["reason"]
    assert "1 rewards lay outside their declared range" in " ".join(lab.api("/api/experiments/all")["reasons"])


def test_who_answered_is_told_by_arm_and_zero_is_no_fault(lab: Deployment):
    told = {one["metric"]: one for one in lab.api("/api/experiments/all")["responses"]}
    bought = {arm["arm"]: (arm["answered"], arm["due"]) for arm in told["bought"]["arms"]}
    assert bought["treatment"][0] > 2 * bought["control"][0]
    assert told["bought"]["obstacle"] == told["thumb"]["obstacle"] == ""
    assert all(not stage["off"] for stage in lab.api("/api/experiments/all")["sample_ratio"])


def test_a_quantile_of_feedback_counts_units_after_those_that_fix_its_threshold(lab: Deployment):
    def looked_at() -> dict:
        """The newest look's effect: a look may be older than the windows that have closed since, so another call brings a newer one."""
        assert due(lab, "basket") == CALLS
        told: dict = {one["metric"]: one for one in lab.api("/api/experiments/all")["effects"]}["basket"]
        return told if told["n"] else {}

    told = wait_until(looked_at, "a look after the windows have closed", 60, 1.0)
    assert told["past"].startswith(("above ", "at or above "))
    assert 0 < told["n"] + told["control_n"] < CALLS, "the control's first twenty units fix the threshold and count for nothing"


def test_status_page_and_report_say_the_same(lab: Deployment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ASSAY_KEY", lab.keys["manager"])
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(lab.directory)
    status = CliRunner().invoke(app, ["experiment", "status", "all"])
    assert status.exit_code == 0, status.output
    lab.wait_signed(len(lab.log.refresh()) - 1)
    report = CliRunner().invoke(app, ["report", "experiment", "all", "--format", "json"])
    assert report.exit_code == 0, report.output
    (epoch,) = json.loads(report.stdout)["body"]["epochs"]
    lab.client.post(f"{lab.admin}/login", data={"key": lab.keys["manager"]})
    page = lab.client.get(f"{lab.admin}/experiments/all").text
    for words in ("nothing has arrived for any of", "judges nothing"):
        assert words in status.output
        assert words in page
        assert words in json.dumps(epoch)
    assert "what would change this" in status.output
    assert "sample ratio as declared at: assigned, served, outcome, labelled" in status.output
    assert "bought answered: control " in status.output
    assert {one["metric"]: one["missing"] for one in epoch["responses"]}["strict"] == "refuse"
    assert "nothing is judged" in page


# --- tokens and cost --------------------------------------------------------------------------------------------------


def chat(lab: Deployment, unit: str, *, behave: str = "answer", **said: object) -> httpx.Response:
    headers = {**lab.bearer("product"), "assay-unit": unit, "x-behave": behave}
    reply = lab.client.post(f"{lab.front}/http/assistant/chat", json={"prompt": "p" * (crc32(unit.encode()) % 5), **said}, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def consumed(lab: Deployment, reply: httpx.Response) -> dict:
    return lab.outcome(reply.headers["assay-decision"])["usage"]


def test_tokens_and_cost_of_a_call_stand_in_its_record_whole_or_streamed(lab: Deployment):
    for said in ({}, {"stream": True}):
        usage = consumed(lab, chat(lab, "first", **said))
        given, got = usage["input_tokens"], usage["output_tokens"]
        assert usage["cost_nano"] == 100_000 + (given * 500_000 + got * 1_500_000 + 500) // 1000
        assert (usage["currency"], usage["bytes_in"], got >= 40) == ("EUR", given, True)
    assert '"usage": {"prompt_tokens"' in chat(lab, "first", stream=True).text


def test_a_reply_that_does_not_say_it_is_served_counted_and_stated(lab: Deployment):
    reply = chat(lab, "mute", behave="unreadable")
    assert reply.text == "<html>not JSON</html>"
    assert consumed(lab, reply)["unread"] == 1

    def counted() -> str:
        text = lab.client.get(f"{lab.admin}/metrics", headers=lab.bearer("console")).text
        return text if "assay_usage_unread_total{" in text else ""

    text = wait_until(counted, "the unread reply to be counted")
    for line in ('assay_tokens_total{kind="output",model="assistant"', 'assay_cost_total{currency="EUR",model="assistant"'):
        assert line in text


def test_a_version_that_costs_more_is_rolled_back_and_status_page_and_report_say_how_much(lab: Deployment, monkeypatch: pytest.MonkeyPatch):
    units_so_far = count()

    def rolled_back() -> bool:
        for number in islice(units_so_far, 25):
            chat(lab, f"unit{number}")
        return lab.api("/api/experiments/cheaper")["phase"] == "rolled_back"

    wait_until(rolled_back, "the dearer version to be rolled back", 60)
    step = next(record for record in lab.log.of_type("rollout.step") if record["experiment"] == "cheaper" and record["action"] == "rollback")
    assert step["evidence"]["dear"]["events"]["treatment"] > step["evidence"]["dear"]["events"]["control"]
    wait_until(lambda: chat(lab, "unit1").json()["model_version"] == "1", "the worker to see it")
    monkeypatch.setenv("ASSAY_KEY", lab.keys["manager"])
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(lab.directory)
    status = CliRunner().invoke(app, ["experiment", "status", "cheaper"])
    assert status.exit_code == 0, status.output
    lab.client.post(f"{lab.admin}/login", data={"key": lab.keys["manager"]})
    page = lab.client.get(f"{lab.admin}/experiments/cheaper").text
    lab.wait_signed(len(lab.log.refresh()) - 1)
    report = CliRunner().invoke(app, ["report", "experiment", "cheaper", "--format", "json"])
    assert report.exit_code == 0, report.output
    (epoch,) = json.loads(report.stdout)["body"]["epochs"]
    told = {effect["metric"]: effect for effect in epoch["effects"]}
    units = {"call_cost": "EUR per 1,000 calls", "words": "tokens", "token_cost": "EUR per 1,000 tokens"}
    assert {name: told[name]["of"] for name in units} == units
    assert told["call_cost"]["value_ppm"] > 2 * told["call_cost"]["control_ppm"] > 300_000
    for words in (*units.values(), "EUR per 1,000 calls"):
        assert words in page
    assert "call_cost (goal, EUR per 1,000 calls), treatment: " in status.output
    assert "Rolled back: the control serves everyone." in status.output
    evaluation = CliRunner().invoke(app, ["report", "evaluation", "--model", "assistant", "--format", "md"])
    assert evaluation.exit_code == 0, evaluation.output
    assert "### Tokens and cost by version" in evaluation.output
    assert "did not say what they consumed" in evaluation.output
    decision = chat(lab, "unit1").headers["assay-decision"]
    lab.outcome(decision)
    shown = CliRunner().invoke(app, ["audit", "show", decision])
    assert "Consumed: " in shown.output, shown.output
