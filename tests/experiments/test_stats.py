"""Statistics: published numbers, exact small cases, and simulated promises.

Simulations are seeded; an error rate is accepted up to alpha plus four standard errors of that many runs.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import stats
from experiments.stats import BurnInError, Moments


def accepted(alpha, runs):
    return alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)


# --- published numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_newcombe_1998_table_i(events, n, lower, upper):
    assert stats.wilson_interval(events, n) == pytest.approx((lower, upper), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "lower", "upper"),
    [((56, 70, 48, 80), 0.0533, 0.3377), ((9, 10, 3, 10), 0.1821, 0.8370), ((6, 7, 2, 7), 0.0544, 0.8478), ((5, 56, 0, 29), -0.0313, 0.1926)],
)
def test_the_score_interval_agrees_with_newcombe_1998_table_ii_method_5(counts, lower, upper):
    assert stats.score_interval(*counts) == pytest.approx((lower, upper), abs=5e-5)


def test_one_of_one_against_three_of_500_is_no_certainty():
    found = stats.compare_proportions(1, 1, 3, 500)
    assert (found.test, found.p_value) == ("fisher", pytest.approx(2 * 4 / 501))
    assert 0 < found.lower < 0.02


@settings(max_examples=60)
@given(st.integers(0, 30), st.integers(0, 300), st.integers(0, 30), st.integers(0, 300), st.sampled_from([0.01, 0.05, 0.2]))
def test_a_p_value_and_its_interval_never_contradict_each_other(k1, more1, k0, more0, alpha):
    """Also across the two tests: in small cells and large ones, in either direction, and with the arms exchanged."""
    counts = k1, k1 + more1, k0, k0 + more0
    found = stats.compare_proportions(*counts, alpha)
    mirrored = stats.compare_proportions(*counts[2:], *counts[:2], alpha)
    assert (found.p_value <= alpha) == (not found.lower <= 0 <= found.upper)
    assert -1 <= found.lower <= found.difference <= found.upper <= 1
    assert (mirrored.lower, mirrored.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-9)
    assert mirrored.p_value == pytest.approx(found.p_value, rel=1e-9)


@pytest.mark.parametrize(("n1", "n0"), [(1, 6), (4, 9), (7, 7)])
def test_the_melded_interval_covers_every_pair_of_rates_of_small_arms(n1, n0):
    """By all outcomes, not by simulation."""
    intervals = {(k1, k0): stats.melded_interval(k1, n1, k0, n0) for k1 in range(n1 + 1) for k0 in range(n0 + 1)}
    for p1 in (0.0, 0.03, 0.2, 0.5, 0.9):
        for p0 in (0.01, 0.1, 0.45, 0.8, 1.0):
            missed = sum(
                math.comb(n1, k1) * p1**k1 * (1 - p1) ** (n1 - k1) * math.comb(n0, k0) * p0**k0 * (1 - p0) ** (n0 - k0)
                for (k1, k0), (lower, upper) in intervals.items()
                if not lower <= p1 - p0 <= upper
            )
            assert missed <= 0.05


def test_asymptotic_width_agrees_with_the_normal_mixture_of_howard_et_al():
    """v = 100, rho = 12.60056, alpha = .05 -> 30.352; rho^2 of the asymptotic sequence is its inverse."""
    assert float(stats.asymptotic_half_width(100, 1, 0.05, 12.60056**-0.5)) * 100 == pytest.approx(30.352, abs=1e-3)


def test_srm_chi_square_agrees_with_the_published_example():
    assert stats.srm_chi_square([821_588, 815_482], [1, 1]) == pytest.approx(1.8e-6, rel=0.02)


def test_srm_ignores_arms_without_share():
    assert stats.srm_chi_square([60, 40, 0], [1, 1, 0]) == stats.srm_chi_square([60, 40], [1, 1])


def test_asymptotic_rho_is_tightest_near_its_target():
    widths = {target: float(stats.asymptotic_half_width(1000, 1, 0.05, stats.asymptotic_rho(target))) for target in (10, 1000, 100_000)}
    assert min(widths, key=widths.get) == 1000


# --- exact small cases ------------------------------------------------------------------------------------------------


def exact_e(k, n, null, side):
    """Uniform prior cut at the null, integrated with fractions: integral of t^k (1-t)^(n-k), over the null's likelihood."""
    null = Fraction(null)

    def integral(low, high):
        total = Fraction(0)
        for i in range(n - k + 1):
            power = k + i + 1
            total += (-1) ** i * math.comb(n - k, i) * (high**power - low**power) / power
        return total

    low, high = (null, Fraction(1)) if side == "greater" else (Fraction(0), null)
    return integral(low, high) / (high - low) / (null**k * (1 - null) ** (n - k))


