"""Statistics against other people's: scipy, statsmodels, tea-tasting (vectors with their generator beside them) and published tables."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize
from scipy import stats as scipy_stats
from statsmodels.stats import multitest, proportion
from statsmodels.stats.power import NormalIndPower, normal_sample_size_one_tail

from experiments import stats
from experiments.stats import JointMoments, Moments, group_sequential, power
from experiments.stats.proportions import _beta_gap

EXACT = 1e-9
counts = st.integers(0, 400)


def samples(seed, n1=40, n0=60):
    rng = np.random.default_rng(seed)
    return rng.normal(1, 2, n1), rng.exponential(1.5, n0)


# --- fixed sample size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_welch_agrees_with_scipy(seed, alpha):
    treatment, control = samples(seed)
    found = stats.welch(Moments.of(treatment), Moments.of(control), alpha)
    expected = scipy_stats.ttest_ind(treatment, control, equal_var=False)
    interval = expected.confidence_interval(1 - alpha)
    assert (found.p_value, found.degrees_of_freedom, found.lower, found.upper) == pytest.approx(
        (expected.pvalue, expected.df, interval.low, interval.high), abs=EXACT
    )


@settings(max_examples=40)
@given(counts, counts, counts, counts)
def test_proportions_agree_with_statsmodels_and_in_small_cells_with_scipys_fisher(k1, more1, k0, more0):
    n1, n0 = k1 + more1, k0 + more0
    if min(n1, n0) == 0:
        return
    found = stats.compare_proportions(k1, n1, k0, n0)
    table = [[k1, more1], [k0, more0]]
    tails = [scipy_stats.fisher_exact(table, side).pvalue for side in ("greater", "less")]
    assert stats.fisher_p_value(k1, n1, k0, n0) == pytest.approx(min(1, 2 * min(tails)), abs=EXACT)
    if found.test == "fisher":
        assert scipy_stats.contingency.expected_freq(table).min() < 5
        assert found.p_value == stats.fisher_p_value(k1, n1, k0, n0)
    else:
        assert scipy_stats.contingency.expected_freq(table).min() >= 5
        assert found.p_value == pytest.approx(proportion.proportions_ztest([k1, k0], [n1, n0])[1], abs=EXACT)
    assert stats.wilson_interval(k1, n1) == pytest.approx(proportion.proportion_confint(k1, n1, method="wilson"), abs=EXACT)


def test_a_limit_of_the_score_interval_is_where_the_likeliest_rates_give_the_critical_value():
    """Against scipy's own maximum of the likelihood; statsmodels 0.15 solves another cubic here, whose rates are not the likeliest."""
    k1, n1, k0, n0 = 174, 340, 69, 255
    for limit in stats.score_interval(k1, n1, k0, n0):

        def likelihood(r0: float, d: float = limit) -> float:
            return scipy_stats.binom.logpmf(k1, n1, r0 + d) + scipy_stats.binom.logpmf(k0, n0, r0)

        r0 = optimize.minimize_scalar(lambda r0, f=likelihood: -f(r0), bounds=(0, 1 - limit), method="bounded", options={"xatol": 1e-12}).x
        error = math.sqrt((r0 + limit) * (1 - r0 - limit) / n1 + r0 * (1 - r0) / n0)
        assert abs(k1 / n1 - k0 / n0 - limit) / error == pytest.approx(scipy_stats.norm.isf(0.025), abs=1e-6)


