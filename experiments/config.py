"""`experiments/<name>.yaml` as strict models: what a product manager writes.

Rules: an unknown key is an error; quantities carry their unit (`experiments/quantities.py`); nothing here looks at other files, which is the business
of `experiments/checks.py`. One file is one experiment; `_layers.yaml` (layers, holdouts) and `_metrics.yaml` (reward metrics) are shared by all.

Built strategies are `ab`, `canary`, `shadow`, `blue_green` and `champion_challenger`; any other is refused by name.

Example:
    >>> parse_experiment({"experiment": "credit-ab", "strategy": "ab", ...}).strategy
    'ab'
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationInfo, field_validator

from experiments.parts import (
    Analysis,
    Arm,
    ArmName,
    Deadline,
    Experiment,
    Goal,
    Guardrail,
    MetricName,
    Name,
    ShadowArm,
    Step,
    Strict,
    arms_are_named_well,
    listed,
)
from experiments.quantities import Duration, Price, Probability, Share, Tolerance, ToleranceValue

STRATEGIES = ("ab", "canary", "shadow", "blue_green", "champion_challenger")


class Bucketing(Strict):
    """Assignment as another system does it, for experiments that were begun there."""

    mode: Literal["growthbook-v1", "growthbook-v2", "unleash-murmur3", "flagd-v2"] = Field(description="Whose hash; on the raw unit.")
    seed: str = Field(min_length=1, max_length=256, description="Seed (GrowthBook), groupId (Unleash), flag key (flagd).")
    order: list[ArmName] = Field(min_length=2, max_length=16, description="The arms in the order their ranges have there.")


Variant = Annotated[str, Field(pattern=r"^[!-+.-~-]{1,64}$")]
"""What another system calls an arm: visible ASCII but for the comma, which separates."""


class External(Strict):
    """Assignment by another system, which says with each call which arm it is for (`Assay-Variant`)."""

    system: str = Field(min_length=1, max_length=64, description="Who assigns: the feature-flag product, as reports shall name it.")
    variants: dict[Variant, ArmName] = Field(
        default_factory=dict, max_length=64, description="What it calls an arm -> the arm, where that is not the arm's own name."
    )
    unknown: Literal["refuse", "control"] = Field(
        default="refuse", description="A call that names no arm is refused, or served by the control, recorded so and not compared."
    )


class AbFile(Experiment):
    """Fixed split between arms; guardrails can end it, nothing promotes by itself."""

    strategy: Literal["ab"]
    arms: dict[ArmName, Arm] = Field(description="Arm -> version.", max_length=16)
    external: External | None = None
    split: dict[ArmName, Share] | None = Field(
        default=None,
        validate_default=True,
        description="Arm -> share of the exposed units; together exactly 100%. With `external` what the other system declares, if it does.",
    )
    exposure: Share = Field(default=Fraction(1), description="Part of the units that takes part; the rest is served by the control.")
    control: ArmName = Field(default="control", description="Arm the others are compared with.", validate_default=True)
    bucketing: Bucketing | None = None

    @field_validator("bucketing")
    @classmethod
    def _ranges_fit(cls, bucketing: Bucketing | None, info: ValidationInfo) -> Bucketing | None:
        if bucketing is None:
            return None
        if sorted(bucketing.order) != sorted(info.data.get("arms", ())):
            raise ValueError(f"`order` names {listed(bucketing.order)}; it must name each arm once")
        if info.data.get("external") is not None:
            raise ValueError("`bucketing` is how we draw and `external` who draws instead: leave one out")
        if info.data.get("unit") == "call" or info.data.get("layer") is not None or info.data.get("holdout") is not None:
            raise ValueError("another system's buckets know no draws per call, layers or holdouts of ours")
        return bucketing

    _named_well = field_validator("arms")(arms_are_named_well)

    @field_validator("external")
    @classmethod
    def _external_decides_alone(cls, external: External | None, info: ValidationInfo) -> External | None:
        if external is None:
            return None
        unknown = sorted(set(external.variants.values()) - set(info.data.get("arms", external.variants.values())))
        if unknown:
            raise ValueError(f"`variants` leads to {listed(unknown)}, which is no arm; allowed: {listed(info.data['arms'])}")
        for name, arm in external.variants.items():
            if name in info.data.get("arms", ()) and name != arm:
                raise ValueError(f"`{name}` is an arm and cannot mean another one, `{arm}`")
        if info.data.get("unit") == "call":
            raise ValueError("that calls are drawn one by one only the other system could know: leave `unit: call` out")
        for key in ("layer", "holdout"):
            if info.data.get(key) is not None:
                raise ValueError(f"whom it draws the other system decides: leave `{key}` out")
        return external

    @field_validator("exposure")
    @classmethod
    def _exposure_is_the_other_systems(cls, exposure: Fraction, info: ValidationInfo) -> Fraction:
        if info.data.get("external") is not None and exposure != 1:
            raise ValueError("who takes part the other system decides: leave `exposure` out")
        return exposure

    @field_validator("split")
    @classmethod
    def _split_fits_the_arms(cls, split: dict[str, Fraction] | None, info: ValidationInfo) -> dict[str, Fraction] | None:
        if split is None:
            if info.data.get("external") is None:
                raise ValueError("is missing: the share of each arm, together exactly 100%")
            return None
        arms = info.data.get("arms")
        if arms is not None and set(split) != set(arms):
            raise ValueError(f"`split` names {listed(split)}, `arms` names {listed(arms)}; they must be the same")
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
            raise ValueError(f"the control `{control}` is no arm; set `control` to one of {listed(arms)}")
        return control


def _arms_are_champion_and_challenger(arms: dict[str, Arm]) -> dict[str, Arm]:
    if set(arms) != {"champion", "challenger"}:
        raise ValueError(f"there are exactly the arms `champion` and `challenger`, not {listed(arms)}")
    return arms


class CanaryFile(Experiment):
    """A challenger earns more traffic step by step, against an equally large part of the champion's."""

    strategy: Literal["canary"]
    arms: dict[ArmName, Arm] = Field(description="Exactly `champion` and `challenger`.")
    steps: list[Step] = Field(min_length=1, max_length=32, description="Rising shares of the challenger.")
    guardrails: dict[MetricName, Guardrail] = Field(description="Metric -> how much worse it may get.", min_length=1)
    deadline: Deadline = Field(description="A canary always ends.")

    _named_well = field_validator("arms")(arms_are_named_well)
    _two = field_validator("arms")(_arms_are_champion_and_challenger)

    @field_validator("steps")
    @classmethod
    def _steps_rise(cls, steps: list[Step]) -> list[Step]:
        for number, (before, after) in enumerate(pairwise(steps), start=1):
            if after.share <= before.share:
                raise ValueError(
                    f"`steps[{number}].share` is {float(after.share * 100):g}% and does not rise above {float(before.share * 100):g}% before it"
                )
        return steps


