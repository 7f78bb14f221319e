"""One metric of one arm against the control, by any of the four methods, from sufficient statistics alone.

| method | valid | with 0/1 units | else |
|---|---|---|---|
| `always_valid` | whenever you look | product e-process, exact | asymptotic confidence sequence, after its burn-in |
| `group_sequential` | at the looks named | z statistic against the spending boundary | the same |
| `fixed` | at this size alone | Fisher, exact, in small cells; else the score test | Welch; delta method for ratios |
| `bayesian` | under the prior shown | beta-binomial | normal-normal |

Formulas, assumptions and sources are at the functions of `experiments/stats/`, in words in `docs/statistics.md`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from experiments import stats
from experiments.stats import Moments
from experiments.stats.covariates import correlation, cuped
from experiments.stats.group_sequential import Spending
from experiments.stats.ratios import require_denominator
from experiments.sufficient import NO_COVARIATE, Cell, Metric

Method = Literal["always_valid", "group_sequential", "fixed", "bayesian"]
METHODS: tuple[Method, ...] = ("always_valid", "group_sequential", "fixed", "bayesian")
COVARIATE_ALPHA = 0.001
"""Of the test that a covariate does not depend on the arm; as of a sample ratio: an alarm means that the data are not what they are said to be."""
DEFAULT_PLANNED_UNITS = 10_000
"""What a confidence sequence is tuned for when nothing was planned; a number, because the size of the data at hand would be peeking."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compare; fixed before the data were seen.

    Attributes:
        method: see the module.
        alpha: two-sided error probability of each comparison.
        planned_units: units of both arms together; what sequences are tuned for and information is measured by.
        earlier_looks: information fractions of the looks before this one.
        spending: of `group_sequential`.
        beta_prior: of `bayesian`, for 0/1 units.
        prior_sd: of `bayesian`, of the difference otherwise; None takes the control's standard deviation.
    """

    method: Method = "always_valid"
    alpha: float = 0.05
    planned_units: int | None = None
    earlier_looks: tuple[float, ...] = ()
    spending: Spending = "obrien_fleming"
    beta_prior: tuple[float, float] = (1.0, 1.0)
    prior_sd: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be. Raises ValueError."""
        if self.method not in METHODS:
            raise ValueError(f"unknown method `{self.method}`; allowed: {', '.join(METHODS)}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha:g}; it must lie between 0 and 1")
        if self.planned_units is not None and self.planned_units < 2:
            raise ValueError(f"{self.planned_units} planned units are too few")
        if self.method == "group_sequential" and self.planned_units is None:
            raise ValueError("group_sequential needs the planned size: information is measured by it; hint: --planned-units")

        if min(self.beta_prior) < 0.5 or not (self.prior_sd is None or self.prior_sd > 0):
            raise ValueError("a Beta prior's parameters must be at least 0.5, and a prior standard deviation above 0")
        stats.spent(0.5, self.alpha, self.spending)
        if self.earlier_looks:
            stats.boundaries(self.earlier_looks, self.alpha, self.spending)

    @property
    def n_star(self) -> int:
        """Units at which sequences are tightest."""
        return self.planned_units or DEFAULT_PLANNED_UNITS


def compare(treatment: Cell, control: Cell, metric: Metric, plan: Plan, *, adjusts: bool) -> dict[str, Any]:
    """Compare two cells.

    Args:
        treatment: its units.
        control: its units.
        metric: what they are.
        plan: how.
        adjusts: whether there is a covariate.

    Returns:
        JSON-able: `n`, `means`, `difference`, `lower`, `upper`, `lift`, `basis`, `test`, `p_value`, `log_e_value`, `note`, `verdict` and what belongs
        to the method; what does not apply is null.
    """
    is_counted = metric.type == "proportion" and treatment.is_binary and control.is_binary and not adjusts
    found: dict[str, Any] = {
        "n": [treatment.n, control.n],
        "means": [_mean(treatment, metric), _mean(control, metric)],
        "basis": "exact" if is_counted and plan.method != "group_sequential" else "asymptotic",
        **dict.fromkeys(("difference", "lower", "upper", "lift", "test", "p_value", "log_e_value", "note")),
    }
    if min(treatment.n, control.n) == 0:
        found["note"] = "an arm has no values"
        return found | {"verdict": "no data"}
    try:
        if is_counted:
            found |= _by_counts(treatment, control, plan)
        else:
            found |= _by_moments(treatment, control, metric, plan, adjusts=adjusts)
    except stats.BurnInError as error:
        found["note"] = f"too few: {error}"
    except ValueError as error:
        found["note"] = f"not compared: {error}"
    if found["difference"] is not None and found["means"][1]:
        found["lift"] = found["difference"] / abs(found["means"][1])
    return found | {"verdict": _verdict(found)}


