"""Invariants of the statistics: merging, duality of intervals and evidence, symmetry, and refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import stats
from experiments.stats import JointMoments, Moments

small = st.integers(0, 60)
values = st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 9)), min_size=1, max_size=20)


@given(values, values, values)
def test_joint_moments_merge_in_any_order_to_those_of_everything(first, second, third):
    a, b, c = (JointMoments.of(np.array(part)) for part in (first, second, third))
    whole = JointMoments.of(np.array(first + second + third))
    for merged in ((a + b) + c, a + (c + b)):
        assert merged.n == whole.n
        assert merged.mean == pytest.approx(whole.mean, abs=1e-9)
        assert merged.scatter == pytest.approx(whole.scatter, abs=1e-7)


@given(values, st.floats(-3, 3), st.floats(-3, 3))
def test_moments_of_a_combination_are_those_of_the_combined_values(rows, first, second):
    joint, combined = JointMoments.of(np.array(rows)), Moments.of(np.array(rows) @ [first, second] + 1)
    along = joint.along([first, second], offset=1)
    assert (along.n, along.mean, along.variance) == pytest.approx((combined.n, combined.mean, combined.variance), abs=1e-7)
    assert joint.mapped([[first, second]], [1.0]).along([1.0]).variance == pytest.approx(along.variance, abs=1e-9)


@pytest.mark.parametrize("wrong", [[[1.0, math.nan]], [[1e200, 1.0], [-1e200, 0.0]], [1.0, 2.0], [[math.inf, 1.0]]])
def test_values_that_have_no_moments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"not finite|overflows|dimensions"):
        JointMoments.of(wrong)


def test_moments_of_nothing_are_neutral():
    nothing, some = JointMoments.of(np.empty((0, 2))), JointMoments.of([[1.0, 2.0], [3.0, 4.0]])
    assert (nothing + some).mean.tolist() == (some + nothing).mean.tolist() == [2.0, 3.0]
    assert Moments.of([]) + Moments(2, 1.0, 0.5) == Moments(2, 1.0, 0.5)


@given(st.floats(-1, 1), st.floats(0.1, 3), st.integers(500, 50_000), st.integers(500, 50_000))
def test_an_asymptotic_sequence_leaves_out_zero_exactly_when_its_e_value_reaches_one_over_alpha(gap, sd, n1, n0):
    treatment, control = Moments(n1, gap, sd**2), Moments(n0, 0.0, 1.0)
    lower, upper = stats.asymptotic_difference(treatment, control, n_star=5000)
    log_e = float(stats.log_asymptotic_e_value(n1 + n0, gap, stats.difference_sd(treatment, control), stats.asymptotic_rho(5000)))
    near = abs(log_e - math.log(20)) < 1e-6
    assert near or (lower > 0 or upper < 0) == (log_e >= math.log(20))


@settings(max_examples=12, deadline=None)
@given(small, small, small, small)
def test_the_interval_of_a_difference_leaves_out_zero_exactly_when_a_side_is_proven(k1, more1, k0, more0):
    n1, n0 = k1 + more1, k0 + more0
    if min(n1, n0) == 0:
        return
    lower, upper = stats.product_difference_bounds(k1, n1, k0, n0, n_star=100)
    mirrored = stats.product_difference_bounds(k0, n0, k1, n1, n_star=100)
    assert (lower, upper) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-6)
    assert lower - 1e-6 <= k1 / n1 - k0 / n0 <= upper + 1e-6
    log_e = stats.log_non_inferiority_e_value(k1, n1, k0, n0, 0.0, n_star=100)
    assert abs(log_e - math.log(40)) < 1e-3 or (upper < 0) == (log_e >= math.log(40))


@given(small, small, st.floats(0.1, 0.9), st.sampled_from([None, 50]))
def test_the_rate_ratio_leaves_out_one_exactly_when_a_side_is_proven(k1, k0, share, n_star):
    lower, upper = stats.rate_ratio_bounds(k1, k0, share, n_star=n_star)
    assert 0 <= lower <= upper
    prior = (1.0, 1.0) if n_star is None else stats.tuned_prior(share, n_star)
    higher, less = (float(stats.log_binomial_e_value(k1, k1 + k0, share, side=side, prior=prior)) for side in ("greater", "less"))
    for log_e, left_out in ((higher, lower > 1), (less, upper < 1)):
        assert abs(log_e - math.log(40)) < 1e-3 or left_out == (log_e >= math.log(40))


@pytest.mark.parametrize(("events", "n"), [(0, 1), (1, 1), (0, 500), (500, 500), (3, 10)])
def test_tuned_bounds_of_one_rate_hold_at_its_ends(events, n):
    lower, upper = (float(stats.bernoulli_bound(events, n, 0.025, side=side, n_star=200)) for side in ("lower", "upper"))
    assert 0 <= lower <= events / n <= upper <= 1


@given(small, small, st.floats(0.1, 0.9))
def test_arms_can_be_exchanged(k1, k0, share):
    there, back = stats.log_rate_e_value(k1, k0, share), stats.log_rate_e_value(k0, k1, 1 - share)
    assert float(there) == pytest.approx(float(back), abs=1e-9)
    lower, upper = stats.rate_ratio_bounds(k1, k0, share)
    low, high = stats.rate_ratio_bounds(k0, k1, 1 - share)
    assert (lower, upper) == pytest.approx((0 if math.isinf(high) else 1 / high, math.inf if low == 0 else 1 / low), rel=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 0.95), st.floats(0.5, 20))
def test_the_expectation_of_a_tuned_e_value_under_its_null_is_one(n, n_star, null, alpha_times):
    prior = stats.tuned_prior(null, n_star, alpha_times / 100)
    k = np.arange(n + 1)
    weights = np.exp([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k]) * null**k * (1 - null) ** (n - k)
    log_e = stats.log_binomial_e_value(k, n, null, side="greater", prior=prior)
    assert float(weights @ np.exp(log_e)) == pytest.approx(1, abs=1e-6)


def test_the_difference_of_bounded_means_is_inside_its_interval():
    rng = np.random.default_rng(1)
    treated = rng.random(4000) < 0.3
    y = rng.beta(2, 8, 4000) + 0.2 * treated
    lower, upper = stats.betting_difference(np.clip(y, 0, 1), treated, 0.3, n_star=4000)
    assert 0.15 < lower < 0.2 < upper < 0.25
    assert stats.betting_difference([], [], 0.5) == (-1, 1)


def test_a_quantile_is_inside_its_interval_and_few_values_bound_nothing():
    draws = np.random.default_rng(2).exponential(1, 5000)
    lower, upper = stats.quantile_interval(draws, 0.95, n_star=5000)
    assert lower < -math.log(0.05) < upper
    assert stats.quantile_interval(draws[:5], 0.95)[1] == math.inf
    assert stats.quantile_interval(draws[:3], 0.5) == (-math.inf, math.inf)


def test_paired_buckets_tell_a_slower_arm_and_refuse_few():
    gaps = np.random.default_rng(3).normal(0.3, 1, 400)
    found = stats.paired_buckets(gaps, n_star=400)
    assert found.lower < 0.3 < found.upper
    assert found.log_e_slower > math.log(20)
    with pytest.raises(stats.BurnInError):
        stats.paired_buckets(gaps[:99], n_star=400)


def test_a_threshold_is_the_order_statistic_of_the_past():
    assert stats.past_threshold(range(1, 201), 0.95) == 190
    for wrong in (([], 0.5), ([math.nan], 0.5), ([1.0], 1.0)):
        with pytest.raises(ValueError, match=r"threshold|quantile"):
            stats.past_threshold(*wrong)


def test_cuped_without_variation_or_with_few_units_changes_nothing():
    constant = [[JointMoments.of(np.column_stack([np.arange(30.0), np.ones(30)])) for _ in range(2)] for _ in range(2)]
    few = [[JointMoments.of([[1.0, 2.0], [2.0, 4.0]]) for _ in range(2)] for _ in range(2)]
    for arms in (constant, few):
        for adjusted, halves in zip(stats.cuped(arms), arms, strict=True):
            raw = (halves[0] + halves[1]).along([1.0, 0.0])
            assert (adjusted.mean, adjusted.variance) == pytest.approx((raw.mean, raw.variance))
    with pytest.raises(ValueError, match="two halves"):
        stats.cuped([[constant[0][0]]])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: stats.welch(Moments(1, 0, 0), Moments(9, 0, 1)),
        lambda: stats.relative_lift(Moments(9, 1, 1), Moments(9, 0, 1)),
        lambda: stats.linearised(JointMoments.of([[1.0, 0.0], [2.0, 0.0]])),
        lambda: stats.rate_ratio_bounds(1, 1, 1.0),
        lambda: stats.tuned_prior(0.5, 0),
        lambda: stats.log_non_inferiority_e_value(1, 9, 1, 9, 1.0),
        lambda: stats.difference_outcomes([0.5], [True], 0.0),
        lambda: stats.log_betting_capital([math.nan], 0.5),
        lambda: stats.quantile_interval([math.nan], 0.5),
        lambda: stats.beta_binomial(1, 2, 1, 2, prior=(0.1, 1)),
        lambda: stats.normal_normal(0, 0, prior_sd=1),
        lambda: Moments.of([math.inf]),
    ],
)
def test_impossible_input_of_any_family_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()


def test_constant_arms_are_a_point():
    assert stats.welch(Moments(9, 1.0, 0.0), Moments(9, 1.0, 0.0)).p_value == 1
    assert stats.welch(Moments(9, 2.0, 0.0), Moments(9, 1.0, 0.0)).p_value == 0
    assert stats.normal_estimate(0.5, 0.0).lower == 0.5
