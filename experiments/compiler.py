"""From a checked file to a compiled document.

`compile_experiment` is deterministic: same file, same bytes. The salt is SHA-256 of (name, seed), stated in the document and committed when the
experiment starts; a fresh `seed` is the way to reshuffle.

A canary that gives the challenger r exposes 2r of the units and splits them evenly, so that equally large, equally fresh sets are compared; above
50 % everyone is exposed, the split moves, and the step is watched by breakers rather than tested (semantics.md 4.6).

Example:
    >>> document = compile_experiment(parse_experiment(data), layers, metrics)
"""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256
from typing import Literal

from msgspec import UNSET, UnsetType

from experiments.bucketing import encode_parts
from experiments.checks import ModelFacts
from experiments.config import AbFile, AnyExperimentFile, BlueGreenFile, CanaryFile, ChampionChallengerFile, ShadowFile
from experiments.document import (
    BreakerDocument,
    BucketingDocument,
    DrawMode,
    ExclusionDocument,
    ExperimentDocument,
    ExternalDocument,
    HoldoutDocument,
    LayerDocument,
    MetricDocument,
    OnHarm,
    PartDocument,
    RuleDocument,
    ShadowDocument,
    StepDocument,
)
from experiments.parts import LATENCY_NAME, Condition, Rules, Step
from experiments.quantities import MarginValue
from experiments.shared_files import BUILT_IN, NO_LAYERS, NO_METRICS, LayersFile, MetricDeclaration, MetricsFile
from experiments.shares import WHOLE, integer_shares, share_of
from experiments.targeting import spelled


def compile_experiment(
    file: AnyExperimentFile, layers: LayersFile = NO_LAYERS, metrics: MetricsFile = NO_METRICS, model: ModelFacts | None = None
) -> ExperimentDocument:
    """Compile a file that `check` found no fault with.

    Args:
        file: the experiment.
        layers: `_layers.yaml`.
        metrics: `_metrics.yaml`.
        model: what is known of the model: the currency of its prices, and whose labels are ever seen.

    Raises:
        ValueError: a metric, layer or holdout is unknown; `check` says so with its place.
    """
    control = file.control if isinstance(file, AbFile) else "blue" if isinstance(file, BlueGreenFile) else "champion"
    goal = None if file.goal is None else _metric(file.goal.metric, file.goal.margin, "rollback", metrics, model)
    return ExperimentDocument(
        experiment=file.experiment,
        strategy=file.strategy,
        model=file.model,
        owner=file.owner,
        hypothesis=file.hypothesis,
        arms={name: file.arms[name].version for name in sorted(file.arms)},
        control=control,
        sticky="unit" if file.unit == "unit" else "none",
        salt=salt_of(file.experiment, file.seed),
        seed=file.seed,
        mode=_mode(file),
        steps=_steps(file),
        guardrails=tuple(_metric(name, guardrail.max_harm, guardrail.on_harm, metrics, model) for name, guardrail in sorted(file.guardrails.items())),
        goal=goal,
        alpha_ppm=file.analysis.alpha,
        alpha_harm_ppm=file.analysis.alpha_harm,
        breaker=None
        if file.breaker is None
        else BreakerDocument(
            above_ppm=file.breaker.errors.above_ppm,
            window_us=file.breaker.errors.window_us,
            min_calls=file.breaker.min_calls,
            action=file.breaker.action,
        ),
        deadline_us=None if file.deadline is None else file.deadline.after,
        deadline_then="stop" if file.deadline is None else file.deadline.then,
        layer=_layer(file, layers),
        holdout=_holdout(file, layers),
        who=_rules(file.who),
        exclude=tuple(ExclusionDocument(name=name, rules=_rules(rules)) for name, rules in file.exclude.items()),
        segments={attribute: tuple(values) for attribute, values in sorted(file.segments.items())},
        start=file.start,
        shadow=_shadow(file) if isinstance(file, ShadowFile) else None,
        bucketing=BucketingDocument(seed=file.bucketing.seed, order=tuple(file.bucketing.order))
        if isinstance(file, AbFile) and file.bucketing is not None
        else None,
        external=_external(file),
        verify_shadow=file.verify.shadow if isinstance(file, BlueGreenFile) and file.verify is not None else None,
        keep_warm_us=file.keep_blue_warm if isinstance(file, BlueGreenFile) else 0,
    )


