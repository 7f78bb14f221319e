"""What an experiment can show, and who moves: before it starts."""

import math

import numpy as np
import pytest
from experiment_documents import document_of, layer_of
from msgspec.structs import replace

from experiments import stats
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.effects import tuned_for
from experiments.forecast import forecast
from experiments.judge import harm_log_e
from experiments.movement import NOT_EXPOSED, OUTSIDE, moved

CANARY = {
    "experiment": "c",
    "strategy": "canary",
    "model": "m",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "steps": [{"share": "1%", "hold": "1d"}, {"share": "25%", "hold": "1d"}],
    "guardrails": {"errors": {"max_harm": "0.5pp"}, "p95_ms": {"max_harm": "10%"}},
    "deadline": {"after": "14d"},
}


def compiled(**more: object):
    return compile_experiment(parse_experiment({**CANARY, **more}))


def test_units_follow_the_ramp_each_step_for_its_hold_and_the_last_until_the_end():
    found = forecast(compiled(), units_per_day=10_000, rates={})
    assert found.units_by_week[1] == pytest.approx(10_000 * (1 * 0.01 + 6 * 0.25), abs=1)


def test_more_traffic_or_a_wider_margin_takes_less_time_and_half_the_margin_four_times_the_units():
    (few,) = forecast(compiled(), units_per_day=10_000, rates={"errors": 0.01}).metrics
    (many,) = forecast(compiled(), units_per_day=20_000, rates={"errors": 0.01}).metrics
    (narrow,) = forecast(compiled(guardrails={"errors": {"max_harm": "0.25pp"}}), units_per_day=10_000, rates={"errors": 0.01}).metrics
    assert many.needed_days < few.needed_days
    assert many.needed_units == few.needed_units
    assert 4 * few.needed_units < narrow.needed_units < 5.5 * few.needed_units, "four times, and the price of looking for longer"
    assert few.detectable[8] < few.detectable[1]


@pytest.mark.parametrize(("rate", "margin"), [(0.01, "0.5pp"), (0.1, "2pp"), (0.002, "0.2pp")])
def test_what_a_forecast_promises_the_judge_keeps_in_80_percent_of_the_runs(rate, margin):
    """Drawn, and asked of the judge's own tests at the size foreseen; within four standard errors of 200 runs."""
    rng = np.random.default_rng(1)
    (found,) = forecast(compiled(guardrails={"errors": {"max_harm": margin}}), units_per_day=40_000, rates={"errors": rate}).metrics
    n, runs = found.needed_units, 200
    slack = 4 * math.sqrt(0.8 * 0.2 / runs)
    fine = [
        stats.log_non_inferiority_e_value(*(int(x) for x in (k1, n, k0, n)), found.margin, n_star=tuned_for(compiled())) >= math.log(20)
        for k1, k0 in rng.binomial(n, rate, (runs, 2))
    ]
    assert np.mean(fine) == pytest.approx(0.8, abs=slack)
    week = forecast(compiled(), units_per_day=40_000, rates={}).units_by_week[1]
    treated = rng.binomial(week, rate + found.detectable[1], runs)
    harmed = [harm_log_e(int(k1), int(k0), 0.5) >= math.log(1 / 0.025) for k1, k0 in zip(treated, rng.binomial(week, rate, runs), strict=True)]
    assert np.mean(harmed) == pytest.approx(0.8, abs=slack)


def test_a_deadline_that_passes_before_the_margin_is_proven_is_too_short():
    assert forecast(compiled(), units_per_day=100_000, rates={"errors": 0.01}).too_short_for == []
    (short,) = forecast(compiled(), units_per_day=300, rates={"errors": 0.01}).too_short_for
    assert short.metric == "errors"
    assert forecast(compiled(), units_per_day=0.1, rates={"errors": 0.01}).metrics[0].needed_days == math.inf


def test_what_nobody_said_is_marked_as_assumed_and_nonsense_is_refused():
    assert forecast(compiled(), units_per_day=10, rates={}).metrics[0].is_assumed
    assert not forecast(compiled(), units_per_day=10, rates={"errors": 0.02}).metrics[0].is_assumed
    for units, rates in ((0, {}), (10, {"errors": 1.0})):
        with pytest.raises(ValueError, match="above 0"):
            forecast(compiled(), units_per_day=units, rates=rates)


def test_nobody_moves_where_nothing_that_assigns_changes():
    before = document_of({"a": 1, "b": 1})
    after = replace(before, hypothesis="another", alpha_ppm=10_000)
    assert moved(before, after, sample=2000).moved == 0


def test_a_new_arm_takes_its_share_from_each_and_moves_nobody_between_those_that_were_there():
    before, after = document_of({"a": 1, "b": 1}), document_of({"a": 1, "b": 1, "c": 1})
    found = moved(before, after, sample=6000)
    assert {after for (before, after), _ in found.pairs.items() if before != after} == {"c"}
    assert found.moved == pytest.approx(2000, abs=200)
    reweighted = moved(document_of({"a": 1, "b": 3}), document_of({"a": 1, "b": 1}), sample=6000)
    assert reweighted.moved == pytest.approx(1500, abs=180), "the least there can be: 25 % have to change"


def test_units_that_another_version_serves_are_counted_by_that_version():
    found = moved(None, compiled(), sample=20_000)
    assert found.between_arms() == 0
    told = found.to_version(None, compiled(), "1")
    assert set(told) == {"2"}
    assert told["2"] == found.pairs[OUTSIDE, "challenger"] > 0
    assert moved(compiled(), compiled(), sample=500).to_version(compiled(), compiled(), "1") == {}


def test_starting_ramping_and_ending_are_told_as_what_they_are():
    small = document_of({"a": 1, "b": 1}, exposure=2**32 // 10)
    large = document_of({"a": 1, "b": 1}, exposure=2**32 // 5)
    assert {before for before, _ in moved(None, small, sample=500).pairs} == {OUTSIDE}
    grown = moved(small, large, sample=5000)
    assert {before for (before, after), _ in grown.pairs.items() if before != after} == {NOT_EXPOSED}
    assert grown.between_arms() == 0
    assert {after for _, after in moved(large, None, sample=500).pairs} == {OUTSIDE}
    slots = moved(document_of({"a": 1, "b": 1}, layer=layer_of(0, 499)), document_of({"a": 1, "b": 1}, layer=layer_of(0, 599)), sample=3000)
    assert slots.between_arms() == 0
