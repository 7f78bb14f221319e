"""How many units an experiment needs, and what it could see after each week. Formulas are in `experiments/stats/power.py`.

Rules: everything is two-sided and counts units, not requests; the answer is for two arms, of which the treatment gets `share`. An always-valid method
is planned so that it has the power at the planned size; it mostly ends sooner.

Example:
    >>> plan_size(Question(rate=0.10, effect=0.01)).units
    59774
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.stats import group_sequential, power
from experiments.stats.group_sequential import Spending


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be seen.

    Attributes:
        rate: the control's rate, of a proportion; None for a mean.
        sd: standard deviation of a unit's value, of a mean.
        effect: difference to be seen, absolute.
        alpha: two-sided error probability.
        power: probability of seeing it.
        share: the treatment's part of the two arms' units.
        method: `always_valid`, `group_sequential` or `fixed`.
        looks: equally spaced, of `group_sequential`.
        spending: of `group_sequential`.
        correlation: of a covariate from before the exposure.
    """

    effect: float
    rate: float | None = None
    sd: float | None = None
    alpha: float = 0.05
    power: float = 0.8
    share: float = 0.5
    method: str = "always_valid"
    looks: int = 5
    spending: Spending = "obrien_fleming"
    correlation: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a question without an answer. Raises ValueError."""
        if (self.rate is None) == (self.sd is None):
            raise ValueError("either a rate (of a proportion) or a standard deviation (of a mean) is needed")
        if self.method not in ("always_valid", "group_sequential", "fixed"):
            raise ValueError(f"unknown method `{self.method}`; allowed: always_valid, group_sequential, fixed")
        if not 1 <= self.looks <= 50:
            raise ValueError(f"`{self.looks}` looks; 1 to 50 are possible")
        power.allocation_factor(self.share)


@dataclass(frozen=True, slots=True)
class Size:
    """The answer.

    Attributes:
        units: of both arms together.
        control: of them the control's.
        treatment: of them the treatment's.
        fixed_units: what a fixed-size test without a covariate would need.
        method_factor: units over a fixed-size test's.
        covariate_factor: units over those without the covariate.
    """

    units: int
    control: int
    treatment: int
    fixed_units: int
    method_factor: float
    covariate_factor: float


def plan_size(question: Question) -> Size:
    """Units needed. Raises ValueError for impossible rates or effects."""
    ratio = question.share / (1 - question.share)
    levels = {"alpha": question.alpha, "power": question.power, "ratio": ratio}
    if question.rate is not None:
        control = power.units_for_proportions(question.rate, question.rate + question.effect, **levels)
    else:
        control = power.units_for_mean(question.sd or 0.0, question.effect, **levels)
    method, covariate = method_factor(question), power.cuped_factor(question.correlation)
    needed = control * method * covariate
    sizes = math.ceil(needed), math.ceil(needed * ratio)
    return Size(sum(sizes), *sizes, math.ceil(control) + math.ceil(control * ratio), method, covariate)


def detectable(question: Question, units: float) -> float:
    """Smallest effect (in size) seen with the question's power by `units` of both arms; infinite if none is."""
    ratio = question.share / (1 - question.share)
    n = units * (1 - question.share) / method_factor(question) / power.cuped_factor(question.correlation)
    levels = {"alpha": question.alpha, "power": question.power, "ratio": ratio}
    if question.rate is None:
        return power.detectable_difference(question.sd or 0.0, n, **levels)
    if question.effect < 0:
        lower = 1 - power.detectable_rate(1 - question.rate, n, **levels)
        return question.rate - lower if lower > 0 else math.inf
    higher = power.detectable_rate(question.rate, n, **levels)
    return higher - question.rate if higher < 1 else math.inf


def method_factor(question: Question) -> float:
    """Units over those of a fixed-size test, for the same power at the planned size."""
    if question.method == "always_valid":
        inflation = power.always_valid_inflation if question.rate is None else power.always_valid_rate_inflation
        return inflation(question.alpha, question.power)
    if question.method == "group_sequential":
        fractions = [look / question.looks for look in range(1, question.looks + 1)]
        return group_sequential.inflation(fractions, question.alpha, question.power, question.spending)
    return 1.0
