"""Scenarios that simulate what each statistic promises, for `test_stats_promises.py` and the table of `docs/statistics.md`.

Each scenario draws `runs` experiments in which the null holds (or a stated effect), looks after *every* observation, and says of each run whether the
method was ever wrong. Runs are drawn in blocks, so memory does not grow with them. The table:

    python tests/experiments/promises.py --runs 10000
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import signal, special

from experiments import stats
from experiments.stats.covariates import MIN_UNITS_FOR_THETA
from experiments.stats.latency import BURN_IN_BUCKETS

ALPHA = 0.05
BLOCK = 100
"""Runs at a time: their arrays stay in the cache."""
Wrong = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Promise:
    """One scenario: `wrong(rng, runs)` says of each run whether the method was ever wrong; `alpha` is what it promised."""

    method: str
    condition: str
    wrong: Wrong
    alpha: float = ALPHA
    holds: bool = True
    """False where the method is misused on purpose, to show that it matters."""

    @property
    def name(self) -> str:
        return f"{self.method}: {self.condition}"


PROMISES: list[Promise] = []


def promise(method: str, condition: str, *, alpha: float = ALPHA, holds: bool = True) -> Callable[[Wrong], Wrong]:
    def add(wrong: Wrong) -> Wrong:
        PROMISES.append(Promise(method, condition, wrong, alpha, holds))
        return wrong

    return add


def rate_of(one: Promise, runs: int, seed: int = 1) -> tuple[float, float]:
    """How often it was wrong, and the standard error of a method that is wrong exactly as often as promised."""
    rng = np.random.default_rng([seed, *one.name.encode()])
    wrong = np.concatenate([one.wrong(rng, min(BLOCK, runs - start)) for start in range(0, runs, BLOCK)])
    return float(wrong.mean()), math.sqrt(one.alpha * (1 - one.alpha) / runs)


# --- rates: the conditional e-process ---------------------------------------------------------------------------------


@cache
def rate_table(share: float, events: int, n_star: float | None) -> np.ndarray:
    """ln e by (treatment events, events); the e-process depends on nothing else."""
    total = np.arange(events + 1)
    k = np.minimum(total[:, None], total[None, :])
    return stats.log_rate_e_value(k, total[None, :] - k, share, n_star=n_star)


def conditional(event: np.ndarray, treated: np.ndarray, share: float, n_star: float | None = 200) -> np.ndarray:
    """Whether the two-sided e-process ever reached 1/alpha, looked at after every unit."""
    k, n = np.cumsum(event & treated, axis=1), np.cumsum(event, axis=1)
    table = rate_table(share, 1 << int(n.max()).bit_length(), n_star)
    return (table[k, n] >= math.log(1 / ALPHA)).any(axis=1)


def rates(condition: str, rate: np.ndarray | float, share: float, n_star: float | None = 200) -> None:
    @promise("conditional e-process of two rates", condition)
    def wrong(rng, runs):
        units = np.size(rate) if np.size(rate) > 1 else 4000
        return conditional(rng.random((runs, units)) < rate, rng.random((runs, units)) < share, share, n_star)


rates("rate 5 %", 0.05, 0.5)
rates("rate 5 %, uniform prior", 0.05, 0.5, None)
rates("base rate drifts from 1 % to 20 %", np.linspace(0.01, 0.2, 4000), 0.5)
rates("allocation 10:90", 0.05, 0.1)
rates("rare events, 0.1 %, 30,000 units", np.full(30_000, 0.001), 0.5)


def sticky(rng: np.random.Generator, runs: int, units: int, mean: float = 0.1, requests: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Failures of each unit's ten requests, and its arm: units differ (rates Beta, intraclass correlation about 1/3)."""
    failures = rng.binomial(requests, rng.beta(2 * mean, 2 * (1 - mean), (runs, units)))
    return failures, rng.random((runs, units)) < 0.5


@promise("conditional e-process of two rates", "sticky units, ten requests each, first event of a unit")
def _sticky_first(rng, runs):
    failures, treated = sticky(rng, runs, 1500)
    return conditional(failures > 0, treated, 0.5)


