"""`experiments/<name>.yaml` as strict models: what a product manager writes.

Rules: an unknown key is an error; quantities carry their unit (`experiments/quantities.py`); nothing here looks at other files, which is the business
of `experiments/compiler.py`. One file is one experiment; `_layers.yaml` (layers, holdouts) and `_metrics.yaml` (reward metrics) are shared by all.

Built strategies are `ab`, `canary`, `shadow`, `blue_green` and `champion_challenger`; any other is refused by name.

Example:
    >>> parse_experiment({"experiment": "credit-ab", "strategy": "ab", ...}).strategy
    'ab'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictInt, Tag, TypeAdapter, ValidationInfo, field_validator, model_validator

from experiments.assignment import RESERVED_ARMS
from experiments.document import MetricSource, MetricType, Missing
from experiments.quantities import Breach, Duration, Margin, Probability, Share, Slots, Tolerance, ToleranceValue

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
Attribute = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
STRATEGIES = ("ab", "canary", "shadow", "blue_green", "champion_challenger")

BUILT_IN_NAMES = frozenset({"errors", "diverted", "error_rate", "accuracy"})
"""Metrics that need no declaration, beside latency quantiles `p10_ms` to `p99_ms`."""
_LATENCY_NAME = re.compile(r"^p([1-9][0-9])_ms$")


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


def _arms_are_named_well(arms: dict[str, _SomeArm]) -> dict[str, _SomeArm]:
    for name in sorted(RESERVED_ARMS & set(arms)):
        raise ValueError(f"`{name}` is reserved and cannot name an arm")
    if len(arms) < 2:
        raise ValueError("at least two arms are compared")
    return arms


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
            raise ValueError(f"`order` names {_list(bucketing.order)}; it must name each arm once")
        if info.data.get("external") is not None:
            raise ValueError("`bucketing` is how we draw and `external` who draws instead: leave one out")
        if info.data.get("unit") == "call" or info.data.get("layer") is not None or info.data.get("holdout") is not None:
            raise ValueError("another system's buckets know no draws per call, layers or holdouts of ours")
        return bucketing

    _named_well = field_validator("arms")(_arms_are_named_well)

    @field_validator("external")
    @classmethod
    def _external_decides_alone(cls, external: External | None, info: ValidationInfo) -> External | None:
        if external is None:
            return None
        unknown = sorted(set(external.variants.values()) - set(info.data.get("arms", external.variants.values())))
        if unknown:
            raise ValueError(f"`variants` leads to {_list(unknown)}, which is no arm; allowed: {_list(info.data['arms'])}")
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


def _arms_are_champion_and_challenger(arms: dict[str, Arm]) -> dict[str, Arm]:
    if set(arms) != {"champion", "challenger"}:
        raise ValueError(f"there are exactly the arms `champion` and `challenger`, not {_list(arms)}")
    return arms


class CanaryFile(Experiment):
    """A challenger earns more traffic step by step, against an equally large part of the champion's."""

    strategy: Literal["canary"]
    arms: dict[ArmName, Arm] = Field(description="Exactly `champion` and `challenger`.")
    steps: list[Step] = Field(min_length=1, max_length=32, description="Rising shares of the challenger.")
    guardrails: dict[MetricName, Guardrail] = Field(description="Metric -> how much worse it may get.", min_length=1)
    deadline: Deadline = Field(description="A canary always ends.")

    _named_well = field_validator("arms")(_arms_are_named_well)
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

    _named_well = field_validator("arms")(_arms_are_named_well)

    @field_validator("arms")
    @classmethod
    def _arms_are_champion_and_shadow(cls, arms: dict[str, ShadowArm]) -> dict[str, ShadowArm]:
        if set(arms) != {"champion", "shadow"}:
            raise ValueError(f"a shadow has exactly the arms `champion` and `shadow`, not {_list(arms)}")
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
            if name != "errors" and _LATENCY_NAME.match(name) is None:
                raise ValueError(f"`{name}` cannot be seen in mirrored calls; a shadow's guardrails are `errors` and latencies such as `p95_ms`")
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

    _named_well = field_validator("arms")(_arms_are_named_well)
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

    _named_well = field_validator("arms")(_arms_are_named_well)

    @field_validator("arms")
    @classmethod
    def _arms_are_blue_and_green(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        if set(arms) != {"blue", "green"}:
            raise ValueError(f"a blue-green switch has exactly the arms `blue` and `green`, not {_list(arms)}")
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


SOURCES: Mapping[MetricSource, tuple[MetricType, ...]] = {
    "feedback": ("proportion", "mean", "count", "ratio", "quantile"),
    "labels": ("proportion",),
    "errors": ("proportion",),
    "latency": ("mean", "ratio", "quantile"),
    "rows": ("mean", "ratio", "quantile"),
    "bytes_in": ("mean", "ratio", "quantile"),
    "bytes_out": ("mean", "ratio", "quantile"),
}
"""Where a metric's values come from -> what can be made of them. A unit has one call that counts, so what a call says of itself is not counted up."""


class MetricDeclaration(Strict):
    """A metric: what it is made of, and which way is better."""

    type: MetricType = Field(
        description="`proportion`: each value is 0 or 1. `mean`: a number. `count`: numbers of distinct events, summed. "
        "`ratio`: over another metric. `quantile`: how far out a tail of the numbers lies."
    )
    source: MetricSource = Field(
        default="feedback",
        alias="from",
        description="`feedback` (`POST /feedback`), or what the record of a call says: `labels` (wrong predictions), `errors`, `latency` (ms), "
        "`rows`, `bytes_in`, `bytes_out`.",
    )
    better: Literal["higher", "lower"]
    quantile: Probability | None = Field(default=None, description="Of a `quantile`: which, for example `95%`.")
    per: MetricName | None = Field(default=None, description="Of a `ratio`: the declared metric below the line.")
    range: tuple[Decimal, Decimal] | None = Field(default=None, description="Least and largest value, `[0, 500]`; others are counted and not used.")
    window: Duration | None = Field(
        default=None,
        description="How long after the decision it may come; only units whose window has closed count, and what comes later is not used.",
    )
    missing: Missing = Field(
        default="drop", description="What a unit counts as whose window closed without it; `refuse` judges nothing while there is such a unit."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MetricDeclaration:
        allowed = SOURCES[self.source]
        if self.type not in allowed:
            raise ValueError(f"`from: {self.source}` gives no `{self.type}`; it gives {_list(allowed)}")
        if self.source in ("latency", "errors", "labels") and self.better != "lower":
            raise ValueError(f"`from: {self.source}` counts what is better when lower")
        if (self.type == "ratio") != (self.per is not None):
            raise ValueError("a `ratio`, and nothing else, names what it is `per`")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("`range` goes from the least to the largest value")
        self._quantile_fits()
        self._window_fits()
        return self

    def _quantile_fits(self) -> None:
        if (self.type == "quantile") != (self.quantile is not None):
            raise ValueError("a `quantile`, and nothing else, says which: `quantile: 95%`")
        if self.quantile is None:
            return
        if not 1_000 <= self.quantile <= 999_000:
            raise ValueError("`quantile` lies between 0.1% and 99.9%: further out nothing is ever seen")
        if self.source == "latency" and self.quantile < 500_000:
            raise ValueError("a `quantile` of a latency is at least 50%")
        if self.source == "feedback" and self.window is None:
            raise ValueError("a `quantile` of feedback needs a `window`: which units fix its threshold must not depend on who answers first")

    def _window_fits(self) -> None:
        if self.source != "feedback" and (self.window is not None or self.missing != "drop"):
            raise ValueError(f"`window` and `missing` are about feedback; `from: {self.source}` comes with the call")
        if self.missing == "zero" and (self.window is None or self.type == "ratio"):
            raise ValueError("`missing: zero` needs a `window`, and makes no sense of a ratio")
        if self.missing == "refuse" and self.window is None:
            raise ValueError("`missing: refuse` needs a `window`: before it closes, nothing is missing")


class MetricsFile(Strict):
    """`experiments/_metrics.yaml`."""

    metrics: dict[MetricName, MetricDeclaration] = Field(default_factory=dict)

    @field_validator("metrics")
    @classmethod
    def _names_are_free(cls, metrics: dict[str, MetricDeclaration]) -> dict[str, MetricDeclaration]:
        for name in metrics:
            if name in BUILT_IN_NAMES or _LATENCY_NAME.match(name) is not None:
                raise ValueError(f"`{name}` is built in; choose another name")
        return metrics


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


def _list(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