def _by_counts(treatment: Cell, control: Cell, plan: Plan) -> dict[str, Any]:
    counts = treatment.ones, treatment.n, control.ones, control.n
    found: dict[str, Any] = {"difference": treatment.ones / treatment.n - control.ones / control.n}
    if plan.method == "fixed":
        fixed = stats.compare_proportions(*counts, plan.alpha)
        basis = "exact" if fixed.test == "fisher" else "asymptotic"
        return found | {"lower": fixed.lower, "upper": fixed.upper, "p_value": fixed.p_value, "basis": basis, "test": fixed.test}
    if plan.method == "bayesian":
        posterior = stats.beta_binomial(*counts, prior=plan.beta_prior, alpha=plan.alpha)
        others = [stats.beta_binomial(*counts, prior=prior, alpha=plan.alpha) for prior in ((0.5, 0.5), (1.0, 1.0), (5.0, 5.0))]
        return found | _posterior(posterior, others)
    if plan.method == "group_sequential":
        if (expected := stats.fewest_expected(*counts)) < stats.FEWEST_EXPECTED:
            raise stats.BurnInError(f"{expected:.1f} units expected in a cell; a z statistic of rates needs {stats.FEWEST_EXPECTED:g}")
        return found | _at_a_look(_moments_of(treatment), _moments_of(control), plan)
    lower, upper = stats.product_difference_bounds(*counts, plan.alpha, n_star=plan.n_star)
    mirrored = control.ones, control.n, treatment.ones, treatment.n
    better, worse = (stats.log_non_inferiority_e_value(*one, 0.0, n_star=plan.n_star, alpha=plan.alpha) for one in (counts, mirrored))
    return found | {"lower": lower, "upper": upper, "log_e_value": float(np.logaddexp(better, worse)) - math.log(2)}


def _by_moments(treatment: Cell, control: Cell, metric: Metric, plan: Plan, *, adjusts: bool) -> dict[str, Any]:
    if metric.type in ("quantile", "proportion") and plan.method == "always_valid":
        _has_events(treatment, control)
    arms, extra = _adjusted(treatment, control, plan.n_star) if adjusts else ([_moments_of(cell, metric) for cell in (treatment, control)], {})
    first, second = arms
    found: dict[str, Any] = {"difference": first.mean - second.mean, **extra}
    if plan.method == "always_valid":
        lower, upper = stats.asymptotic_difference(first, second, n_star=plan.n_star, alpha=plan.alpha)
        sd = stats.difference_sd(first, second)
        log_e = float(stats.log_asymptotic_e_value(first.n + second.n, found["difference"], sd, stats.asymptotic_rho(plan.n_star, plan.alpha)))
        return found | {"lower": lower, "upper": upper, "log_e_value": log_e if math.isfinite(log_e) else None}
    if plan.method == "group_sequential":
        return found | _at_a_look(first, second, plan)
    estimate = stats.welch(first, second, plan.alpha)
    if plan.method == "fixed":
        return found | {"lower": estimate.lower, "upper": estimate.upper, "p_value": estimate.p_value, "test": "welch"}
    sd = plan.prior_sd if plan.prior_sd is not None else math.sqrt(second.variance)
    posterior, *others = (
        stats.normal_normal(found["difference"], estimate.standard_error, prior_sd=sd * factor, alpha=plan.alpha) for factor in (1, 0.1, 10)
    )
    return found | _posterior(posterior, others)


def _has_events(treatment: Cell, control: Cell) -> None:
    events = min(float(cell.whole.mean[0]) * cell.n for cell in (treatment, control))
    if events < stats.BURN_IN_EVENTS:
        raise stats.BurnInError(f"{events:.0f} events in an arm; an asymptotic confidence sequence of a rate needs {stats.BURN_IN_EVENTS}")