@promise("conditional e-process of two rates", "sticky units, every request counted (misuse)", holds=False)
def _sticky_misused(rng, runs):
    failures, treated = sticky(rng, runs, 300)
    k, n = np.cumsum(failures * treated, axis=1), np.cumsum(failures, axis=1)
    return (rate_table(0.5, 1024, 200)[k, n] >= math.log(1 / ALPHA)).any(axis=1)


# --- rates: one sample, and the product of two ------------------------------------------------------------------------


@cache
def refuted(rate: float, units: int, prior: tuple[float, float]) -> np.ndarray:
    """Whether a count k (first axis) of n (second, from 1) refutes the rate, two-sided. Counts nobody sees are left out at both ends."""
    n = np.arange(1, units + 1)
    counts = np.minimum(np.arange(most_events(rate, units) + 1)[:, None], n[None, :])
    sides = [stats.log_binomial_e_value(counts, n[None, :], rate, side=side, prior=prior) for side in ("less", "greater")]
    return np.maximum(*sides) >= math.log(2 / ALPHA)


def most_events(rate: float, units: int) -> int:
    return math.ceil(rate * units + 8 * math.sqrt(rate * units) + 8)


def ever_refuted(event: np.ndarray, rate: float, prior: tuple[float, float]) -> np.ndarray:
    units = event.shape[1]
    k = np.minimum(np.cumsum(event, axis=1), most_events(rate, units))
    return refuted(rate, units, prior)[k, np.arange(units)].any(axis=1)


def one_sample(condition: str, rate: float, units: int, n_star: float | None) -> None:
    prior = (0.5, 0.5) if n_star is None else tuple(map(float, stats.tuned_prior(rate, n_star)))

    @promise("beta-binomial sequence of one rate", condition)
    def wrong(rng, runs):
        return ever_refuted(rng.random((runs, units)) < rate, rate, prior)


one_sample("rate 30 %", 0.3, 1500, 1500)
one_sample("rate 1 %, prior 1/2", 0.01, 3000, None)
one_sample("rare events, 0.1 %", 0.001, 20_000, 20_000)


def difference_missed(k1: np.ndarray, n1: np.ndarray, k0: np.ndarray, n0: np.ndarray, effect: float = 0.0) -> np.ndarray:
    """Whether the difference sequence ever missed `effect`. The e-value at the pooled rate bounds the infimum over base rates from above."""
    n1, n0 = np.maximum(n1, 1), np.maximum(n0, 1)
    pooled = np.clip((k1 - effect * n1 + k0) / (n1 + n0), 1e-6, 1 - 1e-6 - abs(effect))
    error = np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0))
    # An e-value of 40 needs a likelihood ratio of as much, which no gap below 1.8 standard errors has: only the others are computed.
    far = np.abs(k1 / n1 - k0 / n0 - effect) > 1.8 * error
    wrong = np.zeros(far.shape, dtype=bool)
    if far.any():
        at = [one[far] for one in (k1, n1, k0, n0, pooled)]
        log_e = np.maximum(product_log_e(*at, effect, ("greater", "less")), product_log_e(*at, effect, ("less", "greater")))
        wrong[far] = log_e >= math.log(2 / ALPHA)
    return wrong.any(axis=1)


def product_log_e(k1, n1, k0, n0, control, effect, sides):
    treatment = np.clip(control + effect, 1e-9, 1 - 1e-9)
    first = stats.log_binomial_e_value(k0, n0, control, side=sides[0], prior=stats.tuned_prior(control, 1500))
    return first + stats.log_binomial_e_value(k1, n1, treatment, side=sides[1], prior=stats.tuned_prior(treatment, 1500))


