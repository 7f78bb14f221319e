"""What files of `experiments/` are made of: names, arms, guardrails, steps, targeting rules, and the keys that every experiment has.

Nothing here looks at other files; `experiments/config.py` puts the parts together, strategy by strategy.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationInfo, field_validator, model_validator

from experiments.assignment import RESERVED_ARMS
from experiments.quantities import Breach, Duration, Margin, Probability, Share, Slots

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]


ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]


Attribute = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


BUILT_IN_NAMES = frozenset({"errors", "diverted", "error_rate", "accuracy"})
"""Metrics that need no declaration, beside latency quantiles `p10_ms` to `p99_ms`."""


LATENCY_NAME = re.compile(r"^p([1-9][0-9])_ms$")


class Strict(BaseModel):
    """Base: unknown keys are refused, values are not changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Arm(Strict):
    """One thing compared."""

    version: str = Field(description="Version of the experiment's model.", min_length=1)


class ShadowArm(Arm):
    """One side of a shadow: a version, or as champion the people who decide."""

    version: str = Field(default="", description="Version of the experiment's model.")
    person: str = Field(
        default="", max_length=64, description="Of the champion: who decides later, by `{decision_id, human_decision}` at `/feedback`."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> ShadowArm:
        if bool(self.version) == bool(self.person):
            raise ValueError("an arm of a shadow has a `version`, or as champion a `person`")
        return self


_SomeArm = TypeVar("_SomeArm", bound=Arm)


class Guardrail(Strict):
    """A metric that must not get worse."""

    max_harm: Margin = Field(description="How much worse is acceptable: `0.5pp` of the rate, `10%` of the control's value, `20ms`.")
    on_harm: Literal["rollback", "hold"] = Field(default="rollback", description="What proven harm does.")


class Goal(Strict):
    """What the experiment is for."""

    metric: MetricName = Field(description="A built-in metric or one of `_metrics.yaml`.")
    margin: Margin = Field(description="Non-inferiority margin: promotion needs proof that the treatment is not worse by this much.")


class Breaker(Strict):
    """An absolute limit, beside the statistics."""

    errors: Breach = Field(description="Trips when more calls of a treatment fail than this, for example `> 5% over 2m`.")
    min_calls: int = Field(default=20, ge=1, le=1_000_000, description="Calls in the window below which it does not trip.")
    action: Literal["rollback", "hold"] = Field(default="rollback", description="What tripping does.")


class Deadline(Strict):
    """When it ends at the latest."""

    after: Duration = Field(description="Since the start, for example `7d`.")
    then: Literal["rollback", "hold", "stop"] = Field(default="rollback", description="What happens if nothing was decided by then.")


class Step(Strict):
    """One exposure of a canary."""

    share: Share = Field(description="Part of the traffic the challenger gets; as much of the champion's is compared with it.")
    hold: Duration = Field(description="Least time on this step.")
    min_units: int = Field(default=100, ge=1, le=100_000_000, description="Units each arm must have served before the next step.")
    approve: Name | None = Field(
        default=None, description="Who must approve before this step is left: a person of the trust root, or `approver` for any of them."
    )

    @field_validator("share")
    @classmethod
    def _neither_nothing_nor_everything(cls, share: Fraction) -> Fraction:
        if not 0 < share <= Fraction(95, 100):
            raise ValueError("a step's share lies above 0% and at most 95% (the last 5% stay with the champion); promotion gives it all")
        return share


class Layer(Strict):
    """Mutually exclusive experiments: this one owns fixed slots."""

    name: Name = Field(description="A layer of `_layers.yaml`.")
    slots: Slots = Field(description="First and last slot, `0-499`. Slots never move between running experiments.")


Value = str | int | bool
"""What an attribute may be; numbers are whole."""


class Condition(Strict):
    """One rule over an attribute; exactly one key."""

    in_: list[Value] | None = Field(default=None, alias="in", description="One of these values.", min_length=1, max_length=1000)
    not_: Value | list[Value] | None = Field(default=None, alias="not", description="None of these values; a missing attribute is not enough.")
    is_: Value | None = Field(default=None, alias="is", description="Exactly this value: text, a whole number, true or false.")
    at_least: StrictInt | None = Field(default=None, description="A whole number from here on.")
    below: StrictInt | None = Field(default=None, description="A whole number under this.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Condition:
        if len(self.model_fields_set) != 1 or next(iter(self.model_dump(include=self.model_fields_set).values())) is None:
            raise ValueError("a rule has exactly one of `in`, `not`, `is`, `at_least`, `below`, with a value")
        return self


Rules = dict[Attribute, Condition]


class Analysis(Strict):
    """How evidence is read."""

    unit: Literal["unit", "call"] = Field(default="unit", description="Analysis unit; it may not be finer than the randomisation unit.")
    alpha: Probability = Field(default=50_000, description="Error probability of promotion, at full strength for each guardrail.")
    alpha_harm: Probability = Field(default=25_000, description="Error probability of rollback, split over guardrails and goal.")

    @field_validator("alpha", "alpha_harm")
    @classmethod
    def _is_of_being_wrong(cls, ppm: int) -> int:
        if ppm > 500_000:
            raise ValueError(
                f"is the probability of being wrong, at most 50%, not that of being right; for 95 % confidence write `5%`, not `{ppm / 1e4:g}%`"
            )
        return ppm


class Experiment(Strict):
    """What every strategy has."""

    experiment: Name = Field(description="Name; the file is called the same.")
    model: Name = Field(description="Model (file of `config/models/`) whose calls are split.")
    owner: str = Field(default="", description="Who answers for it.")
    hypothesis: str = Field(default="", description="What is expected, in a sentence; it is part of the record.")
    start: Literal["auto", "manual"] = Field(
        default="auto", description="`auto`: it starts when it is configured. `manual`: it is a draft until someone starts it."
    )
    unit: Literal["unit", "call"] = Field(default="unit", description="Randomisation unit: `unit` keeps a unit's arm, `call` draws for every call.")
    analysis: Analysis = Field(default_factory=Analysis)
    guardrails: dict[MetricName, Guardrail] = Field(default_factory=dict, description="Metric -> how much worse it may get.")
    goal: Goal | None = Field(default=None, description="What promotion rests on beside the guardrails.")
    breaker: Breaker | None = None
    deadline: Deadline | None = None
    who: Rules = Field(
        default_factory=dict, description="Whom it is for: rules over attributes of `Assay-Context`, and `tenant`; all must hold.", max_length=16
    )
    exclude: dict[Name, Rules] = Field(
        default_factory=dict, description="Who takes no part, by the name it is recorded under: opt-outs, objections.", max_length=16
    )
    segments: dict[Attribute, list[str]] = Field(
        default_factory=dict, description="Attributes that results are told by, each with the values told apart.", max_length=4
    )
    layer: Layer | None = None
    holdout: Name | None = Field(default=None, description="A holdout of `_layers.yaml`.")
    seed: str = Field(
        default="1", min_length=1, max_length=64, description="Part of the salt. A new one reshuffles all units: use it to start afresh."
    )

    @field_validator("exclude")
    @classmethod
    def _exclusions_say_whom(cls, exclude: dict[str, Rules]) -> dict[str, Rules]:
        for name, rules in exclude.items():
            if not rules:
                raise ValueError(f"the exclusion `{name}` has no rule and would take everyone out")
        return exclude

    @field_validator("segments")
    @classmethod
    def _segments_are_few(cls, segments: dict[str, list[str]]) -> dict[str, list[str]]:
        for attribute, values in segments.items():
            if not 0 < len(values) <= 20 or len(set(values)) != len(values) or {"other", "unknown"} & set(values):
                raise ValueError(f"`{attribute}` names 1 to 20 different values; `other` and `unknown` are told by themselves")
        return segments

    @field_validator("analysis")
    @classmethod
    def _analysis_is_not_finer_than_randomisation(cls, analysis: Analysis, info: ValidationInfo) -> Analysis:
        if info.data.get("unit") == "unit" and analysis.unit == "call":
            raise ValueError("`analysis.unit: call` is finer than the randomisation `unit: unit`: calls of one unit are not independent")
        return analysis


def arms_are_named_well(arms: dict[str, _SomeArm]) -> dict[str, _SomeArm]:
    for name in sorted(RESERVED_ARMS & set(arms)):
        raise ValueError(f"`{name}` is reserved and cannot name an arm")
    if len(arms) < 2:
        raise ValueError("at least two arms are compared")
    return arms


def listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