@pytest.mark.parametrize("side", ["greater", "less"])
@pytest.mark.parametrize(("k", "n", "null"), [(0, 0, "1/2"), (2, 2, "1/2"), (3, 10, "1/2"), (7, 9, "1/10"), (1, 12, "2/5")])
def test_e_value_agrees_with_exact_integration(k, n, null, side):
    found = float(stats.log_binomial_e_value(k, n, float(Fraction(null)), side=side))
    assert found == pytest.approx(math.log(exact_e(k, n, null, side)), abs=1e-10)


@given(st.integers(1, 12), st.fractions("1/10", "9/10", max_denominator=20), st.sampled_from(["greater", "less"]))
def test_the_expectation_of_an_e_value_under_its_null_is_one(n, null, side):
    mean = sum(
        math.comb(n, k) * float(null) ** k * (1 - float(null)) ** (n - k) * math.exp(float(stats.log_binomial_e_value(k, n, float(null), side=side)))
        for k in range(n + 1)
    )
    assert mean == pytest.approx(1, abs=1e-9)


def test_srm_e_value_of_two_units_in_one_arm():
    """Uniform prior: marginal of (2, 0) is 1/3, under 50/50 it is 1/4."""
    assert stats.log_srm_e_value([2, 0], 2 * math.log(0.5)) == pytest.approx(math.log(4 / 3))


@given(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)))
def test_srm_with_constant_shares_is_the_varying_sum(counts):
    shares = [0.5, 0.3, 0.2]
    assert stats.sum_log_shares(counts, [5, 3, 2]) == pytest.approx(sum(n * math.log(p) for n, p in zip(counts, shares, strict=True)))


@given(st.lists(st.floats(-5, 5), min_size=1), st.lists(st.floats(-5, 5), min_size=1))
def test_moments_merge_to_those_of_both_samples(first, second):
    def of(values):
        return Moments(len(values), float(np.mean(values)), float(np.var(values)))

    merged, whole = of(first) + of(second), of(first + second)
    assert (merged.n, merged.mean, merged.variance) == pytest.approx((whole.n, whole.mean, whole.variance), abs=1e-9)


# --- bounds -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.01, 0.05]))
def test_bounds_enclose_the_rate_and_are_symmetric(events, others, alpha):
    n = events + others
    lower, upper = (float(stats.bernoulli_bound(events, n, alpha, side=side)) for side in ("lower", "upper"))
    rate = events / n if n else 0.5
    assert 0 <= lower <= rate <= upper <= 1
    assert lower == pytest.approx(1 - float(stats.bernoulli_bound(others, n, alpha, side="upper")), abs=1e-12)


@given(st.integers(0, 200), st.integers(1, 200))
def test_every_null_beyond_the_bound_is_rejected_so_the_bound_is_one_cut(events, others):
    n = events + others
    upper = float(stats.bernoulli_bound(events, n, 0.05, side="upper"))
    beyond = np.linspace(upper + 1e-6, 1 - 1e-6, 50)
    within = np.linspace(events / n, upper - 1e-6, 50)[1:]
    assert np.all(stats.log_binomial_e_value(events, n, beyond, side="less", prior=(0.5, 0.5)) >= math.log(20))
    assert np.all(stats.log_binomial_e_value(events, n, within[within > 0], side="less", prior=(0.5, 0.5)) < math.log(20))


