"""Before the start: sizes, and experiments run on a stated truth."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.planning import Question, detectable, plan_size
from experiments.simulation import Truth, simulate
from gateway.cli.main import app

CANARY = Path(__file__).parents[2] / "config" / "experiments" / "credit-canary.yaml"


def canary(**changes: object):
    data = {
        "experiment": "c",
        "strategy": "canary",
        "model": "m",
        "unit": "call",
        "analysis": {"unit": "call"},
        "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
        "steps": [{"share": "5%", "hold": "1h", "min_units": 500}, {"share": "50%", "hold": "1h", "min_units": 1000}],
        "guardrails": {"errors": {"max_harm": "0.5pp"}},
        "deadline": {"after": "12h"},
    }
    return compile_experiment(parse_experiment(data | changes))


def simulated(truth, runs=20, **changes: object):
    return simulate(canary(**changes), {"errors": truth}, units_per_hour=20_000, runs=runs, look_every_us=600_000_000)


# --- sizes ------------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["always_valid", "group_sequential", "fixed"]),
    st.floats(0.02, 0.9),
    st.floats(0.005, 0.05),
    st.floats(0.1, 0.9),
    st.floats(-0.9, 0.9),
)
def test_what_is_seen_at_the_planned_size_is_the_planned_effect(method, rate, effect, share, correlation):
    question = Question(effect=effect, rate=rate, share=share, method=method, correlation=correlation)
    size = plan_size(question)
    assert size.units == size.control + size.treatment
    assert detectable(question, size.units) == pytest.approx(effect, rel=0.02)


def test_a_lower_rate_is_planned_like_a_higher_one():
    down = Question(effect=-0.01, rate=0.1, method="fixed")
    assert detectable(down, plan_size(down).units) == pytest.approx(0.01, rel=0.01)
    mean = Question(effect=-0.5, sd=3.0, method="fixed")
    assert detectable(mean, plan_size(mean).units) == pytest.approx(0.5, rel=0.01)


def test_too_few_units_see_nothing():
    assert math.isinf(detectable(Question(effect=0.01, rate=0.5), 10))


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.1, "sd": 1.0}, {}, {"rate": 0.1, "method": "bayesian"}, {"rate": 0.1, "looks": 0}, {"rate": 0.1, "share": 1.0}]
)
def test_a_question_without_an_answer_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        Question(effect=0.01, **wrong)


# --- truths -----------------------------------------------------------------------------------------------------------


def test_harm_is_rolled_back_and_no_difference_promoted():
    harmed, same = simulated(Truth(0.01, 0.06)), simulated(Truth(0.01, 0.01))
    assert harmed.ended["rolled_back"] == 20
    assert all(run.harm for run in harmed.runs)
    assert max(run.treatment_units for run in harmed.runs) < 2000
    assert same.share("promoted")[0] >= 0.9


def test_nothing_proven_by_the_deadline_ends_as_declared():
    found = simulated(Truth(0.3, 0.3), runs=5, guardrails={"errors": {"max_harm": "0.1pp"}}, deadline={"after": "3h", "then": "stop"})
    assert found.ended == {"promoted": 0, "rolled_back": 0, "stopped": 5, "running": 0}
    assert {run.hours for run in found.runs} == {3.0}


def test_a_run_depends_on_seed_and_number_alone():
    assert simulated(Truth(0.02, 0.03), runs=3).runs == simulated(Truth(0.02, 0.03), runs=6).runs[:3]


def test_a_step_above_half_adds_no_evidence():
    steps = [{"share": "5%", "hold": "1h", "min_units": 100}, {"share": "80%", "hold": "1h", "min_units": 100}]
    found = simulated(Truth(0.01, 0.01), runs=3, steps=steps, deadline={"after": "4h"})
    assert max(run.treatment_units for run in found.runs) < 20_000 * 0.05 * 2.2


@pytest.mark.parametrize(
    ("truths", "complaint"), [({}, "`errors` is without a truth"), ({"errors": Truth(0, 0), "cost": Truth(0, 0)}, "`cost` is no metric")]
)
def test_truths_must_fit_the_metrics(truths, complaint):
    with pytest.raises(ValueError, match=complaint):
        simulate(canary(), truths, units_per_hour=100)


def test_what_draws_no_arms_is_not_simulated():
    ran = run("simulate", str(CANARY.with_name("credit-shadow.yaml")), "--truth", "errors=1%:1%", "--units-per-hour", "100")
    assert ran.exit_code == 2


@pytest.mark.parametrize("rates", [(1.5, 0.1), (0.1, -0.1), (0.1, 0.1, 0.2), (math.nan, 0.1)])
def test_a_rate_outside_zero_and_one_is_refused(rates):
    with pytest.raises(ValueError, match="rates lie in"):
        Truth(*rates)


# --- commands ---------------------------------------------------------------------------------------------------------


def run(*words: str):
    return CliRunner().invoke(app, ["experiment", *words])


def test_power_prints_units_weeks_and_what_each_week_sees():
    ran = run("power", "--rate", "10%", "--effect", "1pp", "--units-per-week", "20000", "--json")
    found = json.loads(ran.stdout)
    assert (ran.exit_code, found["units"]) == (0, 59774)
    assert found["weeks"] == pytest.approx(2.99, abs=0.01)
    assert found["detectable_by_week"][2]["effect"] < 0.01 < found["detectable_by_week"][1]["effect"]
    assert "week  3" in run("power", "--rate", "10%", "--effect", "1pp", "--units-per-week", "20000").stdout
    assert run("power", "--sd", "3", "--mean", "10", "--effect", "2%", "--method", "fixed").exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--effect", "1pp"),
        ("--effect", "0.5", "--rate", "10%"),
        ("--effect", "1pp", "--rate", "0.1"),
        ("--effect", "1pp", "--sd", "2"),
        ("--effect", "2%", "--sd", "2"),
        ("--effect", "95pp", "--rate", "10%"),
        ("--effect", "1pp", "--rate", "10%", "--method", "guess"),
    ],
)
def test_power_exits_2_for_what_has_no_answer(words):
    ran = run("power", *words)
    assert (ran.exit_code, ran.stdout) == (2, "")


TRUTHS = ("--truth", "errors=1%:20%", "--truth", "p95_ms=5%:5%:2%", "--truth", "accuracy=9%:9%", "--units-per-hour", "20000", "--runs", "3")


def test_simulate_runs_an_experiment_file_on_a_truth():
    found = json.loads(run("simulate", str(CANARY), *TRUTHS, "--look-every", "10m", "--json").stdout)
    assert found["ended"]["rolled_back"]["share"] == 1
    assert found["ended"]["rolled_back"]["hours"]["median"] < 1
    assert found["truth"]["errors"] == {"control": 0.01, "treatment": 0.2, "past_margin": 0.0}
    assert "rolled_back" in run("simulate", str(CANARY), *TRUTHS).stdout


def test_simulate_exits_2_for_wrong_files_and_truths(tmp_path):
    (tmp_path / "x.yaml").write_text("experiment: x\nstrategy: canary\n")
    for words in (
        (str(CANARY), *TRUTHS[:4], "--units-per-hour", "100"),
        (str(CANARY), "--truth", "errors", "--units-per-hour", "100"),
        (str(CANARY), "--truth", "errors=1:2", "--units-per-hour", "100"),
        (str(tmp_path / "x.yaml"), *TRUTHS),
        (str(tmp_path / "none.yaml"), *TRUTHS),
        (str(CANARY), *TRUTHS, "--look-every", "5"),
    ):
        assert run("simulate", *words).exit_code == 2
