"""The report of an experiment: plan against outcome, effect, verdict, sample ratio, overrides; the same bytes from the same records."""

from __future__ import annotations

import json

import msgspec
import pytest
from experiment_log import log_of

from audit.reports.document import report_bytes
from audit.reports.render import render_html, render_markdown
from audit.reports.state import LogState
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.history import NoPlanError, Story, read_plan
from experiments.judge import judge
from experiments.preregistration import plan_of
from experiments.report import describe
from gateway.experiment_report import UnknownExperimentError, experiment_report

CANARY = {
    "experiment": "swap",
    "strategy": "canary",
    "model": "m",
    "owner": "lending",
    "hypothesis": "version 2 <b>fails</b> less",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "steps": [{"share": "25%", "hold": "1m", "min_units": 60}, {"share": "50%", "hold": "1m"}],
    "guardrails": {"errors": {"max_harm": "2pp"}, "p50_ms": {"max_harm": "50%", "on_harm": "hold"}},
    "goal": {"metric": "accuracy", "margin": "4pp"},
    "deadline": {"after": "1d"},
}
DOCUMENT = compile_experiment(parse_experiment(CANARY))
STATE = LogState(9, "0" * 64, "2026-11-20T12:00:00.000000Z")


def leaves(records):
    return [(index, msgspec.json.encode({"v": 1, **record}, order="sorted")) for index, record in enumerate(records)]


def report_of(records, name="swap"):
    rows = leaves(records)
    return experiment_report(lambda: rows, STATE, name, version="1")


@pytest.fixture(scope="module")
def harmed():
    return report_of(log_of(DOCUMENT, failing={"champion": 0.02, "challenger": 0.15}, diverted=0.02))


@pytest.fixture(scope="module")
def fine():
    return report_of(log_of(DOCUMENT, failing={"champion": 0.1, "challenger": 0.02}, calls=9000))


def test_a_harmful_challenger_is_told_with_the_step_it_ended_on_and_its_interval(harmed):
    body = harmed["body"]
    assert body["summary"].startswith("Rolled back on step ")
    assert "errors" in body["summary"]
    (epoch,) = body["epochs"]
    errors = next(effect for effect in epoch["effects"] if effect["metric"] == "errors")
    assert (errors["outcome"], errors["role"]) == ("harm", "guardrail")
    assert errors["low_ppm"] <= errors["difference_ppm"] <= errors["high_ppm"]
    assert errors["difference_ppm"] > 50_000
    assert body["stage"] == "decided"


def test_a_good_challenger_is_told_as_promoted_by_the_evidence(fine):
    body = fine["body"]
    assert body["summary"].startswith("Promoted")
    assert body["epochs"][0]["verdict"]["outcome"] == "fine"
    assert body["epochs"][0]["outlook"] == []
    rows = {row["what"]: row for row in body["epochs"][0]["planned_actual"]}
    assert rows["who decided"] == {"what": "who decided", "planned": "the evidence", "actual": "the evidence and the clock"}


def test_a_metric_that_is_better_when_higher_is_told_as_people_know_it(fine):
    accuracy = next(effect for effect in fine["body"]["epochs"][0]["effects"] if effect["metric"] == "accuracy")
    assert (accuracy["role"], accuracy["better"], accuracy["margin_ppm"]) == ("goal", "higher", -40_000)
    assert accuracy["value_ppm"] > 900_000


def test_the_counts_of_the_report_are_those_of_its_records(harmed):
    records = log_of(DOCUMENT, failing={"champion": 0.02, "challenger": 0.15}, diverted=0.02)
    calls = [record for record in records if record["type"] == "call"]
    epoch = harmed["body"]["epochs"][0]
    assert epoch["exposure"]["calls"] == len(calls)
    assert epoch["exposure"]["calls_not_exposed"] == sum(not call["route"]["exposed"] for call in calls)
    for over in epoch["overrides"]:
        mine = [call for call in calls if call["route"]["exposed"] and call["route"]["assigned"] == over["arm"]]
        other = sum(call["route"]["served"] != over["arm"] for call in mine)
        assert (over["calls"], over["diverted"]) == (len(mine), other)
        assert over["reasons"] == ([{"reason": "approval.missing", "calls": other}] if other else [])