@given(st.integers(0, 60), st.integers(0, 400), st.integers(0, 60), st.integers(0, 400), st.floats(0.001, 0.2), st.floats(0.001, 0.75))
def test_non_inferiority_is_at_most_the_product_at_any_base_rate(bad1, good1, bad0, good0, margin, rate):
    """So at the true rate it is bounded by a product of two e-processes, which is its promise."""
    found = stats.log_non_inferiority_e_value(bad1, bad1 + good1, bad0, bad0 + good0, margin)
    control = stats.log_binomial_e_value(bad0, bad0 + good0, rate, side="greater", prior=(0.5, 0.5))
    treatment = stats.log_binomial_e_value(bad1, bad1 + good1, rate + margin, side="less", prior=(0.5, 0.5))
    assert found <= float(control + treatment) + 1e-3


def test_a_tail_that_underflows_costs_at_most_two_nats_and_only_downwards():
    """Where P(T' > null) passes below the smallest float its lower bound takes over: less evidence, never more."""
    nulls = np.linspace(0.05, 0.6, 2000)
    log_e = stats.log_binomial_e_value(20, 2000, nulls, side="greater")
    change = np.diff(log_e)
    jump = int(np.argmax(np.abs(change)))
    assert np.all(np.isfinite(log_e))
    assert -2 < change[jump] < 0
    assert np.max(np.abs(np.delete(change, jump))) < 0.01


def test_no_data_gives_the_widest_answer():
    assert stats.wilson_interval(0, 0) == (0, 1)
    assert stats.betting_interval([]) == (0, 1)
    assert tuple(map(float, stats.difference_bounds(0, 0, 0, 0, 0.05))) == (-1, 1)
    assert float(stats.log_binomial_e_value(0, 0, 0.5, side="greater")) == 0
    assert stats.log_srm_e_value([0, 0], 0.0) == pytest.approx(0)
    assert math.isinf(float(stats.asymptotic_half_width(0, 1, 0.05, 0.1)))
    assert stats.rate_ratio_bounds(0, 0, 0.5) == (0, math.inf)
    assert stats.product_difference_bounds(0, 0, 3, 9, n_star=100) == (-1, 1)


def test_asymptotic_sequences_refuse_before_their_burn_in():
    few, many = Moments(499, 0.1, 1), Moments(500, 0, 1)
    for refused in (lambda: stats.asymptotic_difference(few, many, n_star=1000), lambda: stats.asymptotic_mean(few, n_star=1000)):
        with pytest.raises(BurnInError, match="499 units in an arm; an asymptotic confidence sequence needs 500"):
            refused()
    lower, upper = stats.asymptotic_difference(many, many, n_star=1000)
    assert lower < 0 < upper


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: stats.wilson_interval(3, 2),
        lambda: stats.compare_proportions(1, 2, -1, 2),
        lambda: stats.log_binomial_e_value(3, 2, 0.5, side="greater"),
        lambda: stats.betting_interval([0.5, 1.5]),
        lambda: stats.srm_chi_square([4, 4], [1, 1]),
        lambda: stats.srm_chi_square([50, 0], [1, 0]),
        lambda: stats.sum_log_shares([1, 1], [1, 0]),
    ],
)
def test_impossible_input_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()


# --- promises, simulated ----------------------------------------------------------------------------------------------


def test_conditional_test_under_continuous_peeking_keeps_its_level_with_a_drifting_base_rate():
    """Two equal arms whose common rate moves from 1 % to 20 %; looked at after every unit for 3,000 units."""
    rng, runs, units = np.random.default_rng(1), 2000, 3000
    rate = np.linspace(0.01, 0.2, units)
    event = rng.random((runs, units)) < rate
    treated = rng.random((runs, units)) < 0.5
    k, n = np.cumsum(event & treated, axis=1), np.cumsum(event, axis=1)
    log_e = stats.log_binomial_e_value(k[:, ::5], n[:, ::5], 0.5, side="greater")
    false_alarms = float(np.mean(log_e.max(axis=1) >= math.log(1 / 0.025)))
    assert false_alarms <= accepted(0.025, runs)


