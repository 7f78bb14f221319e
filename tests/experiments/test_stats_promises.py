"""Statistics hold what they promise: simulated error rates, widths and power. The scenarios are in `promises.py`.

Everything is seeded. A few runs guard every commit; the slow suite has 10,000 and accepts alpha plus three standard errors.
"""

import math

import numpy as np
import pytest
from promises import ALPHA, BLOCK, PROMISES, rate_of, refuted, running, running_cuped, running_ratio, srm_alarms
from scipy import stats as scipy_stats

from experiments import stats
from experiments.simulation import Truth, simulate
from experiments.stats import JointMoments, Moments, power
from experiments.stats.power import always_valid_inflation, always_valid_rate_inflation

KEPT = [one for one in PROMISES if one.holds]
MISUSED = [one for one in PROMISES if not one.holds]


@pytest.mark.parametrize("one", KEPT, ids=lambda one: one.name)
def test_a_promise_is_kept_in_a_few_runs(one):
    rate, error = rate_of(one, 100)
    assert rate <= one.alpha + 3 * error


@pytest.mark.parametrize("one", MISUSED, ids=lambda one: one.name)
def test_a_misuse_breaks_it_so_the_simulation_can_tell(one):
    assert rate_of(one, 100)[0] > 4 * ALPHA


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("one", KEPT, ids=lambda one: one.name)
def test_a_promise_is_kept_in_ten_thousand_runs(one):
    rate, error = rate_of(one, 10_000)
    assert rate <= one.alpha + 3 * error


# --- what is simulated is what is shipped -----------------------------------------------------------------------------


def test_running_statistics_of_the_simulation_are_those_of_the_package():
    rng = np.random.default_rng(1)
    values, before, below = rng.normal(1, 2, (2, 300)), rng.normal(0, 1, (2, 300)), rng.integers(1, 9, (2, 300)).astype(float)
    values += before
    treated = rng.random((2, 300)) < 0.5
    for at in (99, 299):
        kept = treated[1, : at + 1]
        n, mean, variance = (one[1, at] for one in running(values, treated))
        assert (n, mean, variance) == pytest.approx((kept.sum(), values[1, : at + 1][kept].mean(), values[1, : at + 1][kept].var()))
        joint = JointMoments.of(_pair(values, below, 1, at)[kept])
        linear = stats.linearised(joint)
        assert tuple(one[1, at] for one in running_ratio(values, below, treated)) == pytest.approx((linear.n, linear.mean, linear.variance))
        halves = [[JointMoments.of(_pair(values, before, 1, at)[arm & (np.arange(at + 1) % 2 == half)]) for half in (0, 1)] for arm in (kept, ~kept)]
        for ours, simulated in zip(stats.cuped(halves), running_cuped(values, before, treated), strict=True):
            assert (ours.n, ours.mean, ours.variance) == pytest.approx(tuple(one[1, at] for one in simulated))


def _pair(first, second, run, at):
    return np.column_stack([first[run, : at + 1], second[run, : at + 1]])


def test_the_vectorised_sample_ratio_is_that_of_the_package():
    k = np.cumsum(np.array([[1] * 40 + [0] * 5]), axis=1)
    n = np.arange(1, 46)
    log_e = [stats.log_srm_e_value([a, b - a], b * math.log(0.5)) for a, b in zip(k[0], n, strict=True)]
    for alpha in (0.05, 1e-6):
        assert srm_alarms(k, n * math.log(0.5), alpha)[0] == (max(log_e) >= math.log(1 / alpha))


# --- width and power --------------------------------------------------------------------------------------------------


def fixed_width(sd, n, alpha=ALPHA):
    return 2 * scipy_stats.norm.isf(alpha / 2) * sd / math.sqrt(n)


