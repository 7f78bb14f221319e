"""From a checked file to a compiled document, and the checks that need more than one file.

`compile_experiment` is deterministic: same file, same bytes. The salt is SHA-256 of (name, seed), stated in the document and committed when the
experiment starts; a fresh `seed` is the way to reshuffle.

A canary that gives the challenger r exposes 2r of the units and splits them evenly, so that equally large, equally fresh sets are compared; above
50 % everyone is exposed, the split moves, and the step is watched by breakers rather than tested (semantics.md 4.6).

Example:
    >>> document = compile_experiment(parse_experiment(data), layers, metrics)
    >>> check(file, models={"credit-risk": ModelFacts({"3", "4"}, "3")}, others=[])
    []
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Literal

from experiments.bucketing import encode_parts
from experiments.config import (
    AbFile,
    AnyExperimentFile,
    BlueGreenFile,
    CanaryFile,
    ChampionChallengerFile,
    Condition,
    LayersFile,
    MetricDeclaration,
    MetricsFile,
    Rules,
    ShadowFile,
    Step,
)
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
from experiments.quantities import MarginValue
from experiments.shares import WHOLE, integer_shares, share_of
from experiments.targeting import spelled

BUILT_IN: Mapping[str, tuple[Literal["errors", "diverted", "label"], Literal["lower", "higher"]]] = {
    "errors": ("errors", "lower"),
    "diverted": ("diverted", "lower"),
    "error_rate": ("label", "lower"),
    "accuracy": ("label", "higher"),
}
"""Metrics that need no declaration, beside latency quantiles `p50_ms` to `p99_ms`."""

_LATENCY = re.compile(r"^p([1-9][0-9])_ms$")
_NO_LAYERS, _NO_METRICS = LayersFile(), MetricsFile()

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an experiment file; the loader turns `path` into line and column."""

    path: KeyPath
    message: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an experiment needs to know of its model."""

    versions: frozenset[str]
    default_version: str
    has_labels: bool = True
    """Whether the route captures a prediction that labels can be compared with."""


def compile_experiment(file: AnyExperimentFile, layers: LayersFile = _NO_LAYERS, metrics: MetricsFile = _NO_METRICS) -> ExperimentDocument:
    """Compile a file that `check` found no fault with.

    Raises:
        ValueError: a metric, layer or holdout is unknown; `check` says so with its place.
    """
    control = file.control if isinstance(file, AbFile) else "blue" if isinstance(file, BlueGreenFile) else "champion"
    goal = None if file.goal is None else _metric(file.goal.metric, file.goal.margin, "rollback", metrics)
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
        guardrails=tuple(_metric(name, file.guardrails[name].max_harm, file.guardrails[name].on_harm, metrics) for name in sorted(file.guardrails)),
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


def check(
    file: AnyExperimentFile,
    *,
    models: Mapping[str, ModelFacts],
    others: Iterable[AnyExperimentFile] = (),
    layers: LayersFile = _NO_LAYERS,
    metrics: MetricsFile = _NO_METRICS,
) -> list[Fault]:
    """Check a file against the rest of the configuration.

    Args:
        file: the experiment.
        models: model -> what is known of it.
        others: the other experiments.
        layers: `_layers.yaml`.
        metrics: `_metrics.yaml`.

    Returns:
        Faults in the order of the file's keys; empty if it can be compiled.
    """
    model = models.get(file.model)
    faults: list[Fault] = []
    if model is None:
        faults.append(Fault(("model",), f"unknown model `{file.model}`; allowed: {_list(models)}"))
    else:
        faults += _version_faults(file, model)
    faults += _metric_faults(file, model, metrics)
    faults += _time_faults(file)
    faults += _layer_faults(file, layers)
    if isinstance(file, ShadowFile):
        return faults + _person_faults(file) + _follower_faults(file, others)
    if isinstance(file, BlueGreenFile):
        faults += _verify_faults(file, others)
    for other in others:
        if not isinstance(other, ShadowFile):
            faults += _conflicts(file, other)
    return faults


def change_kind(old: ExperimentDocument, new: ExperimentDocument) -> Literal["none", "continue", "epoch", "exploratory"]:
    """What replacing a running experiment's document means (semantics.md 3.6).

    Returns:
        `none`: same document. `epoch`: another assignment (arms, shares, salt, layer, holdout), so a new epoch and fresh evidence. `exploratory`: a
        metric, alpha or stop rule changed, so a new experiment, or everything learnt so far counts as exploratory. `continue`: the rest.
    """
    if old == new:
        return "none"
    assigned = (
        "model",
        "arms",
        "control",
        "sticky",
        "salt",
        "mode",
        "layer",
        "holdout",
        "who",
        "exclude",
        "bucketing",
        "external",
        "verify_shadow",
        "keep_warm_us",
    )
    if any(getattr(old, key) != getattr(new, key) for key in assigned) or _shares(old) != _shares(new):
        return "epoch"
    judged = ("guardrails", "goal", "alpha_ppm", "alpha_harm_ppm", "deadline_us", "deadline_then", "steps", "shadow", "segments")
    if any(getattr(old, key) != getattr(new, key) for key in judged):
        return "exploratory"
    return "continue"


def _shares(document: ExperimentDocument) -> list[tuple[int, dict[str, int]]]:
    return [(step.exposure, step.shares) for step in document.steps]


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


def _metric(name: str, margin: MarginValue, on_harm: OnHarm, metrics: MetricsFile) -> MetricDocument:
    if (latency := _LATENCY.match(name)) is not None:
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
        return MetricDocument(metric=name, kind=kind, better=better, margin=margin.amount, margin_unit=margin.unit, on_harm=on_harm)
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
    )


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


def _version_faults(file: AnyExperimentFile, model: ModelFacts) -> list[Fault]:
    faults = [
        Fault(
            ("arms", name, "version"),
            f"model `{file.model}` has no version `{arm.version}`; allowed: {_list(model.versions)}",
        )
        for name, arm in file.arms.items()
        if arm.version and arm.version not in model.versions
    ]
    if isinstance(file, BlueGreenFile):
        if file.arms["blue"].version != model.default_version:
            said = f"blue must be the model's `default_version` `{model.default_version}`, which serves everyone before the switch"
            faults.append(Fault(("arms", "blue", "version"), said))
        if file.arms["blue"].version == file.arms["green"].version:
            faults.append(Fault(("arms", "green", "version"), "blue and green are the same version"))
    if isinstance(file, CanaryFile | ChampionChallengerFile | ShadowFile):
        rival = "shadow" if isinstance(file, ShadowFile) else "challenger"
        if not file.arms["champion"].version:
            return faults  # a person: any version may be compared with them, the default too
        if file.arms["champion"].version != model.default_version:
            faults.append(
                Fault(
                    ("arms", "champion", "version"),
                    f"the champion must be the model's `default_version` `{model.default_version}`, which serves everyone who is not exposed",
                )
            )
        if file.arms["champion"].version == file.arms[rival].version:
            faults.append(Fault(("arms", rival, "version"), f"champion and {rival} are the same version"))
    return faults


def _metric_faults(file: AnyExperimentFile, model: ModelFacts | None, metrics: MetricsFile) -> list[Fault]:
    used: list[tuple[KeyPath, str, KeyPath, MarginValue]] = [
        (("guardrails", name), name, ("guardrails", name, "max_harm"), guardrail.max_harm) for name, guardrail in file.guardrails.items()
    ]
    if file.goal is not None:
        used.append((("goal", "metric"), file.goal.metric, ("goal", "margin"), file.goal.margin))
    faults: list[Fault] = []
    for path, name, margin_path, margin in used:
        if _LATENCY.match(name) is not None:
            if margin.unit == "pp":
                faults.append(Fault(margin_path, f"`{name}` is a latency: write its margin as `10%` or `20ms`, not in pp"))
            continue
        if name not in BUILT_IN and name not in metrics.metrics:
            known = [*BUILT_IN, "p50_ms", "p95_ms", "p99_ms", *metrics.metrics]
            faults.append(Fault(path, f"unknown metric `{name}`; allowed: {_list(known)}, or declare it in `_metrics.yaml`"))
            continue
        declared = None if name in BUILT_IN else metrics.metrics[name]
        if declared is not None and declared.type != "proportion":
            faults += _value_faults(name, declared, metrics, path, margin_path, margin)
            continue
        is_label = declared.source == "labels" if declared is not None else BUILT_IN[name][0] == "label"
        better = BUILT_IN[name][1] if declared is None else declared.better
        if margin.unit == "ms":
            faults.append(Fault(margin_path, f"`{name}` is a rate: write its margin as `0.5pp`, not in ms"))
        elif margin.unit == "%" and better == "higher":
            faults.append(Fault(margin_path, f"`{name}` is better when higher: write its margin in pp, a relative one is ambiguous"))
        if model is not None and not model.has_labels and is_label:
            faults.append(Fault(path, f"`{name}` compares labels with predictions; model `{file.model}` captures none (`capture.prediction`)"))
    return faults


def _value_faults(
    name: str, declared: MetricDeclaration, metrics: MetricsFile, path: KeyPath, margin_path: KeyPath, margin: MarginValue
) -> list[Fault]:
    faults = []
    may_be_ms = declared.source == "latency" and declared.type == "quantile"
    if margin.unit == "pp" or (margin.unit == "ms" and not may_be_ms):
        wanted = "`10%` or `20ms`" if may_be_ms else "`2%`"
        faults.append(Fault(margin_path, f"`{name}` is a {declared.type}: write its margin relative to the control's, {wanted}"))
    if declared.per is not None:
        below = metrics.metrics.get(declared.per)
        if below is None:
            faults.append(Fault(path, f"`{name}` is per `{declared.per}`, which `_metrics.yaml` does not declare"))
        elif below.type not in ("mean", "count"):
            faults.append(Fault(path, f"`{name}` is per `{declared.per}`, a {below.type}; a ratio is per a mean or a count"))
    return faults


def _time_faults(file: AnyExperimentFile) -> list[Fault]:
    if isinstance(file, ShadowFile) and file.deadline.after <= file.hold:
        return [Fault(("deadline", "after"), f"the deadline passes before the hold of {_hours(file.hold)} is over")]
    if not isinstance(file, CanaryFile):
        return []
    faults = []
    held_us = sum(step.hold for step in file.steps)
    if file.deadline.after <= held_us:
        faults.append(
            Fault(
                ("deadline", "after"),
                f"the deadline of {_hours(file.deadline.after)} passes before the steps are through: their holds alone take {_hours(held_us)}",
            )
        )
    if file.steps[0].share > Fraction(1, 2):
        faults.append(
            Fault(("steps", 0, "share"), "the first step must be at most 50%: above it arms are not compared, so nothing would ever be proven")
        )
    if file.breaker is None:
        faults += [
            Fault(("steps", number, "share"), "a step above 50% is watched, not tested, and needs a `breaker`")
            for number, step in enumerate(file.steps)
            if step.share > Fraction(1, 2)
        ]
    return faults


def _layer_faults(file: AnyExperimentFile, layers: LayersFile) -> list[Fault]:
    faults = []
    if file.layer is not None:
        declared = layers.layers.get(file.layer.name)
        if declared is None:
            faults.append(Fault(("layer", "name"), f"unknown layer `{file.layer.name}`; allowed: {_list(layers.layers)}"))
        elif file.layer.slots.last >= declared.slots:
            faults.append(Fault(("layer", "slots"), f"layer `{file.layer.name}` has slots 0-{declared.slots - 1}"))
    if file.holdout is not None:
        holdout = layers.holdouts.get(file.holdout)
        if holdout is None:
            faults.append(Fault(("holdout",), f"unknown holdout `{file.holdout}`; allowed: {_list(layers.holdouts)}"))
        elif holdout.model != file.model:
            faults.append(Fault(("holdout",), f"holdout `{file.holdout}` is of model `{holdout.model}`, not `{file.model}`"))
    return faults


def _person_faults(file: ShadowFile) -> list[Fault]:
    """What a person as champion needs and what makes no sense of one."""
    if not file.arms["champion"].person:
        return [] if file.decided_within is None else [Fault(("decided_within",), "only a `person` as champion decides later; leave it out")]
    faults = []
    if file.decided_within is None:
        faults.append(Fault(("arms", "champion"), "people decide later: say by when with `decided_within`, for example `decided_within: 3d`"))
    elif file.deadline.after <= file.decided_within:
        faults.append(Fault(("deadline", "after"), "the deadline passes before the first call may have been decided (`decided_within`)"))
    if len(file.compare) != 1 or next(iter(file.compare.values())).kind != "label":
        faults.append(Fault(("compare",), "a person's decision is one word: compare one part, of `kind: label`"))
    faults += [
        Fault(("guardrails", name), f"`{name}` cannot be compared with a person; the guardrail here is `errors`")
        for name in sorted(file.guardrails)
        if name != "errors"
    ]
    return faults


def _follower_faults(file: ShadowFile, others: Iterable[AnyExperimentFile]) -> list[Fault]:
    if file.then is None:
        return []
    follower = next((other for other in others if other.experiment == file.then.start), None)
    if follower is None:
        return [Fault(("then", "start"), f"there is no experiment `{file.then.start}`")]
    if follower.model != file.model:
        return [Fault(("then", "start"), f"experiment `{follower.experiment}` is of model `{follower.model}`, not `{file.model}`")]
    if follower.start != "manual" or isinstance(follower, ShadowFile):
        return [Fault(("then", "start"), f"experiment `{follower.experiment}` must be a draft that splits calls: `start: manual`, and not a shadow")]
    return []


def _verify_faults(file: BlueGreenFile, others: Iterable[AnyExperimentFile]) -> list[Fault]:
    if file.verify is None:
        return []
    place = ("verify", "shadow")
    shadow = next((other for other in others if other.experiment == file.verify.shadow), None)
    if not isinstance(shadow, ShadowFile) or shadow.model != file.model:
        return [Fault(place, f"there is no shadow `{file.verify.shadow}` of model `{file.model}`")]
    if (shadow.arms["champion"].version, shadow.arms["shadow"].version) != (file.arms["blue"].version, file.arms["green"].version):
        return [Fault(place, f"shadow `{shadow.experiment}` compares other versions than blue and green")]
    return []


def _conflicts(file: AnyExperimentFile, other: AnyExperimentFile) -> list[Fault]:
    if other.experiment == file.experiment:
        return [Fault(("experiment",), f"another file also declares experiment `{file.experiment}`")]
    if other.model != file.model or isinstance(other, ShadowFile):
        return []  # a shadow splits nothing
    for one in (file, other):
        if isinstance(one, AbFile) and one.external is not None:
            said = f"experiment `{other.experiment}` also splits `{file.model}`; one that another system assigns has the model for itself"
            return [Fault(("model",), said)]
    mine, theirs = file.layer, other.layer
    if mine is None or theirs is None or mine.name != theirs.name:
        return [
            Fault(
                ("layer",) if mine is not None else ("model",),
                f"experiment `{other.experiment}` also splits `{file.model}`; put both into one layer with different slots",
            )
        ]
    if mine.slots.first <= theirs.slots.last and theirs.slots.first <= mine.slots.last:
        return [
            Fault(
                ("layer", "slots"),
                f"slots {mine.slots.first}-{mine.slots.last} overlap {theirs.slots.first}-{theirs.slots.last} of experiment `{other.experiment}`",
            )
        ]
    return []


def _hours(duration_us: int) -> str:
    return f"{duration_us / 3_600_000_000:g}h"


def _list(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(f"`{name}`" for name in found[:24]) or "none is declared"