def arm_counts(event: np.ndarray, treated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n1 = np.cumsum(treated, axis=1)
    return np.cumsum(event & treated, axis=1), n1, np.cumsum(event & ~treated, axis=1), np.arange(1, n1.shape[1] + 1) - n1


def product(condition: str, rate: np.ndarray | float, effect: float = 0.0, share: float = 0.5, units: int = 1500) -> None:
    @promise("product e-process of a difference of rates", condition)
    def wrong(rng, runs):
        treated = rng.random((runs, units)) < share
        return difference_missed(*arm_counts(rng.random((runs, units)) < rate + effect * treated, treated), effect)


product("rate 10 %", 0.1)
product("a true difference of 5 points (coverage)", 0.1, 0.05)
product("base rate drifts from 1 % to 20 %", np.linspace(0.01, 0.2, 1500))
product("allocation 10:90", 0.1, share=0.1)


@promise("product e-process of a difference of rates", "sticky units, ten requests each, one yes or no a unit")
def _sticky_product(rng, runs):
    failures, treated = sticky(rng, runs, 1500)
    return difference_missed(*arm_counts(failures > 0, treated))


def rare_counts(rng: np.random.Generator, runs: int, events: int, rate: float = 0.001) -> Iterator[tuple[np.ndarray, ...]]:
    """Counts (k1, n1, k0, n0) at every event, then just before the next: between events bounds move one way, so that is looking always."""
    gaps = rng.geometric(rate, (runs, events + 1))
    treated = rng.random((runs, events)) < 0.5
    k1 = np.cumsum(treated, axis=1)
    k0 = np.arange(1, events + 1) - k1
    others = rng.binomial(gaps - 1, 0.5)
    n1 = k1 + np.cumsum(others[:, :-1], axis=1)
    n0 = np.cumsum(gaps[:, :-1], axis=1) - n1
    yield k1, n1, k0, n0
    yield k1, n1 + others[:, 1:], k0, n0 + (gaps - 1 - others)[:, 1:]


@promise("product e-process of a difference of rates", "rare events, 0.1 %, until 60 events")
def _rare_product(rng, runs):
    return np.logical_or(*(difference_missed(*counts) for counts in rare_counts(rng, runs, 60)))


# --- betting ----------------------------------------------------------------------------------------------------------


def betting(condition: str, draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], mean: float, units: int = 1500) -> None:
    @promise("betting sequence of a bounded mean", condition)
    def wrong(rng, runs):
        return (stats.log_betting_capital(draw(rng, (runs, units)), mean, ALPHA, n_star=units) >= math.log(1 / ALPHA)).any(axis=1)


betting("Beta(1, 9)", lambda rng, size: rng.beta(1, 9, size), 0.1)
betting("rare events, 0.1 %", lambda rng, size: (rng.random(size) < 0.001).astype(float), 0.001, 8000)
betting("heavy tails: Beta(0.05, 5)", lambda rng, size: rng.beta(0.05, 5, size), 0.05 / 5.05)
betting("variance drifts", lambda rng, size: 0.5 + (rng.random(size) - 0.5) * np.linspace(0.02, 1, size[1]), 0.5)
betting("sticky units, means of ten requests", lambda rng, size: rng.binomial(10, rng.beta(0.2, 1.8, size)) / 10, 0.1)


def betting_two(condition: str, draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], share: float, units: int = 1500) -> None:
    @promise("betting sequence of a difference of bounded means", condition)
    def wrong(rng, runs):
        outcomes = stats.difference_outcomes(draw(rng, (runs, units)), rng.random((runs, units)) < share, share)
        return (stats.log_betting_capital(outcomes, 0.5, ALPHA, n_star=units) >= math.log(1 / ALPHA)).any(axis=1)


betting_two("Beta(1, 9)", lambda rng, size: rng.beta(1, 9, size), 0.5)
betting_two("allocation 10:90", lambda rng, size: rng.beta(1, 9, size), 0.1)
betting_two("base mean drifts from 5 % to 95 %", lambda rng, size: np.clip(np.linspace(0.05, 0.95, size[1]) + rng.normal(0, 0.1, size), 0, 1), 0.5)
betting_two("heavy tails: Beta(0.05, 5)", lambda rng, size: rng.beta(0.05, 5, size), 0.5)
betting_two("rare events, 0.1 %", lambda rng, size: (rng.random(size) < 0.001).astype(float), 0.5, 8000)
betting_two("sticky units, means of ten requests", lambda rng, size: rng.binomial(10, rng.beta(0.2, 1.8, size)) / 10, 0.5)


# --- asymptotic -------------------------------------------------------------------------------------------------------