@pytest.mark.parametrize("n", [1000, 5000])
def test_at_the_tuned_size_intervals_are_at_most_1_7_times_as_wide_as_fixed_ones(n):
    rng = np.random.default_rng(2)
    widths = {}
    moments = Moments(n // 2, 0.0, 1.0)
    low, high = stats.asymptotic_difference(moments, moments, n_star=n, min_units=2)
    widths["asymptotic"] = (high - low) / fixed_width(2.0, n)
    for rate in (0.05, 0.4):
        k = round(rate * n / 2)
        low, high = stats.product_difference_bounds(k, n // 2, k, n // 2, n_star=n)
        widths[f"product {rate}"] = (high - low) / fixed_width(2 * math.sqrt(rate * (1 - rate)), n)
        k = round(rate * n)
        low, high = (float(stats.bernoulli_bound(k, n, ALPHA / 2, side=side, n_star=n)) for side in ("lower", "upper"))
        widths[f"one rate {rate}"] = (high - low) / fixed_width(math.sqrt(rate * (1 - rate)), n)
    low, high = stats.rate_ratio_bounds(n // 2, n // 2, 0.5, n_star=n)
    widths["rate ratio"] = math.log(high / low) / fixed_width(2.0, n)
    low, high = stats.quantile_ranks(n, 0.95, n_star=n)
    widths["quantile"] = (high - low) / n / fixed_width(math.sqrt(0.95 * 0.05), n)
    values, treated = rng.beta(2, 5, n), rng.random(n) < 0.5
    low, high = stats.betting_interval(values, ALPHA, n_star=n, grid=2000)
    widths["betting"] = (high - low) / fixed_width(values.std(), n)
    low, high = stats.betting_difference(values, treated, 0.5, n_star=n)
    widths["betting difference"] = (high - low) / fixed_width(2 * values.std(), n)
    assert {name: ratio for name, ratio in widths.items() if not ratio <= 1.7} == {}


POWER = 0.8


def powered(runs):
    """Power at the planned size, by method: the share of runs in which a planned effect was seen at the last look."""
    rng = np.random.default_rng(3)
    n = math.ceil(power.units_for_mean(1.0, 0.2, power=POWER) * always_valid_inflation(ALPHA, POWER))
    means = rng.normal(0, 1 / math.sqrt(n), (2, runs))
    half = float(stats.asymptotic_half_width(2 * n, 2.0, ALPHA, stats.asymptotic_rho(2 * n)))
    found = {"asymptotic": np.mean(means[0] + 0.2 - means[1] > half)}

    n = math.ceil(power.units_for_proportions(0.1, 0.15, power=POWER) * always_valid_rate_inflation(ALPHA, POWER))
    counts = rng.binomial(n, [[0.15], [0.1]], (2, runs)).T
    pairs, repeats = np.unique(counts, axis=0, return_counts=True)
    seen = [stats.log_non_inferiority_e_value(int(k0), n, int(k1), n, 0.0, n_star=2 * n) >= math.log(2 / ALPHA) for k1, k0 in pairs]
    found["product"] = np.average(seen, weights=repeats)

    n = math.ceil(power.units_for_mean(0.5, 0.1, power=POWER) * always_valid_inflation(ALPHA, POWER)) * 2
    events = rng.binomial(n, 0.6, runs)  # a rate ratio of 1.5: of n events 60 % in the treatment, planned as a mean of +-1/2 shifted by 0.1
    found["conditional"] = np.mean(refuted_at(n, events))

    units = math.ceil(power.units_for_mean(0.15, 0.03, power=POWER) * always_valid_inflation(ALPHA, POWER)) * 2
    seen = [bets_seen(rng, min(BLOCK, runs - start), units) for start in range(0, runs, BLOCK)]
    found["betting difference"] = np.mean(np.concatenate(seen))
    return found


def bets_seen(rng, runs, units):
    values = np.clip(rng.normal(0.3, 0.15, (runs, units)), 0, 1)
    treated = rng.random((runs, units)) < 0.5
    outcomes = stats.difference_outcomes(np.clip(values + 0.03 * treated, 0, 1), treated, 0.5)
    return (stats.log_betting_capital(outcomes, 0.5, ALPHA, n_star=units) >= math.log(1 / ALPHA)).any(axis=1)


def refuted_at(n, events):
    log_e = stats.log_rate_e_value(events, n - events, 0.5, n_star=n)
    return log_e >= math.log(1 / ALPHA)


def underpowered(found, runs):
    return {name: share for name, share in found.items() if share < POWER - 3 * math.sqrt(POWER * (1 - POWER) / runs)}


def test_planned_effects_are_seen_with_the_planned_power():
    assert underpowered(powered(300), 300) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_planned_effects_are_seen_with_the_planned_power_in_ten_thousand_runs():
    assert underpowered(powered(10_000), 10_000) == {}


def test_refuted_counts_are_those_beyond_both_bounds():
    table = refuted(0.3, 60, (0.5, 0.5))
    for k, n in ((5, 40), (12, 40), (30, 40), (1, 60)):
        low, high = (float(stats.bernoulli_bound(k, n, ALPHA / 2, side=side)) for side in ("lower", "upper"))
        assert table[k, n - 1] == (not low <= 0.3 <= high)


# --- the canary, with the real judge ----------------------------------------------------------------------------------


def canary():
    """Base error 1 %, draws by request, 20,000 requests an hour: 50,000 canary requests by the deadline."""
    from test_planning import canary as planned

    steps = [{"share": f"{share}%", "hold": "1h", "min_units": least} for share, least in ((5, 500), (25, 1000), (50, 1000))]
    return planned(steps=steps, deadline={"after": "7h"})


def canaries(treatment, runs, every_s):
    truth = {"errors": Truth(0.01, treatment)}
    return simulate(canary(), truth, units_per_hour=20_000, runs=runs, look_every_us=round(every_s * 1e6))


def within(found, canary_requests):
    return np.mean([run.phase == "rolled_back" and run.treatment_units <= canary_requests for run in found.runs])


def test_a_canary_is_judged_well_in_a_few_runs():
    assert within(canaries(0.06, 20, 180), 1000) >= 0.8
    assert canaries(0.01, 10, 1800).ended["promoted"] >= 8
    assert canaries(0.015, 10, 1800).ended["promoted"] <= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_points_more_errors_are_rolled_back_within_1000_canary_requests_in_95_percent():
    assert within(canaries(0.06, 1000, 60), 1000) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_difference_is_promoted_in_95_percent_and_falsely_rolled_back_in_at_most_2_5():
    found = canaries(0.01, 1000, 300)
    assert found.share("promoted")[0] >= 0.95
    assert found.share("rolled_back")[0] <= 0.025


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_difference_equal_to_the_margin_is_promoted_in_at_most_5_percent():
    assert canaries(0.015, 1000, 300).share("promoted")[0] <= 0.05