def test_a_fixed_test_under_the_same_peeking_would_not_keep_it():
    """The reason for all this: the z-test looked at 60 times."""
    rng, runs = np.random.default_rng(2), 500
    event = rng.random((runs, 3000)) < 0.1
    treated = rng.random((runs, 3000)) < 0.5
    k, n = np.cumsum(event & treated, axis=1)[:, 49::50], np.cumsum(event, axis=1)[:, 49::50]
    z = (k - n / 2) / np.sqrt(np.maximum(n, 1) / 4)
    assert float(np.mean(z.max(axis=1) > 1.96)) > 0.1


@pytest.mark.parametrize("p", [0.01, 0.3])
def test_one_sample_bounds_are_never_wrong_more_often_than_alpha(p):
    rng, runs, n = np.random.default_rng(3), 1000, 2000
    counts = np.cumsum(rng.random((runs, n)) < p, axis=1)[:, 9::10]
    # The bound is wrong exactly when the truth is rejected, which is cheaper to ask.
    log_e = stats.log_binomial_e_value(counts, np.arange(10, n + 1, 10), p, side="less", prior=(0.5, 0.5))
    assert float(np.mean(log_e.max(axis=1) >= math.log(20))) <= accepted(0.05, runs)


def test_non_inferiority_at_its_edge_keeps_its_level_under_peeking():
    rng, runs, sizes = np.random.default_rng(7), 2000, np.arange(20, 2001, 20)
    control, treatment = (np.cumsum(rng.binomial(20, p, (runs, sizes.size)), axis=1) for p in (0.04, 0.06))
    log_e = stats.log_binomial_e_value(control, sizes, 0.04, side="greater", prior=(0.5, 0.5))
    log_e = log_e + stats.log_binomial_e_value(treatment, sizes, 0.06, side="less", prior=(0.5, 0.5))
    assert float(np.mean(log_e.max(axis=1) >= math.log(20))) <= accepted(0.05, runs)


def test_betting_interval_covers_the_mean_at_all_times():
    """The interval at the end is that of all times at once, for it excludes a mean as soon as its capital was ever too high."""
    rng, runs = np.random.default_rng(4), 200
    values = rng.beta(1, 9, (runs, 500))
    missed = sum(not low <= 0.1 <= high for low, high in (stats.betting_interval(row, 0.05, grid=200) for row in values))
    assert missed / runs <= accepted(0.05, runs)


def test_betting_interval_shrinks_with_small_variance():
    narrow = stats.betting_interval(np.full(500, 0.1))
    assert narrow[1] - narrow[0] < 0.03
    assert narrow[0] <= 0.1 <= narrow[1]


def test_asymptotic_difference_under_peeking_keeps_its_level_after_burn_in():
    rng, runs, n = np.random.default_rng(5), 2000, 1000
    first, second = rng.exponential(1, (runs, n)), rng.exponential(1, (runs, n))
    count = np.arange(1, n + 1)
    mean = np.cumsum(first, axis=1) / count - np.cumsum(second, axis=1) / count
    variance = sum(np.cumsum(x**2, axis=1) / count - (np.cumsum(x, axis=1) / count) ** 2 for x in (first, second))
    half = stats.asymptotic_half_width(2 * count, np.sqrt(2 * variance), 0.05, stats.asymptotic_rho(1000))
    assert float(np.mean(np.any(np.abs(mean[:, 50:]) > half[:, 50:], axis=1))) <= accepted(0.05, runs)


def test_srm_alarm_is_rare_without_mismatch_and_quick_with_one():
    rng, runs, n = np.random.default_rng(6), 1000, 4000

    def alarms(p):
        counts = np.cumsum(rng.random((runs, n)) < p, axis=1)[:, 99::100]
        sizes = np.arange(100, n + 1, 100)
        return [
            any(stats.log_srm_e_value([k, m - k], m * math.log(0.5)) > math.log(20) for k, m in zip(row[::4], sizes[::4], strict=True))
            for row in counts
        ]

    assert np.mean(alarms(0.5)) <= accepted(0.05, runs)
    assert np.mean(alarms(0.57)) > 0.99
