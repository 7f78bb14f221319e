"""`experiments/<name>.yaml` as strict models: what a product manager writes.

Rules: an unknown key is an error; quantities carry their unit (`experiments/quantities.py`); nothing here looks at other files, which is the business
of `experiments/compiler.py`. One file is one experiment; `_layers.yaml` (layers, holdouts) and `_metrics.yaml` (reward metrics) are shared by all.

Built strategies are `ab` and `canary`; any other is refused by name.

Example:
    >>> parse_experiment({"experiment": "credit-ab", "strategy": "ab", ...}).strategy
    'ab'
"""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationInfo, field_validator

from experiments.assignment import RESERVED_ARMS
from experiments.quantities import Breach, Duration, Margin, Probability, Share, Slots

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
STRATEGIES = ("ab", "canary")


class Strict(BaseModel):
    """Base: unknown keys are refused, values are not changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Arm(Strict):
    """One thing compared."""

    version: str = Field(description="Version of the experiment's model.", min_length=1)


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


class Analysis(Strict):
    """How evidence is read."""

    unit: Literal["unit", "call"] = Field(default="unit", description="Analysis unit; it may not be finer than the randomisation unit.")
    alpha: Probability = Field(default=50_000, description="Error probability of promotion, at full strength for each guardrail.")
    alpha_harm: Probability = Field(default=25_000, description="Error probability of rollback, split over guardrails and goal.")


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
    layer: Layer | None = None
    holdout: Name | None = Field(default=None, description="A holdout of `_layers.yaml`.")
    seed: str = Field(
        default="1", min_length=1, max_length=64, description="Part of the salt. A new one reshuffles all units: use it to start afresh."
    )

    @field_validator("analysis")
    @classmethod
    def _analysis_is_not_finer_than_randomisation(cls, analysis: Analysis, info: ValidationInfo) -> Analysis:
        if info.data.get("unit") == "unit" and analysis.unit == "call":
            raise ValueError("`analysis.unit: call` is finer than the randomisation `unit: unit`: calls of one unit are not independent")
        return analysis


def _arms_are_named_well(arms: dict[str, Arm]) -> dict[str, Arm]:
    for name in sorted(RESERVED_ARMS & set(arms)):
        raise ValueError(f"`{name}` is reserved and cannot name an arm")
    if len(arms) < 2:
        raise ValueError("at least two arms are compared")
    return arms


class AbFile(Experiment):
    """Fixed split between arms; guardrails can end it, nothing promotes by itself."""

    strategy: Literal["ab"]
    arms: dict[ArmName, Arm] = Field(description="Arm -> version.", max_length=16)
    split: dict[ArmName, Share] = Field(description="Arm -> share of the exposed units; together exactly 100%.")
    exposure: Share = Field(default=Fraction(1), description="Part of the units that takes part; the rest is served by the control.")
    control: ArmName = Field(default="control", description="Arm the others are compared with.", validate_default=True)

    _named_well = field_validator("arms")(_arms_are_named_well)

    @field_validator("split")
    @classmethod
    def _split_fits_the_arms(cls, split: dict[str, Fraction], info: ValidationInfo) -> dict[str, Fraction]:
        arms = info.data.get("arms")
        if arms is not None and set(split) != set(arms):
            raise ValueError(f"`split` names {_list(split)}, `arms` names {_list(arms)}; they must be the same")
        total = sum(split.values(), Fraction(0))
        if total != 1:
            raise ValueError(f"`split` sums to {float(total * 100):g}%; it must sum to exactly 100%")
        if any(share == 0 for share in split.values()):
            raise ValueError("an arm of `split` has 0%; leave it out of `split` and `arms`")
        return split

    @field_validator("control")
    @classmethod
    def _control_is_an_arm(cls, control: str, info: ValidationInfo) -> str:
        arms = info.data.get("arms")
        if arms is not None and control not in arms:
            raise ValueError(f"the control `{control}` is no arm; set `control` to one of {_list(arms)}")
        return control


class CanaryFile(Experiment):
    """A challenger earns more traffic step by step, against an equally large part of the champion's."""

    strategy: Literal["canary"]
    arms: dict[ArmName, Arm] = Field(description="Exactly `champion` and `challenger`.")
    steps: list[Step] = Field(min_length=1, max_length=32, description="Rising shares of the challenger.")
    guardrails: dict[MetricName, Guardrail] = Field(description="Metric -> how much worse it may get.", min_length=1)
    deadline: Deadline = Field(description="A canary always ends.")

    _named_well = field_validator("arms")(_arms_are_named_well)

    @field_validator("arms")
    @classmethod
    def _arms_are_champion_and_challenger(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        if set(arms) != {"champion", "challenger"}:
            raise ValueError(f"a canary has exactly the arms `champion` and `challenger`, not {_list(arms)}")
        return arms

    @field_validator("steps")
    @classmethod
    def _steps_rise(cls, steps: list[Step]) -> list[Step]:
        for number, (before, after) in enumerate(pairwise(steps), start=1):
            if after.share <= before.share:
                raise ValueError(
                    f"`steps[{number}].share` is {float(after.share * 100):g}% and does not rise above {float(before.share * 100):g}% before it"
                )
        return steps


def _strategy(data: Any) -> str | None:
    named = data.get("strategy") if isinstance(data, dict) else getattr(data, "strategy", None)
    return named if isinstance(named, str) and named in STRATEGIES else None


ExperimentFile = Annotated[
    Annotated[AbFile, Tag("ab")] | Annotated[CanaryFile, Tag("canary")],
    Discriminator(
        _strategy,
        custom_error_type="unknown_strategy",
        custom_error_message="`strategy` must be `ab` or `canary`; no other strategy is built in this version",
    ),
]
ADAPTER: TypeAdapter[AbFile | CanaryFile] = TypeAdapter(ExperimentFile)
"""Validates a file; its `json_schema()` is the published schema."""


class LayerDeclaration(Strict):
    """A layer: its units fall into fixed slots."""

    slots: int = Field(default=1000, ge=2, le=1_000_000, description="How finely the layer can be divided. Changing it moves every unit.")


class HoldoutDeclaration(Strict):
    """Units kept out of every experiment of one model, to measure what experiments gain together."""

    model: Name
    version: str = Field(description="Version that serves held-out units.", min_length=1)
    share: Share
    until: date = Field(description="Last day; a holdout ends.")
    owner: str = Field(min_length=1)


class LayersFile(Strict):
    """`experiments/_layers.yaml`."""

    layers: dict[Name, LayerDeclaration] = Field(default_factory=dict)
    holdouts: dict[Name, HoldoutDeclaration] = Field(default_factory=dict)


class MetricDeclaration(Strict):
    """A metric that arrives as feedback: `{decision_id, metric, value}` with value 0 or 1."""

    type: Literal["proportion"] = Field(description="Each value is 0 or 1.")
    better: Literal["higher", "lower"]


class MetricsFile(Strict):
    """`experiments/_metrics.yaml`."""

    metrics: dict[MetricName, MetricDeclaration] = Field(default_factory=dict)


def parse_experiment(data: Any) -> AbFile | CanaryFile:
    """Read one experiment.

    Args:
        data: the parsed YAML.

    Raises:
        pydantic.ValidationError: with one entry per fault; `loc` starts with the strategy's tag (`ab`, `canary`), then the key path.
    """
    return ADAPTER.validate_python(data)


def json_schema() -> dict[str, Any]:
    """JSON Schema of an experiment file."""
    return ADAPTER.json_schema()


def _list(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