@pytest.mark.parametrize(("counts", "gap"), [((1, 1, 3, 500), -0.3), ((4, 30, 1, 200), 0.05), ((2, 9, 6, 14), 0.2), ((3, 4000, 2, 90), -0.01)])
def test_the_melded_integral_agrees_with_scipys_quadrature(counts, gap):
    k1, n1, k0, n0 = counts
    first, second = scipy_stats.beta(k1, n1 - k1 + 1), scipy_stats.beta(k0 + 1, n0 - k0)
    lower = stats.melded_interval(k1, n1, k0, n0)[0]
    for at in (gap, lower):
        points = sorted({float(np.clip(x, 0, 1)) for q in (1e-6, 0.01, 0.5, 0.99, 1 - 1e-6) for x in (second.ppf(q), first.ppf(q) - at)} - {0.0, 1.0})
        edges = [0.0, *points, 1.0]
        found = sum(integrate.quad(lambda b, at=at: second.pdf(b) * first.cdf(b + at), *pair, epsabs=1e-12)[0] for pair in pairwise(edges))
        assert _beta_gap((k1, n1 - k1 + 1), (k0 + 1, n0 - k0), at) == pytest.approx(found, abs=EXACT)
    assert found == pytest.approx(0.025, abs=EXACT)


@settings(max_examples=40)
@given(counts, counts, st.floats(0.05, 0.95))
def test_equal_rates_agree_with_scipys_binomial(k1, k0, share):
    n = k1 + k0
    below, above = (scipy_stats.binomtest(k1, n, share, side).pvalue if n else 1.0 for side in ("less", "greater"))
    assert stats.exact_rate_p_value(k1, k0, share) == pytest.approx(min(1, 2 * min(below, above)), abs=EXACT)


@pytest.mark.parametrize(("counts", "shares"), [([52, 48], [1, 1]), ([300, 200, 500], [3, 2, 5]), ([10, 30, 60], [1, 3, 7])])
def test_srm_agrees_with_scipys_chisquare(counts, shares):
    expected = np.array(shares) / sum(shares) * sum(counts)
    assert stats.srm_chi_square(counts, shares) == pytest.approx(scipy_stats.chisquare(counts, expected).pvalue, abs=EXACT)


@pytest.fixture(scope="module")
def tea_tasting():
    found = json.loads((Path(__file__).parent / "vectors" / "tea_tasting.json").read_text())
    rows = {name: np.array(values, dtype=float) for name, values in found["rows"].items()}
    return rows, found["expected"]


def by_arm(rows, *columns: str):
    values = np.column_stack([rows[name] for name in columns])
    return [JointMoments.of(values[rows["variant"] == arm]) for arm in (1, 0)]


def expected_of(expected):
    return expected["effect_size"], expected["effect_size_ci_lower"], expected["effect_size_ci_upper"], expected["pvalue"]


def test_the_delta_method_agrees_with_tea_tasting(tea_tasting):
    rows, expected = tea_tasting
    found = stats.ratio_difference(*by_arm(rows, "failures", "requests"))
    assert (found.difference, found.lower, found.upper, found.p_value) == pytest.approx(expected_of(expected["ratio"]), abs=EXACT)


def test_cuped_agrees_with_tea_tasting_up_to_cross_fitting(tea_tasting):
    """The other package uses one theta of all units, ours two of one half each: the same but for the noise of theta."""
    rows, expected = tea_tasting
    treatment, control = by_arm(rows, "spent", "before")
    theta = stats.cuped_theta([treatment, control])
    adjusted = [arm.along([1.0, -theta]) for arm in (treatment, control)]
    found = stats.normal_estimate(adjusted[0].mean - adjusted[1].mean, adjusted[0].variance_of_mean + adjusted[1].variance_of_mean)
    difference, lower, upper, _ = expected_of(expected["cuped"])
    # theta there is of all units together, not within arms, so the agreement is to the size of (effect of variant on theta)^2.
    assert (found.difference, found.lower, found.upper) == pytest.approx((difference, lower, upper), abs=2e-2)
    halves = [[half_of(rows, arm, half) for half in (0, 1)] for arm in (1, 0)]
    crossed = stats.cuped(halves)
    gap = crossed[0].mean - crossed[1].mean
    error = math.sqrt(crossed[0].variance_of_mean + crossed[1].variance_of_mean)
    assert gap == pytest.approx(difference, abs=0.1 * (upper - lower))
    assert 2 * 1.96 * error == pytest.approx(upper - lower, rel=0.05)
    raw = expected_of(expected["welch"])
    assert error < 0.6 * (raw[2] - raw[1]) / 3.92