class ComparedPart(Strict):
    """One place of the champion's and the shadow's reply that is compared."""

    kind: Literal["label", "number", "json", "text"] = Field(
        description="`label`: equal or not. `number`: within `tolerance`, also lists of numbers. `json`: equal in structure and content. "
        "`text`: the same words, whatever their order and case, up to `tolerance`."
    )
    at: str = Field(default="", pattern=r"^(/.*)?$", max_length=512, description="JSON Pointer into both replies; empty is the whole reply.")
    tolerance: Tolerance | None = Field(
        default=None, description="Of `number`: `0.01` in the value's unit, or `1%` of the champion's. Of `text`: `10%` of the words."
    )
    max_disagreement: Probability = Field(description="Part of the compared calls that may disagree, for example `1%`.")

    @field_validator("tolerance")
    @classmethod
    def _tolerance_fits_the_kind(cls, tolerance: ToleranceValue | None, info: ValidationInfo) -> ToleranceValue | None:
        kind = info.data.get("kind")
        if tolerance is not None and kind in ("label", "json"):
            raise ValueError(f"a `{kind}` is equal or not; leave `tolerance` out")
        if tolerance is not None and kind == "text" and not tolerance.relative:
            raise ValueError("the tolerance of a `text` is a part of its words: write `10%`")
        return tolerance


