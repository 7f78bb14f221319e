"""The judge: three-way verdicts, nothing without data, and its promises by simulation.

Simulations are seeded; an error rate is accepted up to alpha plus four standard errors of that many runs.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.effects import effects
from experiments.evidence import Evidence, MetricEvidence
from experiments.judge import harm_log_e, judge
from experiments.stats import log_binomial_e_value

ARMS = ("champion", "challenger")


def canary(guardrails, goal=None, **analysis: str):
    data = {
        "experiment": "c",
        "strategy": "canary",
        "model": "m",
        "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
        "steps": [{"share": "5%", "hold": "1m"}],
        "guardrails": guardrails,
        "goal": goal,
        "analysis": analysis,
        "deadline": {"after": "1d"},
    }
    return compile_experiment(parse_experiment({key: value for key, value in data.items() if value is not None}))


def by_arm(champion, challenger):
    return {"champion": champion, "challenger": challenger}


def evidence_of(metrics, *, assigned=None, **stages: dict[str, int]):
    """metrics: name -> ((champion events, units), (challenger events, units))."""
    made = {
        name: MetricEvidence(by_arm(champion[1], challenger[1]), by_arm(champion[0], challenger[0]))
        for name, (champion, challenger) in metrics.items()
    }
    units = assigned or next(iter(made.values())).units
    return Evidence("c", 1, {"assigned": units, "served": units, "outcome": units, "labelled": units} | stages, made)


ERRORS = canary({"errors": {"max_harm": "0.5pp"}})


@pytest.mark.parametrize(
    ("champion", "challenger", "outcome", "may_advance"),
    [
        ((0, 0), (0, 0), "hold", False),
        ((5, 100), (0, 0), "hold", False),
        ((0, 100), (0, 100), "hold", True),
        ((16, 400), (48, 400), "harm", False),
        ((48, 400), (16, 400), "fine", True),
        ((16, 400), (17, 400), "hold", True),
        ((0, 10_000), (0, 10_000), "fine", True),
        ((0, 10_000), (9, 10_000), "fine", True),  # proven worse, by less than the margin
    ],
)
def test_three_way_verdict(champion, challenger, outcome, may_advance):
    verdict = judge(ERRORS, evidence_of({"errors": (champion, challenger)}))
    assert (verdict.outcome, verdict.may_advance) == (outcome, may_advance)
    assert verdict.reasons


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(60, 3000), st.integers(60, 3000))
def test_a_verdict_of_fine_and_the_interval_beside_it_never_contradict_each_other(k1, k0, n1, n0):
    """An interval that leaves the margin out is at least as much evidence as the verdict asks for: it is the same e-process."""
    document = canary({"errors": {"max_harm": "1pp"}})
    found = evidence_of({"errors": ((k0, n0), (k1, n1))}, assigned=by_arm(1000, 1000), outcome=by_arm(1000, 1000))
    (effect,) = effects(document, found)
    (verdict,) = judge(document, found).metrics
    assert effect.low_ppm <= effect.difference_ppm <= effect.high_ppm
    if effect.high_ppm < effect.margin_ppm:
        assert verdict.outcome == "fine"
    if verdict.outcome == "fine":
        assert effect.low_ppm < effect.margin_ppm


def test_reasons_give_the_numbers_in_words():
    verdict = judge(ERRORS, evidence_of({"errors": ((16, 400), (48, 400))}))
    assert verdict.reasons[0].startswith("errors: `challenger` 48 of 400 (12.0 %), `champion` 16 of 400 (4.0 %): worse, e = ")
    assert verdict.evidence == {"units": by_arm(400, 400), "errors": {"units": by_arm(400, 400), "events": by_arm(16, 48)}}


def test_what_is_better_when_higher_is_counted_in_words_as_its_name_says():
    document = canary({"accuracy": {"max_harm": "1pp"}})
    verdict = judge(document, evidence_of({"accuracy": ((40, 400), (20, 400))}))
    assert verdict.reasons[0].startswith("accuracy: `challenger` 380 of 400 (95.0 %), `champion` 360 of 400 (90.0 %): ")


def test_promotion_needs_every_guardrail_and_the_goal():
    document = canary({"errors": {"max_harm": "1pp"}, "diverted": {"max_harm": "1pp"}}, {"metric": "accuracy", "margin": "1pp"})
    good, unknown = ((0, 5000), (0, 5000)), ((250, 5000), (250, 5000))
    assert judge(document, evidence_of({"errors": good, "diverted": good, "accuracy": good})).outcome == "fine"
    for name in ("errors", "diverted", "accuracy"):
        assert judge(document, evidence_of({"errors": good, "diverted": good, "accuracy": good} | {name: unknown})).outcome == "hold"


def test_harm_does_what_the_harmed_metric_says():
    document = canary({"errors": {"max_harm": "1pp", "on_harm": "hold"}, "diverted": {"max_harm": "1pp"}})
    good, bad = ((0, 1000), (0, 1000)), ((10, 1000), (100, 1000))
    assert judge(document, evidence_of({"errors": bad, "diverted": good})).on_harm == "hold"
    assert judge(document, evidence_of({"errors": bad, "diverted": bad})).on_harm == "rollback"


def test_alpha_harm_is_split_over_metrics():
    one, many = (canary({name: {"max_harm": "1pp"} for name in names}) for names in (["errors"], ["errors", "diverted", "error_rate", "accuracy"]))
    quiet = ((0, 100), (0, 100))
    edge = next(events for events in range(100) if harm_log_e(events, 0, 0.5) >= math.log(1 / 0.025))
    bad = ((0, 100), (edge, 100))
    assert judge(one, evidence_of({"errors": bad})).outcome == "harm"
    assert judge(many, evidence_of({"errors": bad, "diverted": quiet, "error_rate": quiet, "accuracy": quiet})).outcome == "hold"


def test_a_relative_margin_is_tested_on_the_ratio():
    document = canary({"errors": {"max_harm": "50%"}})
    assert judge(document, evidence_of({"errors": ((500, 10_000), (500, 10_000))})).outcome == "fine"
    assert judge(document, evidence_of({"errors": ((500, 10_000), (740, 10_000))})).outcome == "harm"
    assert judge(document, evidence_of({"errors": ((20, 400), (20, 400))})).outcome == "hold"


def test_latency_is_fine_when_exceedances_past_the_margin_are_fewer():
    document = canary({"p95_ms": {"max_harm": "20%", "on_harm": "hold"}})

    def found(champion, challenger, past):
        units = by_arm(4000, 4000)
        metric = MetricEvidence(units, by_arm(champion, challenger), by_arm(0, past), 1000)
        return judge(document, Evidence("c", 1, dict.fromkeys(("assigned", "served", "outcome", "labelled"), units), {"p95_ms": metric}))

    assert found(200, 210, 100).outcome == "fine"
    assert found(200, 210, 190).outcome == "hold"
    assert (found(200, 320, 250).outcome, found(200, 320, 250).on_harm) == ("harm", "hold")


BAD = {"errors": ((16, 400), (48, 400))}
GOOD = {"errors": ((0, 10_000), (0, 10_000))}
OFF = by_arm(1000, 700)


@pytest.mark.parametrize(
    ("metrics", "stages", "outcome"),
    [
        (BAD, {"assigned": OFF}, "hold"),
        (BAD, {"outcome": OFF}, "hold"),
        (BAD, {"served": OFF}, "harm"),
        (BAD, {"labelled": OFF}, "harm"),
        (GOOD, {"assigned": OFF}, "hold"),
        (GOOD, {"served": OFF}, "hold"),
        (GOOD, {"outcome": OFF}, "hold"),
        (GOOD, {}, "fine"),
    ],
)
def test_a_sample_ratio_off_blocks_what_rests_on_it(metrics, stages, outcome):
    verdict = judge(ERRORS, evidence_of(metrics, **stages))
    assert verdict.outcome == outcome
    if stages:
        assert f"sample ratio off at stage `{next(iter(stages))}`" in verdict.reasons[0]
        assert not verdict.may_advance


def test_an_ab_test_with_three_arms_judges_each_against_the_control():
    data = {
        "experiment": "a",
        "strategy": "ab",
        "model": "m",
        "arms": {name: {"version": name} for name in ("control", "b", "c")},
        "split": {"control": "50%", "b": "25%", "c": "25%"},
        "goal": {"metric": "accuracy", "margin": "1pp"},
    }
    document = compile_experiment(parse_experiment(data))
    units, events = {"control": 8000, "b": 4000, "c": 4000}, {"control": 400, "b": 100, "c": 200}
    verdict = judge(
        document, Evidence("a", 1, dict.fromkeys(("assigned", "served", "outcome", "labelled"), units), {"accuracy": MetricEvidence(units, events)})
    )
    assert {found.arm: (found.outcome, found.better) for found in verdict.metrics} == {"b": ("fine", True), "c": ("hold", False)}


# --- promises, simulated ----------------------------------------------------------------------------------------------


def paths(rng, runs, units, champion, challenger):
    """Cumulative (champion units, events, challenger units, events) of `runs` canaries, one unit at a time."""
    treated = rng.random((runs, units)) < 0.5
    event = rng.random((runs, units)) < np.where(treated, challenger, champion)
    return (np.cumsum(~treated, 1), np.cumsum(event & ~treated, 1), np.cumsum(treated, 1), np.cumsum(event & treated, 1))


@pytest.mark.parametrize("rate", [0.005, 0.04])
def test_without_effect_continuous_peeking_rolls_back_at_most_alpha_harm_of_the_time(rate):
    rng, runs = np.random.default_rng(11), 1500
    _, champion, _, challenger = paths(rng, runs, 3000, rate, rate)
    log_e = log_binomial_e_value(challenger[:, ::4], (champion + challenger)[:, ::4], 0.5, side="greater")
    ever = float(np.mean(log_e.max(axis=1) >= math.log(1 / 0.025)))
    assert ever <= 0.025 + 4 * math.sqrt(0.025 * 0.975 / runs)


def test_the_judge_and_the_simulated_statistic_are_the_same():
    rng = np.random.default_rng(12)
    units, events, treated, harmed = (x[:, -1] for x in paths(rng, 20, 500, 0.04, 0.09))
    for n0, k0, n1, k1 in zip(units, events, treated, harmed, strict=True):
        log_e = float(log_binomial_e_value(int(k1), int(k0 + k1), 0.5, side="greater"))
        verdict = judge(ERRORS, evidence_of({"errors": ((int(k0), int(n0)), (int(k1), int(n1)))}))
        assert (verdict.outcome == "harm") is (log_e >= math.log(1 / 0.025))


def test_four_against_twelve_percent_is_rolled_back_within_1000_units_nine_times_in_ten():
    """1,000 exposed units in all, so 500 an arm, looked at after each."""
    rng, runs = np.random.default_rng(13), 500
    _, champion, _, challenger = paths(rng, runs, 1000, 0.04, 0.12)
    log_e = log_binomial_e_value(challenger, champion + challenger, 0.5, side="greater")
    assert float(np.mean(log_e.max(axis=1) >= math.log(1 / 0.025))) >= 0.9


def test_twelve_against_four_percent_is_promoted_within_1200_units_nine_times_in_ten_and_not_rolled_back():
    rng, runs = np.random.default_rng(14), 100
    found = paths(rng, runs, 1200, 0.12, 0.04)
    promoted = 0
    for run in range(runs):
        for at in range(199, 1200, 100):
            n0, k0, n1, k1 = (int(x[run, at]) for x in found)
            verdict = judge(ERRORS, evidence_of({"errors": ((k0, n0), (k1, n1))}))
            assert verdict.outcome != "harm"
            if verdict.outcome == "fine":
                promoted += 1
                break
    assert promoted / runs >= 0.9


def test_a_challenger_worse_by_exactly_the_margin_is_promoted_at_most_alpha_of_the_time():
    """The edge of the promise: 4.0 % against 4.5 % with a margin of 0.5 pp, 40 looks over 20,000 units."""
    rng, runs = np.random.default_rng(15), 40
    found = [x[:, 499::500] for x in paths(rng, runs, 20_000, 0.04, 0.045)]
    wrong = 0
    for run in range(runs):
        looks = zip(*(x[run, 9::10] for x in found), strict=True)
        wrong += any(judge(ERRORS, evidence_of({"errors": ((int(k0), int(n0)), (int(k1), int(n1)))})).outcome == "fine" for n0, k0, n1, k1 in looks)
    assert wrong / runs <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