def half_of(rows, arm, half):
    kept = (rows["variant"] == arm) & (np.arange(rows["variant"].size) // 2 % 2 == half)
    return JointMoments.of(np.column_stack([rows["spent"], rows["before"]])[kept])


def test_the_delta_method_variance_is_that_of_the_linearised_units():
    rng = np.random.default_rng(3)
    below = 1 + rng.poisson(3, 500)
    above = rng.binomial(below, 0.2)
    joint = JointMoments.of(np.column_stack([above, below]))
    x, y, s = joint.mean[0], joint.mean[1], joint.covariance
    closed = s[0, 0] / y**2 - 2 * x * s[0, 1] / y**3 + x**2 * s[1, 1] / y**4
    assert stats.linearised(joint).variance == pytest.approx(closed, rel=1e-12)
    assert stats.linearised(joint).mean == pytest.approx(above.sum() / below.sum(), rel=1e-12)


def test_fieller_is_where_the_linear_contrast_is_on_its_critical_value():
    treatment, control = Moments(200, 3.1, 4.0), Moments(300, 2.0, 2.5)
    for ratio in stats.fieller_interval(treatment, control):
        contrast = treatment.mean - ratio * control.mean
        error = math.sqrt(treatment.variance_of_mean + ratio**2 * control.variance_of_mean)
        assert abs(contrast) / error == pytest.approx(scipy_stats.norm.isf(0.025), abs=1e-9)


def test_fieller_is_unbounded_with_a_denominator_that_may_be_zero():
    assert stats.fieller_interval(Moments(50, 1, 1), Moments(50, 0.1, 1)) == (-math.inf, math.inf)


def test_the_sign_of_a_lift_from_a_negative_baseline_is_that_of_the_change():
    assert stats.relative_lift(Moments(50, -1.0, 1), Moments(50, -2.0, 1)).difference == pytest.approx(0.5)


# --- planned looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        ("obrien_fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
        ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_spending_boundaries_agree_with_the_published_ones(spending, published):
    """Five equal looks at alpha 0.05: Reboussin, DeMets, Kim & Lan (2000), Control. Clin. Trials 21:190."""
    assert stats.boundaries([0.2, 0.4, 0.6, 0.8, 1.0], 0.05, spending) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        ("pocock", {1: 1.960, 2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 6: 2.453, 7: 2.485, 8: 2.512, 9: 2.535, 10: 2.555}),
        ("obrien_fleming", {1: 1.960, 2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 6: 2.053, 7: 2.063, 8: 2.072, 9: 2.080, 10: 2.087}),
    ],
)
def test_classic_constants_agree_with_jennison_and_turnbull(shape, published):
    """Jennison & Turnbull (2000), tables 2.1 and 2.3, alpha 0.05."""
    for looks, constant in published.items():
        assert stats.classic_boundaries(looks, 0.05, shape)[-1] == pytest.approx(constant, abs=1e-3)


@pytest.mark.parametrize(("shape", "power_80", "power_90"), [("pocock", 1.229, 1.207), ("obrien_fleming", 1.028, 1.026)])
def test_inflation_of_classic_designs_agrees_with_jennison_and_turnbull(shape, power_80, power_90):
    """Tables 2.2 and 2.4, five looks, alpha 0.05: the power is reached with that much more information than a fixed test."""
    fractions, bounds = [0.2, 0.4, 0.6, 0.8, 1.0], list(stats.classic_boundaries(5, 0.05, shape))
    for aim, factor in ((0.8, power_80), (0.9, power_90)):
        fixed = stats.normal_quantile(0.975) + stats.normal_quantile(aim)
        assert stats.crossing_probabilities(fractions, bounds, fixed * math.sqrt(factor)).sum() == pytest.approx(aim, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from(["obrien_fleming", "pocock"]), st.sampled_from([0.01, 0.05]))