class Budget(Strict):
    """What a shadow may cost, all workers together."""

    per_second: int = Field(default=20, ge=1, le=100_000, description="Mirrored calls a second; what comes above is left out and counted.")
    per_day: int = Field(default=0, ge=0, le=1_000_000_000, description="Mirrored calls a day (UTC); 0 is unlimited.")
    cost_per_day: Price | None = Field(
        default=None,
        gt=0,
        description="What mirrored calls may cost a day (UTC), in the currency of the model's `cost`; without it they are not limited by cost.",
    )


class Follow(Strict):
    """What happens once every limit is proven kept."""

    start: Name = Field(description="An experiment with `start: manual` that has never run; it is started then.")


class ShadowFile(Experiment):
    """A second version gets copies of calls; nobody gets its replies, which are compared with the champion's."""

    strategy: Literal["shadow"]
    arms: dict[ArmName, ShadowArm] = Field(description="Exactly `champion` and `shadow`; the champion may be a person.")
    decided_within: Duration | None = Field(
        default=None, description="With a person as champion: how long after the call their decision may come; only then a call is counted."
    )
    unit: Literal["call"] = Field(default="call", description="Which calls are mirrored is drawn for every call by itself.")
    analysis: Analysis = Field(default_factory=lambda: Analysis(unit="call"))
    share: Share = Field(description="Part of the champion's calls that is mirrored.")
    timeout: Duration = Field(default=10_000_000, description="Longest wait for the shadow's reply; longer counts as a failure.")
    budget: Budget = Field(default_factory=Budget)
    compare: dict[MetricName, ComparedPart] = Field(description="Name -> what of the replies is compared.", min_length=1, max_length=16)
    min_pairs: int = Field(default=200, ge=1, le=100_000_000, description="Compared calls before it may end as proven.")
    hold: Duration = Field(default=0, description="Least time before it may end as proven.")
    deadline: Deadline = Field(description="A shadow always ends.")
    then: Follow | None = None

    _named_well = field_validator("arms")(arms_are_named_well)

    @field_validator("arms")
    @classmethod
    def _arms_are_champion_and_shadow(cls, arms: dict[str, ShadowArm]) -> dict[str, ShadowArm]:
        if set(arms) != {"champion", "shadow"}:
            raise ValueError(f"a shadow has exactly the arms `champion` and `shadow`, not {listed(arms)}")
        if arms["shadow"].person:
            raise ValueError("only the champion can be a person: the shadow is a version")
        return arms

    @field_validator("share")
    @classmethod
    def _mirrors_something(cls, share: Fraction) -> Fraction:
        if not 0 < share <= 1:
            raise ValueError("`share` lies above 0% and at most 100%")
        return share

    @field_validator("timeout")
    @classmethod
    def _waits_for_a_bounded_time(cls, timeout_us: int) -> int:
        if not 1_000 <= timeout_us <= 600_000_000:
            raise ValueError("`timeout` lies between 1ms and 10m")
        return timeout_us

    @field_validator("guardrails")
    @classmethod
    def _guardrails_are_of_pairs(cls, guardrails: dict[str, Guardrail]) -> dict[str, Guardrail]:
        for name, guardrail in guardrails.items():
            if name == "errors" and guardrail.max_harm.unit != "pp":
                raise ValueError("`errors` of a shadow are calls that only it failed: write `max_harm` in pp")
            if name == "errors" and not 0 < guardrail.max_harm.amount < 1_000_000:
                raise ValueError("`errors.max_harm` lies above 0pp and below 100pp")
        return guardrails

    @field_validator("goal", "breaker", "layer", "holdout")
    @classmethod
    def _splits_nothing(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            raise ValueError(f"a shadow serves nobody, so it has no `{info.field_name}`")
        return value


class ChampionChallengerFile(Experiment):
    """A challenger takes over when it is proven better, nothing else proven worse, and no declared segment shown to lose."""

    strategy: Literal["champion_challenger"]
    arms: dict[ArmName, Arm] = Field(description="Exactly `champion` and `challenger`.")
    share: Share = Field(description="Part of the units the challenger gets, at most 50%; as much of the champion's is compared with it.")
    hold: Duration = Field(default=0, description="Least time before it may be promoted.")
    min_units: int = Field(default=100, ge=1, le=100_000_000, description="Units each arm must have served before it may be promoted.")
    approve: Name | None = Field(default=None, description="Who must approve before it is promoted: a person of the trust root, or `approver`.")
    goal: Goal = Field(description="The primary metric: promotion needs proof that the challenger is better.")
    guardrails: dict[MetricName, Guardrail] = Field(description="Metric -> how much worse it may get; promotion needs proof for each.", min_length=1)
    deadline: Deadline = Field(description="It always ends.")

    _named_well = field_validator("arms")(arms_are_named_well)
    _two = field_validator("arms")(_arms_are_champion_and_challenger)

    @field_validator("share")
    @classmethod
    def _is_compared(cls, share: Fraction) -> Fraction:
        if not 0 < share <= Fraction(1, 2):
            raise ValueError("`share` lies above 0% and at most 50%: above it arms are not compared")
        return share


class Verify(Strict):
    """What has to be proven before the switch."""

    shadow: Name = Field(description="A shadow of the same two versions; the switch waits until all its limits are proven kept.")


class BlueGreenFile(Experiment):
    """Everyone switches to green at once, and back in one command; blue stays warm."""

    strategy: Literal["blue_green"]
    arms: dict[ArmName, Arm] = Field(description="Exactly `blue` (the model's default version) and `green`.")
    verify: Verify | None = None
    keep_blue_warm: Duration = Field(default=86_400_000_000, description="How long after the switch the breaker sends everyone back by itself.")

    _named_well = field_validator("arms")(arms_are_named_well)

    @field_validator("arms")
    @classmethod
    def _arms_are_blue_and_green(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        if set(arms) != {"blue", "green"}:
            raise ValueError(f"a blue-green switch has exactly the arms `blue` and `green`, not {listed(arms)}")
        return arms

    @field_validator("goal", "guardrails", "holdout")
    @classmethod
    def _compares_nothing(cls, value: Any, info: ValidationInfo) -> Any:
        if value:
            raise ValueError(f"a switch compares nothing, so it has no `{info.field_name}`; use a shadow before it, or a canary instead")
        return value


def _strategy(data: Any) -> str | None:
    named = data.get("strategy") if isinstance(data, dict) else getattr(data, "strategy", None)
    return named if isinstance(named, str) and named in STRATEGIES else None


ExperimentFile = Annotated[
    Annotated[AbFile, Tag("ab")]
    | Annotated[CanaryFile, Tag("canary")]
    | Annotated[ShadowFile, Tag("shadow")]
    | Annotated[BlueGreenFile, Tag("blue_green")]
    | Annotated[ChampionChallengerFile, Tag("champion_challenger")],
    Discriminator(
        _strategy,
        custom_error_type="unknown_strategy",
        custom_error_message="`strategy` must be `ab`, `canary`, `shadow`, `blue_green` or `champion_challenger`; no other is built in this version",
    ),
]
AnyExperimentFile = AbFile | CanaryFile | ShadowFile | BlueGreenFile | ChampionChallengerFile
ADAPTER: TypeAdapter[AnyExperimentFile] = TypeAdapter(ExperimentFile)
"""Validates a file; its `json_schema()` is the published schema."""


def parse_experiment(data: Any) -> AnyExperimentFile:
    """Read one experiment.

    Args:
        data: the parsed YAML.

    Raises:
        pydantic.ValidationError: with one entry per fault; `loc` starts with the strategy's tag (`ab`, `canary`, `shadow`), then the key path.
    """
    return ADAPTER.validate_python(data)


def json_schema() -> dict[str, Any]:
    """JSON Schema of an experiment file."""
    return ADAPTER.json_schema()