def running(values: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and variance of the kept values so far."""
    n, y = np.cumsum(kept, axis=1), np.where(kept, values, 0.0)
    some = np.maximum(n, 1)
    mean = np.cumsum(y, axis=1) / some
    return n, mean, np.maximum(0, np.cumsum(y * y, axis=1) / some - mean**2)


def missed(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...], effect: float, n_star: float, least: np.ndarray | int) -> np.ndarray:
    """Whether the asymptotic sequence of a difference ever missed `effect` after its burn-in."""
    (n1, m1, v1), (n0, m0, v0) = first, second
    n = n1 + n0
    sd = np.sqrt(n * (v1 / np.maximum(n1, 1) + v0 / np.maximum(n0, 1)))
    half = stats.asymptotic_half_width(n, sd, ALPHA, stats.asymptotic_rho(n_star, ALPHA))
    return ((np.abs(m1 - m0 - effect) > half) & (np.minimum(n1, n0) >= least)).any(axis=1)


def asymptotic(
    condition: str,
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
    *,
    share: float = 0.5,
    units: int = 3000,
    effect: float = 0.0,
    n_star: float = 2000,
) -> None:
    @promise("asymptotic sequence of a difference of means", condition)
    def wrong(rng, runs):
        treated = rng.random((runs, units)) < share
        values = draw(rng, (runs, units)) + effect * treated
        return missed(running(values, treated), running(values, ~treated), effect, n_star, stats.BURN_IN_UNITS)


asymptotic("normal", lambda rng, size: rng.normal(0, 1, size))
asymptotic("normal, a true difference (coverage)", lambda rng, size: rng.normal(0, 1, size), effect=0.3)
asymptotic("heavy tails: lognormal, sigma 1.5", lambda rng, size: rng.lognormal(0, 1.5, size))
asymptotic("heavy tails: Student t, 3 degrees", lambda rng, size: rng.standard_t(3, size))
asymptotic("allocation 10:90, exponential", lambda rng, size: rng.exponential(1, size), share=0.1, units=8000, n_star=5000)
asymptotic("allocation 10:90, lognormal, sigma 1.5", lambda rng, size: rng.lognormal(0, 1.5, size), share=0.1, units=8000, n_star=5000)
asymptotic("base mean drifts by three standard deviations", lambda rng, size: rng.normal(0, 1, size) + np.linspace(0, 3, size[1]))
asymptotic("sticky units, totals of ten requests", lambda rng, size: rng.binomial(10, rng.beta(0.2, 1.8, size)).astype(float))


@promise("asymptotic sequence of a difference of rates", "rare events, 0.1 %, until 150 events, after 50 an arm")
def _rare_asymptotic(rng, runs):
    wrong = np.zeros(runs, dtype=bool)
    for k1, n1, k0, n0 in rare_counts(rng, runs, 150):
        first, second = ((n, k / np.maximum(n, 1), k / np.maximum(n, 1) * (1 - k / np.maximum(n, 1))) for k, n in ((k1, n1), (k0, n0)))
        enough = np.where(np.minimum(k1, k0) >= stats.BURN_IN_EVENTS, 0, np.inf)
        wrong |= missed(first, second, 0.0, 100_000, enough)
    return wrong


def ratio(condition: str, above: Callable[[np.random.Generator, np.ndarray], np.ndarray], *, share: float = 0.5, units: int = 3000) -> None:
    @promise("asymptotic sequence of a ratio (delta method)", condition)
    def wrong(rng, runs):
        below = rng.integers(1, 21, (runs, units)).astype(float)
        numerator = above(rng, below)
        treated = rng.random((runs, units)) < share
        return missed(*(running_ratio(numerator, below, kept) for kept in (treated, ~treated)), 0.0, 2000, stats.BURN_IN_UNITS)


def failures_of(rng: np.random.Generator, requests: np.ndarray, drift: np.ndarray | float = 1.0) -> np.ndarray:
    return rng.binomial(requests.astype(int), rng.beta(0.2, 1.8, requests.shape) * drift).astype(float)


ratio("sticky units, 1 to 20 requests each", failures_of)
ratio("sticky units, base rate drifts from 2 % to 10 %", lambda rng, below: failures_of(rng, below, np.linspace(0.2, 1, below.shape[1])))
ratio("heavy tails: lognormal, sigma 1.5", lambda rng, below: below * rng.lognormal(0, 1.5, below.shape))
ratio("allocation 10:90", failures_of, share=0.1, units=8000)


def running_ratio(above: np.ndarray, below: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, ratio and variance of its linearised unit values so far."""
    n = np.cumsum(kept, axis=1)
    some = np.maximum(n, 1)
    x, y, xx, xy, yy = (np.cumsum(np.where(kept, one, 0.0), axis=1) / some for one in (above, below, above**2, above * below, below**2))
    y = np.where(y > 0, y, 1.0)
    ratio = x / y
    return n, ratio, np.maximum(0, (xx - 2 * ratio * xy + ratio**2 * yy) / y**2)


def cuped(condition: str, noise: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], *, share: float = 0.5, units: int = 2000) -> None:
    @promise("asymptotic sequence with CUPED (cross-fitted)", condition)
    def wrong(rng, runs):
        before = noise(rng, (runs, units))
        values = 0.8 * before + 0.6 * noise(rng, (runs, units))
        treated = rng.random((runs, units)) < share
        return missed(*running_cuped(values, before, treated), 0.0, 2000, stats.BURN_IN_UNITS)