def test_what_is_crossed_under_the_null_is_what_was_spent_at_any_looks(steps, spending, alpha):
    total = sum(steps)
    fractions = [float(x) for x in np.cumsum(steps) / total]
    bounds = stats.boundaries(fractions, alpha, spending)
    finite = [min(bound, 40.0) for bound in bounds]
    crossed = np.cumsum(stats.crossing_probabilities(fractions, finite))
    assert crossed == pytest.approx([stats.spent(t, alpha, spending) for t in fractions], abs=1e-7)
    assert crossed[-1] == pytest.approx(alpha, abs=1e-7)


def test_an_overrun_spends_what_is_left():
    assert stats.boundaries([0.5, 1.3]) == pytest.approx(stats.boundaries([0.5, 1.0]), abs=0.2)
    assert stats.crossing_probabilities([0.5, 1.3], list(stats.boundaries([0.5, 1.3]))).sum() == pytest.approx(0.05, abs=1e-7)


def test_one_look_at_the_end_is_the_z_test():
    assert stats.boundaries([1.0])[0] == pytest.approx(scipy_stats.norm.isf(0.025), abs=EXACT)


@pytest.mark.parametrize("fractions", [[], [0.5, 0.5], [0.5, 0.4], [0.0, 1.0], [0.5, 1.0, 1.2], [math.nan], [0.5, 0.5005]])
def test_looks_that_cannot_be_are_refused(fractions):
    with pytest.raises(ValueError, match=r"look|fraction"):
        stats.boundaries(fractions)
    with pytest.raises(ValueError, match="spending"):
        stats.boundaries([0.5, 1.0], 0.05, "haybittle")


# --- Bayesian ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k1", "n1", "k0", "n0", "prior"), [(56, 70, 48, 80, (1, 1)), (3, 900, 1, 1100, (0.5, 0.5)), (0, 20, 2, 20, (2, 5))])
def test_beta_binomial_agrees_with_numerical_integration(k1, n1, k0, n0, prior):
    found = stats.beta_binomial(k1, n1, k0, n0, prior=prior)
    first, second = (scipy_stats.beta(prior[0] + k, prior[1] + n - k) for k, n in ((k1, n1), (k0, n0)))
    top = max(first.isf(1e-15), second.isf(1e-15))

    def over(f):
        return integrate.quad(f, 0, top, points=[second.mean()], epsabs=1e-12, epsrel=1e-12, limit=500)[0]

    assert found.probability_better == pytest.approx(over(lambda p: second.pdf(p) * first.sf(p)), abs=1e-8)
    # E[(X0 - X1)+] is the integral of P(X1 < t < X0).
    assert found.expected_loss == pytest.approx(over(lambda t: first.cdf(t) * second.sf(t)), abs=1e-8)
    assert over(lambda p: second.pdf(p) * first.cdf(p + found.lower)) == pytest.approx(0.025, abs=1e-4)
    assert over(lambda p: second.pdf(p) * first.cdf(p + found.upper)) == pytest.approx(0.975, abs=1e-4)
    assert "Beta" in found.prior


def test_normal_normal_with_a_flat_prior_is_the_z_test_and_with_a_sharp_one_is_the_prior():
    flat = stats.normal_normal(0.5, 0.2, prior_sd=1e6)
    assert flat.probability_better == pytest.approx(scipy_stats.norm.cdf(2.5), abs=1e-9)
    assert (flat.lower, flat.upper) == pytest.approx((0.5 - 1.959964 * 0.2, 0.5 + 1.959964 * 0.2), abs=1e-6)
    assert stats.normal_normal(0.5, 0.2, prior_sd=1e-6).expected_difference == pytest.approx(0, abs=1e-9)
    draws = scipy_stats.norm(flat.expected_difference, 0.2)
    assert flat.expected_loss == pytest.approx(integrate.quad(lambda x: -x * draws.pdf(x), -2, 0)[0], abs=1e-8)


# --- multiplicity and power -------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_agree_with_statsmodels(p_values):
    for ours, name in ((stats.holm, "holm"), (stats.benjamini_hochberg, "fdr_bh")):
        assert ours(p_values) == pytest.approx(multitest.multipletests(p_values, method=name)[1], abs=EXACT)