def test_calls_that_were_refused_are_not_told_as_served_by_another_version():
    records = log_of(DOCUMENT, failing={"champion": 0.02, "challenger": 0.02}, calls=400)
    refused = [record for record in records if record["type"] == "call" and record["route"]["exposed"]][:7]
    for record in refused:
        del record["route"]["served"]
        record["route"]["eligible"] = [{"arm": arm, "reason": "LIM-003"} for arm in DOCUMENT.arms]
        record["policy"] = {"decision": "deny", "reasons": []}
        record["outcome"] = {"status": 403, "code": "policy_denied", "latency_us": 1}
    report = report_of(records)
    for over in report["body"]["epochs"][0]["overrides"]:
        mine = sum(record["route"]["assigned"] == over["arm"] for record in refused)
        assert (over["diverted"], over["refused"]) == (0, mine)
        assert over["refused_for"] == ([{"reason": "LIM-003", "calls": mine}] if mine else [])
    assert "LIM-003" in render_markdown(report, report_bytes(report))
    assert "Calls refused" in render_html(report, report_bytes(report))


def test_all_four_stages_of_the_sample_ratio_are_tested_both_ways(harmed):
    stages = harmed["body"]["epochs"][0]["sample_ratio"]
    assert [stage["stage"] for stage in stages] == ["assigned", "served", "outcome", "labelled"]
    assert not any(stage["off"] for stage in stages)
    skewed = log_of(DOCUMENT, failing={"champion": 0.0, "challenger": 0.0}, calls=3000)
    kept = [r for r in skewed if r["type"] != "call" or r["route"]["assigned"] == "champion" or int(r["id"]) % 3 == 0]
    epoch = report_of(kept)["body"]["epochs"][0]
    assert epoch["sample_ratio"][0]["off"]
    assert epoch["verdict"]["outcome"] == "hold"


def test_an_undecided_metric_says_what_would_decide_it():
    body = report_of(log_of(DOCUMENT, failing={"champion": 0.03, "challenger": 0.03}, calls=600))["body"]
    assert any("at the rates seen, about" in line or "too narrow" in line for line in body["epochs"][0]["outlook"])
    assert body["summary"].startswith("Running.")


def test_the_plan_is_quoted_from_its_record_and_hashed_anew(harmed):
    plan = harmed["body"]["epochs"][0]["plan"]
    assert plan["holds"]
    assert plan["committed_before_first_call"]
    records = log_of(DOCUMENT, failing={"champion": 0.0, "challenger": 0.0}, calls=5)
    start = next(record for record in records if record["type"] == "experiment.start")
    start["preregistration"] = {**start["preregistration"], "alpha_ppm": 100_000}
    assert not report_of(records)["body"]["epochs"][0]["plan"]["holds"]


def test_a_plan_reads_back_as_the_document_it_was_made_from():
    assert read_plan(plan_of(DOCUMENT)) == DOCUMENT


def test_a_draft_has_a_report_and_a_start_without_a_plan_or_an_unknown_name_has_none():
    records = log_of(DOCUMENT, failing={"champion": 0.0, "challenger": 0.0}, calls=5)
    draft = report_of(records[:1])
    assert draft["body"]["stage"] == "draft"
    assert "nothing was drawn" in render_markdown(draft, report_bytes(draft))
    assert "nothing was drawn" in render_html(draft, report_bytes(draft))
    with pytest.raises(UnknownExperimentError):
        report_of(records, "other")
    del records[1]["preregistration"]
    with pytest.raises(NoPlanError):
        report_of(records[1:])


def test_the_same_records_give_the_same_bytes_in_every_format_and_repeats_change_nothing(harmed):
    records = log_of(DOCUMENT, failing={"champion": 0.02, "challenger": 0.15}, diverted=0.02)
    again = report_of(records)
    data = report_bytes(harmed)
    assert report_bytes(again) == data
    assert render_html(again, data) == render_html(harmed, data)
    assert render_markdown(again, data) == render_markdown(harmed, data)


def test_what_people_wrote_cannot_become_markup_and_the_page_has_its_charts(harmed):
    html = render_html(harmed, report_bytes(harmed))
    assert "<b>fails</b>" not in html
    assert "&lt;b&gt;fails" in html
    assert html.count('<svg class="chart"') >= 2
    assert "<script" not in html
    assert len(html) < 500_000


def test_the_effect_over_time_ends_where_the_report_does(fine):
    epoch = fine["body"]["epochs"][0]
    last = {effect["metric"]: effect for effect in epoch["trail"][-1]["effects"]}
    final = {effect["metric"]: effect for effect in epoch["effects"]}
    assert 10 < len(epoch["trail"]) < 40
    assert epoch["trail"][-1]["units"] * 1.31 > final["errors"]["n"] + final["errors"]["control_n"]
    assert last["errors"]["metric"] == "errors"


def test_the_report_judges_as_the_gateway_did():
    records = log_of(DOCUMENT, failing={"champion": 0.02, "challenger": 0.15})
    story = Story("swap")
    for index, record in enumerate(records):
        story.note(index, record)
    for record in records:
        story.feed(record)
    body = describe(story)
    assert body["epochs"][0]["verdict"]["outcome"] == judge(DOCUMENT, story.epochs[1].fold.evidence()).outcome
    json.dumps(body)
