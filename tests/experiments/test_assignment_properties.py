"""Assignment as promised, on many units: uniform, independent between experiments, nested ramps, least movement, and every arm recomputed."""

import random
from itertools import combinations

import numpy as np
import pytest
from experiment_documents import document_of, live_of
from scipy import stats as reference

from experiments.assignment import Assigner, recompute
from experiments.shares import WHOLE


def units(count, seed=1):
    rng = random.Random(seed)  # noqa: S311 - names of units, no secret
    return [f"{rng.getrandbits(128):032x}" for _ in range(count)]


def drawn(names, weights=None, *, salt="salt", exposure=WHOLE):
    document = document_of(weights or {"a": 1, "b": 1}, salt=salt, exposure=exposure)
    assigner = Assigner(document, live_of(document))
    return [assigner.assign(name) for name in names]


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 9, "b": 1}, {"a": 5, "b": 3, "c": 2}])
def test_arms_are_drawn_in_their_shares(weights):
    found = [one.arm for one in drawn(units(60_000), weights)]
    expected = [len(found) * weights[arm] / sum(weights.values()) for arm in sorted(weights)]
    assert reference.chisquare([found.count(arm) for arm in sorted(weights)], expected).pvalue > 1e-4


def test_experiments_with_any_two_of_50_salts_are_independent():
    names = units(10_000, seed=2)
    arms = np.array([[one.arm == "b" for one in drawn(names, salt=f"exp-{number}")] for number in range(50)], dtype=float)
    correlations = np.corrcoef(arms)
    worst = max(abs(correlations[one, other]) for one, other in combinations(range(50), 2))
    # 1,225 pairs of independent draws of 10,000: standard deviation 0.01, and five of them once in a thousand such tests.
    assert worst < 0.05


def test_nobody_moves_between_arms_whose_shares_stay_and_little_more_than_the_least_moves_at_all():
    names = units(40_000, seed=3)
    before = [one.arm for one in drawn(names, {"a": 40, "b": 20, "c": 20, "d": 20})]
    after = [one.arm for one in drawn(names, {"a": 30, "b": 30, "c": 20, "d": 20})]
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert not {("c", "d"), ("d", "c")} & set(moved)
    assert 0.10 - 0.01 < len(moved) / len(names) < 0.15, "a tenth changes hands; two shares changed at once pass some through the others"


def test_changing_one_weight_alone_moves_exactly_those_that_enter_or_leave_that_arm():
    names = units(40_000, seed=4)
    before = [one.arm for one in drawn(names, {"a": 1, "b": 1})]
    after = [one.arm for one in drawn(names, {"a": 1, "b": 1, "c": 2})]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"c"}
    assert len(moved) / len(names) == pytest.approx(0.5, abs=0.01), "the least there can be: the share that changes hands"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_step_of_a_ramp_holds_the_one_before_on_a_million_units():
    steps = [WHOLE * percent // 100 for percent in (1, 5, 25, 100)]
    documents = [document_of({"a": 1, "b": 1}, exposure=exposure) for exposure in steps]
    assigners = [Assigner(document, live_of(document)) for document in documents]
    counts = [0] * len(steps)
    for name in units(1_000_000, seed=5):
        exposed = [assigner.assign(name) for assigner in assigners]
        inside = [one.exposed for one in exposed]
        assert inside == sorted(inside)
        assert len({one.arm for one in exposed if one.exposed}) <= 1
        for index, is_in in enumerate(inside):
            counts[index] += is_in
    for exposure, count in zip(steps, counts, strict=True):
        assert count == pytest.approx(1_000_000 * exposure / WHOLE, abs=5 * 500)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_arm_in_a_log_of_100_000_calls_follows_from_its_record():
    names = units(100_000, seed=6)
    for name, one in zip(names, drawn(names, {"a": 3, "b": 2, "c": 1}, exposure=WHOLE // 3), strict=True):
        assert recompute(one.route(), name, "salt") == one.arm