@given(st.lists(st.floats(-5, 12), min_size=1, max_size=10), st.sampled_from([0.01, 0.05, 0.2]))
def test_e_bh_is_bh_on_the_reciprocals(log_e, alpha):
    """Wang & Ramdas (2022): e-BH is BH applied to 1/e, capped at 1."""
    adjusted = stats.benjamini_hochberg(np.minimum(1, np.exp(-np.array(log_e))))
    near = np.abs(adjusted - alpha) < 1e-9
    found = stats.e_benjamini_hochberg(log_e, alpha)
    assert np.array_equal(found[~near], (adjusted <= alpha)[~near]) or near.any()


def test_p_values_outside_zero_and_one_are_refused():
    for wrong in ([1.5], [-0.1], [math.nan], [[0.5]]):
        with pytest.raises(ValueError, match="p-values"):
            stats.holm(wrong)
    with pytest.raises(ValueError, match="numbers"):
        stats.e_benjamini_hochberg([math.nan], 0.05)


@pytest.mark.parametrize(("effect", "alpha", "aim", "ratio"), [(0.2, 0.05, 0.8, 1.0), (0.05, 0.01, 0.9, 1.0), (0.3, 0.05, 0.8, 0.25)])
def test_units_for_a_mean_agree_with_statsmodels(effect, alpha, aim, ratio):
    n = power.units_for_mean(1.0, effect, alpha=alpha, power=aim, ratio=ratio)
    assert n == pytest.approx(normal_sample_size_one_tail(effect, aim, alpha / 2, std_null=math.sqrt(1 + 1 / ratio)), rel=EXACT)
    assert power.power_for_mean(1.0, effect, n, alpha=alpha, ratio=ratio) == pytest.approx(
        NormalIndPower().power(effect, n, alpha, ratio=ratio), abs=EXACT
    )
    assert power.detectable_difference(1.0, n, alpha=alpha, power=aim, ratio=ratio) == pytest.approx(effect, rel=EXACT)


@pytest.mark.parametrize(("control", "treatment", "aim", "ratio"), [(0.1, 0.11, 0.8, 1.0), (0.01, 0.02, 0.9, 1.0), (0.3, 0.2, 0.8, 0.5)])
def test_units_for_proportions_agree_with_statsmodels(control, treatment, aim, ratio):
    n = power.units_for_proportions(control, treatment, power=aim, ratio=ratio)
    pooled = (control + ratio * treatment) / (1 + ratio)
    null = math.sqrt(pooled * (1 - pooled) * (1 + 1 / ratio))
    alternative = math.sqrt(control * (1 - control) + treatment * (1 - treatment) / ratio)
    expected = normal_sample_size_one_tail(treatment - control, aim, 0.025, std_null=null, std_alternative=alternative)
    assert n == pytest.approx(expected, rel=EXACT)
    if treatment > control:
        assert power.detectable_rate(control, n, power=aim, ratio=ratio) == pytest.approx(treatment, abs=1e-8)


def test_multipliers_of_power():
    assert power.always_valid_inflation(0.05, 0.8) == pytest.approx(((3.03 + 0.8416) / 2.8016) ** 2, rel=0.01)
    assert power.cuped_factor(0.6) == pytest.approx(0.64)
    assert power.design_effect(10, 0.2) == pytest.approx(2.8)
    assert power.allocation_factor(0.5) == 1
    assert power.allocation_factor(0.1) == pytest.approx(1 / 0.36)
    assert group_sequential.inflation([0.2, 0.4, 0.6, 0.8, 1.0]) == pytest.approx(1.025, abs=2e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: power.units_for_mean(1, 0),
        lambda: power.units_for_mean(-1, 1),
        lambda: power.units_for_mean(1, 1, alpha=2),
        lambda: power.units_for_mean(1, 1, power=0.01),
        lambda: power.units_for_mean(1, 1, ratio=0),
        lambda: power.units_for_proportions(0.1, 0.1),
        lambda: power.units_for_proportions(0.1, 1.1),
        lambda: power.cuped_factor(2),
        lambda: power.design_effect(0.5, 0.1),
        lambda: power.allocation_factor(1),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
