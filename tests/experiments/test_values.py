"""Means, counts and ratios of rewards: what a unit's value is, when it counts, and what is proven of it."""

import random

import numpy as np
import pytest
from pydantic import ValidationError

from experiments import stats
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.effects import effects
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.outlook import outlook
from experiments.shared_files import LayersFile, MetricsFile

METRICS = {
    "revenue": {"type": "mean", "better": "higher", "range": [0, 500]},
    "clicks": {"type": "count", "better": "higher", "window": "1h", "missing": "zero"},
    "views": {"type": "count", "better": "higher"},
    "ctr": {"type": "ratio", "better": "higher", "per": "views"},
    "cost": {"type": "mean", "better": "lower"},
}
AB = {
    "experiment": "x",
    "strategy": "ab",
    "model": "m",
    "arms": {"control": {"version": "1"}, "treatment": {"version": "2"}},
    "split": {"control": "50%", "treatment": "50%"},
}
METRICS_FILE = MetricsFile.model_validate({"metrics": METRICS})


def compiled(metric, margin="5%"):
    return compile_experiment(parse_experiment({**AB, "goal": {"metric": metric, "margin": margin}}), LayersFile(), METRICS_FILE)


def at(minute):
    return f"2026-11-20T{10 + minute // 60:02d}:{minute % 60:02d}:00.000000Z"


def call(document, number, arm, *, minute=0):
    return {
        "type": "call",
        "id": f"{number:08d}",
        "time": at(minute),
        "subject": f"{number:032x}",
        "route": {"experiment": "x", "epoch": 1, "exposed": True, "assigned": arm, "served": arm, "shares": dict(document.steps[0].shares)},
        "outcome": {"status": 200, "latency_us": 1},
    }


def reward(number, decision, metric, value, **more: object):
    told = {"type": "reward", "id": f"9{number:07d}", "time": at(1), "decision": f"{decision:08d}", "metric": metric}
    return {**told, "value_ppm": round(value * 1e6), **more}


def folded(document, records):
    fold = Fold(document, 1)
    for record in records:
        fold.add(record)
    return fold.evidence()


def test_a_mean_takes_the_first_value_and_one_outside_the_range_is_counted_and_not_used():
    document = compiled("revenue")
    records = [call(document, 1, "control"), reward(2, 1, "revenue", 30), reward(3, 1, "revenue", 40)]
    records += [call(document, 2, "treatment"), reward(4, 2, "revenue", 501), reward(4, 2, "revenue", 501)]
    found = folded(document, records)
    assert found.metrics["revenue"].moments["control"] == stats.Moments(1, 30.0, 0.0)
    assert found.metrics["revenue"].units == {"control": 1, "treatment": 0}
    assert found.out_of_range == 1
    assert "1 rewards lay outside" in " ".join(judge(document, found).reasons)


def test_a_count_sums_distinct_events_once_each_in_any_order():
    document = compiled("views")
    records = [
        call(document, 1, "control"),
        *(reward(number, 1, "views", 2, event_id=event) for number, event in ((2, "a"), (3, "b"), (4, "a"))),
    ]
    for _ in range(5):
        random.shuffle(records)
        assert folded(document, records * 2).metrics["views"].moments["control"].mean == 4.0


def test_a_unit_counts_once_its_window_has_closed_with_zero_where_nothing_came():
    document = compiled("clicks")
    records = [call(document, 1, "control"), call(document, 2, "control"), reward(3, 1, "clicks", 5, event_id="e")]
    assert folded(document, records).metrics["clicks"].units["control"] == 0
    late = call(document, 9, "treatment", minute=61)
    found = folded(document, [*records, late]).metrics["clicks"]
    assert (found.units, found.moments["control"].mean) == ({"control": 2, "treatment": 0}, 2.5)


def test_a_ratio_compares_total_over_total_not_the_mean_of_ratios():
    document = compiled("ctr")
    records = []
    for number, (clicks, views) in enumerate([(1, 10), (5, 10), (0, 80)], start=1):
        records += [call(document, number, "control"), reward(2 * number, number, "ctr", clicks), reward(2 * number + 1, number, "views", views)]
    moments = folded(document, records).metrics["ctr"].moments["control"]
    assert (moments.n, moments.mean) == (3, pytest.approx(6 / 100))


def simulated(metric, control, treatment, *, units=3000, seed=3):
    rng = np.random.default_rng(seed)
    document = compiled(metric)
    records = []
    for number in range(units):
        arm = ("control", "treatment")[number % 2]
        value = max(0.0, float(rng.normal((control, treatment)[number % 2], 10)))
        records += [call(document, number, arm), reward(number, number, metric, value)]
    return document, folded(document, records)


@pytest.mark.parametrize(
    ("metric", "control", "treatment", "outcome", "better"),
    [
        ("revenue", 50, 56, "fine", True),
        ("revenue", 50, 42, "harm", False),
        ("revenue", 50, 50, "fine", False),
        ("cost", 50, 42, "fine", True),
        ("cost", 50, 56, "harm", False),
    ],
)
def test_values_are_judged_in_their_direction_with_an_interval_that_agrees(metric, control, treatment, outcome, better):
    document, found = simulated(metric, control, treatment)
    verdict = judge(document, found)
    assert (verdict.metrics[0].outcome, verdict.metrics[0].better) == (outcome, better)
    (effect,) = effects(document, found)
    assert effect.unit == "value"
    assert effect.low_ppm <= effect.difference_ppm <= effect.high_ppm
    assert abs(effect.difference_ppm - (treatment - control) * 1_000_000) < 2_000_000
    assert verdict.evidence[metric]["mean_ppm"]["control"] == effect.control_ppm


def test_too_few_units_are_a_hold_that_says_so():
    document, found = simulated("revenue", 50, 90, units=60)
    (verdict,) = judge(document, found).metrics
    assert verdict.outcome == "hold"
    assert "needs" in verdict.reason
    assert effects(document, found)[0].low_ppm is None
    assert outlook(document, found)


def test_margins_of_values_are_relative_and_a_ratio_names_what_it_is_per():
    models = {"m": ModelFacts(frozenset({"1", "2"}), "1")}
    (fault,) = check(parse_experiment({**AB, "goal": {"metric": "revenue", "margin": "1pp"}}), models=models, metrics=METRICS_FILE)
    assert "relative" in fault.message
    for wrong in (
        {"type": "ratio", "better": "higher"},
        {"type": "mean", "better": "higher", "per": "views"},
        {"type": "mean", "better": "higher", "missing": "zero"},
        {"type": "mean", "better": "higher", "range": [5, 5]},
        {"type": "median", "better": "higher"},
    ):
        with pytest.raises(ValidationError):
            MetricsFile.model_validate({"metrics": {"x": wrong}})