def _rules(rules: Rules) -> tuple[RuleDocument, ...]:
    return tuple(_rule(attribute, rules[attribute]) for attribute in sorted(rules))


def _rule(attribute: str, condition: Condition) -> RuleDocument:
    if condition.at_least is not None:
        return RuleDocument(attribute=attribute, op="at_least", bound=condition.at_least)
    if condition.below is not None:
        return RuleDocument(attribute=attribute, op="below", bound=condition.below)
    if condition.not_ is not None:
        values = condition.not_ if isinstance(condition.not_, list) else [condition.not_]
        return RuleDocument(attribute=attribute, op="not", values=tuple(sorted(map(spelled, values))))
    chosen = condition.in_ if condition.in_ is not None else [] if condition.is_ is None else [condition.is_]
    return RuleDocument(attribute=attribute, op="in", values=tuple(sorted(map(spelled, chosen))))


def salt_of(name: str, seed: str) -> str:
    """Salt of an experiment: 32 hex digits of SHA-256 over name and seed."""
    return sha256(encode_parts(("assay experiment", name, seed))).hexdigest()[:32]


def _steps(file: AnyExperimentFile) -> tuple[StepDocument, ...]:
    if isinstance(file, AbFile):
        return _ab_steps(file)
    if isinstance(file, CanaryFile):
        return tuple(map(_canary_step, file.steps))
    if isinstance(file, ChampionChallengerFile):
        return (_canary_step(Step.model_construct(share=file.share, hold=file.hold, min_units=file.min_units, approve=file.approve)),)
    if isinstance(file, BlueGreenFile):
        return (StepDocument(exposure=0, shares={"blue": WHOLE, "green": 0}, hold_us=0, min_units=0),)
    # Of the calls of everyone the share is mirrored; whoever calls is served by the champion.
    return (StepDocument(exposure=share_of(file.share), shares={"champion": WHOLE, "shadow": 0}, hold_us=file.hold, min_units=file.min_pairs),)


def _shadow(file: ShadowFile) -> ShadowDocument:
    return ShadowDocument(
        compare=tuple(
            PartDocument(
                name=name,
                kind=part.kind,
                at=part.at,
                tolerance_ppm=0 if part.tolerance is None else part.tolerance.ppm,
                relative=part.tolerance is not None and part.tolerance.relative,
                max_disagreement_ppm=part.max_disagreement,
            )
            for name, part in sorted(file.compare.items())
        ),
        timeout_us=file.timeout,
        per_second=file.budget.per_second,
        per_day=file.budget.per_day,
        cost_per_day_nano=file.budget.cost_per_day or 0,
        then_start=None if file.then is None else file.then.start,
        person=file.arms["champion"].person,
        decided_within_us=file.decided_within or 0,
    )


def _mode(file: AnyExperimentFile) -> DrawMode:
    if not isinstance(file, AbFile):
        return "native"
    if file.external is not None:
        return "external"
    return "native" if file.bucketing is None else file.bucketing.mode


def _external(file: AnyExperimentFile) -> ExternalDocument | None:
    if not isinstance(file, AbFile) or file.external is None:
        return None
    variants = {**{arm: arm for arm in file.arms}, **file.external.variants}
    return ExternalDocument(system=file.external.system, variants=dict(sorted(variants.items())), unknown=file.external.unknown)


def _ab_steps(file: AbFile) -> tuple[StepDocument, ...]:
    shares = {} if file.split is None else integer_shares(file.split)
    return (StepDocument(exposure=share_of(file.exposure), shares=shares, hold_us=0, min_units=0),)