cuped("correlation 0.8", lambda rng, size: rng.normal(0, 1, size))
cuped("heavy tails: lognormal, sigma 1.5", lambda rng, size: rng.lognormal(0, 1.5, size))
cuped("sticky units, totals of ten requests", lambda rng, size: rng.binomial(10, rng.beta(0.2, 1.8, size)).astype(float))
cuped("base mean drifts by three standard deviations", lambda rng, size: rng.normal(0, 1, size) + np.linspace(0, 3, size[1]))
cuped("allocation 10:90", lambda rng, size: rng.normal(0, 1, size), share=0.1, units=8000)


def running_cuped(values: np.ndarray, before: np.ndarray, treated: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Count, adjusted mean and variance of both arms so far, as `covariates.cuped` gives them."""
    even = np.broadcast_to(np.arange(values.shape[1]) % 2 == 0, values.shape)
    cells = {
        (arm, half): _Running(values, before, kept & part) for arm, kept in enumerate((treated, ~treated)) for half, part in enumerate((even, ~even))
    }
    everything = np.arange(1, values.shape[1] + 1)
    centre = np.cumsum(before, axis=1) / everything
    theta = []
    for other in (1, 0):
        sxy, sxx = (cells[0, other].sxy + cells[1, other].sxy, cells[0, other].sxx + cells[1, other].sxx)
        enough = cells[0, other].n + cells[1, other].n >= MIN_UNITS_FOR_THETA
        theta.append(np.where(enough & (sxx > 0), sxy / np.where(sxx > 0, sxx, 1), 0.0))
    arms = []
    for arm in (0, 1):
        n, total, square = 0.0, 0.0, 0.0
        for half in (0, 1):
            cell, slope = cells[arm, half], theta[half]
            mean = cell.y - slope * (cell.x - centre)
            n, total = n + cell.n, total + cell.n * mean
            square = square + cell.syy - 2 * slope * cell.sxy + slope**2 * cell.sxx + cell.n * mean**2
        some = np.maximum(n, 1)
        arms.append((n, total / some, np.maximum(0, square / some - (total / some) ** 2)))
    return arms


class _Running:
    """Running moments of (y, x) over kept units."""

    def __init__(self, y: np.ndarray, x: np.ndarray, kept: np.ndarray) -> None:
        self.n = np.cumsum(kept, axis=1).astype(float)
        some = np.maximum(self.n, 1)
        sums = {name: np.cumsum(np.where(kept, one, 0.0), axis=1) for name, one in {"y": y, "x": x, "yy": y * y, "xy": x * y, "xx": x * x}.items()}
        self.y, self.x = sums["y"] / some, sums["x"] / some
        self.syy, self.sxy, self.sxx = (
            sums[name] - self.n * product_of for name, product_of in (("yy", self.y**2), ("xy", self.x * self.y), ("xx", self.x**2))
        )


# --- latency ----------------------------------------------------------------------------------------------------------


def autocorrelated(rng: np.random.Generator, runs: int, steps: int, phi: float = 0.95) -> np.ndarray:
    """A stationary AR(1) process of unit variance, time along the last axis."""
    noise = rng.normal(0, math.sqrt(1 - phi**2), (runs, steps))
    noise[:, 0] /= math.sqrt(1 - phi**2)
    return signal.lfilter([1.0], [1.0, -phi], noise, axis=1)


def exceedances(condition: str, share: float = 0.5, quantile: float = 0.95) -> None:
    """Of a quantile below a half the values below the threshold are counted, as the gateway does."""

    @promise("exceedances of a past-only threshold", condition)
    def wrong(rng, runs):
        latency = np.exp(autocorrelated(rng, runs, 3000) + 0.5 * rng.standard_t(3, (runs, 3000)))
        treated = rng.random((runs, 3000)) < share
        counted = np.zeros(latency.shape, dtype=bool)
        for run in range(runs):
            control = np.flatnonzero(~treated[run])[: round(10 / min(quantile, 1 - quantile))]
            threshold = stats.past_threshold(latency[run, control], quantile)
            after = slice(control[-1] + 1, None)
            counted[run, after] = latency[run, after] > threshold if quantile >= 0.5 else latency[run, after] < threshold
        return conditional(counted, treated, share, 100)


exceedances("AR(1) latency, 0.95, heavy-tailed calls")
exceedances("AR(1) latency, 0.95, heavy-tailed calls, allocation 10:90", share=0.1)
exceedances("AR(1) values, 0.95, heavy tails, a quantile of 10 %", quantile=0.1)


def buckets(rng: np.random.Generator, runs: int, count: int = 400, calls: int = 20) -> np.ndarray:
    """Differences of bucket p95s: shocks shared by both arms, noise of their own."""
    shared = autocorrelated(rng, runs, count)[:, :, None]
    arms = [np.quantile(np.exp(shared + 0.5 * rng.normal(0, 1, (runs, count, calls))), 0.95, axis=2) for _ in range(2)]
    return arms[1] - arms[0]


@promise("paired buckets, sign e-process", "AR(1) latency, 0.95")
def _signs(rng, runs):
    gaps = buckets(rng, runs)
    prior = tuple(map(float, stats.tuned_prior(0.5, 300)))
    # Two-sided: the one-sided test of "not slower" is half of it.
    return ever_refuted(gaps > 0, 0.5, prior)


@promise("paired buckets, sequence of the mean", "AR(1) latency, 0.95")
def _bucket_means(rng, runs):
    gaps = buckets(rng, runs)
    n, mean, variance = running(gaps, np.ones_like(gaps, dtype=bool))
    half = stats.asymptotic_half_width(n, np.sqrt(variance), ALPHA, stats.asymptotic_rho(400, ALPHA))
    return ((np.abs(mean) > half) & (n >= BURN_IN_BUCKETS)).any(axis=1)


def quantile(condition: str, below: Callable[[np.random.Generator, int], np.ndarray], *, holds: bool = True) -> None:
    @promise("quantile sequence (iid only)", condition, holds=holds)
    def wrong(rng, runs):
        # Counts above the quantile: the same test, and a smaller table.
        return ever_refuted(~below(rng, runs), 0.05, tuple(map(float, stats.tuned_prior(0.05, 1000))))


quantile("independent draws, any tails", lambda rng, runs: rng.random((runs, 1000)) < 0.95)
quantile("AR(1) latency, 0.95 (misuse)", lambda rng, runs: autocorrelated(rng, runs, 1000) < stats.normal_quantile(0.95), holds=False)


# --- sample ratio, planned looks, fixed size --------------------------------------------------------------------------


@promise("sample ratio e-value", "50:50", alpha=0.001)
def _sample_ratio(rng, runs):
    k = np.cumsum(rng.random((runs, 4000)) < 0.5, axis=1)
    return srm_alarms(k, np.arange(1, 4001) * math.log(0.5))


@promise("sample ratio e-value", "shares move from 10:90 to 50:50", alpha=0.001)
def _varying_ratio(rng, runs):
    share = np.linspace(0.1, 0.5, 4000)
    treated = rng.random((runs, 4000)) < share
    return srm_alarms(np.cumsum(treated, axis=1), np.cumsum(np.where(treated, np.log(share), np.log1p(-share)), axis=1))


def srm_alarms(k: np.ndarray, log_shares: np.ndarray, alpha: float = 0.001) -> np.ndarray:
    """Vectorised `log_srm_e_value` of two arms; the tests compare it with the function."""
    n = np.arange(1, k.shape[1] + 1)
    log_e = special.betaln(k + 1, n - k + 1) - log_shares
    return (log_e >= math.log(1 / alpha)).any(axis=1)


@promise("group sequential, O'Brien-Fleming spending", "looks at 10, 35, 60, 100 %, exponential values")
def _group_sequential(rng, runs):
    return planned_looks(rng, runs, "obrien_fleming")


@promise("group sequential, Pocock spending", "looks at 10, 35, 60, 100 %, exponential values")
def _pocock(rng, runs):
    return planned_looks(rng, runs, "pocock")


def planned_looks(rng: np.random.Generator, runs: int, spending: stats.group_sequential.Spending) -> np.ndarray:
    fractions = [0.1, 0.35, 0.6, 1.0]
    ends = [int(2000 * fraction) - 1 for fraction in fractions]
    bounds = stats.boundaries(fractions, ALPHA, spending)
    first, second = rng.exponential(1, (runs, 2000)), rng.exponential(1, (runs, 2000))
    every = np.ones_like(first, dtype=bool)
    (n, m1, v1), (_, m0, v0) = (tuple(part[:, ends] for part in running(arm, every)) for arm in (first, second))
    return (np.abs(m1 - m0) / np.sqrt((v1 + v0) / (n - 1)) >= bounds).any(axis=1)


def fixed(method: str, condition: str, wrong: Callable[[np.random.Generator], bool]) -> None:
    @promise(method, f"{condition}, looked at once (coverage)")
    def all_runs(rng, runs):
        return np.array([wrong(rng) for _ in range(runs)])


def _misses(found: object, truth: float) -> bool:
    return not found.lower <= truth <= found.upper


fixed(
    "Welch",
    "exponential, 500 and 1,500 units",
    lambda rng: _misses(stats.welch(*(stats.Moments.of(rng.exponential(1, n)) for n in (500, 1500))), 0.0),
)
fixed(
    "score test of two rates",
    "4 % and 6 %, 400 units each",
    lambda rng: _misses(stats.compare_proportions(int(rng.binomial(400, 0.06)), 400, int(rng.binomial(400, 0.04)), 400), 0.02),
)
fixed(
    "Fisher's exact test, melded interval",
    "1 % and 3 %, 60 and 120 units",
    lambda rng: _misses(stats.compare_proportions(int(rng.binomial(60, 0.03)), 60, int(rng.binomial(120, 0.01)), 120), 0.02),
)


def _clustered(rng: np.random.Generator) -> stats.JointMoments:
    requests = rng.integers(1, 21, 500)
    return stats.JointMoments.of(np.column_stack([rng.binomial(requests, rng.beta(0.4, 3.6, 500)), requests]))


fixed("delta method", "sticky units, 1 to 20 requests each", lambda rng: _misses(stats.ratio_difference(_clustered(rng), _clustered(rng)), 0.0))


def _fieller(rng: np.random.Generator) -> bool:
    low, high = stats.fieller_interval(stats.Moments.of(rng.normal(1.2, 4, 500)), stats.Moments.of(rng.normal(1, 4, 500)))
    return not low <= 1.2 <= high


fixed("Fieller", "denominator five standard errors from 0", _fieller)


@promise("z-test looked at after every observation (misuse)", "normal", holds=False)
def _peeked(rng, runs):
    values = rng.normal(0, 1, (runs, 2000))
    n = np.arange(1, 2001)
    z = np.cumsum(values, axis=1) / np.sqrt(n)
    return (np.abs(z[:, 99:]) > 1.96).any(axis=1)


@promise("Bayesian P(better) > 0.975 looked at after every unit (misuse)", "flat prior", holds=False)
def _bayesian_peeked(rng, runs):
    values = rng.normal(0, 1, (runs, 2000))
    posterior = np.cumsum(values, axis=1) / np.sqrt(np.arange(1, 2001))
    return (np.abs(posterior[:, 99:]) > stats.normal_quantile(0.975)).any(axis=1)


# --- the table --------------------------------------------------------------------------------------------------------


def table(runs: int) -> Iterator[str]:
    yield f"| method | condition | promised | wrong in {runs:,} runs |"
    yield "|---|---|---|---|"
    for one in PROMISES:
        start = time.process_time()
        rate, _ = rate_of(one, runs)
        sys.stderr.write(f"{time.process_time() - start:6.1f} s  {100 * rate:6.2f} %  {one.name}\n")
        promised = f"{100 * one.alpha:g} %" if one.holds else "nothing"
        yield f"| {one.method} | {one.condition} | {promised} | {100 * rate:.2f} % |"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=10_000)
    sys.stdout.write("\n".join(table(arguments.parse_args().runs)) + "\n")