def _moments_of(cell: Cell, metric: Metric | None = None) -> Moments:
    if metric is not None and metric.is_ratio:
        require_denominator(cell.whole)
        return stats.linearised(cell.whole)
    return cell.whole.along([1.0, 0.0, 0.0])


def _is_from_before(treatment: Moments, control: Moments, n_star: float) -> None:
    """Refuse a covariate that differs by arm: one from before the exposure cannot, and one from after it would hide the effect it is part of."""
    if min(treatment.n, control.n) < 2 or not (sd := stats.difference_sd(treatment, control)):
        return
    gap = treatment.mean - control.mean
    log_e = float(stats.log_asymptotic_e_value(treatment.n + control.n, gap, sd, stats.asymptotic_rho(n_star)))
    if log_e >= math.log(1 / COVARIATE_ALPHA):
        raise ValueError(f"the covariate differs by arm ({treatment.mean:.4g} and {control.mean:.4g}): it is not from before the exposure")


def _adjusted(treatment: Cell, control: Cell, n_star: float) -> tuple[list[Moments], dict[str, Any]]:
    """CUPED on linearised values; units without a covariate are added as they are."""
    linear = []
    for cell in (treatment, control):
        ratio, below = float(cell.whole.mean[0] / cell.whole.mean[1]), float(cell.whole.mean[1])
        weights = [[1 / below, -ratio / below, 0.0], [0.0, 0.0, 1.0]]
        linear.append([part.mapped(weights, [ratio, 0.0]) for part in cell.parts])
    halves = [parts[:NO_COVARIATE] for parts in linear]
    adjusted = [
        arm + parts[NO_COVARIATE].along([1.0, 0.0]) if parts[NO_COVARIATE].n else arm for arm, parts in zip(cuped(halves), linear, strict=True)
    ]
    first, second = ((parts[0] + parts[1]).along([0.0, 1.0]) for parts in linear)
    _is_from_before(first, second, n_star)
    rho = correlation([half for arm in halves for half in arm])
    without = sum(parts[NO_COVARIATE].n for parts in linear)
    return adjusted, {"cuped": {"correlation": rho, "variance_factor": 1 - rho * rho, "units_without_covariate": without}}


def _at_a_look(treatment: Moments, control: Moments, plan: Plan) -> dict[str, Any]:
    """Z statistic, boundary and repeated confidence interval (Jennison & Turnbull 1989, JRSS-B 51:305)."""
    if min(treatment.n, control.n) < 2:
        raise stats.BurnInError(f"{min(treatment.n, control.n)} unit in an arm; a z statistic needs two")
    fraction = (treatment.n + control.n) / plan.n_star
    looks = [*plan.earlier_looks, fraction]
    boundary = float(stats.boundaries(looks, plan.alpha, plan.spending)[-1])
    error = math.sqrt(treatment.variance_of_mean + control.variance_of_mean)
    gap = treatment.mean - control.mean
    is_bounded = math.isfinite(boundary) and error > 0
    return {
        "lower": gap - boundary * error if is_bounded else None,
        "upper": gap + boundary * error if is_bounded else None,
        "look": {
            "fractions": looks,
            "boundary": boundary if math.isfinite(boundary) else None,
            "z": gap / error if error > 0 else None,
            "alpha_spent": stats.spent(fraction, plan.alpha, plan.spending),
            "spending": plan.spending,
        },
        "note": None if is_bounded else "nothing can be concluded at this look",
    }


def _posterior(posterior: stats.Posterior, others: list[stats.Posterior]) -> dict[str, Any]:
    return {
        "difference": posterior.expected_difference,
        "lower": posterior.lower,
        "upper": posterior.upper,
        "posterior": asdict(posterior),
        "sensitivity": [{"prior": other.prior, "probability_better": other.probability_better} for other in others],
        "note": "a statement under the prior; stopping when it pleases raises false alarms",
    }


def _mean(cell: Cell, metric: Metric) -> float | None:
    if cell.n == 0:
        return None
    whole = cell.whole.mean
    if metric.is_ratio:
        return float(whole[0] / whole[1]) if whole[1] else None
    return float(whole[0])


def _verdict(found: dict[str, Any]) -> str:
    if found["lower"] is None:
        return "too few" if (found["note"] or "").startswith("too few") else "not shown"
    if found["lower"] > 0:
        return "higher"
    return "lower" if found["upper"] < 0 else "not shown"