def _canary_step(step: Step) -> StepDocument:
    tested = step.share <= Fraction(1, 2)
    challenger = Fraction(1, 2) if tested else step.share
    return StepDocument(
        exposure=min(WHOLE, 2 * share_of(step.share)) if tested else WHOLE,
        shares=integer_shares({"champion": 1 - challenger, "challenger": challenger}),
        hold_us=step.hold,
        min_units=step.min_units,
        approve=step.approve,
        tested=tested,
    )


def _metric(name: str, margin: MarginValue, on_harm: OnHarm, metrics: MetricsFile, model: ModelFacts | None) -> MetricDocument:
    if (latency := LATENCY_NAME.match(name)) is not None:
        return MetricDocument(
            metric=name,
            kind="latency",
            better="lower",
            quantile_ppm=int(latency[1]) * 10_000,
            margin=margin.amount,
            margin_unit=margin.unit,
            on_harm=on_harm,
        )
    if name in BUILT_IN:
        kind, better = BUILT_IN[name]
        return MetricDocument(
            metric=name,
            kind=kind,
            better=better,
            margin=margin.amount,
            margin_unit=margin.unit,
            on_harm=on_harm,
            seen_when=_seen_when(kind, "drop", model),
        )
    if name not in metrics.metrics:
        raise ValueError(f"unknown metric `{name}`")
    declared = metrics.metrics[name]
    low, high = (None, None) if declared.range is None else (int(bound * 1_000_000) for bound in declared.range)
    below = None if declared.per is None else metrics.metrics.get(declared.per)
    return MetricDocument(
        metric=name,
        kind=_kind(declared),
        better=declared.better,
        quantile_ppm=declared.quantile,
        margin=margin.amount,
        margin_unit=margin.unit,
        on_harm=on_harm,
        type=declared.type,
        source=declared.source,
        per=declared.per,
        per_source="feedback" if below is None else below.source,
        low_ppm=low,
        high_ppm=high,
        window_us=declared.window,
        missing=declared.missing,
        currency=model.currency if model is not None and "cost" in (declared.source, below.source if below else "") else UNSET,
        seen_when=_seen_when(_kind(declared), declared.missing, model),
    )


def _seen_when(kind: str, missing: str, model: ModelFacts | None) -> str | UnsetType:
    """Return the condition under which the labels that a metric compares are seen; UNSET where all are, or where none counts as one that says no."""
    if kind != "label" or missing == "zero" or model is None or model.labels_seen_when is None:
        return UNSET
    return model.labels_seen_when


def _kind(declared: MetricDeclaration) -> Literal["errors", "label", "latency", "reward", "measured"]:
    if declared.source == "errors":
        return "errors"
    if declared.source == "labels":
        return "label"
    if declared.source == "feedback":
        return "reward"
    return "latency" if declared.source == "latency" and declared.type == "quantile" else "measured"


def _layer(file: AnyExperimentFile, layers: LayersFile) -> LayerDocument | None:
    if file.layer is None:
        return None
    if file.layer.name not in layers.layers:
        raise ValueError(f"unknown layer `{file.layer.name}`")
    return LayerDocument(
        name=file.layer.name,
        salt=salt_of("layer", file.layer.name),
        slots=layers.layers[file.layer.name].slots,
        first=file.layer.slots.first,
        last=file.layer.slots.last,
    )


def _holdout(file: AnyExperimentFile, layers: LayersFile) -> HoldoutDocument | None:
    if file.holdout is None:
        return None
    if file.holdout not in layers.holdouts:
        raise ValueError(f"unknown holdout `{file.holdout}`")
    declared = layers.holdouts[file.holdout]
    return HoldoutDocument(
        name=file.holdout,
        salt=salt_of("holdout", file.holdout),
        share=share_of(declared.share),
        version=declared.version,
        until=declared.until.isoformat(),
        owner=declared.owner,
    )
